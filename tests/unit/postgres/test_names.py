import pytest
from hypothesis import given
from hypothesis import strategies as st

from vecbak.postgres.names import (
    TableName,
    has_control_characters,
    parse_table_name,
    quote_identifier,
    quote_literal,
    quote_name,
)

identifiers = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1).filter(
    lambda t: len(t.encode()) <= 63
)
table_names = st.builds(TableName, st.none() | identifiers, identifiers)


@given(table_names)
def test_every_identifier_survives_quoting_and_parsing(name):
    assert parse_table_name(name.sql) == name


@given(table_names)
def test_what_is_shown_means_the_same_table(name):
    assert parse_table_name(str(name)) == name


@given(identifiers)
def test_a_quoted_name_holds_no_single_quote_mark(name):
    inner = quote_identifier(name)[1:-1]
    assert inner.replace('""', "").count('"') == 0


@given(st.text())
def test_junk_is_refused_by_value_error_and_nothing_else(text):
    try:
        name = parse_table_name(text)
    except ValueError:
        return
    assert parse_table_name(str(name)) == name
    assert not has_control_characters(name.name)


@pytest.mark.parametrize(
    ("text", "schema", "name"),
    [
        ("langchain_pg_embedding", None, "langchain_pg_embedding"),
        ("Public.Items", "public", "items"),
        ("ÄRGER", None, "Ärger"),
        ('"Odd Name"', None, "Odd Name"),
        ('"a""b"."c.d"', 'a"b', "c.d"),
        ('s."T"', "s", "T"),
        ("a$1", None, "a$1"),
        ("_", None, "_"),
        ('"' + "x" * 63 + '"', None, "x" * 63),
    ],
)
def test_names_are_read_as_postgresql_reads_them(text, schema, name):
    assert parse_table_name(text) == TableName(schema, name)


@pytest.mark.parametrize(
    "text",
    ["", " ", "a ", " a", "a.", ".a", "a..b", "a.b.c", "1a", "$a", "a-b", "a b", "a;b", '"', '""', '"a', 'a"', '"a"b', '"a""', "a--",
     "a\n", '"a\nb"', '"a\x7fb"', '"a\0"', "a'b", "a,b", "x" * 64, '"' + "é" * 32 + '"', "s." + "x" * 64],
)  # fmt: skip
def test_no_table_name(text):
    with pytest.raises(ValueError, match=r"is no table name|control character|63 bytes"):
        parse_table_name(text)


def test_only_ascii_letters_are_folded():
    assert parse_table_name("ÄÖ_ABC").name == "ÄÖ_abc"


def test_a_plain_name_is_shown_without_quotes():
    assert str(TableName("public", "items")) == "public.items"
    assert str(TableName(None, "Items")) == '"Items"'


def test_quoting():
    assert quote_name(None, 'a"b') == '"a""b"'
    assert quote_name("s", "t") == '"s"."t"'


@pytest.mark.parametrize(("text", "sql"), [("", "''"), ("it's", "'it''s'"), ("a\\b'", " E'a\\\\b'''")])
def test_literals(text, sql):
    assert quote_literal(text) == sql


@given(table_names, table_names)
def test_the_order_of_locking_leaves_nothing_open(first, second):
    assert (first.lock_order() == second.lock_order()) == (first == second)
