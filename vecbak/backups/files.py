"""Files of a backup: their names, and their way from `.tmp` to final, with nothing believed that was not looked at.

A run claims its backup id by creating the manifest's `.tmp` and holding an flock on it until it ends: while the lock
is held the run lives, and what stands under its id without a manifest is nobody's after that (flock(2)).
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import quote

from vecbak.backups.formats import ContentCheck
from vecbak.backups.writeback import start_writeback

MANIFEST_PREFIX = "vector_backup_"
SCHEMA_PREFIX = "vector_schema_"
MAXIMUM_NAME_BYTES = 200
READ_BYTES = 1 << 20
RACY_NS = 100_000_000  # a kernel tick is 10 ms at the most; network file systems are coarser

_DATA_ENDING = r"(?:\.part\d+)?\.(?:csv|bin|dump)(?:\.zst|\.lz4|\.gz)?"


class FileDamaged(Exception):
    """A file is not what was written into it; the message names it and says how it differs."""


@dataclass(frozen=True)
class Identity:
    """What changes when a file is touched (stat(2))."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Identity:
        """From a stat result."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    def is_content_of(self, other: Identity) -> bool:
        """Whether it is the same file with the same content; a rename changes ctime alone."""
        return dataclasses.replace(self, changed_ns=other.changed_ns) == other

    def is_racy(self) -> bool:
        """Whether it was written so lately that a later change could bear the same time: the kernel's file times are coarse."""
        return time.time_ns() - self.modified_ns < RACY_NS


@dataclass(frozen=True)
class FinishedFile:
    """A file under its final name.

    Attributes:
        sha256: in hex.
        rows: where they were counted.
        identity: what stat said when it got its name.
        racy: whether a change might leave no trace in stat, so that only reading it again tells.
    """

    path: Path
    size_bytes: int
    sha256: str
    rows: int | None
    identity: Identity
    racy: bool = False

    def check_untouched(self) -> None:
        """Compare with the disk.

        Raises:
            FileDamaged: it is gone, was replaced, or was touched since its checksum was taken.
        """
        try:
            same = Identity.of(os.lstat(self.path)) == self.identity
            if same and self.racy:
                same = hash_file(self.path) == (self.size_bytes, self.sha256)
        except OSError as error:
            raise FileDamaged(f"{self.path.name} is gone ({error.strerror})") from None
        if not same:
            raise FileDamaged(f"{self.path.name} was changed or replaced after its checksum was taken")


def encode_table_name(text: str) -> str:
    """A table's name as files carry it: as the config writes it, all but A-Z a-z 0-9 _ . - percent-encoded.

    At most 200 bytes; a longer one is cut and told apart by a hash.
    """
    encoded = quote(text, safe="").replace("~", "%7E")
    if len(encoded) <= MAXIMUM_NAME_BYTES:
        return encoded
    return f"{encoded[: MAXIMUM_NAME_BYTES - 17]}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def manifest_name(backup_id: str) -> str:
    """`vector_backup_20250720_121007.json`."""
    return f"{MANIFEST_PREFIX}{backup_id}.json"


def schema_name(backup_id: str) -> str:
    """`vector_schema_20250720_121007.sql`."""
    return f"{SCHEMA_PREFIX}{backup_id}.sql"


