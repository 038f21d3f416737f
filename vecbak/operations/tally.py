"""How far each table is, summed over its parts, for whoever watches."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping

from vecbak.progress import Progress


class Tally:
    """Adds up parts and tells the progress; called from several threads.

    Args:
        expected: rows by label, as the guard counted them.
        parts: files by label.
        oids: labels by table oid.
    """

    def __init__(
        self, progress: Progress, expected: Mapping[str, int], parts: Mapping[str, int], oids: Mapping[int, str]
    ) -> None:
        self._progress = progress
        self._expected = expected
        self._left = dict(parts)
        self._oids = oids
        self._copying: dict[int, str] = {}
        self._rows: dict[str, int] = {}
        self._finished_rows: dict[str, int] = {}
        self._bytes: dict[str, int] = {}
        self._lock = threading.Lock()

    @property
    def processes(self) -> list[int]:
        """The server processes that copy now."""
        return list(self._copying)

    @property
    def oids(self) -> list[int]:
        """The tables."""
        return list(self._oids)

    def begin(self, label: str, pid: int) -> None:
        """A server process begins a part."""
        with self._lock:
            self._copying[pid] = label
            first = label not in self._rows
            self._rows.setdefault(label, 0)
        if first:
            self._progress.started(label, self._expected[label])

    def copied(self, label: str, pid: int, rows: int) -> None:
        """It has copied its part."""
        with self._lock:
            self._copying.pop(pid, None)
            self._rows[label] += rows

    def finish(self, label: str, size_bytes: int, rows: int) -> None:
        """A part's file is complete."""
        with self._lock:
            self._left[label] -= 1
            self._bytes[label] = self._bytes.get(label, 0) + size_bytes
            self._finished_rows[label] = self._finished_rows.get(label, 0) + rows
            last = self._left[label] == 0
        if last:
            self._progress.finished(label, self._finished_rows[label], self._bytes[label])

    def fail(self, label: str) -> None:
        """A part failed, and with it the table."""
        with self._lock:
            self._copying = {pid: name for pid, name in self._copying.items() if name != label}
        self._progress.failed(label)

    def update(self, found: Iterable[tuple[int, int, int]]) -> None:
        """What the server says: process, table oid (0 for a query), rows so far of its present COPY."""
        with self._lock:
            rows = {label: self._rows[label] for label in self._copying.values()}
            for pid, oid, count in found:
                label = self._copying.get(pid) or self._oids.get(oid)
                if label in rows:
                    rows[label] += count
        for label, count in rows.items():
            self._progress.advanced(label, count)
