"""CSV files of hand-written exporters: Python's repr becomes JSON, and every bad row is named with its line."""

from __future__ import annotations

import csv
import io
import json
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from vecbak.backups import handwritten
from vecbak.backups.handwritten import BadRecord, Converter, Record, Target, fields, header, records, to_json

TEXT = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=15)
JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(10**30), 10**30), st.floats(allow_nan=False, allow_infinity=False), TEXT
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=8,
)


def write(folder: Path, data: bytes) -> Path:
    path = folder / "items.csv"
    path.write_bytes(data)
    return path


def lines_of(path: Path) -> list[tuple[int, bytes]]:
    return [(record.line, record.raw) for record in records(path)]


# metadata


@given(JSON)
def test_a_repr_becomes_the_same_json(value):
    made = to_json(repr(value))
    if value is None:
        assert made is None
    else:
        assert json.loads(made or "") == value


@given(JSON)
def test_json_stays_as_it_is(value):
    text = json.dumps(value)
    assert to_json(text) == text


@given(JSON)
def test_tuples_become_lists(value):
    assert json.loads(to_json(repr({"a": (value, "x")})) or "") == {"a": [value, "x"]}


@given(st.text(max_size=40))
def test_whatever_stands_there_gives_json_or_a_reason(text):
    try:
        made = to_json(text)
    except BadRecord:
        return
    if made is not None:
        json.loads(made)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "{'a': open('/etc/passwd').read()}",
        "[x for x in ()]",
        "{'a': 2 ** 8}",
        "f'{1}'",
        "{'a': nan}",
        "{'a': 1e999}",
        '{"a": NaN}',
        "{'a': -Infinity}",
        "b'x'",
        "{1, 2}",
        "{1: 'a'}",
        "{'a': ...}",
        "1+2j",
        "{'a': '\\x00'}",
        '{"a": "\\u0000"}',
        '{"a": "\\\\\\u0000"}',
        "'\\ud800'",
        '{"a": "\\ud800"}',
        '{"\\uDBFF": 1}',
        '"\\udc00\\ud800"',
        "datetime.datetime(2025, 1, 1, 0, 0)",
        "",
        " ",
        "nonsense",
        "[" * 100_000,
        "[" * 20_000 + "]" * 20_000,
        "-" * 100_000 + "1",
        "{'a':" * 50_000,
        "9" * 5000,
    ],
)
def test_what_is_neither(text):
    with pytest.raises(BadRecord):
        to_json(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"path": "c:\\\\u0000"}', {"path": "c:\\u0000"}),
        ("{'path': 'c:\\\\u0000'}", {"path": "c:\\u0000"}),
        ('"\\ud83d\\ude00"', "😀"),
        ('"\\\\ud800"', "\\ud800"),
        ("{'it''s': 1}", {"its": 1}),
        ("  {'a': None}  ", {"a": None}),
    ],
)
def test_what_only_looks_bad(text, value):
    assert json.loads(to_json(text) or "") == value


# records and fields


ROW = st.lists(TEXT, min_size=2, max_size=4)


@given(rows=st.lists(ROW, min_size=1, max_size=5), end=st.sampled_from(["\n", "\r\n"]), last=st.booleans())
def test_what_csv_writer_wrote_is_read(rows, end, last, tmp_path_factory):
    # before a line end of its own it could be the line end's
    assume(end == "\r\n" or not any(row[-1].endswith("\r") for row in rows))
    out = io.StringIO()
    csv.writer(out, lineterminator=end).writerows(rows)
    data = out.getvalue().encode()
    path = write(tmp_path_factory.mktemp("csv"), data if last else data.removesuffix(end.encode()))
    found = [fields(record) for record in records(path)]
    assert found == [[value or None for value in row] for row in rows]
    assert b"".join(record.raw for record in records(path)) == path.read_bytes()


def test_lines_are_counted_as_an_editor_counts_them(tmp_path):
    path = write(tmp_path, b'id,x\r\n1,"a\r\nb\n\nc"\r\n2,\n\n3,"""\n"""')
    assert lines_of(path) == [
        (1, b"id,x\r\n"),
        (2, b'1,"a\r\nb\n\nc"\r\n'),
        (6, b"2,\n"),
        (7, b"\n"),
        (8, b'3,"""\n"""'),
    ]


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path):
    assert header(write(tmp_path, b"\xef\xbb\xbfid,x\n")) == ["id", "x"]
    assert header(write(tmp_path, b'\xef\xbb\xbf"id","a, b"\r\n')) == ["id", "a, b"]
    assert [raw for _, raw in lines_of(write(tmp_path, b"id\n\xef\xbb\xbfx\n"))][1].startswith(b"\xef\xbb\xbf")


@pytest.mark.parametrize("data", [b"", b"\n", b"id,\n", b"id,id\n"])
def test_no_header(tmp_path, data):
    with pytest.raises(BadRecord, match="line 1"):
        header(write(tmp_path, data))