def data_name(table_text: str, backup_id: str, ending: str) -> str:
    """`langchain_pg_embedding_20250720_121007.csv`."""
    return f"{encode_table_name(table_text)}_{backup_id}{ending}"


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, those that are new readable by us alone."""
    missing = [folder, *folder.parents]
    for path in reversed(missing[: next(i for i, path in enumerate(missing) if path.is_dir())]):
        path.mkdir(mode=0o700, exist_ok=True)
        sync_folder(path.parent)  # a synced file in a folder that a power cut takes away is lost all the same


def sync_folder(folder: Path) -> None:
    """fsync a folder, so that renames in it survive a crash (fsync(2))."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Draft:
    """A backup that is being written: nothing of it is valid before `publish`, and `discard` leaves nothing of it."""

    def __init__(self, folder: Path, backup_id: str, suffix: str, claim: int) -> None:
        self.folder = folder
        self.backup_id = backup_id
        self._suffix = suffix
        self._claim = claim
        self._written: dict[Path, int] = {}
        self._finished: dict[Path, Identity] = {}
        self._published = False
        self._creating = threading.Lock()

    @property
    def manifest_path(self) -> Path:
        """Where the manifest will be."""
        return self.folder / manifest_name(self.backup_id)

    def create(self, name: str) -> str:
        """Create the empty `.tmp` of a file, for a program to write into; returns its name."""
        path = self.folder / (name + self._suffix)
        with self._creating:
            if self._claim < 0:  # a thread that an interrupt overtook while it was being started
                raise FileDamaged(f"{path.name} was not begun: the run has ended")
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            self._written[path] = descriptor
        return path.name

    def finish(self, name: str, check: ContentCheck | None = None) -> FinishedFile:
        """Sync, hash, check and rename a file that its program has closed.

        Args:
            name: as given to `create`.
            check: looks at the bytes as they are read.

        Raises:
            FileDamaged: it is not the file that was created, or it changed while it was read.
            OSError: the disk.
        """
        path, final = self.folder / (name + self._suffix), self.folder / name
        descriptor = self._written[path]
        before = self._same_file(path, descriptor)
        start_writeback(descriptor)  # the disk works while we hash
        size, sha256 = _read_through(descriptor, check.feed if check else None)
        if check and (problem := check.problem()):
            raise FileDamaged(f"{path.name} {problem}")
        os.fsync(descriptor)
        if self._same_file(path, descriptor) != before or size != before.size:
            raise FileDamaged(f"{path.name} changed while its checksum was taken")
        if os.path.lexists(final):
            raise FileDamaged(f"{final.name} exists already")
        path.rename(final)
        identity = self._finished[final] = Identity.of(os.fstat(descriptor))
        if not identity.is_content_of(before):
            raise FileDamaged(f"{final.name} changed after its checksum was taken")
        os.close(self._written.pop(path))
        return FinishedFile(final, size, sha256, check.rows() if check else None, identity, identity.is_racy())

    def start_writeback(self) -> None:
        """Let the disk begin with what programs have written so far; fsync waits the less for it."""
        for descriptor in list(self._written.values()):
            start_writeback(descriptor)

    def publish(self, manifest: bytes) -> FinishedFile:
        """Write the manifest, last of all: with it the backup is valid.

        Raises:
            FileDamaged: what was written is not what can be read.
            OSError: the disk.
        """
        sync_folder(self.folder)
        claim = self.folder / (manifest_name(self.backup_id) + self._suffix)
        _write_all(self._claim, manifest)
        self._same_file(claim, self._claim)
        size, sha256 = _read_through(self._claim, None)
        if sha256 != hashlib.sha256(manifest).hexdigest():
            raise FileDamaged(f"{claim.name} does not hold what was written into it")
        if os.path.lexists(self.manifest_path):
            raise FileDamaged(f"{self.manifest_path.name} exists already")
        claim.rename(self.manifest_path)
        self._published = True
        sync_folder(self.folder)
        identity = Identity.of(os.fstat(self._claim))
        return FinishedFile(self.manifest_path, size, sha256, None, identity, identity.is_racy())

    def withdraw(self) -> None:
        """Undo `publish`: what stands is no backup any more, and `close` removes it."""
        if self._published:
            self.manifest_path.unlink(missing_ok=True)
            self._published = False

    def close(self) -> None:
        """End the run's claim; if the backup was not published, remove every file of it."""
        with self._creating:
            claim, self._claim = self._claim, -1
        for path, descriptor in self._written.items():
            self._remove(path, os.fstat(descriptor))
            os.close(descriptor)
        self._written.clear()
        if claim < 0:
            return
        if not self._published:
            for path, identity in self._finished.items():
                with contextlib.suppress(OSError):
                    if Identity.of(os.lstat(path)) == identity:  # what was changed since is evidence, or not ours
                        path.unlink()
            self._remove(self.folder / (manifest_name(self.backup_id) + self._suffix), os.fstat(claim))
            with contextlib.suppress(OSError):
                sync_folder(self.folder)
        os.close(claim)

    def _remove(self, path: Path, ours: os.stat_result) -> None:
        # a file that somebody else put there is not ours to remove
        with contextlib.suppress(OSError):
            if os.path.samestat(os.lstat(path), ours):
                path.unlink()

    def _same_file(self, path: Path, descriptor: int) -> Identity:
        try:
            there = os.lstat(path)
        except OSError as error:
            raise FileDamaged(f"{path.name} is gone ({error.strerror})") from None
        ours = os.fstat(descriptor)
        if (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino) or not stat.S_ISREG(there.st_mode):
            raise FileDamaged(f"{path.name} was replaced by another file")
        return Identity.of(ours)


def start_draft(folder: Path, moment: datetime, timestamp_format: str, suffix: str) -> Draft:
    """Claim a backup id in a folder; of two runs in one second, the later takes the next second that is free.

    Raises:
        OSError: the folder cannot be written.
    """
    while True:
        backup_id = moment.strftime(timestamp_format)
        path = folder / (manifest_name(backup_id) + suffix)
        claim = None if _is_taken(folder, backup_id, suffix) else _claim(path)
        if claim is not None:
            return Draft(folder, backup_id, suffix, claim)
        moment += timedelta(seconds=1)


