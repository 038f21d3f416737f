"""Formats and compressions of data files: endings, programs, and what a complete file looks like.

COPY's binary format: https://www.postgresql.org/docs/current/sql-copy.html#id-1.9.3.55.9.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from vecbak.backups.csv_records import RecordCounter

Format = Literal["csv", "binary", "pg_dump"]
Compression = Literal["none", "zstd", "lz4", "gzip"]

ENDINGS: dict[str, str] = {"csv": ".csv", "binary": ".bin", "pg_dump": ".dump"}
COPY_OPTIONS: dict[str, str] = {"csv": "format csv, header true", "binary": "format binary"}

_BINARY_SIGNATURE = b"PGCOPY\n\xff\r\n\0"
_BINARY_TRAILER = b"\xff\xff"


@dataclass(frozen=True)
class Compressor:
    """A compression program.

    Attributes:
        program: its name on PATH.
        ending: of its files.
        compress: its arguments, from standard input to standard output.
        decompress: its arguments before the name of a file, to standard output.
        test: its arguments before the name of a file to be checked for completeness.
        magic: how its files begin.
        ratio: what is left of COPY's text at the most, a cautious guess for the disk space; vectors in binary do not shrink.
    """

    program: str
    ending: str
    compress: tuple[str, ...]
    decompress: tuple[str, ...]
    test: tuple[str, ...]
    ratio: float
    magic: bytes


COMPRESSORS: dict[str, Compressor] = {
    "zstd": Compressor("zstd", ".zst", ("-q", "-1", "-c"), ("-q", "-d", "-c"), ("-q", "-t"), 0.7, b"\x28\xb5\x2f\xfd"),
    "lz4": Compressor("lz4", ".lz4", ("-q", "-1", "-c"), ("-q", "-d", "-c"), ("-q", "-t"), 0.9, b"\x04\x22\x4d\x18"),
    "gzip": Compressor("gzip", ".gz", ("-1", "-c"), ("-q", "-d", "-c"), ("-q", "-t"), 0.7, b"\x1f\x8b"),
}


def file_ending(format: str, compression: str, part: int | None = None) -> str:
    """`.csv`, `.part0001.bin.zst`.

    Args:
        compression: of the file itself; none for a dump that pg_dump compresses inside.
        part: counted from 1; None for a table in one file.
    """
    compressor = COMPRESSORS.get(compression)
    return (f".part{part:04d}" if part else "") + ENDINGS[format] + (compressor.ending if compressor else "")


def compressor_of(name: str) -> Compressor | None:
    """What a file is compressed with, by its ending."""
    return next((item for item in COMPRESSORS.values() if name.endswith(item.ending)), None)


class ContentCheck(Protocol):
    """Looks at a file's bytes while its checksum is taken."""

    def feed(self, chunk: bytes) -> None:
        """The next bytes."""

    def problem(self) -> str | None:
        """What is wrong, when all bytes have been fed."""

    def rows(self) -> int | None:
        """The rows in it, where that can be told cheaply."""


class CsvCheck:
    """Complete records, the header first."""

    def __init__(self) -> None:
        self._counter = RecordCounter()

    def feed(self, chunk: bytes) -> None:
        """The next bytes."""
        self._counter.feed(chunk)

    def problem(self) -> str | None:
        """What is wrong."""
        if not self._counter.complete:
            return "ends in the middle of a record"
        return None if self._counter.records else "has no header line and no rows"

    def rows(self) -> int | None:
        """Records without the header."""
        return self._counter.records - 1


class BinaryCheck:
    """The signature in front, the trailer at the end; psql writes the trailer when the server has sent every row."""

    def __init__(self) -> None:
        self._head = b""
        self._tail = b""

    def feed(self, chunk: bytes) -> None:
        """The next bytes."""
        if len(self._head) < len(_BINARY_SIGNATURE):
            self._head += chunk[: len(_BINARY_SIGNATURE)]
        self._tail = (self._tail + chunk[-2:])[-2:]

    def problem(self) -> str | None:
        """What is wrong."""
        if not self._head.startswith(_BINARY_SIGNATURE):
            return "does not begin as COPY's binary format does"
        return None if self._tail == _BINARY_TRAILER else "ends without the trailer of COPY's binary format"

    def rows(self) -> int | None:
        """Not told: every field would have to be walked."""
        return None


class CompressedCheck:
    """It begins as its program's files do: lz4 takes an empty file for a complete one."""

    def __init__(self, compressor: Compressor) -> None:
        self._compressor = compressor
        self._head = b""

    def feed(self, chunk: bytes) -> None:
        """The next bytes."""
        self._head = (self._head + chunk[:8])[:8]

    def problem(self) -> str | None:
        """What is wrong."""
        begins = self._head.startswith(self._compressor.magic)
        return None if begins else f"does not begin as {self._compressor.program}'s files do"

    def rows(self) -> int | None:
        """Not told."""
        return None


def content_check(format: str, compression: str) -> ContentCheck | None:
    """What is looked for in the bytes of a file; None for a dump, which only pg_restore can read.

    Args:
        compression: of the file itself.
    """
    if compressor := COMPRESSORS.get(compression):
        return CompressedCheck(compressor)
    if format == "pg_dump":
        return None
    return CsvCheck() if format == "csv" else BinaryCheck()
