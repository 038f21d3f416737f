"""Claims on a name in a folder: a file that was made there, and an flock on it that ends with its maker (flock(2))."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def claim(path: Path) -> int | None:
    """Make the file and lock it; None if it is there already."""
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


def lock_abandoned(path: Path) -> int | None:
    """Lock a file whose maker has ended; None if he lives, or if it is gone."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
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
