"""LangChain's collections: which rows of its two tables belong to some of them, and how to remove exactly those.

The guard of such a run is REPEATABLE READ, and its snapshot is the exported one: its DELETE removes precisely the rows
that were backed up. So its lock keeps nobody from inserting. What others insert or move in meanwhile is not in the snapshot
and stays; a row of ours that somebody changed, moved or deleted since makes PostgreSQL refuse the DELETE (40001), and the run
is begun again (https://www.postgresql.org/docs/current/transaction-iso.html#XACT-REPEATABLE-READ).
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from vecbak.backups.verified import VerifiedBackup
from vecbak.config import Config
from vecbak.errors import BackupFailed, Contended, Refused, TruncateFailed, UsageError
from vecbak.operations import preflight
from vecbak.operations.extent import Chosen, Extent, Whole, where
from vecbak.operations.job import Job
from vecbak.operations.truncate import check_untouched
from vecbak.postgres import collection_queries as sql
from vecbak.postgres.catalog import Facts, Table
from vecbak.postgres.commit_mark import mark_before, mark_commit, sample_rows
from vecbak.postgres.guard import Guard, Truncated
from vecbak.postgres.session import SessionFailed

log = logging.getLogger(__name__)

TOLD_NAMES = 30
VACUUM_ROWS = 10_000
# somebody changed a row, a deadlock, a row lock not granted in time: nothing was deleted, and it may go well next time
CONTENDED = {"40001", "40P01", "55P03"}


class Pair(NamedTuple):
    """LangChain's two tables, by label."""

    collections: str
    embeddings: str


def find_pair(tables: Mapping[str, Table]) -> Pair | None:
    """LangChain's tables among others, told by their columns; None if they are not there, or there more than once."""
    collections = [label for label, table in tables.items() if _has(table, sql.KEY, sql.NAME, but=sql.REFERENCE)]
    embeddings = [label for label, table in tables.items() if _has(table, sql.REFERENCE, "embedding")]
    if len(collections) != 1 or len(embeddings) != 1:
        return None
    types = {_type(tables[collections[0]], sql.KEY), _type(tables[embeddings[0]], sql.REFERENCE)}
    return Pair(collections[0], embeddings[0]) if types == {"uuid"} else None


def the_pair(tables: Mapping[str, Table]) -> Pair:
    """The same where they must be there.

    Raises:
        Refused: they are not.
    """
    pair = find_pair(tables)
    if pair is None:
        raise Refused(
            f"--collection needs LangChain's two tables, and {', '.join(tables)} are not they",
            "Name both in vector_tables.supported_tables: the one with uuid and name, and the one with collection_id and"
            " embedding.",
        )
    return pair


def keys_of(found: Sequence[Mapping[str, Any]], wanted: Sequence[str], *, where: str) -> dict[str, str]:
    """The keys of the collections that are wanted, by name.

    Args:
        found: names and keys that there are.
        where: `the database`, or the backup's name, for messages.

    Raises:
        UsageError: one of them does not exist; names those that do.
        Refused: two have the same name.
    """
    keys: dict[str, str] = {}
    for name in wanted:
        these = [str(item["uuid"]) for item in found if item["name"] == name]
        if not these:
            raise UsageError(f"there is no collection {name!r} in {where}", _existing(found))
        if len(these) > 1:
            raise Refused(
                f"{len(these)} collections in {where} are named {name!r} ({', '.join(these)})",
                "Rename all but one of them: UPDATE langchain_pg_collection SET name = … WHERE uuid = …",
            )
        keys[name] = these[0]
    return keys


def divide(pair: Pair, tables: Mapping[str, Table], keys: Collection[str]) -> dict[str, Table]:
    """The two tables, of which only what belongs to these collections is meant."""
    return {
        pair.collections: tables[pair.collections].rows_where(sql.any_of(sql.KEY, keys)),
        pair.embeddings: tables[pair.embeddings].rows_where(sql.any_of(sql.REFERENCE, keys)),
    }


class Collections(msgspec.Struct, frozen=True):
    """Some collections: their rows in the collection table, which stay, and their embeddings.

    Attributes:
        wanted: their names.
    """

    wanted: tuple[str, ...]
    isolation: str = "REPEATABLE READ"
    lock: str = "ROW EXCLUSIVE"
    writers_wait: bool = False
    attempts: int = 3
    scope: Literal["collections", "where"] | None = "collections"

    def choose(self, guard: Guard, tables: Mapping[str, Table], emptied: Collection[str]) -> Chosen:
        """Find them by name."""
        pair = the_pair(tables)
        if emptied and pair.embeddings not in emptied:
            raise Refused(
                f"{pair.embeddings} is not among truncate_tables", "Name it in vector_tables.truncate_tables."
            )
        table = tables[pair.collections]
        with guard.planning(table):
            found = guard.ask_json(sql.list_collections(table.source), "looking for the collections")
        keys = keys_of(found, self.wanted, where="the database")
        return Chosen(divide(pair, tables, keys.values()), frozenset({pair.embeddings} if emptied else ()))

    def check(self, facts: Facts, chosen: Chosen, config: Config) -> list[str]:
        """As a DELETE of rows wants it; what it takes from subscribers is what was backed up here."""
        return preflight.check_deletable(list(chosen.to_empty.values()), facts.server)

    def empty(self, job: Job, guard: Guard, backup: VerifiedBackup, tables: Mapping[str, Table]) -> Truncated:
        """DELETE."""
        return delete_rows(job, guard, backup, tables)


