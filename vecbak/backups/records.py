"""Taking rows as COPY writes them apart into fields, which stay as they are written: equal values, equal bytes.

The rows come without header and trailer, as `vecbak.backups.rows` hands them on.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

Fields = list[bytes | None]
TakeRow = Callable[[bytes, Fields], None]

_CSV_FIELD = re.compile(rb'((?:"(?:[^"]|"")*")|[^,"]*)(,|\Z)')


class LineRecords:
    """Rows of the csv and the text format, one to a line; in csv a line end may stand between quotes.

    Args:
        csv: or else text.
        take: is handed each row, and its fields.
    """

    def __init__(self, take: TakeRow, *, csv: bool) -> None:
        self._take = take
        self._csv = csv
        self._rest = b""
        self._looked_at = 0
        self._quoted = False

    def feed(self, chunk: bytes) -> None:
        """The next bytes."""
        data, begin, position = self._rest + chunk, 0, self._looked_at
        while (end := data.find(b"\n", position)) >= 0:
            self._quoted ^= self._csv and data.count(b'"', position, end) % 2 == 1
            position = end + 1
            if not self._quoted:
                self._take(data[begin:position], self._fields(data[begin:end]))
                begin = position
        self._rest, self._looked_at = data[begin:], position - begin

    def _fields(self, line: bytes) -> Fields:
        if not self._csv:
            return [None if field == rb"\N" else field for field in line.split(b"\t")]
        fields: Fields = []
        for field, end in _CSV_FIELD.findall(line):
            fields.append(field or None)  # an empty text is quoted
            if not end:
                break
        return fields


class BinaryRecords:
    """Rows of the binary format.

    Args:
        take: is handed each row, and its fields.
    """

    def __init__(self, take: TakeRow) -> None:
        self._take = take
        self._rest = b""

    def feed(self, chunk: bytes) -> None:
        """The next bytes."""
        data, begin = self._rest + chunk, 0
        while (end := self._row(data, begin)) is not None:
            begin = end
        self._rest = data[begin:]

    def _row(self, data: bytes, begin: int) -> int | None:
        """Take the row that begins here, if all of it is there; where it ends."""
        if len(data) < begin + 2:
            return None
        fields: Fields = []
        position = begin + 2
        for _ in range(struct.unpack_from(">h", data, begin)[0]):
            if len(data) < position + 4:
                return None
            (length,) = struct.unpack_from(">i", data, position)
            position += 4
            fields.append(data[position : position + length] if length >= 0 else None)
            position += max(length, 0)
        if len(data) < position:
            return None
        self._take(data[begin:position], fields)
        return position


def record_reader(format: str, take: TakeRow) -> LineRecords | BinaryRecords:
    """The reader of a format: csv, text or binary."""
    return BinaryRecords(take) if format == "binary" else LineRecords(take, csv=format == "csv")
