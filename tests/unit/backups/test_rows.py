"""Walking through data files: any chunking tells the same, and everything too short or too long is told."""

from __future__ import annotations

import csv
import io
import itertools
import struct
import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vecbak.backups.rows import BinaryRows, CsvRows, DumpRows, row_reader

VALUE = st.one_of(
    st.none(),
    st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=12),
    st.sampled_from(["\\.", "\n\\.\n", "a\r\nb", '"', '""', ",", "COPY x FROM stdin;", "\\N", "\n", "\r"]),
)
ROWS = st.lists(st.tuples(VALUE, VALUE), max_size=5)


def chunked(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[begin:end] for begin, end in itertools.pairwise(places)]


CUTS = st.lists(st.integers(0, 10_000), max_size=12)


def csv_header(names: tuple[str, str] = ("id", "text")) -> bytes:
    return ",".join('"' + name.replace('"', '""') + '"' for name in names).encode() + b"\n"


def csv_body(rows) -> bytes:
    quoted = ['""' if v == "" else "" if v is None else '"' + v.replace('"', '""') + '"' for row in rows for v in row]
    return "".join(f"{a},{b}\n" for a, b in zip(quoted[::2], quoted[1::2], strict=True)).encode()


def binary_body(rows) -> bytes:
    made = b""
    for row in rows:
        made += struct.pack(">h", len(row))
        for value in row:
            data = None if value is None else value.encode()
            made += struct.pack(">i", -1) if data is None else struct.pack(">i", len(data)) + data
    return made


def binary_file(rows, extension: bytes = b"") -> bytes:
    header = b"PGCOPY\n\xff\r\n\0" + struct.pack(">II", 0, len(extension)) + extension
    return header + binary_body(rows) + b"\xff\xff"


def text_body(rows) -> bytes:
    def field(value):
        if value is None:
            return "\\N"
        return value.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")

    return "".join("\t".join(map(field, row)) + "\n" for row in rows).encode()


PROLOGUE = b"--\n-- COPY of nothing;\nSET x = 1;\n\nCOPY public.items (id, text) FROM stdin;\n"
EPILOGUE = b"\\.\n\n\n--\n-- done\n--\n\n"


def read(reader_of, data: bytes, cuts: list[int]):
    emitted = bytearray()
    reader = reader_of(emitted.extend)
    for chunk in chunked(data, cuts):
        reader.feed(chunk)
    return reader, bytes(emitted)


def binary_reader(emit):
    return BinaryRows(2, emit)


@given(ROWS, CUTS, st.sampled_from([("id", "text"), ('a "b"', "line\nend")]))
def test_csv(rows, cuts, names):
    reader, emitted = read(CsvRows, csv_header(names) + csv_body(rows), cuts)
    assert (reader.problem(), reader.rows, emitted) == (None, len(rows), csv_body(rows))


@given(ROWS, CUTS)
def test_binary(rows, cuts):
    reader, emitted = read(binary_reader, binary_file(rows), cuts)
    assert (reader.problem(), reader.rows, emitted) == (None, len(rows), binary_body(rows))


@given(ROWS, CUTS)
def test_dump(rows, cuts):
    reader, emitted = read(DumpRows, PROLOGUE + text_body(rows) + EPILOGUE, cuts)
    assert (reader.problem(), reader.rows, emitted) == (None, len(rows), text_body(rows))


# too short, too long


@given(ROWS, st.data())
def test_binary_cut_anywhere(rows, data):
    whole = binary_file(rows)
    length = data.draw(st.integers(0, len(whole) - 1))
    reader, emitted = read(binary_reader, whole[:length], [])
    assert reader.problem()
    assert binary_body(rows).startswith(emitted)


@given(ROWS, st.binary(min_size=1, max_size=4), CUTS)
def test_binary_with_more_behind_its_end(rows, extra, cuts):
    reader, emitted = read(binary_reader, binary_file(rows) + extra, cuts)
    assert "goes on behind its end" in (reader.problem() or "")
    assert emitted == binary_body(rows)


@given(st.lists(st.tuples(VALUE, VALUE), min_size=1, max_size=5), st.data())
def test_csv_cut_anywhere(rows, data):
    """In the middle of a record it is told; between two records fewer rows are."""
    whole = csv_header() + csv_body(rows)
    length = data.draw(st.integers(0, len(whole) - 1))
    reader, _ = read(CsvRows, whole[:length], [])
    assert reader.problem() or reader.rows < len(rows)


