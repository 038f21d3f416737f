"""Restoring some collections: exactly their embeddings, whatever has become of the others since.

Collections are known by their names. Their rows go into scratch tables first, so that what belongs to others is left out and
a collection that was made anew since gets its rows under the key that it has now. Nothing is ever truncated, and no
collection is ever deleted, for that would take its embeddings along.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from vecbak.backups.manifest import Manifest
from vecbak.backups.verified import VerifiedBackup
from vecbak.errors import Refused, RestoreFailed, UsageError
from vecbak.operations import preflight
from vecbak.operations.collections import Pair, delete_rows, delete_unsaved, divide, find_pair, keys_of, the_pair
from vecbak.operations.filling import Filled, Filling
from vecbak.operations.job import Job
from vecbak.operations.targets import Mode, Plan, Source, SourceTable, rebuilt_indexes
from vecbak.postgres import collection_queries as sql
from vecbak.postgres import restore_queries
from vecbak.postgres.catalog import Server, Table
from vecbak.postgres.guard import Guard

log = logging.getLogger(__name__)


class Scope(msgspec.Struct, frozen=True):
    """The collections to restore.

    Attributes:
        names: of them.
        backup_id: for messages.
        rows: embeddings of each, as far as the manifest tells.
    """

    names: tuple[str, ...]
    backup_id: str
    rows: Mapping[str, int]

    @property
    def expected(self) -> int | None:
        """Embeddings of all of them; None if that is not known beforehand."""
        return sum(self.rows[name] for name in self.names) if self.names and self.rows else None


def scope_of(source: Source, manifest: Manifest | None, names: Sequence[str]) -> Scope | None:
    """What is restored of a backup: these collections; of a backup of collections always those; None: all rows.

    Args:
        names: of `--collection`.

    Raises:
        UsageError: the backup does not hold them.
    """
    held = manifest.collections if manifest else None
    wanted = tuple(dict.fromkeys(names))
    if not wanted and manifest and manifest.scope == "collections":
        wanted = tuple(held or ())
    if not wanted:
        return None
    if held is not None:
        found = [{"name": name, "uuid": entry.uuid} for name, entry in held.items()]
        keys_of(found, wanted, where=f"the backup {source.backup_id}")
    return Scope(wanted, source.backup_id, {name: entry.rows for name, entry in (held or {}).items()})


def only_the_pair(source: Source) -> Source:
    """LangChain's two tables alone, the collections first.

    Raises:
        UsageError: they are not both to be restored.
    """
    tables = {table.label: table for table in source.tables}
    definitions = {label: table.definition for label, table in tables.items() if table.definition}
    pair = find_pair(definitions) if definitions else Pair(*tables) if len(tables) == 2 else None
    if pair is None:
        raise UsageError(
            "collections are restored from LangChain's two tables, and these are not both in the backup or asked for",
            "Leave out --table.",
        )
    return msgspec.structs.replace(source, tables=(tables[pair.collections], tables[pair.embeddings]))


def collections_here(guard: Guard, pair: Pair, tables: Mapping[str, Table], names: Sequence[str]) -> dict[str, str]:
    """The keys that these collections have in the database, where they are there.

    Raises:
        Refused: two have the same name.
    """
    table = tables[pair.collections]
    with guard.planning(table):
        found = guard.ask_json(sql.list_collections(table.source), "looking for the collections")
    there = {item["name"] for item in found}
    return keys_of(found, [name for name in names if name in there], where="the database")


class CollectionPlanner:
    """Plans the two tables.

    Args:
        tables: the targets by label, locked and judged.
        new: labels of those that this restore has made.
    """

    def __init__(self, job: Job, guard: Guard, scope: Scope, mode: Mode, server: Server) -> None:
        self._guard = guard
        self._scope = scope
        self._mode = mode
        self._server = server
        self._seconds = job.config.timeouts.copy_seconds

    def plans(self, sources: Sequence[SourceTable], tables: Mapping[str, Table], new: set[str]) -> list[Plan]:
        """What happens to each: the collections first.

        Raises:
            Refused: they hold embeddings and may not, or cannot be deleted.
        """
        pair = the_pair(tables)
        keys = collections_here(self._guard, pair, tables, self._scope.names)
        meant = divide(pair, tables, keys.values())
        return [self._plan(source, meant[source.label], pair, source.label in new) for source in sources]

    def _plan(self, source: SourceTable, table: Table, pair: Pair, new: bool) -> Plan:
        rows = self._guard.count(table, timeout=self._seconds)
        how = "skip" if self._mode == "skip-existing" else "merge"
        if source.label == pair.collections:
            return Plan(source, table, rows, how, False, (), new)  # type: ignore[arg-type]
        if self._mode == "error" and rows:
            raise Refused(
                f"{', '.join(self._scope.names)} is not empty: {rows:,} embeddings of {table.name} belong to it",
                "Use --mode replace (what stands there is backed up first), append, or skip-existing.",
            )
        delete = self._mode == "replace" and rows > 0
        if delete:
            preflight.check_deletable([table], self._server)
        whole = self._guard.count(table.rows_where(""), timeout=self._seconds)
        coming = source.rows if self._scope.expected is None else self._scope.expected
        rebuild = rebuilt_indexes(table) if coming > whole else ()
        return Plan(source, table, rows, how, False, rebuild, new, delete)  # type: ignore[arg-type]


def delete_before(job: Job, guard: Guard, plans: Sequence[Plan], safety: VerifiedBackup | None) -> None:
    """Delete the embeddings that are to be replaced.

    Args:
        safety: their backup; None if the user did not want one.

    Raises:
        VecbakError: they are still there.
    """
    for plan in plans:
        if plan.delete and safety:
            delete_rows(job, guard, safety, {plan.source.label: plan.table})
        elif plan.delete:  # the user said --no-safety-backup
            delete_unsaved(job, guard, plan.table, plan.rows_before)


class CollectionFilling(Filling):
    """Loads some collections into living tables, by way of scratch tables.

    Args:
        warn: told what is worth knowing.
    """

    def __init__(
        self,
        job: Job,
        guard: Guard,
        plans: Sequence[Plan],
        here: Callable[[str], str],
        *,
        policies: bool,
        scope: Scope,
        mode: Mode,
        warn: Callable[[str], None],
    ) -> None:
        super().__init__(job, guard, plans, here, policies=policies)
        self._scope = scope
        self._mode = mode
        self._warn = warn
        self._before: dict[str, str] = {}  # keys in the backup, by name
        self._now: dict[str, str] = {}  # and what they are from here on

    def _fill(self, plan: Plan, scratch: str) -> None:
        began = time.monotonic()
        self._job.progress.started(plan.source.label, plan.source.rows)
        step = f"restoring into {plan.table.name}"
        self._guard.change(restore_queries.scratch_table(scratch, plan.table, plan.source.columns), step)
        scratch = f"pg_temp.{scratch}"
        self._load(plan, scratch)
        fill = self._fill_collections if plan is self._plans[0] else self._fill_embeddings
        inserted, there = fill(plan, scratch, step)
        column = sql.KEY if plan is self._plans[0] else sql.REFERENCE
        after = self._guard.count(plan.table.rows_where(sql.any_of(column, self._now.values())), timeout=self._seconds)
        self._job.progress.finished(plan.source.label, inserted, plan.source.size_bytes)
        seconds = round(time.monotonic() - began, 3)
        self.filled[plan.source.label] = Filled(inserted, there, after, seconds)
        log.info("restored into %s: %s rows of %s", plan.table.name, f"{inserted:,}", ", ".join(self._scope.names))

    def _fill_collections(self, plan: Plan, scratch: str, step: str) -> tuple[int, int]:
        found = self._guard.ask_json(sql.list_collections(scratch), step)
        self._before = keys_of(found, self._scope.names, where=f"the backup {self._scope.backup_id}")
        self._guard.change(sql.keep_only(scratch, sql.KEY, self._before.values()), step)
        pair = Pair(*(item.source.label for item in self._plans))
        tables = {item.source.label: item.table.rows_where("") for item in self._plans}
        here = collections_here(self._guard, pair, tables, self._scope.names)
        self._now = {name: here.get(name, key) for name, key in self._before.items()}
        for name, before in self._before.items():
            if self._now[name] != before:
                self._made_anew(name, before)
                self._guard.change(sql.renew(scratch, sql.KEY, before, self._now[name]), step)
        with self._guard.planning(plan.table):
            renamed = self._guard.ask_json(sql.renamed(scratch, plan.table), step)
        if renamed:
            raise Refused(
                f"the collection {renamed[0][0]!r} is named {renamed[0][1]!r} in the database; the target is as it was before",
                "Give it its old name back, or rename that one.",
            )
        if self._mode == "replace":
            changed = "vecbak_changed"
            with self._guard.own_path():
                self._guard.change(sql.keep_changed(scratch, changed, plan.table, plan.source.columns), step)
                self._guard.change(sql.overwrite(f"pg_temp.{changed}", plan.table, plan.source.columns), step)
        inserted = self._insert_missing(plan, scratch, step)
        return inserted, len(self._scope.names) - inserted

    def _made_anew(self, name: str, before: str) -> None:
        text = f"the collection {name!r} was made anew since the backup: its key was {before}, and is {self._now[name]}"
        if self._mode != "replace":
            raise Refused(
                f"{text}; the target is as it was before", "--mode replace gives its old rows to the new one."
            )
        self._warn(f"{text}; its rows were restored under the new one")

    def _fill_embeddings(self, plan: Plan, scratch: str, step: str) -> tuple[int, int]:
        self._guard.change(sql.keep_only(scratch, sql.REFERENCE, self._before.values()), step, timeout=self._seconds)
        for name, before in self._before.items():
            if self._now[name] != before:
                request = sql.renew(scratch, sql.REFERENCE, before, self._now[name])
                self._guard.change(request, step, timeout=self._seconds)
        count = f"SELECT count(*) FROM {scratch};"
        rows = int(self._guard.ask_json(count, step, timeout=self._seconds))
        if self._scope.expected not in {None, rows}:
            raise RestoreFailed(
                f"the backup's files hold {rows:,} embeddings of {', '.join(self._scope.names)}, and its manifest says"
                f" {self._scope.expected:,}; the target is as it was before",
                "Run `vecbak verify` on the backup.",
            )
        target = plan.table.rows_where(sql.any_of(sql.REFERENCE, self._now.values()))
        self._check_keys_elsewhere(target, scratch, step)
        before_in = self._guard.count(target, timeout=self._seconds)
        others = self._others(target, step)
        inserted = self._insert_embeddings(plan, scratch, step)
        after_in = self._guard.count(target, timeout=self._seconds)
        if after_in != before_in + inserted or (self._mode != "skip-existing" and inserted != rows):
            raise RestoreFailed(
                f"{plan.table.name} holds {after_in:,} rows of these collections after {inserted:,} of {rows:,} were inserted"
                f" beside {before_in:,}; the target is as it was before",
                "A trigger or rule on the table may swallow rows. Disable it, then run vecbak again.",
            )
        if self._others(target, step) != others:
            raise RestoreFailed(
                f"rows of other collections in {plan.table.name} were changed; the target is as it was before",
                "A trigger on the table can do this. Disable it, then run vecbak again.",
            )
        return inserted, rows - inserted

    def _others(self, target: Table, step: str) -> Any:
        with self._guard.planning(target):
            return self._guard.ask_json(sql.others(target), step, timeout=self._seconds)

    def _check_keys_elsewhere(self, target: Table, scratch: str, step: str) -> None:
        if not target.primary_key:
            return
        query = sql.elsewhere(scratch, target, self._now.values())
        with self._guard.planning(target):
            found = self._guard.query(query, step, timeout=self._seconds)
        if found["count"]:
            text = f"{found['count']:,} rows of the backup have a key that stands in another collection (the first: {found['key']})"
            if self._mode != "skip-existing":
                raise Refused(
                    f"{text}; the target is as it was before",
                    "Use --mode skip-existing to leave them out, or restore into another schema: --into-schema NAME --create.",
                )
            self._warn(f"{text}; they were left out")

    def _insert_embeddings(self, plan: Plan, scratch: str, step: str) -> int:
        if self._mode == "skip-existing":
            return self._insert_missing(plan, scratch, step)
        return self._insert_all(plan, scratch, step)