def amend_manifest(path: Path, manifest: bytes, suffix: str) -> FinishedFile:
    """Replace a published manifest by one that says more; at every moment one of the two is there.

    Raises:
        OSError: the disk, or another vecbak is amending it; the old one is still there.
    """
    temporary = path.with_name(path.name + suffix)
    descriptor = _claim(temporary)
    if descriptor is None:
        raise FileExistsError(errno.EEXIST, "another vecbak is at work on it", str(temporary))
    try:
        _write_all(descriptor, manifest)
        temporary.rename(path)
        sync_folder(path.parent)
        identity = Identity.of(os.fstat(descriptor))
        sha256 = hashlib.sha256(manifest).hexdigest()
        return FinishedFile(path, len(manifest), sha256, None, identity, identity.is_racy())
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path, suffix: str) -> list[str]:
    """Remove what a killed run left: files under an id whose claim nobody holds, and that has no manifest.

    Returns:
        The names removed.
    """
    removed: list[str] = []
    for claim in sorted(folder.glob(f"{MANIFEST_PREFIX}*.json{suffix}")):
        backup_id = claim.name.removeprefix(MANIFEST_PREFIX).removesuffix(f".json{suffix}")
        descriptor = _lock_abandoned(claim)
        if descriptor is None:
            continue
        try:
            names = [] if (folder / manifest_name(backup_id)).exists() else _unclaimed(folder, backup_id, suffix)
            for name in [*names, claim.name]:
                (folder / name).unlink(missing_ok=True)
                removed.append(name)
        finally:
            os.close(descriptor)
    return removed


def names_of_backup(manifest: Path) -> list[str]:
    """The files in its folder that stand under the id of a manifest, whether or not it can be read."""
    return _names_of(manifest.parent, manifest.stem.removeprefix(MANIFEST_PREFIX), "")


def hash_file(path: Path, consume: Callable[[bytes], None] | None = None) -> tuple[int, str]:
    """Size and SHA-256 of a file, read in constant memory; symbolic links are not followed."""
    finished = examine_file(path, consume)
    return finished.size_bytes, finished.sha256


def examine_file(path: Path, consume: Callable[[bytes], None] | None = None) -> FinishedFile:
    """Read a file that is there already, as `Draft.finish` reads one of ours.

    Args:
        consume: is handed its bytes piece by piece.

    Raises:
        FileDamaged: no regular file, or it changed while it was read.
        OSError: it cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise FileDamaged(f"{path.name} is not a regular file")
        size, sha256 = _read_through(descriptor, consume)
        identity = Identity.of(os.fstat(descriptor))
        if identity != Identity.of(before) or size != identity.size:
            raise FileDamaged(f"{path.name} changed while it was read")
        return FinishedFile(path, size, sha256, None, identity, identity.is_racy())
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
    os.fsync(descriptor)


def _read_through(descriptor: int, consume: Callable[[bytes], None] | None) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    while chunk := os.pread(descriptor, READ_BYTES, size):
        digest.update(chunk)
        size += len(chunk)
        if consume:
            consume(chunk)
    return size, digest.hexdigest()


def _is_taken(folder: Path, backup_id: str, suffix: str) -> bool:
    return os.path.lexists(folder / manifest_name(backup_id)) or bool(_names_of(folder, backup_id, suffix))


def _claim(path: Path) -> int | None:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_nlink == 1:
            return descriptor
    except BlockingIOError:
        pass  # another run takes it for a leftover, and removes it
    os.close(descriptor)
    return None


def _lock_abandoned(claim: Path) -> int | None:
    try:
        descriptor = os.open(claim, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_nlink == 1:
            return descriptor
    except OSError:
        pass  # its owner lives
    os.close(descriptor)
    return None


def _unclaimed(folder: Path, backup_id: str, suffix: str) -> list[str]:
    # an id can be the end of another one: what could belong to another backup, complete or under way, stays
    present = [path.name.removesuffix(suffix) for path in folder.glob(f"{MANIFEST_PREFIX}*")]
    others = {name.removeprefix(MANIFEST_PREFIX).removesuffix(".json") for name in present} - {backup_id}
    theirs = {name for other in others for name in _names_of(folder, other, suffix)}
    return [name for name in _names_of(folder, backup_id, suffix) if name not in theirs]


def _names_of(folder: Path, backup_id: str, suffix: str) -> list[str]:
    pattern = re.compile(rf".+_{re.escape(backup_id)}(?:{_DATA_ENDING}|\.sql)(?:{re.escape(suffix)})?")
    return sorted(name for name in _listing(folder) if pattern.fullmatch(name))


def _listing(folder: Path) -> Iterable[str]:
    return os.listdir(folder)  # noqa: PTH208 - names are what is wanted
