"""`vecbak backup` and `vecbak truncate`: the guarded operation of DESIGN.md section 2, step by step."""

from __future__ import annotations

import contextlib
import logging
import time
from contextlib import AbstractContextManager

from msgspec import UNSET

from vecbak import interrupts
from vecbak.backups import log as backup_log
from vecbak.backups import manifest as manifests
from vecbak.backups.draft import Draft
from vecbak.backups.manifest import TruncateRecord
from vecbak.backups.verified import VerifiedBackup
from vecbak.checkpoints import reach
from vecbak.errors import (
    BackupFailed,
    Contended,
    Interrupted,
    Refused,
    TruncateFailed,
    TruncateUnknown,
    VecbakError,
    reason_of,
    telling,
)
from vecbak.operations import durability, preflight, provable, restorable
from vecbak.operations.around import surround
from vecbak.operations.copying import explain
from vecbak.operations.extent import Extent, Whole
from vecbak.operations.job import Job
from vecbak.operations.locking import begin, looking
from vecbak.operations.saving import Locked, Saving, count_and_find_room, not_pruned
from vecbak.operations.truncate import commit_truncate
from vecbak.operations.write_block import WriteBlock
from vecbak.postgres.catalog import Server, Table
from vecbak.postgres.guard import Guard
from vecbak.postgres.names import TableName
from vecbak.postgres.programs import Installation, pg_dump_installation
from vecbak.results import Result, TableTruncate

log = logging.getLogger(__name__)


WHOLE = Whole()


def back_up(job: Job, *, truncate: bool, prune: bool = False, extent: Extent = WHOLE) -> Result:
    """Back up the tables of the config, prove the files, and only then, if asked, truncate; hooks and metrics around it.

    Args:
        extent: all rows of the tables, or some alone.
        prune: whether to remove older backups of the same folder after success, by the config's retention.

    Raises:
        VecbakError: one of its children by exit code; `result` says how far it came.
        Interrupted: everything was cleaned up.
    """
    return surround(job, lambda: _back_up(job, extent, truncate=truncate), prune=prune)


def _back_up(job: Job, extent: Extent, *, truncate: bool) -> Result:
    run = BackupRun(job, extent, truncate=truncate)
    with telling(run.result):
        run.execute()
    result = run.result()
    log.info(result.describe())
    return result


