"""A named pipe between us and a psql: psql opens the path, we open the other end."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal, Protocol


class Fifo(Protocol):
    """One named pipe."""

    path: str  # as psql sees it

    def open(self) -> BinaryIO:
        """Our end; waits until psql has opened its own."""

    def release(self) -> None:
        """psql will not open it, or has ended: let `open` return and reads and writes end."""


class LocalFifo:
    """A named pipe on this machine.

    Args:
        mode: `wb` where we write, `rb` where we read.
    """

    def __init__(self, path: Path, mode: Literal["rb", "wb"]) -> None:
        self.path = str(path)
        self._mode = mode

    def open(self) -> BinaryIO:
        """Our end; waits until psql has opened its own."""
        return Path(self.path).open(self._mode)

    def release(self) -> None:
        """Open psql's end in its stead."""
        with contextlib.suppress(OSError):
            os.close(os.open(self.path, os.O_NONBLOCK | (os.O_RDONLY if self._mode == "wb" else os.O_WRONLY)))


@contextlib.contextmanager
def local_fifo(mode: Literal["rb", "wb"]) -> Iterator[LocalFifo]:
    """A new named pipe that is gone when the context ends."""
    import tempfile  # slow to import, and a backup needs none

    with tempfile.TemporaryDirectory(prefix="vecbak-") as folder:
        path = Path(folder) / "rows"
        os.mkfifo(path, 0o600)
        yield LocalFifo(path, mode)
