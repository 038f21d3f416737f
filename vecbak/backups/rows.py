"""Walking through the rows of a data file, chunk by chunk and in constant memory: to count them and to take them out.

Formats: https://www.postgresql.org/docs/current/sql-copy.html#id-1.9.3.55.9.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Protocol

from vecbak.backups.csv_records import RecordCounter

Consumer = Callable[[bytes], None]

_SIGNATURE = b"PGCOPY\n\xff\r\n\0"
_HEADER_BYTES = len(_SIGNATURE) + 8
_END_MARKS = (b"\n\\.\n", b"\n\\.\r\n")


def _drop(_: bytes) -> None:
    pass


class RowReader(Protocol):
    """Feed it a decoded file; it hands on the bytes of the rows alone, without header, trailer or statements around them.

    Attributes:
        rows: complete ones so far.
    """

    rows: int

    def feed(self, chunk: bytes) -> None:
        """The next bytes."""

    def problem(self) -> str | None:
        """What is wrong with the whole, when all bytes have been fed."""


class CsvRows:
    r"""CSV with a header line.

    Attributes:
        has_end_mark: a line is `\.`, where psql before version 18 would stop to read
            (https://www.postgresql.org/docs/release/18.0/).
    """

    def __init__(self, emit: Consumer = _drop) -> None:
        self._emit = emit
        self._counter = RecordCounter()
        self._header = b""
        self._in_header = True
        self._tail = b""
        self.has_end_mark = False

    @property
    def rows(self) -> int:
        """Complete records without the header."""
        return max(0, self._counter.records - 1)

    def feed(self, chunk: bytes) -> None:
        """The next bytes."""
        self._counter.feed(chunk)
        seam = self._tail + chunk[:4]
        self.has_end_mark = self.has_end_mark or any(mark in chunk or mark in seam for mark in _END_MARKS)
        self._tail = (self._tail + chunk[-4:])[-4:]
        if self._in_header:
            chunk = self._after_header(chunk)
        if chunk:
            self._emit(chunk)

    def _after_header(self, chunk: bytes) -> bytes:
        self._header += chunk
        end = self._header.find(b"\n")
        while end >= 0 and self._header.count(b'"', 0, end) % 2:  # a line end inside a quoted name
            end = self._header.find(b"\n", end + 1)
        if end < 0:
            return b""
        self._in_header = False
        rest, self._header = self._header[end + 1 :], self._header[: end + 1]
        return rest

    def problem(self) -> str | None:
        """What is wrong."""
        if not self._counter.complete:
            return f"ends in the middle of record {self._counter.records + 1:,}"
        return None if self._counter.records else "has no header line and no rows"


class BinaryRows:
    """COPY's binary format; every field is walked over.

    Args:
        columns: fields that each row must have.
    """

    def __init__(self, columns: int, emit: Consumer = _drop) -> None:
        self.rows = 0
        self._columns = columns
        self._emit = emit
        self._rest = b""
        self._started = False
        self._ended = False
        self._fields = 0
        self._skip = 0
        self._offset = 0
        self._problem: str | None = None

    def feed(self, chunk: bytes) -> None:
        """The next bytes."""
        if self._problem:
            return
        data = self._rest + chunk
        begin = position = 0
        if not self._started:
            if len(data) < _HEADER_BYTES:
                self._rest = data
                return
            if not data.startswith(_SIGNATURE):
                self._problem = "does not begin as COPY's binary format does"
                return
            self._started = True
            begin = position = _HEADER_BYTES
            self._skip = struct.unpack_from(">I", data, _HEADER_BYTES - 4)[0]  # the header's extension
        position = self._walk(data, position)
        if position > begin:
            end = position - 2 if self._ended and not self._problem else position
            self._emit(data[begin:end])
        self._offset += position
        self._rest = data[position:]
        if self._ended and self._rest and not self._problem:
            self._problem = f"goes on behind its end (byte {self._offset:,})"

    def _walk(self, data: bytes, position: int) -> int:
        """Step over whole rows and parts of fields; returns where it stopped."""
        size = len(data)
        while not self._ended:
            if self._skip:
                step = min(self._skip, size - position)
                position, self._skip = position + step, self._skip - step
                if self._skip:
                    return position
            if self._fields:
                if size - position < 4:
                    return position
                (length,) = struct.unpack_from(">i", data, position)
                if length < -1:
                    return self._broken(f"has a field of {length} bytes in row {self.rows:,}", position)
                position += 4
                self._fields -= 1
                self._skip = max(length, 0)
                continue
            if size - position < 2:
                return position
            (count,) = struct.unpack_from(">h", data, position)
            position += 2
            if count == -1:
                self._ended = True
            elif count != self._columns:
                return self._broken(
                    f"has {count} fields in row {self.rows + 1:,} instead of {self._columns}", position - 2
                )
            else:
                self.rows += 1
                self._fields = count
        return position

    def _broken(self, problem: str, position: int) -> int:
        self._problem = f"{problem} (byte {self._offset + position:,})"
        self._ended = True
        return position

    def problem(self) -> str | None:
        """What is wrong."""
        if self._problem:
            return self._problem
        if not self._started:
            return "does not begin as COPY's binary format does"
        return None if self._ended else f"ends in the middle, behind row {self.rows:,}"


class DumpRows:
    r"""What pg_restore prints of one table: the lines between `COPY … FROM stdin;` and `\.`; text format escapes line ends."""

    def __init__(self, emit: Consumer = _drop) -> None:
        self.rows = 0
        self._emit = emit
        self._copying = False
        self._ended = False
        self._rest = b""

    def feed(self, chunk: bytes) -> None:
        """The next bytes."""
        data = self._rest + chunk
        position = 0
        while position < len(data):
            position = self._data_lines(data, position) if self._copying else self._statement(data, position)
            if position < 0:
                return
        self._rest = b""

    def problem(self) -> str | None:
        """What is wrong."""
        return None if self._ended and not self._copying else f"ends in the middle, behind row {self.rows:,}"

    def _statement(self, data: bytes, position: int) -> int:
        end = data.find(b"\n", position)
        if end < 0:
            self._rest = data[position:]
            return -1
        line = data[position:end]
        self._copying = line.startswith(b"COPY ") and line.endswith(b" FROM stdin;")
        return end + 1

    def _data_lines(self, data: bytes, position: int) -> int:
        if data.startswith(b"\\.\n", position):
            return self._end(position + 3)
        end = data.find(b"\n\\.\n", position)
        if end >= 0:
            self._take(data, position, end + 1)
            return self._end(end + 4)
        last = max(data.rfind(b"\n", position), position)  # a line end may be the first byte of the end mark
        self._take(data, position, last)
        self._rest = data[last:]
        return -1

    def _take(self, data: bytes, begin: int, end: int) -> None:
        self.rows += data.count(b"\n", begin, end)
        if end > begin:
            self._emit(data[begin:end])

    def _end(self, position: int) -> int:
        self._copying, self._ended = False, True
        return position


def row_reader(format: str, columns: int, emit: Consumer = _drop) -> CsvRows | BinaryRows | DumpRows:
    """The reader of a format.

    Args:
        format: csv, binary or pg_dump.
        columns: how many a row has.
        emit: is handed the rows' bytes.
    """
    if format == "csv":
        return CsvRows(emit)
    return BinaryRows(columns, emit) if format == "binary" else DumpRows(emit)
