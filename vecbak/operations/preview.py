"""What is about to happen, read without a lock and without a trace: for the question before a TRUNCATE, and for --dry-run."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence

import msgspec

from vecbak.errors import Refused
from vecbak.operations.collections import divide, find_pair
from vecbak.operations.extent import Chosen, Extent
from vecbak.operations.job import Job
from vecbak.postgres import queries
from vecbak.postgres.catalog import Table
from vecbak.postgres.collection_queries import list_collections
from vecbak.postgres.guard import Guard
from vecbak.postgres.names import TableName
from vecbak.postgres.session import SessionFailed

COUNT_SECONDS = 120.0
COUNTED_BYTES = 4 << 30  # larger tables are not counted just to ask a question
BYTES_PER_SECOND = 100e6  # a cautious rate for csv with its checksum; DESIGN.md section 8


class PreviewedTable(msgspec.Struct, frozen=True):
    """One table: rows (exact, or estimated where counting takes long), bytes on the server."""

    name: str
    rows: int
    estimated: bool
    bytes: int
    truncate: bool


class Preview(msgspec.Struct, frozen=True):
    """Where, what, for how many seconds writers will wait, server_version_num, and the collections if these alone are meant.

    `host` is what was typed, `server` what answered.
    """

    host: str
    server: str
    database: str
    user: str
    tables: tuple[PreviewedTable, ...]
    seconds: float
    server_version: int
    collections: tuple[str, ...] = ()


@contextlib.contextmanager
def reading(job: Job) -> Iterator[Guard]:
    """A session that only reads, and locks nothing.

    Raises:
        ConnectionFailed: no connection or no login.
        Refused: something could not be read.
    """
    guard, _ = job.connect()
    try:
        guard.begin(writes=False, lock_seconds=job.config.timeouts.lock_seconds)
        yield guard
    except SessionFailed as error:
        raise Refused(
            f"the tables could not be read: {error.message}", "See the server's message.", output=error.output
        ) from None
    finally:
        guard.close()


def read_tables(job: Job, names: Sequence[TableName]) -> tuple[Table, ...]:
    """Some tables as they are now; nothing is locked.

    Raises:
        ConnectionFailed: no connection or no login.
        Refused: a table does not exist.
    """
    with reading(job) as guard:
        oids = _existing(guard, names)
        return guard.facts(oids).tables


def read_identity(job: Job) -> list[str | int]:
    """What the tables of the config are, whichever way one connects: cluster, database, tables.

    Raises:
        ConnectionFailed: no connection or no login.
        Refused: a table does not exist.
    """
    with reading(job) as guard:
        oids = _existing(guard, job.config.vector_tables.supported())
        found: list[str | int] = guard.ask_json(queries.identity(oids), "identifying the tables")
        return found


def count_rows(job: Job, extent: Extent) -> dict[str, int]:
    """The rows now, by label, of what a truncate of this extent would empty.

    Raises:
        ConnectionFailed: no connection or no login.
        Refused: a table does not exist.
        UsageError: a collection does not exist.
    """
    with reading(job) as guard:
        emptied = _choose(job, guard, extent, truncate=True).to_empty
        seconds = job.config.timeouts.copy_seconds
        return {label: guard.count(table, timeout=seconds) for label, table in emptied.items()}


def read_chosen(job: Job, extent: Extent, *, truncate: bool) -> tuple[Chosen, int]:
    """The tables of a run as they are now, and server_version_num; nothing is locked.

    Raises:
        ConnectionFailed: no connection or no login.
        Refused: a table does not exist.
        UsageError: a collection does not exist.
    """
    with reading(job) as guard:
        return _choose(job, guard, extent, truncate=truncate), guard.server_version


def preview(job: Job, extent: Extent) -> Preview:
    """Look at what a truncate would do.

    Raises:
        ConnectionFailed: no connection or no login.
        Refused: a table does not exist or may not be read.
        UsageError: a collection does not exist.
    """
    with reading(job) as guard:
        chosen = _choose(job, guard, extent, truncate=True)
        return _look(job, guard, chosen.tables, chosen.emptied, extent.wanted)


def _choose(job: Job, guard: Guard, extent: Extent, *, truncate: bool) -> Chosen:
    tables = job.config.vector_tables
    labels, names = tables.labels(), tables.supported()
    facts = guard.facts(_existing(guard, names))
    found = {labels[name]: table for name, table in zip(names, facts.tables, strict=True)}
    return extent.choose(guard, found, {labels[name] for name in tables.truncated()} if truncate else set())


def preview_of(job: Job, tables: Mapping[str, TableName], collections: tuple[str, ...] = ()) -> Preview:
    """Look at what replacing these tables would do; those that do not exist are left out.

    Args:
        collections: if these alone are replaced.

    Raises:
        ConnectionFailed: no connection or no login.
        Refused: a table may not be read.
    """
    with reading(job) as guard:
        oids = dict(zip(tables, guard.find(list(tables.values())), strict=True))
        found = {label: oid for label, oid in oids.items() if oid is not None}
        there = dict(zip(found, guard.facts(list(found.values())).tables, strict=True))
        if collections and (pair := find_pair(there)):
            table = there[pair.collections]
            with guard.planning(table):
                listed = guard.ask_json(list_collections(table.source), "looking for the collections")
            keys = [item["uuid"] for item in listed if item["name"] in collections]
            return _look(job, guard, divide(pair, there, keys), {pair.embeddings}, collections)
        return _look(job, guard, there, set(found))


def _look(
    job: Job, guard: Guard, tables: Mapping[str, Table], emptied: Collection[str], collections: tuple[str, ...] = ()
) -> Preview:
    server = guard.facts([]).server
    looked_at = tuple(
        PreviewedTable(name, *rows_of(guard, table), table.total_bytes, name in emptied)
        for name, table in tables.items()
    )
    seconds = max(1.0, sum(table.table_bytes for table in tables.values()) * 3 / BYTES_PER_SECOND)
    host = job.endpoint.host or "(libpq's default)"
    return Preview(
        host, server.name, server.database, server.user, looked_at, seconds, guard.server_version, collections
    )


def rows_of(guard: Guard, table: Table) -> tuple[int, bool]:
    """A table's rows, and whether that is an estimate."""
    if table.table_bytes > COUNTED_BYTES and table.estimated_rows >= 0 and not table.condition:
        return table.estimated_rows, True
    return guard.count(table, timeout=COUNT_SECONDS), False


def missing(name: TableName) -> Refused:
    """A table of the config that is not in the database."""
    return Refused(
        f"the table {name} does not exist",
        "Check vector_tables in the config, the database, and the role's search_path.",
    )


def _existing(guard: Guard, names: Sequence[TableName]) -> list[int]:
    oids = guard.find(names)
    for name, oid in zip(names, oids, strict=True):
        if oid is None:
            raise missing(name)
    return [oid for oid in oids if oid is not None]