def test_a_quote_that_is_never_closed_is_told_where_it_was_opened(tmp_path):
    path = write(tmp_path, b'id,x\n1,a\n2,"b\n3,c\n')
    with pytest.raises(BadRecord, match=r"items.csv, line 3: a quote is opened there"):
        lines_of(path)


def test_a_record_larger_than_anything_is_not_collected(tmp_path, monkeypatch):
    monkeypatch.setattr(handwritten, "MAXIMUM_RECORD_BYTES", 100)
    path = write(tmp_path, b'id,x\n1,"' + b"line\n" * 1000 + b'"\n')
    with pytest.raises(BadRecord, match="line 2"):
        lines_of(path)


@pytest.mark.parametrize("raw", [b'a"b,c\n', b'"a"b,c\n', b'"a" ,c\n', b'"a","b\n', b'a,b"c"\n'])
def test_a_quote_out_of_place(raw):
    with pytest.raises(BadRecord, match=r"quote is out of place in field \d"):
        fields(Record(1, raw))


def test_what_is_not_utf8():
    with pytest.raises(BadRecord, match="byte 2 of the row"):
        fields(Record(1, b"a,\xff\n"))


@pytest.mark.parametrize(
    ("raw", "values"),
    [
        (b"a,,b\n", ["a", None, "b"]),
        (b'a,"",b\n', ["a", "", "b"]),
        (b"\n", [None]),
        (b",\r\n", [None, None]),
        (b'"a ""b""","c\r\nd"\r\n', ['a "b"', "c\r\nd"]),
        (b" a ,b", [" a ", "b"]),
    ],
)
def test_fields(raw, values):
    assert fields(Record(1, raw)) == values


# one row


def convert(raw: str, **targets: Target) -> bytes:
    return Converter(list(targets), targets).convert(Record(1, raw.encode()))


def test_a_row():
    made = convert(
        'a,5d1b2f8e-0000-4000-8000-000000000001,"[1,-2e3]","{\'k\': None}",\n',
        id=Target("character varying", True),
        owner=Target("uuid", False),
        v=Target("public.vector(2)", False),
        meta=Target("jsonb", True),
        text=Target("text", False),
    )
    assert made == b'"a","5d1b2f8e-0000-4000-8000-000000000001","[1,-2e3]","{""k"": null}",\n'


@given(TEXT)
def test_a_text_comes_through(text):
    raw = '"' + text.replace('"', '""') + '"\n'
    assert convert(raw, x=Target("text", False)).decode() == raw


def test_an_empty_value_is_null_where_it_may_be_and_an_empty_text_where_it_may_not():
    assert convert("\n", x=Target("text", False)) == b"\n"
    for type in ("text", "character varying", "character varying(40)"):
        assert convert("\n", x=Target(type, True)) == b'""\n'
    assert convert("None\n", x=Target("jsonb", False)) == b"\n"


@pytest.mark.parametrize(
    ("raw", "target", "words"),
    [
        ("\n", Target("jsonb", True), "x: is empty"),
        ("None\n", Target("json", True), "x: is empty"),
        ("a,b\n", Target("text", False), "2 fields instead of 1"),
        ("a\0b\n", Target("text", False), "x: holds a NUL"),
        ("5d1b\n", Target("uuid", False), "x: not a UUID"),
        ('"[1,2]"\n', Target("vector(3)", False), "x: a vector of 2 dimensions instead of 3"),
        ('"[1,2]"\n', Target('"My ext".halfvec(3)', False), "instead of 3"),
        ("[]\n", Target("vector", False), "not a vector"),
        ('"[1,,2]"\n', Target("vector", False), "not a vector"),
        ('"[1,nan]"\n', Target("vector", False), "not a vector"),
        ('"[١]"\n', Target("vector", False), "not a vector"),
        ("{'a'}\n", Target("jsonb", False), "neither JSON"),
    ],
)
def test_a_row_that_cannot_be_read(raw, target, words):
    with pytest.raises(BadRecord, match=words.replace("(", r"\(")):
        convert(raw, x=target)


def test_a_long_value_that_is_no_vector_takes_no_time():
    began = time.monotonic()
    with pytest.raises(BadRecord):
        convert(f"[{'1' * 100_000}x]\n", x=Target("vector", False))
    assert time.monotonic() - began < 2


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=6),
    st.sampled_from([",", ", "]),
)
def test_vectors(values, comma):
    text = f"[{comma.join(map(str, values))}]"
    assert convert(f'"{text}"\n', x=Target(f"vector({len(values)})", False)) == f'"{text}"\n'.encode()


def test_a_long_value_takes_memory_in_proportion(tmp_path):
    """A doubled quote every few characters, as JSON in CSV has them."""
    text = '{"a": "b"}' * 200_000
    (tmp_path / "long.csv").write_text('id,document\n1,"' + text.replace('"', '""') + '"\n')
    tracemalloc.start()
    *_, last = handwritten.records(tmp_path / "long.csv")
    assert handwritten.fields(last) == ["1", text]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * len(text)
