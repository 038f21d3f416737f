"""Merging a backup's rows into a table without another table beside it, for a role that may make none.

The rows that are there are read as a backup would read them and compared here, by digests of their keys and contents; only what
is missing is loaded. That is for the tables that vecbak keeps, which are small: some hundred bytes of memory a row.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import msgspec

from vecbak.backups.records import Fields, TakeRow, record_reader
from vecbak.backups.rows import Consumer, row_reader
from vecbak.operations.loading import SourceFile
from vecbak.postgres import queries
from vecbak.postgres.catalog import Table
from vecbak.postgres.guard import Guard

_BEGIN = {"csv": b"\n", "binary": b"PGCOPY\n\xff\r\n\0" + bytes(8)}  # a header line is skipped, whatever it says
_END = {"binary": b"\xff\xff"}


class Merge:
    """The rows of one table, and which of a backup's are not among them.

    Args:
        columns: of the files, in their order.
        options: COPY's, of the files.

    Attributes:
        new: rows of the files that are not there.
        different: rows of the files of which another with the same key is there.
        example: the key of one of those, as the file has it.
    """

    def __init__(self, table: Table, columns: Sequence[str], options: str) -> None:
        self._table = table
        self._columns = columns
        self._options = options
        self._format = options.removeprefix("format ").partition(",")[0]
        self._key = [columns.index(name) for name in table.key_among(columns)]
        self._there: dict[bytes, bytes] = {}
        self._alike: Counter[bytes] = Counter()  # of a table without a key: how many of each
        self.new = self.different = 0
        self.example = ""

    def read(self, guard: Guard, *, seconds: float) -> None:
        """Read what is there.

        Raises:
            SessionFailed: it could not be read.
        """
        by_name = {column.name: column for column in self._table.columns}
        table = msgspec.structs.replace(self._table, columns=tuple(by_name[name] for name in self._columns))
        feed = self._reader(self._note)
        request = queries.copy_out(table, "", self._options)
        guard.copy_out(request, lambda piece: feed(bytes(piece)), f"reading {table.name}", timeout=seconds)

    def only_new(self, file: SourceFile) -> SourceFile:
        """The same file, of which only what is not there is fed."""

        def feed(consume: Consumer) -> None:
            def take(row: bytes, fields: Fields) -> None:
                if self._is_new(fields):
                    self.new += 1
                    consume(row)

            consume(_BEGIN.get(self._format, b""))
            file.feed(self._reader(take))
            consume(_END.get(self._format, b""))

        return msgspec.structs.replace(file, feed=feed)

    def _reader(self, take: TakeRow) -> Consumer:
        records = record_reader(self._format, take)
        if self._format == "text":  # there is nothing around its rows
            return records.feed
        return row_reader(self._format, len(self._columns), records.feed).feed

    def _note(self, _: bytes, fields: Fields) -> None:
        if self._key:
            self._there[self._key_of(fields)] = _digest(fields)
        else:
            self._alike[_digest(fields)] += 1

    def _is_new(self, fields: Fields) -> bool:
        content = _digest(fields)
        if not self._key:
            self._alike[content] -= 1
            return self._alike[content] < 0
        there = self._there.get(self._key_of(fields))
        if there not in {None, content}:
            self.different += 1
            self.example = self.example or ", ".join(repr(fields[place])[:60] for place in self._key)
        return there is None

    def _key_of(self, fields: Fields) -> bytes:
        return _digest([fields[place] for place in self._key])


def _digest(fields: Fields) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for field in fields:
        digest.update(b"\0" if field is None else b"\1" + len(field).to_bytes(8, "big") + field)
    return digest.digest()
