"""Formats and compressions of data files: endings, programs, and what a complete file looks like.

COPY's binary format: https://www.postgresql.org/docs/current/sql-copy.html#id-1.9.3.55.9.4.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal

import msgspec

Format = Literal["csv", "binary", "pg_dump"]
Compression = Literal["none", "zstd", "lz4", "gzip"]

ENDINGS: dict[str, str] = {"csv": ".csv", "binary": ".bin", "pg_dump": ".dump"}
COPY_OPTIONS: dict[str, str] = {"csv": "format csv, header true", "binary": "format binary"}

_BINARY_SIGNATURE = b"PGCOPY\n\xff\r\n\0"
_BINARY_TRAILER = b"\xff\xff"
_DUMP_SIGNATURE = b"PGDMP"
END_BYTES = 16


class Compressor(msgspec.Struct, frozen=True):
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
    # a thread of its own for reading and writing costs zstd a quarter more CPU, which the other workers want
    "zstd": Compressor(
        "zstd",
        ".zst",
        ("-q", "-1", "--single-thread", "-c"),
        ("-q", "-d", "-c"),
        ("-q", "-t"),
        0.7,
        b"\x28\xb5\x2f\xfd",
    ),
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


EndsCheck = Callable[[bytes, bytes], str | None]
"""What is wrong with a file, by its first and last `END_BYTES` bytes; None if nothing is."""


def check_ends(format: str, compression: str) -> EndsCheck:
    """What a complete file looks like at both ends.

    Args:
        compression: of the file itself.
    """
    if compressor := COMPRESSORS.get(compression):
        return functools.partial(_check_compressed, compressor)
    return {"csv": _check_csv, "binary": _check_binary, "pg_dump": _check_dump}[format]


def _check_csv(head: bytes, tail: bytes) -> str | None:
    if not head:
        return "has no header line and no rows"
    return None if tail.endswith(b"\n") else "ends in the middle of a record"


def _check_binary(head: bytes, tail: bytes) -> str | None:
    if not head.startswith(_BINARY_SIGNATURE):
        return "does not begin as COPY's binary format does"
    # psql writes the trailer when the server has sent every row
    return None if tail.endswith(_BINARY_TRAILER) else "ends without the trailer of COPY's binary format"


def _check_dump(head: bytes, tail: bytes) -> str | None:
    return None if head.startswith(_DUMP_SIGNATURE) else "does not begin as pg_dump's files do"


def _check_compressed(compressor: Compressor, head: bytes, tail: bytes) -> str | None:
    # lz4 takes an empty file for a complete one
    return None if head.startswith(compressor.magic) else f"does not begin as {compressor.program}'s files do"
