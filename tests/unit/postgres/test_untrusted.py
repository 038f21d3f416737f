"""Statements that hold text of a manifest: one each, of a kind that is expected, and never read by psql."""

from __future__ import annotations

import base64
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.examples import column, table
from tests.unit.postgres.test_definitions import an_index
from tests.unit.postgres.test_protection import POLICY, reaction
from tests.unit.postgres.test_type_definitions import MOOD, PAIR, SCORE
from vecbak.errors import RestoreFailed
from vecbak.postgres.catalog import Constraint, Partition, Protection, Sequence
from vecbak.postgres.definitions import add_constraint, create_index, create_table
from vecbak.postgres.names import quote_identifier, quote_literal
from vecbak.postgres.protection import disable, enable, protect
from vecbak.postgres.type_definitions import create_type
from vecbak.postgres.untrusted import definition, query, rows_told, to_paste

WHOLE = table(
    "t", kind="p", comment="it's\n\\! id", partition_by="LIST (b)", options=("fillfactor=70",),
    columns=(column("a", storage="PLAIN", comment="x"), column("b", default="nextval('public.s'::regclass)", not_null=True),
             column("c", type="integer", identity="a"), column("d", generated="s", default="(a || b)")),
    sequences=(Sequence(schema="public", name="s", column="b", last_value=1, options="INCREMENT BY 1 CYCLE"),
               Sequence(schema="public", name="i", column="c", last_value=1, options="START WITH 2")),
    partitions=(Partition(oid=1, schema="public", name="p", parent="t", kind="r", bound="DEFAULT", partition_by="LIST (a)", access_method="heap",
                          heap_pages=1, table_bytes=1, can_copy=True),),
)  # fmt: skip
INDEX = an_index("CREATE INDEX i ON public.t USING gin (a)", comment="c", statistics={"1": 5}, clustered=True)
MADE = [
    *create_table(WHOLE, "s"),
    *(create_type(item) for item in (MOOD, SCORE, PAIR)),
    *create_index(WHOLE, INDEX, "s", ()),
    *protect("s", "t", Protection(enabled=True, forced=True, policies=(POLICY,)), policies=True),
    add_constraint(WHOLE, Constraint(name="k", kind="f", definition="FOREIGN KEY (a) REFERENCES x.y(z)"), "s", {}),
    *(
        line
        for kind in ("TRIGGER", "RULE")
        for state in "OA"
        for line in (*disable([reaction(kind=kind)]), *enable([reaction(kind=kind, state=state)]))
    ),
    'CREATE SCHEMA "s";',
]
FOREIGN = [
    "DROP TABLE x", "CREATE TABLE t AS SELECT 1", "CREATE TABLE t (a int); DROP TABLE x", "CREATE TABLE t (LIKE x)", "CREATE TABLE t () INHERITS (x)",
    "CREATE TABLE t OF x", "COPY t FROM PROGRAM 'id'", "DO 'BEGIN END'", "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "ALTER TABLE t OWNER TO x", "ALTER TABLE t ADD CHECK (true), DISABLE ROW LEVEL SECURITY", "ALTER TABLE t DROP COLUMN a", "SET ROLE x",
    "SET LOCAL search_path = x", "SET default_tablespace = ''", "CREATE ROLE x SUPERUSER", "GRANT x TO y", "CREATE EXTENSION plpython3u", "SELECT 1",
    "CREATE POLICY p ON t USING ((SELECT lo_import('x')) > 0)", "CREATE INDEX i ON t (pg_read_file('x'))", "CREATE TABLE t (a int DEFAULT (SELECT 1))",
    "CREATE SCHEMA s CREATE TABLE t (a int)", "CREATE SCHEMA s AUTHORIZATION x", "", ";", "COMMENT ON TABLE t IS 'x' -- y", "CREATE TABLE t (a int) /* x */",
    "ALTER SYSTEM SET x = 1", "LOAD 'x'", "CREATE RULE r AS ON INSERT TO t DO ALSO DELETE FROM x", "SECURITY LABEL ON TABLE t IS 'x'",
]  # fmt: skip


def sent(request: str) -> str:
    found = re.fullmatch(
        r"SELECT pg_catalog\.convert_from\(pg_catalog\.decode\('([A-Za-z0-9+/=]+)', 'base64'\), 'UTF8'\) \\gexec",
        request,
    )
    assert found, request
    return base64.b64decode(found.group(1)).decode()


@pytest.mark.parametrize("statement", MADE)
def test_what_vecbak_makes_reaches_the_server_as_it_is(statement):
    assert sent(definition(statement)) == statement


@pytest.mark.parametrize("statement", FOREIGN)
def test_nothing_else_does(statement):
    with pytest.raises(RestoreFailed, match="does not run"):
        definition(statement)


@given(name=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20), value=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))  # fmt: skip
def test_names_and_values_in_quotes(name, value):
    statement = f"SELECT {quote_identifier(name)} FROM t WHERE a = {quote_literal(value)};"
    assert sent(query(statement)) == statement
    assert "\n" not in quote_literal(value)


@pytest.mark.parametrize("statement", ["SELECT 1; SELECT 2", "DROP TABLE x", "COPY t TO STDOUT", "SELECT '", ""])
def test_a_query_is_one_query(statement):
    with pytest.raises(RestoreFailed):
        query(statement)


@pytest.mark.parametrize(
    ("answer", "rows"), [("INSERT 0 7", 7), ("UPDATE 3", 3), ("x\nDELETE 0", 0), ("CREATE TABLE AS", 0)]
)
def test_rows(answer, rows):
    assert rows_told(answer) == rows


def test_what_is_pasted_stays_readable_where_nothing_can_misread_it():
    plain = 'CREATE INDEX i ON "s"."t" USING gin (a);'
    assert to_paste(plain) == plain
    assert to_paste('DROP INDEX IF EXISTS "s"."i";').startswith("DROP INDEX")
    for text in ("'a\nVECBAK\nid\n'", "'\\! id'", "'a\tb'"):
        statement = f"CREATE INDEX i ON s.t USING gin (a) WHERE (a = {text});"
        assert sent(to_paste(statement)) == statement
