"""What an operation tells while it runs; `vecbak.report` shows it as bars or as lines."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told about tables by the name that the config gives; all figures are rows. Called from several threads."""

    def started(self, table: str, rows: int) -> None:
        """A table's copy begins."""

    def advanced(self, table: str, rows: int) -> None:
        """Rows copied so far."""

    def finished(self, table: str, rows: int, size_bytes: int) -> None:
        """Its file is complete and hashed."""

    def failed(self, table: str) -> None:
        """Its copy failed."""


class NoProgress:
    """Tells nobody."""

    def started(self, table: str, rows: int) -> None:
        """Nothing."""

    def advanced(self, table: str, rows: int) -> None:
        """Nothing."""

    def finished(self, table: str, rows: int, size_bytes: int) -> None:
        """Nothing."""

    def failed(self, table: str) -> None:
        """Nothing."""
