"""Opening the files that vecbak writes or locks beside a backup's own: never through a link, never a pipe or a device.

A name in a folder may have become anything since last time: a link that leads elsewhere, a FIFO on which open(2) waits.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from pathlib import Path

_SAFELY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def keep_our_own_rights() -> None:
    """Make no file from here on that we ourselves could not read, whatever umask we were started with."""
    os.umask(os.umask(0o077) & 0o077)


def open_regular(path: Path, flags: int) -> int:
    """A descriptor of a regular file; one that is made is ours alone to read.

    Args:
        flags: of open(2), e.g. os.O_RDWR | os.O_CREAT.

    Raises:
        OSError: it cannot be opened, or is no regular file.
    """
    try:
        descriptor = os.open(path, flags | _SAFELY, 0o600)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a FIFO that nobody reads
            raise _not_regular(path) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _not_regular(path)
    return descriptor


def replace_file(path: Path, text: str, mode: int = 0o600) -> None:
    """Write a file anew, in one step: it is the old one or the new one, and what stands there is never followed.

    Raises:
        OSError: it cannot be written; the old one is still there.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            os.fchmod(descriptor, mode)
            file.write(text)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _not_regular(path: Path) -> OSError:
    return OSError(errno.EINVAL, "not a regular file", str(path))
