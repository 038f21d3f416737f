"""The SQL of a restore, as pure functions; see `vecbak.postgres.queries` for what every guarded operation says."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vecbak.postgres.catalog import Index, Position, Table
from vecbak.postgres.catalog import Sequence as OwnedSequence
from vecbak.postgres.names import TableName, quote_identifier, quote_literal, quote_name
from vecbak.postgres.queries import attempt, milliseconds


def copy_from(target: str, columns: Sequence[str], file: str, options: str) -> str:
    r"""psql's `\copy` from a file or pipe; columns named, in the file's order.

    Args:
        target: quoted and qualified.
        file: a path without line ends.
    """
    names = ", ".join(quote_identifier(name) for name in columns)
    quoted = file.replace("'", "''")
    return f"\\copy {target} ({names}) from '{quoted}' with ({options})"


def copy_out(source: str, columns: Sequence[str], file: str, options: str) -> str:
    r"""psql's `\copy` of a whole table into a file or pipe, in the order that the rows lie in the table.

    Args:
        source: quoted and qualified.
    """
    names = ", ".join(quote_identifier(name) for name in columns)
    quoted = file.replace("'", "''")
    return f"\\copy (SELECT {names} FROM ONLY {source}) to '{quoted}' with ({options})"


def strongest_lock(table: TableName) -> str:
    """The lock that keeps other writers out, if we may take it; with INSERT alone one may not (src/backend/commands/lockcmds.c).

    Without it a row that comes between makes the counts disagree, and the restore fail.
    """
    return f"""
SELECT pg_catalog.to_json(CASE WHEN pg_catalog.has_table_privilege(pg_catalog.to_regclass({quote_literal(table.sql)})::pg_catalog.oid,
    'UPDATE, DELETE, TRUNCATE')
  THEN 'SHARE ROW EXCLUSIVE' ELSE 'ROW EXCLUSIVE' END);
"""


def lock_exclusively(tables: Sequence[Table], lock_seconds: float) -> str:
    """ACCESS EXCLUSIVE on all tables, without ending psql if it is not granted."""
    names = ", ".join(table.sql for table in tables)
    statement = f"LOCK TABLE {names} IN ACCESS EXCLUSIVE MODE;"
    return f"SET LOCAL lock_timeout = '{milliseconds(lock_seconds)}ms';\n" + attempt("vecbak_exclusive", statement)


ROLLBACK_EXCLUSIVE = "ROLLBACK TO SAVEPOINT vecbak_exclusive;"

# rows come back in the order in which they lie in the table
ONE_PROCESS = "SET LOCAL max_parallel_workers_per_gather = 0;"

DEFER = "SET CONSTRAINTS ALL DEFERRED;"
CHECK_NOW = "SET CONSTRAINTS ALL IMMEDIATE;"  # a table with checks still to come cannot get an index

_INTEGERS = {"smallint": 16, "integer": 32, "bigint": 64}  # their bits
_NUMERIC = re.compile(r"numeric(?:\((?P<precision>\d+),(?P<scale>-?\d+)\))?")


def alter_foreign_key(table: Table, name: str, *, deferred: bool) -> str:
    """Let a foreign key be checked when all rows are there; or as it was, at the end of each statement."""
    timing = "DEFERRABLE INITIALLY DEFERRED" if deferred else "NOT DEFERRABLE"
    return f"ALTER TABLE {table.sql} ALTER CONSTRAINT {quote_identifier(name)} {timing};"


def drop_index(table: Table, index: Index) -> str:
    """DROP INDEX, never CASCADE."""
    return f"DROP INDEX {quote_name(table.schema, index.name)} RESTRICT;"


def build_settings(memory: str, workers: int) -> str:
    """What the server may use to build indexes."""
    return f"SET LOCAL maintenance_work_mem = '{memory}';\nSET LOCAL max_parallel_maintenance_workers = {workers};"


def scratch_table(name: str, table: Table, columns: Sequence[str]) -> str:
    """A temporary table with the columns of another."""
    names = ", ".join(quote_identifier(column) for column in columns)
    return f"CREATE TEMPORARY TABLE {quote_identifier(name)} ON COMMIT DROP AS SELECT {names} FROM {table.source} WITH NO DATA;"


def conflicts(scratch: str, table: Table, columns: Sequence[str]) -> str:
    """Rows that stand in the table under the same key and with another content: their number, and one of the keys."""
    names = table.key_among(columns)
    key = ", ".join(f"s.{quote_identifier(name)}" for name in names)
    return f"""
