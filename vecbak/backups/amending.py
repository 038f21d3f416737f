"""Replacing a published manifest by one that says more: one writer at a time, each beginning with what the last one left.

Whoever writes holds an flock on the manifest itself, as its run does to its end, and on the `.tmp` that will replace it
(flock(2)). So nobody puts back a manifest that he read before another one's record, and no run finds its manifest replaced
between its last look and TRUNCATE.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from vecbak.backups import manifest as manifests
from vecbak.backups.claims import claim, lock_abandoned
from vecbak.backups.files import FinishedFile, Identity, sync_folder, write_all
from vecbak.backups.manifest import Manifest
from vecbak.checkpoints import reach
from vecbak.errors import UsageError

WAIT_SECONDS = 60.0  # for another writer, or for the end of the backup's own run
_PAUSE = 0.05

Change = Callable[[Manifest], Manifest]


def amend_manifest(path: Path, change: Change, suffix: str, *, seconds: float = WAIT_SECONDS) -> FinishedFile:
    """Change a published manifest; at every moment the old one or the new one is there.

    Args:
        change: is given the manifest as it is now.
        seconds: how long to wait for another writer.

    Raises:
        OSError: the disk; or another vecbak is at work on it, or removed it. What stands there is as it was.
    """
    deadline = time.monotonic() + seconds
    with _alone(path, deadline):
        finished, descriptor = replace_manifest(path, change, suffix, deadline)
        os.close(descriptor)
        return finished


def replace_manifest(path: Path, change: Change, suffix: str, deadline: float) -> tuple[FinishedFile, int]:
    """The same for whoever holds the lock on the manifest already.

    Returns:
        The new manifest, and a descriptor that holds the lock on it.
    """
    temporary = path.with_name(path.name + suffix)
    descriptor = _claimed(temporary, deadline)
    try:
        try:
            manifest = change(manifests.read(path))
        except UsageError as error:
            raise OSError(errno.ESTALE, error.message, str(path)) from None
        reach("amending")
        data = manifests.encode(manifest)
        write_all(descriptor, data)
        temporary.rename(path)
        sync_folder(path.parent)
        identity = Identity.of(os.fstat(descriptor))
        return FinishedFile(path, len(data), hashlib.sha256(data).hexdigest(), identity, identity.is_racy()), descriptor
    except BaseException:
        with contextlib.suppress(OSError):
            if os.path.samestat(temporary.lstat(), os.fstat(descriptor)):
                temporary.unlink()
        os.close(descriptor)
        raise


def _claimed(temporary: Path, deadline: float) -> int:
    while (descriptor := claim(temporary)) is None:
        if (left := lock_abandoned(temporary)) is not None:  # by a writer that was killed
            temporary.unlink(missing_ok=True)
            os.close(left)
        else:
            _wait(temporary, deadline)
    return descriptor


@contextlib.contextmanager
def _alone(path: Path, deadline: float) -> Iterator[None]:
    """The lock on the manifest that stands there; another one may stand there when it is granted."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(path.lstat(), os.fstat(descriptor)):
                yield
                return
        except BlockingIOError:
            _wait(path, deadline)
        finally:
            os.close(descriptor)


def _wait(path: Path, deadline: float) -> None:
    if time.monotonic() >= deadline:
        raise FileExistsError(errno.EEXIST, "another vecbak is at work on it", str(path))
    time.sleep(_PAUSE)