@given(ROWS, st.data())
def test_dump_cut_anywhere_before_its_end_mark(rows, data):
    whole = PROLOGUE + text_body(rows) + b"\\.\n"
    length = data.draw(st.integers(0, len(whole) - 1))
    reader, _ = read(DumpRows, whole[:length], [])
    assert "ends in the middle" in (reader.problem() or "")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "does not begin"),
        (b"PGCOPY\n\xff\r\n", "does not begin"),
        (b"pgcopy" + b"\0" * 30, "does not begin"),
        (binary_file([("a", "b", "c")]), "has 3 fields in row 1 instead of 2 (byte 19)"),
        (binary_file([])[:-2] + b"\0\2" + struct.pack(">i", -2), "a field of -2 bytes in row 1 (byte 21)"),
        (binary_file([])[:-2] + b"\xff\xfe", "has -2 fields"),
    ],
)
@pytest.mark.parametrize("cuts", [[], list(range(60))])
def test_what_is_no_binary_copy(data, words, cuts):
    reader, _ = read(binary_reader, data, cuts)
    assert words in (reader.problem() or "")


def test_a_binary_header_may_have_an_extension():
    reader, _ = read(binary_reader, binary_file([("a", None)], b"later versions"), [])
    assert (reader.problem(), reader.rows) == (None, 1)


def test_a_csv_without_anything():
    assert "no header" in (CsvRows().problem() or "")
    reader, emitted = read(CsvRows, b"id,text", [])
    assert "ends in the middle of record 1" in (reader.problem() or "")
    assert (reader.rows, emitted) == (0, b"")


@given(CUTS, st.sampled_from(["\n", "\r\n"]))
def test_a_line_where_old_versions_of_psql_stop(cuts, end):
    reader, _ = read(CsvRows, f'id,text\n1,"a{end}\\.{end}b"\n'.encode(), cuts)
    assert reader.has_end_mark


@given(CUTS, st.sampled_from(["\\.", "a\n\\.b", "a\\.\nb", "\\.\\.\n", "a\n\\\\.\n", "\n \\.\n"]))
def test_a_line_that_only_looks_like_it(cuts, value):
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([["id", "text"], ["1", "-" + value]])
    reader, _ = read(CsvRows, out.getvalue().encode(), cuts)
    assert not reader.has_end_mark


def test_a_dump_of_two_tables_is_read_whole():
    reader, emitted = read(DumpRows, (PROLOGUE + b"1\ta\n" + EPILOGUE) * 2, [])
    assert (reader.problem(), reader.rows, emitted) == (None, 2, b"1\ta\n" * 2)


@pytest.mark.parametrize(("format", "kind"), [("csv", CsvRows), ("binary", BinaryRows), ("pg_dump", DumpRows)])
def test_each_format_has_its_reader(format, kind):
    assert isinstance(row_reader(format, 2), kind)


# one long row: the work and the memory go with its length, whatever the pieces are that it comes in


def one_row(format: str, size: int) -> bytes:
    value = (b"ab,\\\\n" * 20 + b"long " * 200) * (size // 1120)
    if format == "csv":
        return b'id,document\n1,"' + value.replace(b"\\", b'""\n') + b'"\n'
    if format == "header":
        return b'"' + value.replace(b"\\", b"\n")  # a quote that is never closed: all of it is the header
    if format == "statement":
        return b"-- " + value
    if format == "binary":
        field = struct.pack(">i", len(value)) + value
        return b"PGCOPY\n\xff\r\n\0" + bytes(8) + struct.pack(">h", 1) + field + b"\xff\xff"
    return b"SET x = 1;\nCOPY public.t (document) FROM stdin;\n" + value + b"\n\\.\n\nSELECT 1;\n"


def read_row(format: str, data: bytes, piece: int) -> float:
    """Seconds of CPU that it takes."""
    emitted: list[int] = []
    reader = row_reader(
        {"header": "csv", "statement": "pg_dump"}.get(format, format), 1, lambda rows: emitted.append(len(rows))
    )
    pieces = [data[at : at + piece] for at in range(0, len(data), piece)]
    began = time.process_time()
    for chunk in pieces:
        reader.feed(chunk)
    seconds = time.process_time() - began
    if format in {"csv", "binary", "pg_dump"}:
        assert (reader.rows, reader.problem()) == (1, None)
        assert len(data) * 0.9 < sum(emitted) < len(data)
    return seconds


FORMATS = ["csv", "binary", "pg_dump", "header", "statement"]


@pytest.mark.parametrize("piece", [97, 4096])
@pytest.mark.parametrize("format", FORMATS)
def test_the_work_goes_with_the_length_of_a_row(format, piece):
    small, large = (
        min(read_row(format, one_row(format, size), piece) for _ in range(3)) for size in (1 << 19, 1 << 22)
    )
    assert large < 8 * small * 3  # 64 times as much if it went with the square


@pytest.mark.parametrize("format", FORMATS)
def test_no_row_is_held_in_memory(format):
    data = one_row(format, 1 << 22)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    reader = row_reader({"header": "csv", "statement": "pg_dump"}.get(format, format), 1)
    for at in range(0, len(data), 1 << 14):
        reader.feed(data[at : at + (1 << 14)])
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    assert peak < 1 << 18
