"""What may run under a role's own search_path names no function, operator or type without its schema: PostgreSQL's parser says so."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.unit.examples import column, table
from vecbak.operations.parts import Part
from vecbak.postgres import collection_queries, queries, restore_queries, search_path
from vecbak.postgres.names import TableName
from vecbak.postgres.surroundings import _LINK

postgast = pytest.importorskip("postgast")
json_format = pytest.importorskip("google.protobuf.json_format")

KEYED = table(
    "items",
    primary_key=("id",),
    columns=(column("id", send="pg_catalog.textsend"), column("text", send="pg_catalog.textsend")),
)
MEANT = KEYED.rows_where(collection_queries.any_of("id", ["00000000-0000-0000-0000-000000000000"]))
PLAIN = table("plain")

QUALIFIED = [
    queries.look_up([TableName(None, "a"), TableName("s", "b")]),
    _LINK,
    queries.count_rows(MEANT),
    queries.sample_row_bytes(MEANT, 10**6, binary=False),
    queries.sample_row_bytes(MEANT, 10**6, binary=True),
    queries.first_row_bytes(MEANT, binary=False),
    queries.after_truncate([KEYED, PLAIN]),
    f"SELECT 1 FROM {KEYED.source}{Part(1, 2, 3).condition}",
    collection_queries.census(MEANT, MEANT),
    collection_queries.list_collections(KEYED.source),
    collection_queries.delete(MEANT, 1),
    collection_queries.others(MEANT),
    collection_queries.after_delete(MEANT),
    collection_queries.renamed("pg_temp.s", KEYED),
    collection_queries.keep_changed("pg_temp.s", "changed", KEYED, ["id", "text"]),
    collection_queries.overwrite("pg_temp.s", KEYED, ["uuid", "text"]),
    collection_queries.elsewhere("pg_temp.s", KEYED, ["00000000-0000-0000-0000-000000000000"]),
    restore_queries.conflicts("pg_temp.s", KEYED, ["id", "text"]),
    restore_queries.drop_present("pg_temp.s", KEYED, ["id", "text"]),
    restore_queries.drop_present("pg_temp.s", PLAIN, ["id", "text"]),
    restore_queries.insert_all("pg_temp.s", KEYED, ["id", "text"]),
    restore_queries.CHECK_NOW,
    restore_queries.validate_constraint("s", "t", "c"),
    restore_queries.analyze(KEYED),
    queries.lock_table('"items"', "ACCESS SHARE"),
    search_path.PIN,
]


def unqualified(node: Any) -> Iterator[str]:
    """Functions, operators, types, methods and relations that are looked for along the search_path."""
    if isinstance(node, list):
        for item in node:
            yield from unqualified(item)
        return
    if not isinstance(node, dict):
        return
    for kind, names in (("FuncCall", "funcname"), ("AExpr", "name"), ("A_Expr", "name"), ("TypeName", "names"), ("typeName", "names"),
                        ("RangeTableSample", "method"), ("SubLink", "operName")):  # fmt: skip
        found = node.get(kind)
        if isinstance(found, dict) and len(found.get(names, [])) == 1:
            yield f"{kind} {found[names]}"
        elif isinstance(found, dict) and kind == "SubLink" and found.get("testexpr") and not found.get("operName"):
            yield "IN (SELECT …)"
    for item in node.values():
        yield from unqualified(item)


def parsed(sql: str) -> Any:
    """The statements, without psql's own commands."""
    statements = re.sub(r"^\\.*$", "", sql, flags=re.MULTILINE)
    return json_format.MessageToDict(postgast.parse(statements), preserving_proto_field_name=False)


@pytest.mark.parametrize("sql", QUALIFIED)
def test_every_name_has_its_schema(sql):
    assert list(unqualified(parsed(sql))) == []


@pytest.mark.parametrize(
    "sql",
    ["SELECT count(*)", "SELECT 1 = 2", "SELECT 'x'::text", "SELECT x IN (1, 2)", "SELECT x IN (SELECT 1)", "SELECT x LIKE 'a'",
     "SELECT x IS DISTINCT FROM 1", "SELECT nullif(1, 2)", "SELECT x BETWEEN 1 AND 2", "SELECT 1 FROM t TABLESAMPLE system (1)", "SELECT -x"],
)  # fmt: skip
def test_what_is_looked_for_is_found(sql):
    assert list(unqualified(parsed(sql)))
