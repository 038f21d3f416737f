"""Any text becomes a tree or is no SQL, and none crashes the parser or Python."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vecbak.postgres.sql_parser import NotSql, entries, has_comment, parse, without_places

DEEP = {
    "operators": "1" + "+1" * 200_000,
    "prefixes": "- " * 200_000 + "1",
    "not": "NOT " * 200_000 + "true",
    "casts": "1" + "::int" * 200_000,
    "parentheses": "(" * 200_000 + "1" + ")" * 200_000,
    "open": "(" * 200_000,
    "calls": "f(" * 200_000 + "1" + ")" * 200_000,
    "arrays": "ARRAY[" * 200_000 + "1" + "]" * 200_000,
    "cases": "CASE WHEN true THEN " * 50_000 + "1" + " END" * 50_000,
    "selects": "(SELECT " * 100_000 + "1" + ")" * 100_000,
    "collations": "a" + ' COLLATE "C"' * 200_000,
    "tests": "a" + " IS NULL" * 200_000,
    "just below the limit": "1" + "+1" * 7_900,
}


@pytest.mark.parametrize("text", DEEP.values(), ids=DEEP.keys())
def test_what_is_nested_too_deeply_is_no_definition(text):
    with pytest.raises(NotSql) as error:
        parse(f"SELECT {text}")
    assert len(str(error.value)) < 100


@pytest.mark.parametrize("text", [
    "f(" * 120 + "1" + ")" * 120,
    "1" + "+1" * 250,
    "ARRAY[" + ", ".join("'x'::text" for _ in range(20_000)) + "]",
    "a" + " AND b" * 3_000,
], ids=["calls", "operators", "list", "and"])  # fmt: skip
def test_what_servers_deparse_is_not_too_deep(text):
    assert len(parse(f"SELECT {text}")) == 1


@pytest.mark.parametrize("text", ["a\0b", "'\ud800'", "'open", "/* open", "\\! id", "SELECT $1 $$", "$$ open"])
def test_no_sql(text):
    with pytest.raises(NotSql):
        parse(text)


def test_what_stands_behind_a_nul_is_not_overlooked():
    with pytest.raises(NotSql, match="code 0"):
        parse("SELECT 1\0; DROP TABLE x")


@given(st.text())
def test_a_literal_comes_back_as_it_was(text):
    if "\0" in text or not text.isprintable():
        return
    (tree,) = parse("SELECT '" + text.replace("'", "''") + "'")
    constants = [node["sval"]["sval"] if node["sval"] else "" for name, node in entries(tree) if name == "A_Const"]
    assert constants == [text]


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_any_text_is_judged(text):
    try:
        parse(text)
        has_comment(text)
    except NotSql:
        pass


@pytest.mark.parametrize(("text", "found"), [
    ("1 -- x", True), ("1 /* x */ + 2", True), ("/* a /* b */ c */ 1", True), ("'--'", False), ("$$--$$", False),
    ('"a/*b"', False), ("E'\\'--'", False), ("'a' --", True), ("1", False),
])  # fmt: skip
def test_comments(text, found):
    assert has_comment(text) is found


def test_places_do_not_count():
    assert without_places(parse("SELECT  a")) == without_places(parse("SELECT a"))
