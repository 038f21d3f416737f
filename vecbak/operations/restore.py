"""`vecbak restore`: the guarded operation the other way round, in one transaction: restored, or as before (DESIGN.md 7)."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
from msgspec import UNSET

from vecbak import interrupts
from vecbak.backups import log as backup_log
from vecbak.backups.files import FileDamaged
from vecbak.backups.manifest import Manifest
from vecbak.backups.verified import VerifiedBackup
from vecbak.checkpoints import reach
from vecbak.errors import (
    BackupDamaged,
    BackupFailed,
    Refused,
    RestoreFailed,
    RestoreUnknown,
    TruncateFailed,
    reason_of,
    telling,
)
from vecbak.operations import durability, preflight, targets
from vecbak.operations.closing import ClosedToOthers
from vecbak.operations.collection_restore import (
    CollectionFilling,
    CollectionPlanner,
    delete_before,
    only_the_pair,
    scope_of,
)
from vecbak.operations.committing import commit
from vecbak.operations.copying import explain
from vecbak.operations.creating import Creation, check_roles, what_is_not_made
from vecbak.operations.filling import Filling
from vecbak.operations.job import Job
from vecbak.operations.lifting import check_lifted, lifted
from vecbak.operations.locking import begin, looking
from vecbak.operations.saving import Locked, Saving, count_and_find_room, not_pruned, open_log
from vecbak.operations.sequences import check_movable
from vecbak.operations.targets import Mode, Plan, Source
from vecbak.operations.truncate import empty_tables
from vecbak.operations.write_block import WriteBlock
from vecbak.postgres import restore_queries
from vecbak.postgres.catalog import Server, Table
from vecbak.postgres.commit_mark import Before, CommitMark, mark_before, mark_commit, sample_rows
from vecbak.postgres.definitions import relocate
from vecbak.postgres.guard import Guard
from vecbak.postgres.names import TableName, quote_identifier
from vecbak.postgres.programs import Installation, pg_dump_installation
from vecbak.postgres.session import SessionFailed
from vecbak.results import RestoreResult, TableRestore, TableTruncate

log = logging.getLogger(__name__)

_HINTS = {
    "23505": "Rows with the same key are there already: use --mode skip-existing, or --mode replace.",
    "23503": "A row points at one that is missing: restore the table that it points at too.",
    "23514": "The table has a constraint that the rows do not meet: restore into another schema (--into-schema NAME --create).",
    "53100": "The server's disk is full. Make room there, then run vecbak again.",
    "42501": "The role lacks a privilege: let the tables' owner restore them, or grant it.",
    "22P02": "The file does not fit the column's type.",
}


class RestoreOptions(msgspec.Struct, frozen=True):
    """How to restore.

    Attributes:
        mode: what to do with rows that are there already.
        create: make schemas and tables that are missing.
        safety_backup: whether `replace` backs up what it removes.
        collections: only these of LangChain's, by name; empty for all that the backup holds.
        migrate: bring an older LangChain's rows into the form of today's.
        policies: make the policies of tables that `create` makes; row-level security is switched on in any case.
    """

    mode: Mode = "error"
    create: bool = False
    safety_backup: bool = True
    collections: tuple[str, ...] = ()
    migrate: bool = False
    policies: bool = True


def restore(job: Job, source: Source, manifest: Manifest | None, options: RestoreOptions) -> RestoreResult:
    """Restore tables in one transaction.

    Args:
        source: verified files and where they go.
        manifest: of the backup, if it has one.

    Raises:
        VecbakError: one of its children by exit code; the target is as before, and `result` says how far it came.
        Interrupted: the target is as before.
    """
    run = RestoreRun(job, source, manifest, options)
    with telling(run.result):
        run.execute()
    return run.result()


class RestoreRun:
    """One restore: what is known so far, and the steps that add to it."""

    def __init__(self, job: Job, source: Source, manifest: Manifest | None, options: RestoreOptions) -> None:
        self.job = job
        self.options = options
        self._scope = scope_of(source, manifest, options.collections)
        chosen = only_the_pair(source) if self._scope else source
        self.source = targets.migrated(chosen) if options.migrate else chosen
        self._manifest = manifest
        self._began = time.monotonic()
        self._moment = job.clock()
        self._done = False
        self._unknown = False
        self._server: Server | None = None
        self._plans: list[Plan] = []
        self._filling: Filling | None = None
        self._made: ClosedToOthers | None = None
        self._safety: Saving | None = None
        self._warnings: list[str] = []
        self._before: Before | None = None
        self._kept = contextlib.ExitStack()

    def result(self, error: str | None = None) -> RestoreResult:
        """What happened so far.

        Args:
            error: what ended the run.
        """
        safety = self._safety if self._safety and self._safety.published else None
        return RestoreResult(
            restore_performed=self._done,
            backup_id=self.source.backup_id,
            manifest=self.source.manifest,
            mode=self.options.mode,
            task_id=self.job.task_id,
            database=self._server.database if self._server else None,
            tables_restored={plan.source.label: self._table_result(plan, error) for plan in self._plans},
            safety_backup=safety.backup_id if safety else None,
            safety_manifest=str(safety.published.path) if safety and safety.published else None,
            indexes_rebuilt=tuple(self._filling.rebuilt) if self._filling and self._done else (),
            skipped_bad_rows=self.source.skipped_rows,
            warnings=tuple(self._warnings),
            migrated=self._filling.migrated if self._filling and self._done and self.options.migrate else UNSET,
            errors=(error,) if error else (),
            duration=round(time.monotonic() - self._began, 3),
            server=self._server.named() if self._server else UNSET,
        )

    def _table_result(self, plan: Plan, error: str | None) -> TableRestore:
        if not self._done or self._filling is None:
            return TableRestore(
                success=False,
                target=str(TableName(plan.table.schema, plan.table.name)),
                rows_before=plan.rows_before,
                rows_after=None if self._unknown else plan.rows_before,
                error=error or "",
            )
        filled = self._filling.filled[plan.source.label]
        return TableRestore(
            success=True,
            target=str(TableName(plan.table.schema, plan.table.name)),
            rows_before=plan.rows_before,
            rows_after=filled.rows_after,
            row_count=filled.inserted,
            rows_skipped=filled.skipped,
            duration=filled.duration,
        )

    def execute(self) -> None:
        """All steps; nothing is visible to others before the last one."""
        guard, installation = self.job.connect(oldest_psql=18 if self.source.needs_psql_18 else None)
        write_block = WriteBlock(self.job.runner, self.job.config.timeouts.write_block_seconds)
        try:
            reach("restore connected")
            with write_block.explaining(RestoreFailed):
                write_block.begin()
                with looking():
                    self._prepare(guard)
                    reach("restore locked")
                open_log(self.job)
                safety = self._back_up_what_is_there(guard, installation, write_block)
                self._lock_out_readers(guard)
                write_block.end()
            try:
                self._fill(guard, safety)
            except SessionFailed as error:
                raise self._failed(error) from None
            except (FileDamaged, OSError) as error:
                raise BackupDamaged(
                    f"a file was damaged or changed while it was loaded: {explain(error)}; the target is as it was before",
                    "Run `vecbak verify` on the backup.",
                ) from None
            self._commit(guard, installation)
        except BaseException as error:
            self.job.runner.stop_all()
            self._record(error)
            interrupts.check()  # what broke because we are to end is no failure of its own
            if isinstance(error, OSError) and not self._done:
                raise RestoreFailed(
                    f"the system refused something that vecbak needs: {explain(error)}; nothing was restored",
                    "Mend that, then run vecbak again.",
                ) from None
            raise
        finally:
            guard.close()
            write_block.stop()
            self._kept.close()
        self._record(None)

    # lock, then look

    def _prepare(self, guard: Guard) -> None:
        timeouts = self.job.config.timeouts
        names = [table.target for table in self.source.tables]
        begin(guard, timeouts, writes=True, recorded=self._manifest.settings if self._manifest else {})
        self._server = server = guard.facts([]).server
        log.info("server: %s; database %s", server.name, server.database)
        self._check_extension(server)
        self._compare_path(guard)
        found = dict(zip(names, guard.find(names), strict=True))
        missing = [name for name, oid in found.items() if oid is None]
        if missing and not self.options.create:
            raise Refused(
                f"the table {missing[0]} does not exist",
                "Use --create to make it as it was, or check the database, --into-schema and vector_tables.",
            )
        for name, oid in sorted(found.items(), key=lambda item: item[0].lock_order()):
            if oid is None:
                continue
            mode = guard.ask_json(restore_queries.strongest_lock(oid), f"looking for the privileges on {name}")
            guard.lock(name, mode, timeout=timeouts.lock_seconds)
        self._made = ClosedToOthers(guard)
        self._create(guard, server, missing, self._made)
        oids = guard.resolve(names)
        guard.claim(oids)
        made = [oid for name, oid in zip(names, oids, strict=True) if name in missing]
        self._before = mark_before(guard.ask_json, oids, "looking at the tables", made=made)
        facts = guard.facts(oids)
        for problem in preflight.overlap_problems(facts.tables):
            raise problem
        pairs = list(zip(self.source.tables, facts.tables, strict=True))
        for warning in self._made.close([pair for pair in pairs if pair[0].target in missing]):
            self._warn(warning)
        for table, target in pairs:
            targets.check_target(target, server.user)
            targets.check_columns(table, target, self._type_here)
            targets.check_types(table, target, self._type_here)
        there = {table.label: target for table, target in pairs}
        new = {table.label for table in self.source.tables if table.target in missing}
        if self._scope:
            planner = CollectionPlanner(self.job, guard, self._scope, self.options.mode, server)
            self._plans = planner.plans(self.source.tables, there, new)
        else:
            self._plans = targets.in_load_order(self._plan_tables(guard, there, new))
        self._judge_plans(server)

    def _plan_tables(self, guard: Guard, there: Mapping[str, Table], new: set[str]) -> list[Plan]:
        seconds = self.job.config.timeouts.copy_seconds
        plans = []
        for table in self.source.tables:
            target, is_new = there[table.label], table.label in new
            rows = 0 if is_new else guard.count(target, timeout=seconds)
            kept = targets.is_kept(table, self.job.config.vector_tables)
            plans.append(targets.make_plan(table, target, rows, mode=self.options.mode, kept=kept, new=is_new))
        return plans

    def _judge_plans(self, server: Server) -> None:
        emptied = preflight.emptied_together(plan.table for plan in self._plans if plan.empty)
        if not server.temporary:
            self._check_no_scratch(server)
        for plan in self._plans:
            check_movable(plan, server.user)
            check_lifted(plan, server)
            if plan.empty:
                preflight.check_truncatable(plan.table, emptied, server.user, self.job.config.allow_replicated_truncate)
            for warning in [*targets.warn_of_new_columns(plan.source, plan.table), *targets.live_indexes(plan)]:
                self._warn(warning)

    def _check_no_scratch(self, server: Server) -> None:
        """Whole tables need no table beside them; what else there is to restore does."""
        handwritten = any(plan.how != "load" and plan.source.definition is None for plan in self._plans)
        if self._scope or handwritten or any(plan.source.migration for plan in self._plans):
            raise Refused(
                f"the role {server.user} may not make temporary tables, by way of which these rows are restored",
                f"Let the owner of the database run: GRANT TEMPORARY ON DATABASE {quote_identifier(server.database)} TO"
                f" {quote_identifier(server.user)}",
            )

    def _warn(self, text: str) -> None:
        log.warning(text)
        self._warnings.append(text)

    def _check_extension(self, server: Server) -> None:
        before = self._manifest.server.extensions if self._manifest else {}
        if "vector" in before and "vector" not in server.extensions:
            raise RestoreFailed(
                f"the extension pgvector is not installed in the database {server.database}",
                "Let a superuser run CREATE EXTENSION vector there (after installing pgvector on the server).",
            )

    def _compare_path(self, guard: Guard) -> None:
        before, now = self._manifest.search_path if self._manifest else None, guard.own["search_path"]
        if before is not None and before != now:
            self._warn(
                f"the role's search_path was {before!r} when the backup was made, and is {now!r}: functions of generated"
                " columns, checks and indexes may find others than they did"
            )

    def _create(self, guard: Guard, server: Server, missing: Sequence[TableName], made: ClosedToOthers) -> None:
        tables = [table for table in self.source.tables if table.target in missing]
        if self.options.policies:
            check_roles(guard, tables)
        Creation(guard, self._type_here, server.tablespaces, made).create_missing(tables)
        for table in tables:
            for warning in what_is_not_made(table, server.user, policies=self.options.policies):
                self._warn(warning)

    def _type_here(self, text: str) -> str:
        if self._manifest is None or self._server is None:
            return text
        return relocate(text, self._manifest.server, self._server)

    # back up, then fill

    def _back_up_what_is_there(
        self, guard: Guard, installation: Installation, write_block: WriteBlock
    ) -> VerifiedBackup | None:
        removing = [plan for plan in self._plans if plan.removes]
        if not self.options.safety_backup or not any(plan.rows_before for plan in removing):
            return None
        place = durability.place_of(self.job)
        durability.check(place)
        if place.warning:
            self._warnings.append(place.warning)
        # with embeddings go their collections, which `replace` may change too
        saved = self._plans if self._scope else removing
        tables = {plan.source.label: plan.table for plan in saved}
        with looking():
            facts = guard.facts([table.oid for table in tables.values()])
            dump = pg_dump_installation(self.job.installations, guard.server_major)
            counts = count_and_find_room(self.job, guard, dump, tables)
        emptied = frozenset(plan.source.label for plan in removing)
        scope: Literal["collections"] | None = "collections" if self._scope else None
        locked = Locked(guard, installation, dump, facts, tables, counts, emptied, scope, write_block)
        self._safety = saving = Saving(self.job, locked, began=time.monotonic(), moment=self._moment)
        with saving.draft() as draft:
            verified = saving.save(draft)
            saving.write_log(saving.section())
            self._kept.enter_context(not_pruned(draft, verified))
        return verified

    def _lock_out_readers(self, guard: Guard) -> None:
        seconds = self.job.config.timeouts.truncate_seconds
        held = [plan for plan in self._plans if plan.empty or plan.rebuild or lifted(plan)]
        pointed_at = {demand.references for plan in self._plans for demand in lifted(plan)}
        exclusive = [
            plan.table for plan in self._plans if not plan.new and (plan in held or plan.table.relations & pointed_at)
        ]
        if exclusive:
            log.info("from here on readers of %s wait until the end", ", ".join(table.name for table in exclusive))
            try:
                guard.lock_exclusively(
                    exclusive, seconds=seconds, on_wait=lambda: log.info("waiting for readers to end")
                )
            except SessionFailed as error:
                raise self._failed(error) from None
        reach("saved")

    def _fill(self, guard: Guard, safety: VerifiedBackup | None) -> None:
        seconds = self.job.config.timeouts.truncate_seconds
        emptied = {plan.source.label: plan.table for plan in self._plans if plan.empty}
        if any(plan.rows_before for plan in self._plans if plan.removes):
            try:
                if self._scope:
                    delete_before(self.job, guard, self._plans, safety)
                elif safety:
                    empty_tables(self.job, guard, safety, emptied)
                else:  # the user said --no-safety-backup
                    guard.truncate(list(emptied.values()), seconds=seconds)
            except TruncateFailed as error:
                raise RestoreFailed(
                    f"the tables could not be emptied: {error.message}", error.hint, output=error.output
                ) from None
        reach("emptied")
        self._filling = self._make_filling(guard)
        self._filling.run()
        for warning in self._filling.advances.warnings:
            self._warn(warning)
        if self._made:
            self._made.check()
        self.source.check_untouched()
        if safety:
            _check_untouched(safety)

    def _make_filling(self, guard: Guard) -> Filling:
        if self._scope is None:
            return Filling(self.job, guard, self._plans, self._type_here, policies=self.options.policies)
        return CollectionFilling(
            self.job,
            guard,
            self._plans,
            self._type_here,
            policies=self.options.policies,
            scope=self._scope,
            mode=self.options.mode,
            warn=self._warn,
        )

    def _commit(self, guard: Guard, installation: Installation) -> None:
        try:
            mark = self._mark(guard)
        except SessionFailed as error:
            raise self._failed(error) from None
        reach("built")
        interrupts.hold()  # half a COMMIT cannot be reported
        end = commit(self.job, guard, installation, mark)
        reach("restored")
        about = f" ({end.server})" if end.server else ""
        if end.outcome == "unknown":
            self._unknown = True
            raise RestoreUnknown(
                f"the connection was lost during COMMIT, and it is UNKNOWN whether the rows were restored{about}",
                f"When the server answers again, count the rows: {self._counts()}. The backup is untouched.",
                output=end.output,
            )
        if end.outcome == "aborted":
            raise RestoreFailed(
                f"COMMIT failed, and the server rolled it back{about}; the target is as it was before",
                "See the message above, then run vecbak again.",
                output=end.output,
            )
        self._done = True
        log.info("restored backup %s: %s", self.source.backup_id, ", ".join(plan.table.name for plan in self._plans))

    def _mark(self, guard: Guard) -> CommitMark:
        """What tells later whether this was committed: new files where tables were emptied or made, else some new rows."""
        assert self._before is not None  # noqa: S101 - `_prepare` comes before COMMIT
        assert self._filling is not None  # noqa: S101 - and so does `_fill`
        step, ask = "looking at the tables before COMMIT", guard.ask_json
        mark = mark_commit(ask, self._before, step)
        if mark.replaced:
            return mark
        filled = self._filling.filled
        added = [
            sample
            for plan in self._plans
            if filled[plan.source.label].inserted
            for sample in sample_rows(ask, plan.table.rows_where(""), step, ours=True)
        ]
        return msgspec.structs.replace(mark, added=tuple(added))

    def _counts(self) -> str:
        """What a person can ask the server, when vecbak could not."""
        filled = self._filling.filled if self._filling else {}
        return "; ".join(
            f"SELECT count(*) FROM {plan.table.source}{plan.table.where}"
            f" ({filled[plan.source.label].rows_after:,}: restored; {plan.rows_before:,}: as before)"
            for plan in self._plans
            if plan.source.label in filled
        )

    def _failed(self, error: SessionFailed) -> RestoreFailed:
        return RestoreFailed(
            f"the restore failed: {error.message}; the target is as it was before",
            _HINTS.get(error.sqlstate, "See the message above and the server's log."),
            output=error.output,
        )

    def _record(self, error: BaseException | None) -> None:
        """The safety backup's entry in the log says what became of the rows that it saved."""
        if self._safety is None or not self._safety.published:
            return
        emptied = {plan.source.label: plan for plan in self._plans if plan.removes}
        truncated = {
            label: TableTruncate(success=True, rows_before=plan.rows_before, rows_after=0, duration=0)
            for label, plan in emptied.items()
        }
        errors = [] if error is None else [reason_of(error)]
        text = backup_log.truncate_section(
            tables=list(emptied), truncated=truncated if self._done else {}, asked=self._done, errors=errors
        )
        try:
            backup_log.append(self.job.backup_folder, text)
        except OSError as problem:
            log.warning("the log of the safety backup could not be written: %s", explain(problem))


def _check_untouched(safety: VerifiedBackup) -> None:
    # loading can take hours, and until COMMIT its rows are in the table too
    try:
        safety.check_untouched()
    except FileDamaged as error:
        raise BackupFailed(
            f"the safety backup was changed while the rows were loaded: {error}; the target is as it was before",
            "Find out what touches the backup folder, then run vecbak again.",
        ) from None
