"""A pipe between us and a psql: psql opens a path, we hold the other end."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import BinaryIO, Literal, Protocol

from vecbak.postgres.process import widen_pipe


class Fifo(Protocol):
    """One pipe."""

    path: str  # as psql sees it

    def open(self) -> BinaryIO:
        """Our end."""

    def let_go(self) -> None:
        """psql has closed its end: hold nothing of it open any more."""

    def release(self) -> None:
        """psql will not open it, or has ended: let reads and writes end."""


class LocalPipe:
    """A pipe that has no name in any folder, so that nothing of it is left whoever is killed.

    psql opens its end by `/proc/PID/fd/N` (proc_pid_fd(5)), which never blocks, as it would with a FIFO.

    Args:
        mode: `wb` where we write, `rb` where we read.
    """

    def __init__(self, mode: Literal["rb", "wb"]) -> None:
        read_end, write_end = os.pipe()
        widen_pipe(write_end)
        self._mode = mode
        self._ours, self._theirs = (write_end, read_end) if mode == "wb" else (read_end, write_end)
        self._open = {self._ours, self._theirs}
        self.path = f"/proc/{os.getpid()}/fd/{self._theirs}"

    def open(self) -> BinaryIO:
        """Our end."""
        self._open.remove(self._ours)
        return os.fdopen(self._ours, self._mode)

    def let_go(self) -> None:
        """Close psql's end: when psql has closed it too, reads end, and writes fail."""
        self._close(self._theirs)

    release = let_go

    def close(self) -> None:
        """Close what is still open."""
        self._close(self._theirs)
        self._close(self._ours)

    def _close(self, descriptor: int) -> None:
        if descriptor in self._open:
            self._open.remove(descriptor)
            os.close(descriptor)


@contextlib.contextmanager
def local_pipe(mode: Literal["rb", "wb"]) -> Iterator[LocalPipe]:
    """A new pipe, closed when the context ends."""
    pipe = LocalPipe(mode)
    try:
        yield pipe
    finally:
        pipe.close()
