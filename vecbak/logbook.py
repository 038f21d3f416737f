"""Where log lines go: standard error, and `data_pipeline.log` in the run's folder, both without secrets."""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vecbak.errors import VecbakError
from vecbak.masking import without_credentials
from vecbak.own_files import open_regular
from vecbak.streams import Stream
from vecbak.visible import visible

_log = logging.getLogger("vecbak")


class _Masked(logging.Formatter):
    """Without secrets, and with nothing that a terminal would obey; what stands on more lines than one is indented."""

    def __init__(self, pattern: str, mask: Any) -> None:
        super().__init__(pattern)
        self._mask = mask

    def format(self, record: logging.LogRecord) -> str:
        first, *more = visible(without_credentials(str(self._mask(super().format(record))))).split("\n")
        return "\n".join([first, *(line if line.startswith("  ") else f"  {line}" for line in more)])


class LogBook:
    """The `vecbak` logger's ways out: standard error, and `data_pipeline.log` once its folder may be written.

    Until then its lines are kept in memory: what preflight refuses leaves no byte behind.
    """

    def __init__(self, *, verbosity: int, interactive: bool) -> None:
        self.path: Path | None = None
        self._mask: Any = lambda text: text
        self._verbosity = verbosity
        self._file: logging.Handler | None = None
        self._memory = logging.handlers.MemoryHandler(
            capacity=10_000, flushLevel=logging.CRITICAL + 1, flushOnClose=False
        )
        self._memory.setLevel(logging.DEBUG)
        console = logging.StreamHandler(sys.stderr)
        quiet = logging.WARNING if interactive else logging.INFO
        console.setLevel({-1: logging.ERROR, 0: quiet}.get(verbosity, logging.DEBUG))
        console.setFormatter(_Masked("%(asctime)s %(levelname)s %(message)s", self.mask))
        _log.handlers[:] = [console, self._memory]
        _log.setLevel(logging.DEBUG)
        _log.propagate = False

    def mask(self, text: str) -> str:
        """Without secrets."""
        return without_credentials(str(self._mask(text)))

    def mask_with(self, mask: Any) -> None:
        """Use this from now on."""
        self._mask = mask

    def open(self, folder: Path, name: str) -> None:
        """Write what was kept, and everything from now on, to the log file of an output directory.

        Raises:
            OSError: it cannot be written.
        """
        path = folder / name
        if path == self.path:
            return
        handler = _file_handler(path, self.mask, logging.DEBUG if self._verbosity > 0 else logging.INFO)
        handler.addFilter(lambda record: record.levelno >= handler.level)  # what was kept in memory too
        self._memory.setTarget(handler)
        self._memory.flush()
        _log.removeHandler(self._memory)
        _log.addHandler(handler)
        self.path, self._file = path, handler

    def keep_nothing(self) -> None:
        """For a process that has no folder of its own and runs for long: lines are not kept for a file."""
        _log.removeHandler(self._memory)
        self._memory.close()

    def record(self, text: str, level: int = logging.WARNING) -> None:
        """Write to the log file alone; nothing if there is none."""
        if self._file:
            self._file.handle(logging.LogRecord("vecbak", level, __file__, 0, text, None, None))

    def record_failure(self, error: VecbakError) -> None:
        """The same three things that the terminal shows."""
        output = "".join(f"\n  {line}" for line in error.output.splitlines())
        self.record(f"{error.message}{output}\n  Hint: {error.hint}", logging.ERROR)


class FolderLog:
    """The `vecbak` logger's lines in a task's folder, beside whatever the program that uses vecbak does with them."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._mask: Any = lambda text: text
        self._handler: logging.Handler | None = None

    def mask_with(self, mask: Any) -> None:
        """Use this from now on."""
        self._mask = mask

    def open(self, folder: Path) -> None:
        """Write what this thread tells from now on to the log of this folder; again for the same run: nothing.

        Raises:
            OSError: it cannot be written.
        """
        if self._handler:
            return
        self._handler = _file_handler(folder / self._name, lambda text: str(self._mask(text)), logging.INFO)
        thread = threading.get_ident()
        self._handler.addFilter(lambda record: record.thread == thread)  # other tasks' lines are not this one's
        _log.addHandler(self._handler)

    def close(self) -> None:
        """End it."""
        if self._handler:
            _log.removeHandler(self._handler)
            self._handler.close()


@contextlib.contextmanager
def folder_log(name: str) -> Iterator[FolderLog]:
    """A log that ends with its context.

    Args:
        name: the file's name.
    """
    if _log.level == logging.NOTSET:
        _log.setLevel(logging.INFO)
    log = FolderLog(name)
    try:
        yield log
    finally:
        log.close()


class _FileHandler(logging.StreamHandler[Stream]):
    """To a file that may become unwritable in mid-run: it is told once, and changes nothing of the run."""

    def __init__(self, path: Path, descriptor: int) -> None:
        super().__init__(Stream(descriptor, "utf-8"))
        self._path = path
        self._told = False

    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)
        if self.stream.problem and not self._told:
            self._told = True
            _log.warning("%s could not be written: %s", self._path, self.stream.problem.strerror)

    def close(self) -> None:
        super().close()
        self.stream.close()
        os.close(self.stream.fileno())


def _file_handler(path: Path, mask: Any, level: int) -> logging.Handler:
    handler = _FileHandler(path, open_regular(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT))
    handler.setLevel(level)
    handler.setFormatter(_Masked("%(asctime)s [%(process)d] %(levelname)s %(message)s", mask))
    return handler
