"""Files, with nothing believed of them that was not looked at: what was hashed, and whether it has been touched since."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

READ_BYTES = 1 << 20
RACY_NS = 100_000_000  # a kernel tick is 10 ms at the most; network file systems are coarser


class FileDamaged(Exception):
    """A file is not what was written into it; the message names it and says how it differs."""


class Identity(msgspec.Struct, frozen=True):
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
        return msgspec.structs.replace(self, changed_ns=other.changed_ns) == other

    def is_racy(self) -> bool:
        """Whether it was written so lately that a later change could bear the same time: the kernel's file times are coarse."""
        return time.time_ns() - self.modified_ns < RACY_NS


class FinishedFile(msgspec.Struct, frozen=True):
    """A file under its final name.

    Attributes:
        sha256: in hex.
        identity: what stat said when it got its name.
        racy: whether a change might leave no trace in stat, so that only reading it again tells.
    """

    path: Path
    size_bytes: int
    sha256: str
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
        size, sha256 = read_through(descriptor, consume)
        identity = Identity.of(os.fstat(descriptor))
        if identity != Identity.of(before) or size != identity.size:
            raise FileDamaged(f"{path.name} changed while it was read")
        return FinishedFile(path, size, sha256, identity, identity.is_racy())
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes) -> None:
    """Write and sync (fsync(2)).

    Raises:
        OSError: the disk.
    """
    while data:
        data = data[os.write(descriptor, data) :]
    os.fsync(descriptor)


def read_through(descriptor: int, consume: Callable[[bytes], None] | None) -> tuple[int, str]:
    """Size and SHA-256 of an open file; `consume` is handed its bytes piece by piece."""
    digest, size = hashlib.sha256(), 0
    while chunk := os.pread(descriptor, READ_BYTES, size):
        digest.update(chunk)
        size += len(chunk)
        if consume:
            consume(chunk)
    return size, digest.hexdigest()