SELECT json_build_object('count', count(*), 'key', min(ROW({key})::text))
FROM {scratch} s JOIN {table.source} t ON {_same_key(names)}
WHERE ROW({_listed("s", columns)})::text IS DISTINCT FROM ROW({_listed("t", columns)})::text;
"""


def insert_missing(scratch: str, table: Table, columns: Sequence[str], *, skip_conflicts: bool) -> str:
    """Insert the rows whose key is not there; without a primary key, as many of equal rows as there are too few.

    Args:
        skip_conflicts: leave out rows that break another unique constraint too.
    """
    if key := table.key_among(columns):
        missing = f"{scratch} s WHERE NOT EXISTS (SELECT FROM {table.source} t WHERE {_same_key(key)})"
    else:
        ours, theirs = (f"ROW({_listed(alias, columns)})::text" for alias in "rt")
        missing = f"""(
  SELECT r.*, {ours} AS "vecbak row", row_number() OVER (PARTITION BY {ours}) AS "vecbak number" FROM {scratch} r) s
LEFT JOIN (SELECT {theirs} AS line, count(*) AS number FROM {table.source} t GROUP BY 1) t ON t.line = s."vecbak row"
WHERE s."vecbak number" > coalesce(t.number, 0)"""
    names = ", ".join(quote_identifier(name) for name in columns)
    return (
        f"INSERT INTO {table.sql} ({names}) OVERRIDING SYSTEM VALUE SELECT {_listed('s', columns)} FROM {missing}"
        f"{' ON CONFLICT DO NOTHING' if skip_conflicts else ''};"
    )


def furthest_value(table: Table, sequence: OwnedSequence) -> str:
    """The furthest value in its column that a sequence could go on from.

    A column may hold texts made with it, or numbers out of its bounds; and a value at the very end of what sequence and
    column can hold (a sentinel) is not where it goes, for nothing comes after that.
    """
    low, high = _bounds(table, sequence.column)
    if low is None or high is None:
        return "SELECT to_json(NULL::int);"
    step = sequence.increment
    first, last = max(sequence.minimum, low) - min(step, 0), min(sequence.maximum, high) - max(step, 0)
    value = f"{quote_identifier(sequence.column)}::numeric"
    return f"""
SELECT to_json({"floor(max(v.value))" if step > 0 else "ceil(min(v.value))"})
FROM (SELECT {value} AS value FROM {table.source}) AS v WHERE v.value BETWEEN {first} AND {last};
"""


def _bounds(table: Table, column: str) -> tuple[int | None, int | None]:
    """The smallest and largest whole number that a column can hold; None if it holds no numbers.

    A domain is looked through.
    """
    bases = {item.sql: item.base for item in table.types if item.kind == "d"}
    kind: str | None = next((item.type for item in table.columns if item.name == column), None)
    while kind in bases:
        kind = bases[kind]
    bits = _INTEGERS.get(kind or "")
    if bits:
        return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    if match := _NUMERIC.fullmatch(kind or ""):
        digits = int(match["precision"] or 19) - int(match["scale"] or 0)
        return 1 - 10 ** max(digits, 0), 10 ** max(digits, 0) - 1
    return None, None


def set_sequence(oid: int, position: Position) -> str:
    """setval, of a sequence that is known by its oid."""
    return f"SELECT pg_catalog.setval({oid}::regclass, {position.value}, {str(position.is_called).lower()});"


def schema_exists(schema: str) -> str:
    """Whether a schema is there."""
    return f"SELECT to_json(to_regnamespace({quote_literal(quote_identifier(schema))}) IS NOT NULL);"


def relation_exists(schema: str, name: str) -> str:
    """Whether a table, sequence or the like is there."""
    return f"SELECT to_json(to_regclass({quote_literal(quote_name(schema, name))}) IS NOT NULL);"


def unknown_types(types: Sequence[str]) -> str:
    """Those of these types that the server does not know."""
    rows = ", ".join(f"({quote_literal(text)})" for text in sorted(set(types)))
    return f"SELECT coalesce(json_agg(t.name), '[]') FROM (VALUES {rows}) AS t(name) WHERE to_regtype(t.name) IS NULL;"


def _same_key(key: Sequence[str]) -> str:
    return " AND ".join(f"s.{quote_identifier(name)} = t.{quote_identifier(name)}" for name in key)


def _listed(alias: str, columns: Sequence[str]) -> str:
    return ", ".join(f"{alias}.{quote_identifier(name)}" for name in columns)
