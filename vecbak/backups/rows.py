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
        self._in_header = True
        self._header_quotes = 0
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
        begin, end = 0, chunk.find(b"\n")
        while end >= 0:
            self._header_quotes += chunk.count(b'"', begin, end)
            if self._header_quotes % 2 == 0:  # else it is a line end inside a quoted name
                self._in_header = False
                return chunk[end + 1 :]
            begin, end = end, chunk.find(b"\n", end + 1)
        self._header_quotes += chunk.count(b'"', begin)
        return b""

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
    r"""What pg_restore prints of one table: the lines between `COPY … FROM stdin;` and `\.`; text format escapes line ends.

    Of a line, however long, no more is held back than what could be the beginning of the end mark.
    """

    _BEGIN, _FINISH, _MARK = b"COPY ", b" FROM stdin;", b"\n\\.\n"

    def __init__(self, emit: Consumer = _drop) -> None:
        self.rows = 0
        self._emit = emit
        self._copying = False
        self._ended = False
        self._held = b""  # while copying: a part of the mark; the line end before the first row is the first of it
        self._first = False  # whether that line end is still to come
        self._line_begin = b""  # of the statement's line so far
        self._line_end = b""

    def feed(self, chunk: bytes) -> None:
        """The next bytes."""
        position = 0
        while position < len(chunk):
            position = self._data_lines(chunk, position) if self._copying else self._statement(chunk, position)

    def problem(self) -> str | None:
        """What is wrong."""
        return None if self._ended and not self._copying else f"ends in the middle, behind row {self.rows:,}"

    def _statement(self, data: bytes, position: int) -> int:
        end = data.find(b"\n", position)
        stop = end if end >= 0 else len(data)
        self._line_begin += data[position : min(stop, position + len(self._BEGIN) - len(self._line_begin))]
        last = data[max(position, stop - len(self._FINISH)) : stop]
        self._line_end = (self._line_end + last)[-len(self._FINISH) :]
        if end < 0:
            return stop
        self._copying = self._line_begin == self._BEGIN and self._line_end == self._FINISH
        self._line_begin = self._line_end = b""
        self._held, self._first = b"", self._copying
        return end if self._copying else end + 1

    def _data_lines(self, data: bytes, position: int) -> int:
        if self._held:
            seam = self._held + data[position : position + len(self._MARK)]
            if seam.startswith(self._MARK):
                return self._end(b"", position + len(self._MARK) - len(self._held))
            if len(seam) < len(self._MARK) and self._MARK.startswith(seam):
                self._held = seam
                return len(data)
            held, self._held = self._held, b""
            self._take(held)
        end = data.find(self._MARK, position)
        if end >= 0:
            return self._end(data[position:end], end + len(self._MARK))
        kept = next((size for size in (3, 2, 1) if data.endswith(self._MARK[:size], position)), 0)
        self._take(data[position : len(data) - kept])
        self._held = self._MARK[:kept]
        return len(data)

    def _take(self, rows: bytes) -> None:
        if self._first and rows:
            self._first, rows = False, rows[1:]
        self.rows += rows.count(b"\n")
        if rows:
            self._emit(rows)

    def _end(self, rows: bytes, position: int) -> int:
        self._take(rows if self._first and not rows else rows + b"\n")
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
