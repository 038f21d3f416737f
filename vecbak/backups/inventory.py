"""Which backups there are, and which one a BACKUP argument means."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from vecbak.backups import manifest as manifests
from vecbak.backups.manifest import DamagedManifest, Manifest
from vecbak.backups.naming import MANIFEST_PREFIX
from vecbak.errors import UsageError
from vecbak.paths import absolute, path_of

log = logging.getLogger(__name__)

_PAIR = re.compile(r"langchain_pg_(collection|embedding)_([0-9_T-]+)\.csv")


class FoundBackup(msgspec.Struct, frozen=True):
    """A manifest on disk."""

    path: Path
    manifest: Manifest


class FoundPair(msgspec.Struct, frozen=True):
    """Two CSV files that an older, hand-written exporter left: no manifest, so nothing is known of them but names and sizes."""

    collection: Path
    embedding: Path
    backup_id: str

    @property
    def size_bytes(self) -> int:
        """Both files."""
        return self.collection.stat().st_size + self.embedding.stat().st_size


class Inventory(msgspec.Struct, frozen=True):
    """What was found: backups newest first, pairs without a manifest, and manifests that cannot be used, with the reason."""

    backups: tuple[FoundBackup, ...]
    pairs: tuple[FoundPair, ...]
    unreadable: tuple[tuple[Path, str], ...]


def search_folders(output_dir: Path | None, tasks_directory: Path, backup_directory: str) -> list[Path]:
    """The folders in which backups are looked for.

    Args:
        output_dir: `--output-dir`, or a task's folder; only it is searched.
        tasks_directory: searched with everything below it, as is the current folder itself.

    Raises:
        UsageError: `output_dir` may not be read.
    """
    if output_dir is not None:
        if os.path.isdir(output_dir) and not os.access(output_dir, os.R_OK | os.X_OK):  # noqa: PTH112 - an error is no
            raise UsageError(f"the folder {output_dir} cannot be read: no permission", "Check its permissions.")
        return _folders((output_dir, output_dir / backup_directory))
    here: list[Path] = []
    with contextlib.suppress(OSError):  # without a current folder, what is below tasks_directory is there all the same
        here = [Path.cwd()]
    below = sorted(Path(root) for root, _, _ in os.walk(tasks_directory))
    return _folders(path.resolve() for path in (*here, *(path / backup_directory for path in here), *below))


def _folders(paths: Iterable[Path]) -> list[Path]:
    return [path for path in dict.fromkeys(paths) if os.path.isdir(path)]  # noqa: PTH112 - an error is no


def take_inventory(folders: Iterable[Path]) -> Inventory:
    """Read every manifest in these folders."""
    backups: list[FoundBackup] = []
    unreadable: list[tuple[Path, str]] = []
    pairs: list[FoundPair] = []
    for folder in folders:
        for path in sorted(folder.glob(f"{MANIFEST_PREFIX}*.json")):
            try:
                backups.append(FoundBackup(path, manifests.read(path)))
            except UsageError as error:
                unreadable.append((path, error.message))
        pairs += _pairs_in(folder)
    backups.sort(key=lambda found: found.manifest.created_at, reverse=True)
    known = {(found.path.parent, found.manifest.backup_id) for found in backups}
    known |= {(path.parent, _id_of(path)) for path, _ in unreadable}
    alone = [pair for pair in pairs if (pair.collection.parent, pair.backup_id) not in known]
    alone.sort(key=lambda pair: pair.backup_id, reverse=True)
    return Inventory(tuple(backups), tuple(alone), tuple(unreadable))


def date_in(folder: Path, moment: datetime) -> datetime:
    """The date of a new backup in a folder: after every other one there, even if the clock has gone back since.

    Retention and `latest` go by it: the newest rows must not pass for the oldest.
    """
    newest = max((found.manifest.created_at for found in take_inventory([folder]).backups), default=None)
    if newest is None or newest < moment:
        return moment
    log.warning("the clock is behind the newest backup in %s; the new one is dated just after it (%s)", folder, newest)
    return newest + timedelta(microseconds=1)


def is_path(text: str) -> bool:
    """Whether a BACKUP argument is a manifest's path, not an id."""
    return "/" in text or text.endswith(".json")


def find_backup(text: str, folders: Sequence[Path]) -> FoundBackup:
    """The backup that an argument means: an id, `latest`, or the path of a manifest.

    Raises:
        DamagedManifest: its manifest is not what was written.
        UsageError: there is none, or more than one.
    """
    if is_path(text):
        path = absolute(path_of(text))
        return FoundBackup(path, manifests.read(path))
    inventory = take_inventory(folders)
    if text == "latest":
        newest = inventory.backups[0].manifest.backup_id if inventory.backups else ""
        for path, reason in inventory.unreadable:
            if _id_of(path) > newest:  # an older one in its place would be a surprise
                raise DamagedManifest(f"the newest backup cannot be used: {reason}", "Name another one by its id.")
        if inventory.backups:
            return inventory.backups[0]
        raise UsageError("there is no backup yet", _where(folders))
    matches = [found for found in inventory.backups if found.manifest.backup_id == text]
    if not matches:
        for path, reason in inventory.unreadable:
            if _id_of(path) == text:
                raise DamagedManifest(f"the backup {text} cannot be used: {reason}")
        for pair in inventory.pairs:
            if pair.backup_id == text:
                files = shlex.join([str(pair.collection), str(pair.embedding)])
                raise UsageError(
                    f"{text} is no backup of vecbak: two files without a manifest",
                    f"A hand-written exporter left them; restore them with: vecbak restore --csv-pair {files}",
                )
        raise UsageError(f"there is no backup {text!r}", _where(folders))
    if len(matches) > 1:
        paths = "\n".join(str(found.path) for found in matches)
        raise UsageError(
            f"{len(matches)} backups have the id {text}", "Name one by the path of its manifest.", output=paths
        )
    return matches[0]


def _id_of(manifest: Path) -> str:
    return manifest.stem.removeprefix(MANIFEST_PREFIX)


def _pairs_in(folder: Path) -> Iterator[FoundPair]:
    found: dict[str, dict[str, Path]] = {}
    for path in folder.glob("langchain_pg_*.csv"):
        match = _PAIR.fullmatch(path.name)
        if match and path.is_file() and not path.is_symlink():
            found.setdefault(match.group(2), {})[match.group(1)] = path
    for backup_id, paths in found.items():
        if len(paths) == 2:
            yield FoundPair(paths["collection"], paths["embedding"], backup_id)


def _where(folders: Sequence[Path]) -> str:
    places = ", ".join(str(folder) for folder in folders[:5]) or "no folder that exists"
    more = f" and {len(folders) - 5} more" if len(folders) > 5 else ""
    return f"Looked in {places}{more}. `vecbak list` shows what there is; --output-dir DIR looks elsewhere."
