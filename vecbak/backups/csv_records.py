"""Counting the records of a CSV file as COPY writes it, chunk by chunk.

A line end inside quotes belongs to the value; a quote inside quotes is doubled, so that the number of quotes before a
line end tells which it is (https://www.postgresql.org/docs/current/sql-copy.html#id-1.9.3.55.9.3, RFC 4180).
"""

from __future__ import annotations


class RecordCounter:
    """Feed it chunks; `records` is the number of complete records so far, the header included."""

    def __init__(self) -> None:
        self.records = 0
        self._quoted = 0
        self._last = b""

    @property
    def complete(self) -> bool:
        """Whether the last record was ended (an empty file is complete)."""
        return not self._quoted and self._last in {b"", b"\n"}

    def feed(self, chunk: bytes) -> None:
        """Count the next chunk."""
        start, line_end = 0, chunk.find(b"\n")
        while line_end >= 0:
            self._quoted ^= chunk.count(b'"', start, line_end) & 1
            self.records += not self._quoted
            start, line_end = line_end, chunk.find(b"\n", line_end + 1)
        self._quoted ^= chunk.count(b'"', start) & 1
        self._last = chunk[-1:] or self._last