def extent_of(names: Sequence[str], condition: str | None, config: Config) -> Extent:
    """What `--collection` and `--where` mean; neither: the whole tables.

    Raises:
        UsageError: a condition that cannot be used.
    """
    if names:
        return Collections(tuple(dict.fromkeys(names)))
    return where(condition, config) if condition is not None else Whole()


def delete_rows(job: Job, guard: Guard, backup: VerifiedBackup, tables: Mapping[str, Table]) -> Truncated:
    """DELETE the rows that are meant; nothing is final before COMMIT.

    Args:
        backup: the proof that exactly these rows are safe.
        tables: by label, each with its condition.

    Raises:
        BackupFailed: the backup holds other rows, or one of its files changed.
        Contended: somebody else changed or holds some of them.
        TruncateFailed: the server refused, or other rows would have gone too.
    """
    for label, table in tables.items():
        entry = backup.manifest.tables.get(label)
        if entry is None or not table.condition or entry.table.condition != table.condition:
            raise BackupFailed(f"the backup does not hold the rows of {label} that are meant; nothing was deleted")
    check_untouched(backup)
    step = "looking at the rows before DELETE"
    try:
        before = mark_before(guard.ask_json, [table.oid for table in tables.values()], step)
        removed = [sample for table in tables.values() for sample in sample_rows(guard.ask_json, table, step)]
        left = {
            table.oid: _delete(job, guard, table, backup.manifest.tables[label].rows) for label, table in tables.items()
        }
        mark = mark_commit(guard.ask_json, before, step, removed=removed)
    except SessionFailed as error:
        raise _not_deleted(", ".join(table.name for table in tables.values()), error) from None
    check_untouched(backup)
    return Truncated(left, mark)


def delete_unsaved(job: Job, guard: Guard, table: Table, rows: int) -> None:
    """DELETE rows of which nobody wanted a backup (`restore --no-safety-backup`).

    Args:
        table: with its condition.
        rows: that must go.

    Raises:
        Contended: somebody else holds some of them.
        TruncateFailed: the server refused, or other rows would have gone too.
    """
    _delete(job, guard, table, rows)


def _delete(job: Job, guard: Guard, table: Table, rows: int) -> int:
    step, seconds = f"deleting from {table.name}", job.config.timeouts.copy_seconds
    try:
        with guard.planning(table):
            before = guard.ask_json(sql.others(table), step, timeout=seconds)
            deleted = guard.ask(sql.delete(table, job.config.timeouts.lock_seconds), step, timeout=seconds).row_count
            after = guard.ask_json(sql.others(table), step, timeout=seconds)
            state = guard.ask_json(sql.after_delete(table), step, timeout=seconds)
    except SessionFailed as error:
        raise _not_deleted(table.name, error) from None
    if state["attached"]:
        raise Contended(
            f"{', '.join(state['attached'])} became a partition of {table.name} meanwhile; nothing was deleted",
            "Run vecbak again.",
        )
    if deleted != rows or state["rows"] != 0 or after != before:
        raise TruncateFailed(
            f"of {table.name} {rows:,} rows were to be deleted, and {deleted:,} were ({state['rows']:,} left, others"
            f" {before['rows']:,} before and {after['rows']:,} after); it is undone",
            "The backup is kept, and every row is still there.",
        )
    if rows >= VACUUM_ROWS:
        log.info("%s rows were deleted; their space is free again after: VACUUM (ANALYZE) %s;", f"{rows:,}", table.sql)
    return int(state["rows"])


def _not_deleted(name: str, error: SessionFailed) -> TruncateFailed | Contended:
    if error.sqlstate in CONTENDED:
        return Contended(
            f"rows of {name} that were backed up are being changed by somebody else; nothing was deleted",
            "Run vecbak again when whatever changes or deletes rows of these collections has ended.",
            output=error.output,
        )
    return TruncateFailed(
        f"{error.message}; the backup is kept, and every row is still there",
        "See the message above and the server's log, then run vecbak again.",
        output=error.output,
    )


def _has(table: Table, *names: str, but: str = "") -> bool:
    columns = {column.name for column in table.columns}
    return set(names) <= columns and but not in columns


def _type(table: Table, name: str) -> str:
    return next(column.type for column in table.columns if column.name == name)


def _existing(found: Sequence[Mapping[str, Any]]) -> str:
    names = sorted({str(item["name"]) for item in found})
    if not names:
        return "There is none."
    more = f" and {len(names) - TOLD_NAMES} more" if len(names) > TOLD_NAMES else ""
    return f"There are: {', '.join(repr(name) for name in names[:TOLD_NAMES])}{more}."
