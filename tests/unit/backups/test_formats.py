import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vecbak.backups.formats import (
    COMPRESSORS,
    ENDINGS,
    BinaryCheck,
    CompressedCheck,
    CsvCheck,
    content_check,
    file_ending,
)
from vecbak.backups.naming import DATA_ENDING

SIGNATURE = b"PGCOPY\n\xff\r\n\0"
EMPTY = SIGNATURE + bytes(8) + b"\xff\xff"
pieces = st.lists(st.integers(1, 9), min_size=1, max_size=4)


def feed(check, data: bytes, lengths: list[int]):
    position = turn = 0
    while position < len(data):
        length = lengths[turn % len(lengths)]
        check.feed(data[position : position + length])
        position, turn = position + length, turn + 1
    return check


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


@given(st.integers(0, 50), pieces)
def test_rows_of_a_csv(rows, lengths):
    check = feed(CsvCheck(), b"id\n" + b'"a\nb"\n' * rows, lengths)
    assert (check.problem(), check.rows()) == (None, rows)


def test_a_csv_without_a_header_is_none():
    assert CsvCheck().problem() == "has no header line and no rows"


@given(st.binary(max_size=60), pieces)
def test_a_whole_binary_file_has_no_problem(rows, lengths):
    check = feed(BinaryCheck(), SIGNATURE + rows + b"\xff\xff", lengths)
    assert (check.problem(), check.rows()) == (None, None)


@given(st.integers(0, len(EMPTY) - 1), pieces)
def test_a_binary_file_that_was_cut_is_noticed(end, lengths):
    assert feed(BinaryCheck(), EMPTY[:end], lengths).problem()


@given(st.integers(0, len(SIGNATURE) - 1), pieces)
def test_another_signature_is_noticed(position, lengths):
    changed = bytearray(EMPTY)
    changed[position] ^= 1
    assert "does not begin" in feed(BinaryCheck(), bytes(changed), lengths).problem()


def test_what_another_program_must_read_is_left_to_it():
    assert isinstance(content_check("csv", "none"), CsvCheck)
    assert isinstance(content_check("binary", "none"), BinaryCheck)
    assert isinstance(content_check("csv", "zstd"), CompressedCheck)
    assert content_check("pg_dump", "none") is None
