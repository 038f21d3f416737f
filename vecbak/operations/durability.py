"""Whether a backup's folder lasts: one that a scheduler made for a single task goes with it, and so do memory and temporary folders."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from vecbak.errors import Refused
from vecbak.operations.job import Job

_TEMPORARY = ("/tmp", "/var/tmp", "/usr/tmp", "/dev/shm", "/run", "/var/run")  # noqa: S108 - looked for, not used
_TEMPORARY_VARIABLES = ("TMPDIR", "TEMP", "TMP", "XDG_RUNTIME_DIR")
_IN_MEMORY = frozenset({"tmpfs", "ramfs", "rootfs"})
_OF_A_CONTAINER = frozenset({"overlay", "aufs", "fuse.overlayfs"})
_MOUNTS = Path("/proc/self/mountinfo")
_OCTAL = re.compile(r"\\([0-7]{3})")  # how it writes a blank (proc_pid_mountinfo(5))


class Place(msgspec.Struct, frozen=True):
    """Where backups go.

    Attributes:
        folder: with every link resolved.
        task_folder: the folder that a scheduler made for one task, if it is in one.
        doubt: why else it may not last, in words.
    """

    folder: Path
    task_folder: str | None = None
    doubt: str | None = None

    @property
    def durable(self) -> bool:
        """Whether nothing speaks against it."""
        return self.task_folder is None and self.doubt is None

    @property
    def warning(self) -> str | None:
        """What a backup there should be told."""
        if self.task_folder:
            return f"the backup folder {self.folder} goes when the task of {self.task_folder} ends: keep it elsewhere"
        return f"the backup folder {self.folder} may not last: {self.doubt}" if self.doubt else None


class _Mount(msgspec.Struct, frozen=True):
    """What is mounted there: its type, and which folder of that file system."""

    point: Path
    kind: str
    root: Path


def place_of(job: Job) -> Place:
    """Where a job's backups go."""
    return look_at(job.backup_folder, job.config.backup.task_folder_patterns)


def look_at(folder: Path, patterns: Sequence[str]) -> Place:
    """Look at a folder, which need not exist yet.

    Args:
        patterns: names of folders, with * and ?, or $VARIABLE for the folder that a variable names.
    """
    resolved = _resolved(folder)
    mount = _mount_of(resolved)
    seen = [resolved, mount.root / resolved.relative_to(mount.point)] if mount else [resolved]
    for path in seen:  # a container sees another path than the scheduler that made the folder outside
        for pattern in patterns:
            if found := _task_folder(path, pattern):
                return Place(resolved, task_folder=found)
    return Place(resolved, doubt=_doubt(resolved, mount))


def problems(place: Place) -> Iterator[Refused]:
    """Why rows must not be removed that are then in this place alone."""
    if place.task_folder:
        yield Refused(
            f"the backup would go with the task: {place.folder} is below {place.task_folder}, which a scheduler made for one"
            " task; nothing was done",
            "Give --output-dir (or tasks_directory) as an absolute path to a folder that lasts;"
            " backup.task_folder_patterns says which folders count as a task's.",
        )


def check(place: Place) -> None:
    """Refuse to remove rows.

    Raises:
        Refused: they would be in a task's folder alone.
    """
    for problem in problems(place):
        raise problem


def _task_folder(path: Path, pattern: str) -> str | None:
    if pattern.startswith("$"):
        named = os.environ.get(pattern[1:])
        folder = _resolved(Path(named)) if named and Path(named).is_absolute() else None
        return str(folder) if folder and folder != Path("/") and path.is_relative_to(folder) else None
    for part in (path, *path.parents):
        if fnmatchcase(part.name, pattern):
            return str(part)
    return None


def _doubt(folder: Path, mount: _Mount | None) -> str | None:
    variables = [Path(os.environ[name]) for name in _TEMPORARY_VARIABLES if os.environ.get(name)]
    for temporary in map(_resolved, [*map(Path, _TEMPORARY), *variables]):
        if temporary != Path("/") and folder.is_relative_to(temporary):
            return f"{temporary} is for what is temporary"
    if mount and mount.kind in _IN_MEMORY:
        return f"{mount.point} is in memory ({mount.kind})"
    if mount and mount.kind in _OF_A_CONTAINER:
        return f"{mount.point} is a container's own layer ({mount.kind}), and goes with the container"
    return None


def _mount_of(folder: Path) -> _Mount | None:
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    mounts = [mount for line in lines if (mount := _parsed(line)) and folder.is_relative_to(mount.point)]
    # of those on one point the last one is seen
    return max(enumerate(mounts), key=lambda item: (len(item[1].point.parts), item[0]), default=(0, None))[1]


def _parsed(line: str) -> _Mount | None:
    fields, _, rest = line.partition(" - ")
    words = [_OCTAL.sub(lambda match: chr(int(match.group(1), 8)), word) for word in fields.split(" ")]
    return _Mount(Path(words[4]), rest.split(" ")[0], Path(words[3])) if len(words) > 5 and rest else None


def _resolved(path: Path) -> Path:
    return Path(os.path.realpath(path))  # which leaves a loop of links as it is
