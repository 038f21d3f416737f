"""A backup's way from `.tmp` to final: a draft, which is published as a whole or leaves nothing.

A run claims its backup id by creating the manifest's `.tmp` and holding an flock on it until it ends: while the lock
is held the run lives, and what stands under its id without a manifest is nobody's after that (flock(2)).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
import threading
from datetime import datetime, timedelta
from pathlib import Path

from vecbak.backups.draft_file import DraftFile
from vecbak.backups.files import FileDamaged, FinishedFile, Identity, read_through, sync_folder, write_all
from vecbak.backups.formats import EndsCheck
from vecbak.backups.naming import MANIFEST_PREFIX, manifest_name, names_under
from vecbak.backups.writeback import start_writeback


class Draft:
    """A backup that is being written: nothing of it is valid before `publish`, and `discard` leaves nothing of it."""

    def __init__(self, folder: Path, backup_id: str, suffix: str, claim: int) -> None:
        self.folder = folder
        self.backup_id = backup_id
        self._suffix = suffix
        self._claim = claim
        self._files: dict[Path, DraftFile] = {}
        self._finished: dict[Path, Identity] = {}
        self._published = False
        self._creating = threading.Lock()

    @property
    def manifest_path(self) -> Path:
        """Where the manifest will be."""
        return self.folder / manifest_name(self.backup_id)

    def create(self, name: str) -> DraftFile:
        """Create the empty `.tmp` of a file."""
        path = self.folder / (name + self._suffix)
        with self._creating:
            if self._claim < 0:  # a thread that an interrupt overtook while it was being started
                raise FileDamaged(f"{path.name} was not begun: the run has ended")
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            file = self._files[path] = DraftFile(path, descriptor)
        return file

    def finish(self, name: str, check: EndsCheck = lambda head, tail: None) -> FinishedFile:
        """Sync, hash, check and rename a file that is complete.

        Args:
            name: as given to `create`.
            check: what is wrong with how it begins and ends, if anything is.

        Raises:
            FileDamaged: it is not the file that was created, or it changed after it was written.
            OSError: the disk.
        """
        path, final = self.folder / (name + self._suffix), self.folder / name
        file = self._files[path]
        descriptor = file.descriptor
        self._same_file(path, descriptor)
        start_writeback(descriptor)  # the disk works while we hash
        size, sha256, before = file.summary()
        if problem := check(*file.ends()):
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
        is_racy = file.is_racy
        os.close(self._files.pop(path).descriptor)
        return FinishedFile(final, size, sha256, identity, is_racy)

    def start_writeback(self) -> None:
        """Let the disk begin with what programs have written so far; fsync waits the less for it."""
        for file in list(self._files.values()):
            start_writeback(file.descriptor)

    def publish(self, manifest: bytes) -> FinishedFile:
        """Write the manifest, last of all: with it the backup is valid.

        Raises:
            FileDamaged: what was written is not what can be read.
            OSError: the disk.
        """
        sync_folder(self.folder)
        claim = self.folder / (manifest_name(self.backup_id) + self._suffix)
        write_all(self._claim, manifest)
        self._same_file(claim, self._claim)
        size, sha256 = read_through(self._claim, None)
        if sha256 != hashlib.sha256(manifest).hexdigest():
            raise FileDamaged(f"{claim.name} does not hold what was written into it")
        if os.path.lexists(self.manifest_path):
            raise FileDamaged(f"{self.manifest_path.name} exists already")
        claim.rename(self.manifest_path)
        self._published = True
        sync_folder(self.folder)
        identity = Identity.of(os.fstat(self._claim))
        return FinishedFile(self.manifest_path, size, sha256, identity, identity.is_racy())

    def withdraw(self) -> None:
        """Undo `publish`: what stands is no backup any more, and `close` removes it."""
        if self._published:
            self.manifest_path.unlink(missing_ok=True)
            self._published = False

    def close(self) -> None:
        """End the run's claim; if the backup was not published, remove every file of it."""
        with self._creating:
            claim, self._claim = self._claim, -1
        for path, file in self._files.items():
            self._remove(path, os.fstat(file.descriptor))
            os.close(file.descriptor)
        self._files.clear()
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
        write_all(descriptor, manifest)
        temporary.rename(path)
        sync_folder(path.parent)
        identity = Identity.of(os.fstat(descriptor))
        sha256 = hashlib.sha256(manifest).hexdigest()
        return FinishedFile(path, len(manifest), sha256, identity, identity.is_racy())
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


def _is_taken(folder: Path, backup_id: str, suffix: str) -> bool:
    return os.path.lexists(folder / manifest_name(backup_id)) or bool(names_under(folder, backup_id, suffix))


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
    theirs = {name for other in others for name in names_under(folder, other, suffix)}
    return [name for name in names_under(folder, backup_id, suffix) if name not in theirs]
