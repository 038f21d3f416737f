import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vecbak.backups.formats import (
    COMPRESSORS,
    END_BYTES,
    ENDINGS,
    check_ends,
    file_ending,
)
from vecbak.backups.naming import DATA_ENDING

SIGNATURE = b"PGCOPY\n\xff\r\n\0"
EMPTY = SIGNATURE + bytes(8) + b"\xff\xff"


@pytest.mark.parametrize(
    ("format", "compression", "part", "ending"),
    [
        ("csv", "none", None, ".csv"),
        ("binary", "none", None, ".bin"),
        ("pg_dump", "none", None, ".dump"),
        ("csv", "zstd", None, ".csv.zst"),
        ("binary", "lz4", 1, ".part0001.bin.lz4"),
        ("csv", "gzip", 12345, ".part12345.csv.gz"),
        ("pg_dump", "zstd", None, ".dump.zst"),
    ],
)
def test_endings(format, compression, part, ending):
    assert file_ending(format, compression, part) == ending


@pytest.mark.parametrize("format", ENDINGS)
@pytest.mark.parametrize("compression", ["none", *COMPRESSORS])
@pytest.mark.parametrize("part", [None, 1, 9999, 10000])
def test_every_ending_is_known_to_whoever_cleans_up(format, compression, part):
    assert re.fullmatch(DATA_ENDING, file_ending(format, compression, part))


def problem(data: bytes, format: str = "binary", compression: str = "none") -> str | None:
    return check_ends(format, compression)(data[:END_BYTES], data[-END_BYTES:])


@pytest.mark.parametrize("format", ENDINGS)
@pytest.mark.parametrize("compression", ["none", *COMPRESSORS])
def test_an_empty_file_is_never_complete(format, compression):
    assert problem(b"", format, compression)


def test_a_csv_is_a_header_and_whole_lines():
    assert problem(b"", "csv") == "has no header line and no rows"
    assert problem(b"id\n", "csv") is None
    assert problem(b"id\n1", "csv") == "ends in the middle of a record"


@given(st.binary(max_size=60))
def test_a_whole_binary_file_has_no_problem(rows):
    assert problem(SIGNATURE + rows + b"\xff\xff") is None


@given(st.integers(0, len(EMPTY) - 1))
def test_a_binary_file_that_was_cut_is_noticed(end):
    assert problem(EMPTY[:end])


@given(st.integers(0, len(SIGNATURE) - 1))
def test_another_signature_is_noticed(position):
    changed = bytearray(EMPTY)
    changed[position] ^= 1
    assert "does not begin" in problem(bytes(changed))


def test_what_another_program_must_read_is_left_to_it():
    assert problem(COMPRESSORS["zstd"].magic + b"anything", "csv", "zstd") is None
    assert problem(b"id\n1\n", "csv", "zstd") == "does not begin as zstd's files do"
    assert problem(b"PGDMP anything", "pg_dump") is None
    assert problem(b"-- SQL\n", "pg_dump") == "does not begin as pg_dump's files do"
