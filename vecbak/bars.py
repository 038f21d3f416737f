"""Progress as bars on a terminal, or as log lines where nobody watches."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from vecbak.visible import visible_line

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

LINE_SECONDS = 30.0

_log = logging.getLogger("vecbak")


class LineProgress:
    """Progress as log lines, where nobody watches bars."""

    def __init__(self) -> None:
        self._told = time.monotonic()

    def started(self, table: str, rows: int) -> None:
        """Say so."""
        _log.info("%s: %s rows to go", table, f"{rows:,}")

    def advanced(self, table: str, rows: int) -> None:
        """Say so now and then."""
        if time.monotonic() - self._told >= LINE_SECONDS:
            self._told = time.monotonic()
            _log.info("%s: %s rows so far", table, f"{rows:,}")

    def finished(self, table: str, rows: int, size_bytes: int) -> None:
        """Say so."""
        _log.info("%s: %s rows, %s bytes, done", table, f"{rows:,}", f"{size_bytes:,}")

    def failed(self, table: str) -> None:
        """Say so."""
        _log.error("%s: failed", table)


class BarProgress(LineProgress):
    """A bar for each table, on a terminal's standard error, as long as there is one to move.

    Between an operation's phases the terminal is somebody else's: a question's, or a command's.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._bars: RichProgress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._moving: set[str] = set()

    def __enter__(self) -> BarProgress:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._stop()

    def started(self, table: str, rows: int) -> None:
        """A new bar."""
        super().started(table, rows)
        with self._lock:
            if self._bars is None:
                self._bars = _new_bars()
                self._bars.start()
            self._tasks[table] = self._bars.add_task(visible_line(table), total=rows)
            self._moving.add(table)

    def advanced(self, table: str, rows: int) -> None:
        """Move its bar."""
        with self._lock:
            if self._bars and table in self._moving:
                self._bars.update(self._tasks[table], completed=rows)

    def finished(self, table: str, rows: int, size_bytes: int) -> None:
        """Fill its bar."""
        super().finished(table, rows, size_bytes)
        self._end(table, completed=rows)

    def failed(self, table: str) -> None:
        """Mark its bar."""
        super().failed(table)
        self._end(table, description=f"✗ {visible_line(table)}")

    def _end(self, table: str, **shown: Any) -> None:
        with self._lock:
            if self._bars and table in self._moving:
                self._bars.update(self._tasks[table], **shown)
                self._moving.discard(table)
                if not self._moving:
                    self._stop()

    def _stop(self) -> None:
        if self._bars:
            self._bars.stop()
            self._bars = None
        self._moving.clear()


def _new_bars() -> RichProgress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("rows"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        redirect_stdout=False,  # who prints meanwhile does so through streams that cannot fail
        redirect_stderr=False,
    )
