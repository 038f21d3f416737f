"""Taking a backup away: first it stops being a backup, then its files go.

The manifest becomes the claim of a run that has ended (see `vecbak.backups.draft`): whoever is killed in the middle
leaves what the next run in the folder removes as leftovers, and never half a backup that looks whole. Whoever reads a
backup holds a lock on its schema's file, which, unlike its manifest, is never replaced (flock(2)).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from vecbak.backups import manifest as manifests
from vecbak.backups.files import sync_folder
from vecbak.backups.inventory import FoundBackup, Inventory
from vecbak.backups.manifest import Manifest
from vecbak.backups.naming import names_of_backup
from vecbak.errors import UsageError

_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}


class InUse(Exception):
    """The backup belongs to somebody who is still at work on it; says who."""


@contextlib.contextmanager
def reading(found: FoundBackup) -> Iterator[None]:
    """As long as the context lasts, no prune removes this backup.

    Raises:
        UsageError: one is removing it.
    """
    gone = UsageError(f"backup {found.manifest.backup_id} is being removed by another vecbak", "Name another backup.")
    with contextlib.ExitStack() as stack:
        try:
            descriptor = os.open(_schema(found), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise gone from None
        except OSError:
            pass  # it is missing, or nobody can lock here: that is for whoever verifies it to say
        if not found.path.exists():
            raise gone
        yield


def _schema(found: FoundBackup) -> Path:
    return found.path.parent / found.manifest.schema_file.name


def named_files(manifest: Manifest) -> dict[str, int]:
    """Every file that a manifest names, with its size in bytes."""
    data = {file.name: file.size_bytes for entry in manifest.tables.values() for file in entry.files}
    return {**data, manifest.schema_file.name: manifest.schema_file.size_bytes}


def damage(found: FoundBackup) -> str | None:
    """What is wrong with a backup at a glance: a file that is missing, is no regular file, or has another size."""
    for name, size in named_files(found.manifest).items():
        try:
            status = (found.path.parent / name).lstat()
        except OSError as error:
            return f"{name} is missing" if isinstance(error, FileNotFoundError) else f"{name}: {error.strerror}"
        if not stat.S_ISREG(status.st_mode):
            return f"{name} is not a regular file"
        if status.st_size != size:
            return f"{name} has {status.st_size:,} bytes, not {size:,}"
    return None


def names_of_others(found: FoundBackup, inventory: Inventory) -> set[str]:
    """Files in its folder that another manifest names, or that stand under the id of one that cannot be read."""
    folder = found.path.parent
    names = {
        name
        for other in inventory.backups
        if other.path.parent == folder and other.path != found.path
        for name in named_files(other.manifest)
    }
    for path, _ in inventory.unreadable:
        if path.parent == folder:
            names.update(names_of_backup(path))
    return names


def remove_backup(found: FoundBackup, theirs: set[str], suffix: str) -> int:
    """Remove a backup: its manifest first, then its files; nothing outside its folder, nothing that a link points at.

    Args:
        theirs: names that stay, because others name them too.
        suffix: the config's backup_temp_suffix.

    Returns:
        Bytes removed.

    Raises:
        InUse: somebody works with it, or it changed since it was found; nothing was removed.
        OSError: the disk. Without its manifest it is no backup any more; what is left of it the next run removes.
    """
    folder = found.path.parent
    freed = 0
    with _claimed(found, suffix) as claim:
        for name in named_files(found.manifest):
            if name not in theirs and name not in {found.path.name, claim.name}:
                freed += _unlink(folder / name)
        freed += _unlink(claim)
    sync_folder(folder)
    return freed


@contextlib.contextmanager
def _claimed(found: FoundBackup, suffix: str) -> Iterator[Path]:
    """Its manifest, renamed to the claim, and locked as long as the context lasts."""
    with contextlib.ExitStack() as locks:
        try:
            descriptor = _lock(found.path, "its run has not ended", locks)
            _lock(_schema(found), "somebody reads it", locks)
            if not os.path.samestat(os.fstat(descriptor), found.path.lstat()) or _changed(found):
                raise InUse("it changed meanwhile")
            claim = found.path.with_name(found.path.name + suffix)
            _withdraw(found.path, claim, descriptor)
            sync_folder(found.path.parent)
        except FileNotFoundError:
            raise InUse("another vecbak removed it") from None
        yield claim


def _lock(path: Path, why_not: str, locks: contextlib.ExitStack) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    locks.callback(os.close, descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InUse(why_not) from None
    return descriptor


def _changed(found: FoundBackup) -> bool:
    try:
        return manifests.read(found.path) != found.manifest
    except UsageError:
        return True


def _withdraw(path: Path, claim: Path, descriptor: int) -> None:
    # a link, for rename would overwrite the claim of somebody who is writing a new manifest
    try:
        os.link(path, claim, follow_symlinks=False)
    except FileExistsError:
        if not os.path.samestat(os.fstat(descriptor), claim.lstat()):  # ours, if a prune was killed right here
            raise InUse("another vecbak is at work on its manifest") from None
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        path.rename(claim)
        return
    path.unlink()


def _unlink(path: Path) -> int:
    try:
        size = path.lstat().st_size
        path.unlink()
    except FileNotFoundError:
        return 0
    return size
