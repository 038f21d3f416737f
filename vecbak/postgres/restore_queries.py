"""The SQL of a restore, as pure functions; see `vecbak.postgres.queries` for what every guarded operation says."""

from __future__ import annotations

from collections.abc import Sequence

from vecbak.postgres.catalog import Index, Table
from vecbak.postgres.catalog import Sequence as OwnedSequence
from vecbak.postgres.names import quote_identifier, quote_literal, quote_name
from vecbak.postgres.queries import attempt, milliseconds


def copy_from(target: str, columns: Sequence[str], file: str, options: str) -> str:
    r"""psql's `\copy` from a file or FIFO; columns named, in the file's order.

    Args:
        target: quoted and qualified.
        file: a path without line ends.
    """
    names = ", ".join(quote_identifier(name) for name in columns)
    quoted = file.replace("'", "''")
    return f"\\copy {target} ({names}) from '{quoted}' with ({options})"


def copy_out(source: str, columns: Sequence[str], file: str, options: str) -> str:
    r"""psql's `\copy` of a whole table into a file or FIFO, in the order that the rows lie in the table.

    Args:
        source: quoted and qualified.
    """
    names = ", ".join(quote_identifier(name) for name in columns)
    quoted = file.replace("'", "''")
    return f"\\copy (SELECT {names} FROM ONLY {source}) to '{quoted}' with ({options})"


def lock_exclusively(tables: Sequence[Table], lock_seconds: float) -> str:
    """ACCESS EXCLUSIVE on all tables, without ending psql if it is not granted."""
    names = ", ".join(table.sql for table in tables)
    statement = f"LOCK TABLE {names} IN ACCESS EXCLUSIVE MODE;"
    return f"SET LOCAL lock_timeout = '{milliseconds(lock_seconds)}ms';\n" + attempt("vecbak_exclusive", statement)


ROLLBACK_EXCLUSIVE = "ROLLBACK TO SAVEPOINT vecbak_exclusive;"

# rows come back in the order in which they lie in the table
ONE_PROCESS = "SET LOCAL max_parallel_workers_per_gather = 0;"

TRANSACTION = "SELECT to_json(pg_current_xact_id()::text);"


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
    key = ", ".join(f"s.{quote_identifier(name)}" for name in table.primary_key)
    return f"""
SELECT json_build_object('count', count(*), 'key', min(ROW({key})::text))
FROM {scratch} s JOIN {table.source} t ON {_same_key(table)}
WHERE ROW({_listed("s", columns)})::text IS DISTINCT FROM ROW({_listed("t", columns)})::text;
"""


def insert_missing(scratch: str, table: Table, columns: Sequence[str], *, skip_conflicts: bool) -> str:
    """Insert the rows whose key is not there; without a primary key, those that are not there as they are.

    Args:
        skip_conflicts: leave out rows that break another unique constraint too.
    """
    same = (
        _same_key(table)
        if table.primary_key
        else f"ROW({_listed('s', columns)})::text = ROW({_listed('t', columns)})::text"
    )
    names = ", ".join(quote_identifier(name) for name in columns)
    return (
        f"INSERT INTO {table.sql} ({names}) OVERRIDING SYSTEM VALUE SELECT {_listed('s', columns)} FROM {scratch} s"
        f" WHERE NOT EXISTS (SELECT FROM {table.source} t WHERE {same}){' ON CONFLICT DO NOTHING' if skip_conflicts else ''};"
    )


def advance_sequence(table: Table, sequence: OwnedSequence, at_least: int | None) -> str:
    """Set a sequence past the values in its column; never back. setval does not roll back, so it comes last.

    Args:
        at_least: where it stood when the backup was made.
    """
    name = quote_literal(quote_name(sequence.schema, sequence.name))
    column = quote_identifier(sequence.column)
    return f"""
SELECT coalesce(json_agg(setval({name}::regclass, wanted.value)), '[]')
FROM (SELECT greatest(max({column})::bigint, {"NULL" if at_least is None else at_least}) AS value FROM {table.source}) AS wanted
WHERE has_sequence_privilege({name}::regclass, 'UPDATE') AND wanted.value > coalesce(pg_sequence_last_value({name}::regclass), 0);
"""


def schema_exists(schema: str) -> str:
    """Whether a schema is there."""
    return f"SELECT to_json(to_regnamespace({quote_literal(quote_identifier(schema))}) IS NOT NULL);"


def unknown_types(types: Sequence[str]) -> str:
    """Those of these types that the server does not know."""
    rows = ", ".join(f"({quote_literal(text)})" for text in sorted(set(types)))
    return f"SELECT coalesce(json_agg(t.name), '[]') FROM (VALUES {rows}) AS t(name) WHERE to_regtype(t.name) IS NULL;"


def _same_key(table: Table) -> str:
    return " AND ".join(f"s.{quote_identifier(name)} = t.{quote_identifier(name)}" for name in table.primary_key)


def _listed(alias: str, columns: Sequence[str]) -> str:
    return ", ".join(f"{alias}.{quote_identifier(name)}" for name in columns)
