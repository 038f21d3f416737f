"""A backup's way from `.tmp` to final: a draft, which is published as a whole or leaves nothing.

A run claims its backup id by creating the manifest's `.tmp` and holding an flock on it until it ends: while the lock
is held the run lives, and what stands under its id without a manifest is nobody's after that (flock(2)).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import threading
import time
from datetime import datetime, timedelta
from pathlib import Path

from vecbak.backups.amending import WAIT_SECONDS, Change, replace_manifest
from vecbak.backups.claims import claim, lock_abandoned
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
        temporary = self.folder / (manifest_name(self.backup_id) + self._suffix)
        write_all(self._claim, manifest)
        self._same_file(temporary, self._claim)
        size, sha256 = read_through(self._claim, None)
        if sha256 != hashlib.sha256(manifest).hexdigest():
            raise FileDamaged(f"{temporary.name} does not hold what was written into it")
        if os.path.lexists(self.manifest_path):
            raise FileDamaged(f"{self.manifest_path.name} exists already")
        temporary.rename(self.manifest_path)
        self._published = True
        sync_folder(self.folder)
        identity = Identity.of(os.fstat(self._claim))
        return FinishedFile(self.manifest_path, size, sha256, identity, identity.is_racy())

    def amend(self, change: Change) -> FinishedFile:
        """Change the published manifest, and go on holding the lock on it: nobody else changes it before this run ends.

        Raises:
            OSError: as `vecbak.backups.amending.amend_manifest`.
        """
        deadline = time.monotonic() + WAIT_SECONDS
        finished, descriptor = replace_manifest(self.manifest_path, change, self._suffix, deadline)
        with self._creating:
            before, self._claim = self._claim, descriptor
        os.close(before)
        return finished

    def withdraw(self) -> None:
        """Undo `publish`: what stands is no backup any more, and `close` removes it."""
        if self._published:
            self.manifest_path.unlink(missing_ok=True)
            self._published = False

    def close(self) -> None:
        """End the run's claim; if the backup was not published, remove every file of it."""
        with self._creating:
            held, self._claim = self._claim, -1
        for path, file in self._files.items():
            self._remove(path, os.fstat(file.descriptor))
            os.close(file.descriptor)
        self._files.clear()
        if held < 0:
            return
        if not self._published:
            for path, identity in self._finished.items():
                with contextlib.suppress(OSError):
                    if Identity.of(os.lstat(path)) == identity:  # what was changed since is evidence, or not ours
                        path.unlink()
            self._remove(self.folder / (manifest_name(self.backup_id) + self._suffix), os.fstat(held))
            with contextlib.suppress(OSError):
                sync_folder(self.folder)
        os.close(held)

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
        descriptor = None if _is_taken(folder, backup_id, suffix) else claim(path)
        if descriptor is not None:
            return Draft(folder, backup_id, suffix, descriptor)
        moment += timedelta(seconds=1)


def remove_leftovers(folder: Path, suffix: str) -> list[str]:
    """Remove what a killed run left: files under an id whose claim nobody holds, and that has no manifest.

    Returns:
        The names removed.
    """
    removed: list[str] = []
    for left in sorted(folder.glob(f"{MANIFEST_PREFIX}*.json{suffix}")):
        backup_id = left.name.removeprefix(MANIFEST_PREFIX).removesuffix(f".json{suffix}")
        descriptor = lock_abandoned(left)
        if descriptor is None:
            continue
        try:
            names = [] if (folder / manifest_name(backup_id)).exists() else _unclaimed(folder, backup_id, suffix)
            for name in [*names, left.name]:
                (folder / name).unlink(missing_ok=True)
                removed.append(name)
        finally:
            os.close(descriptor)
    return removed


def _is_taken(folder: Path, backup_id: str, suffix: str) -> bool:
    return os.path.lexists(folder / manifest_name(backup_id)) or bool(names_under(folder, backup_id, suffix))


def _unclaimed(folder: Path, backup_id: str, suffix: str) -> list[str]:
    # an id can be the end of another one: what could belong to another backup, complete or under way, stays
    present = [path.name.removesuffix(suffix) for path in folder.glob(f"{MANIFEST_PREFIX}*")]
    others = {name.removeprefix(MANIFEST_PREFIX).removesuffix(".json") for name in present} - {backup_id}
    theirs = {name for other in others for name in names_under(folder, other, suffix)}
    return [name for name in names_under(folder, backup_id, suffix) if name not in theirs]