class BackupRun:
    """One run: what is known so far, and the steps that add to it."""

    def __init__(self, job: Job, extent: Extent, *, truncate: bool) -> None:
        self.job = job
        self.extent = extent
        self.truncate = truncate
        self._began = time.monotonic()
        self._moment = job.clock()
        self._saving: Saving | None = None
        self._server: Server | None = None
        self._truncates: dict[str, TableTruncate] = {}
        self._errors: list[str] = []
        self._committing = False
        self._place = durability.place_of(job)

    def result(self, error: str | None = None) -> Result:
        """What happened so far.

        Args:
            error: what ended the run.
        """
        saving = self._saving
        published = saving.published if saving else None
        return Result(
            backup_performed=published is not None,
            truncate_performed=any(item.success for item in self._truncates.values()),
            backup_id=saving.backup_id if saving and published else None,
            task_id=self.job.task_id,
            database=self._server.database if self._server else None,
            backup_directory=str(self.job.backup_folder),
            manifest=str(published.path) if published else None,
            tables_backed_up=saving.backups if saving else {},
            truncate_results=self._truncates,
            errors=(*(saving.errors if saving else ()), *self._errors, *((error,) if error else ())),
            duration=round(time.monotonic() - self._began, 3),
            durable=self._place.durable,
            server=self._server.named() if self._server else UNSET,
        )

    def execute(self) -> None:
        """All steps, in the order that the guarantee rests on."""
        if not self.job.config.backup.backup_enabled:
            raise Refused(
                "backups are switched off (backup.backup_enabled: false)", "Set backup.backup_enabled to true."
            )
        if self.truncate and not self.job.config.vector_tables.truncate_tables:
            raise Refused(
                "there is no table to truncate", "Name it in vector_tables.truncate_tables, or run `vecbak backup`."
            )
        if self.truncate:
            durability.check(self._place)
        for attempt in range(self.extent.attempts, 0, -1):
            try:
                self._attempt(may_begin_again=attempt > 1)
                return
            except Contended as error:
                if attempt == 1:
                    raise
                log.warning("%s; beginning again", error.message)
                self._moment = self.job.clock()
                self._truncates = {}

    def _attempt(self, *, may_begin_again: bool) -> None:
        guard, installation = self.job.connect()
        write_block = WriteBlock(self.job.runner, self.job.config.timeouts.write_block_seconds)
        try:
            reach("connected")
            with write_block.explaining(), looking():
                locked = self._lock_and_check(guard, installation, write_block)
            with write_block.explaining():
                self._save_and_truncate(locked, may_begin_again=may_begin_again)
        except BaseException as error:
            self.job.runner.stop_all()
            interrupts.check()  # what broke because we are to end is no failure of its own
            if not isinstance(error, OSError):
                raise
            self._refused_by_the_system(error)
        finally:
            guard.close()
            write_block.stop()

    def _refused_by_the_system(self, error: OSError) -> None:
        """Of what no step has made its own, as no descriptor being left: what it means where it came.

        Raises:
            BackupFailed: nothing was truncated.
            TruncateUnknown: COMMIT was on its way.
        """
        what = f"the system refused something that vecbak needs: {explain(error)}"
        if any(item.success for item in self._truncates.values()):
            log.warning(what)
            self._errors.append(what)
            return
        if self._committing:
            raise TruncateUnknown(
                f"{what}, and it is UNKNOWN whether the tables were truncated; the backup is kept and complete",
                "Count the rows: every row is in the backup or still in the table.",
            ) from None
        raise BackupFailed(f"{what}; nothing was truncated", "Mend that, then run vecbak again.") from None

    # steps 1 to 4: lock, then look

    def _lock_and_check(self, guard: Guard, installation: Installation, write_block: WriteBlock) -> Locked:
        config, extent = self.job.config, self.extent
        tables = config.vector_tables
        names, labels = tables.supported(), tables.labels()
        emptied = set(tables.truncated()) if self.truncate else set()
        begin(guard, config.timeouts, writes=bool(emptied), isolation=extent.isolation)
        writers_wait = bool(emptied) and extent.writers_wait
        if writers_wait:
            write_block.begin()
        for name in sorted(names, key=TableName.lock_order):
            mode = extent.lock if name in emptied else "ACCESS SHARE"
            guard.lock(name, mode, timeout=config.timeouts.lock_seconds)
        reach("locked")
        oids = guard.resolve(names)
        guard.claim(oids)
        facts = guard.facts(oids)
        found = {labels[name]: table for name, table in zip(names, facts.tables, strict=True)}
        preflight.check_readable(facts)
        chosen = extent.choose(guard, found, {labels[name] for name in emptied})
        for warning in extent.check(facts, chosen, config):
            log.warning(warning)
        if chosen.emptied:
            seconds = config.timeouts.copy_seconds
            chosen = restorable.counted(guard, chosen, seconds=seconds)
            for warning in restorable.check_restorable(chosen, facts.server, divided=extent.scope is not None):
                log.warning(warning)
        if chosen.emptied and provable.wanted(config):
            provable.check_provable(chosen.tables.values())
        dump = pg_dump_installation(self.job.installations, guard.server_major)
        counts = count_and_find_room(self.job, guard, dump, chosen.tables)
        reach("checked")
        return Locked(
            guard,
            installation,
            dump,
            facts,
            chosen.tables,
            counts,
            emptied=chosen.emptied,
            scope=extent.scope,
            write_block=write_block if writers_wait else None,
        )

    # steps 5 to 8: copy, prove, publish

    def _save_and_truncate(self, locked: Locked, *, may_begin_again: bool) -> None:
        self._server = locked.facts.server
        log.info("server: %s; database %s", self._server.name, self._server.database)
        self._saving = saving = Saving(self.job, locked, began=self._began, moment=self._moment)
        with saving.draft() as draft, contextlib.ExitStack() as kept:
            verified = saving.save(draft)
            kept.enter_context(not_pruned(draft, verified))
            tables = {label: table for label, table in locked.tables.items() if label in locked.emptied}
            if tables and provable.wanted(self.job.config):
                verified = self._prove(locked, saving, draft, verified)
            saving.write_log(saving.section() + ("" if self.truncate else self._truncate_section(locked)))
            reach("logged")
            if self.truncate:
                try:
                    self._truncate(locked, draft, verified, tables)
                except Contended:
                    if may_begin_again:
                        saving.withdraw(draft)  # the next attempt makes another one, of the rows as they are then
                    raise

    def _explaining(self, locked: Locked, kind: type[VecbakError] = BackupFailed) -> AbstractContextManager[None]:
        return locked.write_block.explaining(kind) if locked.write_block else contextlib.nullcontext()

    def _check_time(self, locked: Locked) -> None:
        if locked.write_block:
            locked.write_block.check()

    def _prove(self, locked: Locked, saving: Saving, draft: Draft, verified: VerifiedBackup) -> VerifiedBackup:
        from vecbak.operations.prove import prove  # as much to import as the rest of a backup, and rarely wanted

        try:
            with self._explaining(locked):
                proof = prove(self.job, verified.manifest, draft.folder)
                self._check_time(locked)
            return verified.amended(draft.amend(lambda now: manifests.with_proof(now, proof)))
        except OSError as error:
            failure = BackupFailed(f"the proof could not be recorded: {explain(error)}", "Check the disk.")
            saving.discard(draft, failure)
            raise failure from None
        except BaseException as error:
            saving.discard(draft, error)
            raise

    # steps 9 and 10: truncate, report

    def _truncate(self, locked: Locked, draft: Draft, verified: VerifiedBackup, tables: dict[str, Table]) -> None:
        began = time.monotonic()
        try:
            with self._explaining(locked, TruncateFailed):
                truncated = self.extent.empty(self.job, locked.guard, verified, tables)
                if locked.write_block:
                    locked.write_block.end()
            interrupts.hold()  # half a COMMIT cannot be reported, and half a record is none
            self._committing = True
            commit_truncate(self.job, locked.guard, locked.installation, truncated, tables, locked.counts)
            reach("committed")
        except (VecbakError, Interrupted) as error:
            self._truncate_failed(locked, draft, error)
            raise
        seconds = round(time.monotonic() - began, 3)
        self._truncates = {
            label: TableTruncate(
                success=True,
                rows_before=locked.counts[label],
                rows_after=truncated.rows_left[table.oid],
                duration=seconds,
            )
            for label, table in tables.items()
        }
        log.info("truncated %s", ", ".join(tables))
        self._record_truncate(locked, draft)

    def _truncate_failed(self, locked: Locked, draft: Draft, error: VecbakError | Interrupted) -> None:
        unknown = isinstance(error, TruncateUnknown)
        there = error.rows_after if isinstance(error, TruncateFailed) else {}
        self._truncates = {
            label: TableTruncate(
                success=False,
                rows_before=locked.counts[label],
                rows_after=None if unknown else there.get(locked.tables[label].oid, locked.counts[label]),
                duration=0,
                error=reason_of(error),
            )
            for label in locked.tables
            if label in locked.emptied
        }
        if isinstance(error, BackupFailed) and self._saving:
            self._saving.withdraw(draft)  # files were harmed: no backup any more, and every row is still there
        with contextlib.suppress(OSError):
            backup_log.append(draft.folder, self._truncate_section(locked, errors=[reason_of(error)]))

    def _record_truncate(self, locked: Locked, draft: Draft) -> None:
        removed = {label: item.rows_before for label, item in self._truncates.items()}
        record = TruncateRecord(completed_at=self.job.clock(), rows_removed=removed)
        try:
            backup_log.append(draft.folder, self._truncate_section(locked))
            draft.amend(lambda now: manifests.with_truncate(now, record))
        except OSError as error:
            # the rows are safe and the tables empty: only the record of it is missing
            message = f"truncated, but it could not be recorded in the log or manifest: {explain(error)}"
            log.warning(message)
            self._errors.append(message)

    def _truncate_section(self, locked: Locked, errors: list[str] | None = None) -> str:
        return backup_log.truncate_section(
            tables=list(locked.tables), truncated=self._truncates, asked=bool(self._truncates), errors=errors or []
        )
