"""The SQL of a restore, as pure functions; see `vecbak.postgres.queries` for what every guarded operation says."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vecbak.postgres.catalog import Index, Operator, Position, Table
from vecbak.postgres.catalog import Sequence as OwnedSequence
from vecbak.postgres.names import quote_identifier, quote_literal, quote_name
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


def strongest_lock(oid: int) -> str:
    """The lock that keeps other writers out, if we may take it; with INSERT alone one may not (src/backend/commands/lockcmds.c).

    Without it a row that comes between makes the counts disagree, and the restore fail.
    """
    return f"""
SELECT pg_catalog.to_json(CASE WHEN pg_catalog.has_table_privilege({oid}::pg_catalog.oid, 'UPDATE, DELETE, TRUNCATE') THEN 'SHARE ROW EXCLUSIVE' ELSE 'ROW EXCLUSIVE' END);
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
SELECT pg_catalog.json_build_object('count', pg_catalog.count(*), 'key', pg_catalog.min(ROW({key})::pg_catalog.text))
FROM {scratch} s JOIN {table.source} t ON {same_key(table)}
WHERE ROW({_listed("s", columns)})::pg_catalog.text OPERATOR(pg_catalog.<>) ROW({_listed("t", columns)})::pg_catalog.text;
"""


def drop_present(scratch: str, table: Table, columns: Sequence[str]) -> str:
    """Remove from a scratch table the rows whose key is there; without a primary key, as many of equal rows as are there."""
    if table.key_among(columns):
        return f"DELETE FROM {scratch} s USING {table.source} t WHERE {same_key(table)};"
    ours, theirs = (f"ROW({_listed(alias, columns)})::pg_catalog.text" for alias in "rt")
    return f"""
DELETE FROM {scratch} WHERE ctid OPERATOR(pg_catalog.=) ANY (
  SELECT s.id FROM (
    SELECT r.ctid AS id, {ours} AS line, pg_catalog.row_number() OVER (PARTITION BY {ours}) AS number FROM {scratch} r) s
  JOIN (SELECT {theirs} AS line, pg_catalog.count(*) AS number FROM {table.source} t GROUP BY 1) t
    ON t.line OPERATOR(pg_catalog.=) s.line
  WHERE s.number OPERATOR(pg_catalog.<=) t.number);
"""


def insert_all(scratch: str, table: Table, columns: Sequence[str], *, skip_conflicts: bool = False) -> str:
    """Insert every row of a scratch table; it runs under the role's own path.

    Args:
        skip_conflicts: leave out rows that break a unique constraint.
    """
    names = ", ".join(quote_identifier(name) for name in columns)
    end = " ON CONFLICT DO NOTHING" if skip_conflicts else ""
    return f"INSERT INTO {table.sql} ({names}) OVERRIDING SYSTEM VALUE SELECT {names} FROM {scratch}{end};"


def analyze(table: Table) -> str:
    """ANALYZE, without ending psql: from PostgreSQL 17 on it fails where a function needs the role's own path."""
    return attempt("vecbak_analyze", f"ANALYZE {table.sql};")


def furthest_value(table: Table, sequence: OwnedSequence) -> str:
    """The furthest value in its column that a sequence could go on from.

    A column may hold texts made with it, or numbers out of its bounds; and a value at the very end of what sequence and
    column can hold (a sentinel) is not where it goes, for nothing comes after that.
    """
    low, high = _bounds(table, sequence.column)
    if low is None or high is None:
        return "SELECT pg_catalog.to_json(NULL::pg_catalog.int4);"
    step = sequence.increment
    first, last = max(sequence.minimum, low) - min(step, 0), min(sequence.maximum, high) - max(step, 0)
    value = f"{quote_identifier(sequence.column)}::pg_catalog.numeric"
    furthest = "pg_catalog.floor(pg_catalog.max(v.value))" if step > 0 else "pg_catalog.ceil(pg_catalog.min(v.value))"
    return f"""
SELECT pg_catalog.to_json({furthest}) FROM (SELECT {value} AS value FROM {table.source}) AS v
WHERE v.value OPERATOR(pg_catalog.>=) {first} AND v.value OPERATOR(pg_catalog.<=) {last};
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


def validate_constraint(schema: str, table: str, name: str) -> str:
    """Hold the rows against a constraint that was made NOT VALID; it runs under the role's own path."""
    return f"ALTER TABLE {quote_name(schema, table)} VALIDATE CONSTRAINT {quote_identifier(name)};"


def index_definition(schema: str, name: str) -> str:
    """An index as PostgreSQL says it."""
    return f"SELECT to_json(pg_get_indexdef({quote_literal(quote_name(schema, name))}::regclass));"


def constraint_definition(table: Table, name: str) -> str:
    """A constraint as PostgreSQL says it."""
    condition = f"conrelid = {table.oid} AND conname = {quote_literal(name)}"
    return f"SELECT to_json(pg_get_constraintdef(oid)) FROM pg_catalog.pg_constraint WHERE {condition};"


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


def same_key(table: Table) -> str:
    """A condition: a row `s` has the key of a row `t`, by what the key itself holds to be equal (of citext, say)."""
    operators = table.key_operators if len(table.key_operators) == len(table.primary_key) else ()
    equal = [_operator(item) for item in operators] or ["OPERATOR(pg_catalog.=)"] * len(table.primary_key)
    pairs = zip(map(quote_identifier, table.primary_key), equal, strict=True)
    return " AND ".join(f"s.{name} {operator} t.{name}" for name, operator in pairs)


def _operator(operator: Operator) -> str:
    if not re.fullmatch(r"[-+*/<>=~!@#%^&|`?]+", operator.name) or re.search(r"--|/\*", operator.name):
        return "OPERATOR(pg_catalog.=)"  # none that a server has: from a manifest, for a dry run
    return f"OPERATOR({quote_identifier(operator.schema)}.{operator.name})"


def _listed(alias: str, columns: Sequence[str]) -> str:
    return ", ".join(f"{alias}.{quote_identifier(name)}" for name in columns)
