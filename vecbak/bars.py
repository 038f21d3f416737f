"""Progress as bars on a terminal, or as log lines where nobody watches."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

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
    """A bar for each table, on a terminal's standard error."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._bars: RichProgress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("rows"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> BarProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def started(self, table: str, rows: int) -> None:
        """A new bar; the first one starts the display, which until then would hide a question."""
        super().started(table, rows)
        self._bars.start()
        self._tasks[table] = self._bars.add_task(table, total=rows)

    def advanced(self, table: str, rows: int) -> None:
        """Move its bar."""
        self._bars.update(self._tasks[table], completed=rows)

    def finished(self, table: str, rows: int, size_bytes: int) -> None:
        """Fill its bar."""
        super().finished(table, rows, size_bytes)
        self._bars.update(self._tasks[table], completed=rows)

    def failed(self, table: str) -> None:
        """Mark its bar."""
        super().failed(table)
        if table in self._tasks:
            self._bars.update(self._tasks[table], description=f"[red]✗ {table}")
