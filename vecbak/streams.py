"""The standard streams as a run needs them: always there, and never what makes it fail or wait for ever.

What cannot be written (a full disk, a reader that went away or sleeps, a closed descriptor) is left out, and told at the end.
Between a TRUNCATE and the load of new rows nothing may stand that can fail, and a line of text is no reason to.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import select
import sys
import time

CHUNK_BYTES = 4096  # PIPE_BUF: what a pipe takes at once where poll(2) says that it takes anything
PATIENCE_SECONDS = 10.0  # for the reader of standard error: a run that holds locks waits no longer for it
_IN_ASCII = {"✓": "ok", "✗": "FAILED", "→": "->", "…": "...", "━": "-", "–": "-", "×": "x"}


class Stream(io.TextIOBase):
    """Text to a descriptor, written at once: nothing is left to be flushed.

    Args:
        descriptor: it stays the caller's.
        encoding: what it lacks is spelt out in ASCII.
        patience: seconds for which a reader that takes nothing is waited for; None: for ever.

    Attributes:
        problem: why something was left out, if anything was.
    """

    def __init__(self, descriptor: int, encoding: str, patience: float | None = None) -> None:
        codecs.register_error("vecbak", _spelt_out)
        self.problem: OSError | None = None
        self._descriptor = descriptor
        self._encoding = encoding
        self._patience = patience
        self._encode = codecs.getincrementalencoder(encoding)("vecbak").encode

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Its name, as Python knows it."""
        return self._encoding

    @property
    def errors(self) -> str:  # type: ignore[override]
        """How it deals with letters that the encoding lacks."""
        return "vecbak"

    def fileno(self) -> int:
        """The descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        """It is for writing."""
        return True

    def write(self, text: str | bytes) -> int:
        """Write it, or as much of it as can be; click hands over bytes for the shell's completion."""
        data = memoryview(text if isinstance(text, bytes) else self._encode(text))
        try:
            while data:
                data = data[self._write_some(data[:CHUNK_BYTES]) :]
        except OSError as error:
            self.problem = error
        return len(text)

    def _write_some(self, data: memoryview) -> int:
        # asked for again and again where another process made the descriptor a non-blocking one
        patience = 0.0 if self.problem and self._patience is not None else self._patience
        deadline = None if patience is None else time.monotonic() + patience
        while True:
            if not self._is_ready(deadline):
                raise OSError(errno.ETIMEDOUT, "its reader takes nothing")
            with contextlib.suppress(BlockingIOError):
                return os.write(self._descriptor, data)
            time.sleep(0.01)

    def _is_ready(self, deadline: float | None) -> bool:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        return bool(poll.poll(None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000))


def prepare() -> None:
    """First thing of a process: fill what is closed, and take over standard output and standard error."""
    fill_closed()
    out, err = (getattr(stream, "encoding", None) or "utf-8" for stream in (sys.stdout, sys.stderr))
    sys.stdout = Stream(1, out)
    sys.stderr = Stream(2, err, PATIENCE_SECONDS)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - a descriptor, for good


def fill_closed() -> None:
    """Open /dev/null in place of a standard stream that is closed: the next file, a backup even, would get its number."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free


def what_is_missing() -> str | None:
    """Last thing of a process: why standard output lacks something, if it does; not told of a reader that just went away."""
    problem = getattr(sys.stdout, "problem", None)
    if problem is None or problem.errno == errno.EPIPE:
        return None
    return f"vecbak: standard output could not be written: {problem.strerror}; what was done stays done"


def _spelt_out(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)  # noqa: S101 - only encoding asks
    letters = error.object[error.start : error.end]
    text = "".join(_IN_ASCII.get(letter) or letter.encode("ascii", "backslashreplace").decode() for letter in letters)
    return text, error.end
