"""The SQL about what is asked of rows (`vecbak.postgres.catalog.Demand`): how many do not meet it; dropping it, and adding it again."""

from __future__ import annotations

from collections.abc import Iterator

from vecbak.postgres.catalog import Demand, Table
from vecbak.postgres.names import quote_identifier, quote_literal, quote_name
from vecbak.postgres.tree_query import DEMANDED

_READS_BACK = 160000  # pg_input_is_valid()

# an expression may name its table, which must not have another name then
_OF_CHECK = "pg_catalog.format('(%s) IS FALSE', pg_catalog.pg_get_expr(k.conbin, k.conrelid))"
_OF_NOT_NULL = """(SELECT pg_catalog.format('%I IS NULL', a.attname) FROM pg_catalog.pg_attribute a
      WHERE a.attrelid = k.conrelid AND a.attnum = k.conkey[1])"""
_KEYS = """unnest(k.conkey, k.confkey, k.conpfeqop) AS key(here, there, operator)
        JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = key.here
        JOIN pg_catalog.pg_attribute b ON b.attrelid = k.confrelid AND b.attnum = key.there
        JOIN pg_catalog.pg_operator o ON o.oid = key.operator JOIN pg_catalog.pg_namespace od ON od.oid = o.oprnamespace"""
# a key over a period is kept by several rows together; what we may not read cannot be counted
_OF_KEY = f"""(SELECT CASE WHEN has_table_privilege(k.confrelid, 'SELECT') AND (to_jsonb(k) ->> 'conperiod') IS DISTINCT FROM 'true' THEN
      pg_catalog.format('((%s) AND NOT EXISTS (SELECT FROM %s%I.%I AS r WHERE %s))%s',
        pg_catalog.string_agg(pg_catalog.format('t.%I IS NOT NULL', a.attname), ' AND '), CASE fc.relkind WHEN 'p' THEN '' ELSE 'ONLY ' END,
        fn.nspname, fc.relname, pg_catalog.string_agg(pg_catalog.format('r.%I OPERATOR(%I.%s) t.%I', b.attname, od.nspname, o.oprname, a.attname), ' AND '),
        CASE k.confmatchtype WHEN 'f' THEN pg_catalog.format(' OR ((%s) AND (%s))',
          pg_catalog.string_agg(pg_catalog.format('t.%I IS NULL', a.attname), ' OR '),
          pg_catalog.string_agg(pg_catalog.format('t.%I IS NOT NULL', a.attname), ' OR ')) ELSE '' END) END
      FROM {_KEYS}, pg_catalog.pg_class fc JOIN pg_catalog.pg_namespace fn ON fn.oid = fc.relnamespace
      WHERE fc.oid = k.confrelid GROUP BY fc.relkind, fn.nspname, fc.relname)"""


def conditions(table: Table) -> str:
    """Of each constraint in question on the table or its partitions: where its rows are, and what holds for those that break it."""
    return f"""
SELECT coalesce(json_agg(json_build_object('kind', k.contype, 'schema', kn.nspname, 'table', kc.relname, 'name', k.conname,
    'source', pg_catalog.format('%s%I.%I%s', CASE kc.relkind WHEN 'p' THEN '' ELSE 'ONLY ' END, kn.nspname, kc.relname,
      CASE k.contype WHEN 'f' THEN ' AS t' END),
    'condition', CASE k.contype WHEN 'c' THEN {_OF_CHECK} WHEN 'n' THEN {_OF_NOT_NULL} ELSE {_OF_KEY} END)), '[]')
FROM pg_catalog.pg_class c, LATERAL (SELECT k.*, kn.nspname, kc.relname, kc.relkind FROM {DEMANDED}) AS k,
  LATERAL (SELECT k.nspname) AS kn, LATERAL (SELECT k.relname, k.relkind) AS kc
WHERE c.oid = {table.oid};
"""


def unreadable(table: Table, demand: Demand, server_version: int) -> str:
    """What holds for rows of which a value of these columns would not be read again."""
    types = {column.name: column.type for column in table.columns}
    return " OR ".join(_unreadable(name, types[name], server_version) for name in demand.columns if name in types)


def _unreadable(column: str, type: str, server_version: int) -> str:
    name = quote_identifier(column)
    text = f"pg_catalog.format('%s', {name})"
    if server_version >= _READS_BACK:
        bad = f"NOT pg_catalog.pg_input_is_valid({text}, {quote_literal(type).strip()})"
    else:  # an error says so
        bad = f"({text}::{type}) IS NULL"
    return f"CASE WHEN {name} IS DISTINCT FROM NULL THEN {bad} ELSE false END"


def count(source: str, where: str, condition: str) -> str:
    """How many of the rows that are meant do not meet a demand.

    Args:
        source: what stands behind FROM.
        where: which rows are meant; empty for all.
    """
    meant = f"({where}) AND " if where else ""
    return f"SELECT count(*) FROM {source} WHERE {meant}({condition});"


def drop(demand: Demand) -> str:
    """Ask it of no row any more."""
    kind = "DOMAIN" if demand.kind == "d" else "TABLE"
    return f"ALTER {kind} {demand.place} DROP CONSTRAINT {quote_identifier(demand.name)} RESTRICT;"


def add(demand: Demand) -> Iterator[str]:
    """Ask it of new rows again, as it was; of those that are there it stays unsaid whether they meet it."""
    kind, name = ("DOMAIN" if demand.kind == "d" else "TABLE"), quote_identifier(demand.name)
    yield f"ALTER {kind} {demand.place} ADD CONSTRAINT {name} {demand.definition};"
    if demand.comment is not None:
        on = f"DOMAIN {demand.place}" if demand.kind == "d" else demand.place
        yield f"COMMENT ON CONSTRAINT {name} ON {on} IS {quote_literal(demand.comment)};"
    for twin in demand.twins:
        place = quote_name(twin.schema, twin.table)
        if twin.validated:
            yield f"ALTER TABLE {place} VALIDATE CONSTRAINT {name};"
        if twin.comment is not None:
            yield f"COMMENT ON CONSTRAINT {name} ON {place} IS {quote_literal(twin.comment)};"
