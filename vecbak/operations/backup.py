"""`vecbak backup` and `vecbak truncate`: the guarded operation of DESIGN.md section 2, step by step."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from datetime import datetime

from vecbak import __version__, interrupts
from vecbak.backups import log as backup_log
from vecbak.backups import manifest as manifests
from vecbak.backups.files import (
    Draft,
    FileDamaged,
    FinishedFile,
    make_folder,
    remove_leftovers,
    start_draft,
)
from vecbak.backups.manifest import Manifest, Programs, SchemaFile, TruncateRecord
from vecbak.backups.verified import VerifiedBackup
from vecbak.errors import BackupFailed, Busy, ConnectionFailed, Interrupted, Refused, TruncateUnknown, VecbakError
from vecbak.operations import preflight
from vecbak.operations.around import surround
from vecbak.operations.copying import explain
from vecbak.operations.job import Job
from vecbak.operations.outcome import TableOutcome
from vecbak.operations.transfer import Transfer
from vecbak.operations.truncate import commit_truncate, empty_tables
from vecbak.postgres.catalog import Facts, Table
from vecbak.postgres.guard import Guard
from vecbak.postgres.names import TableName
from vecbak.postgres.programs import Installation, pg_dump_installation
from vecbak.postgres.session import SessionFailed
from vecbak.results import Result, TableBackup, TableTruncate

log = logging.getLogger(__name__)


def back_up(job: Job, *, truncate: bool, prune: bool = False) -> Result:
    """Back up the tables of the config, prove the files, and only then, if asked, truncate; hooks and metrics around it.

    Args:
        prune: whether to remove older backups of the same folder after success, by the config's retention.

    Raises:
        VecbakError: one of its children by exit code; `result` says how far it came.
        Interrupted: everything was cleaned up.
    """
    return surround(job, lambda: _back_up(job, truncate=truncate), prune=prune)


def _back_up(job: Job, *, truncate: bool) -> Result:
    run = BackupRun(job, truncate=truncate)
    try:
        run.execute()
    except VecbakError as error:
        run.errors.append(error.message)
        error.result = run.result()
        raise
    except Interrupted as interrupt:
        run.errors.append(f"interrupted by {interrupt}")
        interrupt.result = run.result()
        raise
    return run.result()


class BackupRun:
    """One run: what is known so far, and the steps that add to it."""

    def __init__(self, job: Job, *, truncate: bool) -> None:
        self.job = job
        self.truncate = truncate
        self.errors: list[str] = []
        self._began = time.monotonic()
        self._moment = job.clock()
        self._guard: Guard
        self._installation: Installation
        self._dump_installation: Installation
        self._tables: dict[str, Table] = {}
        self._facts: Facts
        self._counts: dict[str, int] = {}
        self._locked_at = 0.0
        self._manifest: FinishedFile | None = None
        self._backup_id: str | None = None
        self._backups: dict[str, TableBackup] = {}
        self._truncates: dict[str, TableTruncate] = {}

    @property
    def _to_truncate(self) -> dict[str, Table]:
        if not self.truncate:
            return {}
        labels = self.job.config.vector_tables.labels()
        emptied = {labels[name] for name in self.job.config.vector_tables.truncated()}
        return {label: table for label, table in self._tables.items() if label in emptied}

    def result(self) -> Result:
        """What happened so far."""
        return Result(
            backup_performed=self._manifest is not None,
            truncate_performed=any(item.success for item in self._truncates.values()),
            backup_id=self._backup_id if self._manifest else None,
            task_id=self.job.task_id,
            database=self._facts.server.database if self._tables else None,
            backup_directory=str(self.job.backup_folder),
            manifest=str(self._manifest.path) if self._manifest else None,
            tables_backed_up=self._backups,
            truncate_results=self._truncates,
            errors=tuple(self.errors),
            duration=round(time.monotonic() - self._began, 3),
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
        self._guard, self._installation = self.job.connect()
        try:
            self._look()
            with self._draft() as draft:
                self._write(draft)
        except BaseException:
            self.job.runner.stop_all()
            raise
        finally:
            self._guard.close()

    # steps 1 to 4: lock, then look

    def _look(self) -> None:
        try:
            self._lock()
            self._check()
        except SessionFailed as error:
            ended_by_the_server = not error.sqlstate or error.sqlstate.startswith("57P")
            kind = ConnectionFailed if ended_by_the_server else Refused
            raise kind(f"{error.message}; nothing was done", "See the message above.", output=error.output) from None

    def _lock(self) -> None:
        seconds = self.job.config.timeouts.lock_seconds
        tables = self.job.config.vector_tables
        emptied = set(tables.truncated()) if self.truncate else set()
        self._begin(writes=bool(emptied))
        for name in sorted(tables.supported(), key=TableName.lock_order):
            self._guard.lock(name, "SHARE ROW EXCLUSIVE" if name in emptied else "ACCESS SHARE", timeout=seconds)
        self._locked_at = time.monotonic()

    def _begin(self, *, writes: bool) -> None:
        try:
            self._guard.begin(writes=writes, lock_seconds=self.job.config.timeouts.lock_seconds)
        except SessionFailed as error:
            if error.sqlstate == "0A000" and writes:
                raise Refused(
                    "the server is a standby, which cannot truncate",
                    "Connect to the primary, or run `vecbak backup` without --truncate.",
                    output=error.output,
                ) from None
            raise Refused(
                "a transaction could not be opened",
                "A pooler in statement mode does not allow transactions: connect to the server itself.",
                output=error.output,
            ) from None

    def _check(self) -> None:
        names: tuple[TableName, ...] = self.job.config.vector_tables.supported()
        oids = self._guard.resolve(names)
        self._guard.claim(oids)
        self._facts = self._guard.facts(oids)
        labels = self.job.config.vector_tables.labels()
        self._tables = {labels[name]: table for name, table in zip(names, self._facts.tables, strict=True)}
        warnings = preflight.check_tables(
            self._facts,
            list(self._to_truncate.values()),
            allow_replicated_truncate=self.job.config.allow_replicated_truncate,
        )
        for warning in warnings:
            log.warning(warning)
        self._dump_installation = pg_dump_installation(self.job.installations, self._guard.server_major)
        preflight.check_format(self.job, self._facts.tables, self._dump_installation)
        preflight.check_folder(self.job.backup_folder)
        seconds = self.job.config.timeouts.copy_seconds
        self._counts = {label: self._guard.count(table, timeout=seconds) for label, table in self._tables.items()}
        binary = self.job.config.backup.format == "binary"
        widths = {
            label: self._guard.row_bytes(table, self._counts[label], binary=binary, timeout=seconds)
            for label, table in self._tables.items()
        }
        estimates = {
            label: preflight.estimate_bytes(self.job.config.backup, self._counts[label], width)
            for label, width in widths.items()
        }
        preflight.check_space(self.job.backup_folder, self.job.config.backup, estimates, self._facts.tables)

    # steps 5 to 8: copy, prove, publish

    @contextlib.contextmanager
    def _draft(self) -> Iterator[Draft]:
        backup = self.job.config.backup
        folder = self.job.backup_folder
        try:
            make_folder(folder)
            for name in remove_leftovers(folder, backup.backup_temp_suffix):
                log.info("removed %s, left by a run that was killed", name)
            draft = start_draft(folder, self._moment.astimezone(), backup.timestamp_format, backup.backup_temp_suffix)
        except OSError as error:
            raise Refused(
                f"the backup folder {folder} cannot be written: {error.strerror}",
                "Check its permissions, or choose another --output-dir.",
            ) from None
        try:
            self._open_log()
            log.info("vecbak %s: backup %s of task %s", __version__, draft.backup_id, self.job.task_id)
            yield draft
        finally:
            draft.close()

    def _open_log(self) -> None:
        try:
            self.job.folder_ready(self.job.output_dir)
        except OSError as error:
            raise Refused(
                f"{self.job.output_dir / self.job.config.log_file} cannot be written: {error.strerror}",
                "Remove what stands in its place, or set log_file.",
            ) from None

    def _write(self, draft: Draft) -> None:
        self._backup_id = draft.backup_id
        try:
            verified = self._publish(draft, *self._transfer(draft))
        except SessionFailed as error:
            failure = BackupFailed(
                f"the backup failed: {error.message}",
                "Nothing was truncated. See the server's log.",
                output=error.output,
            )
            self._discard(draft, failure)
            raise failure from None
        except BaseException as error:
            self._discard(draft, error)
            raise
        log.info("backup %s is complete and verified", draft.backup_id)
        self._write_log(self._backup_section() + ("" if self.truncate else self._truncate_section()))
        if self.truncate:
            self._truncate(draft, verified)

    def _transfer(self, draft: Draft) -> tuple[list[TableOutcome], FinishedFile]:
        transfer = Transfer(
            self.job, self._guard, self._installation, self._dump_installation, draft, self._tables, self._counts
        )
        return transfer.run(self._check_write_block)

    def _check_write_block(self) -> None:
        limit = self.job.config.timeouts.write_block_seconds
        if self._to_truncate and time.monotonic() - self._locked_at > limit:
            raise BackupFailed(
                f"writers have been waiting for {limit:g} s; the backup was given up, and nothing was truncated",
                "Raise timeouts.write_block_seconds, or back up more tables at once with backup.jobs.",
            )

    def _publish(self, draft: Draft, outcomes: list[TableOutcome], schema: FinishedFile) -> VerifiedBackup:
        self._check_copies(outcomes)
        try:
            published = draft.publish(manifests.encode(self._make_manifest(draft, outcomes, schema)))
            files = {item.label: item.finished for item in outcomes}
            verified = VerifiedBackup.verify(published, {**files, "": (schema,)}, self._counts_now())
        except (FileDamaged, OSError) as error:
            raise BackupFailed(
                f"the backup could not be completed: {explain(error)}",
                "Nothing was truncated. Check the disk, then run vecbak again.",
            ) from None
        self._check_write_block()
        self._manifest = published
        self._backups = {item.label: item.to_result() for item in outcomes}
        return verified

    def _check_copies(self, outcomes: list[TableOutcome]) -> None:
        failed = [item for item in outcomes if item.error]
        self._backups = {item.label: item.to_result(kept=not failed) for item in outcomes}
        if failed:
            self.errors += [f"{item.label}: {item.error}" for item in failed[1:]]
            raise BackupFailed(
                f"the backup of {', '.join(item.label for item in failed)} failed: {failed[0].error}",
                "Nothing was truncated, and no file was kept. Mend the cause, then run vecbak again.",
            )

    def _counts_now(self) -> dict[str, int]:
        seconds = self.job.config.timeouts.copy_seconds
        return {label: self._guard.count(table, timeout=seconds) for label, table in self._to_truncate.items()}

    def _make_manifest(self, draft: Draft, outcomes: list[TableOutcome], schema: FinishedFile) -> Manifest:
        parameters = self.job.endpoint.parameters
        return Manifest(
            format_version=manifests.FORMAT_VERSION,
            backup_id=draft.backup_id,
            task_id=self.job.task_id,
            created_at=self._moment,
            database=self._facts.server.database,
            host=parameters.get("host"),
            port=parameters.get("port"),
            format=self.job.config.backup.format,
            compression=self.job.config.backup.compression,
            server=self._facts.server,
            programs=Programs(vecbak=__version__, psql=self._installation.major, pg_dump=self._dump_installation.major),
            settings=self._guard.settings,
            duration=round(time.monotonic() - self._began, 3),
            tables={item.label: item.to_entry() for item in outcomes},
            schema_file=SchemaFile(name=schema.path.name, size_bytes=schema.size_bytes, sha256=schema.sha256),
        )

    def _discard(self, draft: Draft, error: BaseException) -> None:
        draft.withdraw()
        self._manifest = None
        if isinstance(error, Busy):
            return
        reason = _reason(error)
        for label in self._tables:
            missing = TableBackup(
                success=False,
                row_count=0,
                file_size="0 Bytes",
                size_bytes=0,
                backup_file=None,
                backup_files=(),
                duration=0,
                error=reason,
            )
            self._backups.setdefault(label, missing)
        text = self._backup_section() + self._truncate_section(errors=[*self.errors, reason])
        with contextlib.suppress(OSError):  # the failure itself is what must be reported
            backup_log.append(draft.folder, text)

    # steps 9 and 10: truncate, report

    def _truncate(self, draft: Draft, verified: VerifiedBackup) -> None:
        tables = self._to_truncate
        began = time.monotonic()
        try:
            truncated = empty_tables(self.job, self._guard, verified, tables)
            interrupts.hold()  # half a COMMIT cannot be reported, and half a record is none
            commit_truncate(self.job, self._guard, self._installation, truncated)
        except (VecbakError, Interrupted) as error:
            self._truncate_failed(draft, error)
            raise
        seconds = round(time.monotonic() - began, 3)
        self._truncates = {
            label: TableTruncate(
                success=True,
                rows_before=self._counts[label],
                rows_after=truncated.rows_left[table.oid],
                duration=seconds,
            )
            for label, table in tables.items()
        }
        log.info("truncated %s", ", ".join(tables))
        self._record_truncate(draft, verified)

    def _truncate_failed(self, draft: Draft, error: VecbakError | Interrupted) -> None:
        unknown = isinstance(error, TruncateUnknown)
        self._truncates = {
            label: TableTruncate(
                success=False,
                rows_before=self._counts[label],
                rows_after=None if unknown else self._counts[label],
                duration=0,
                error=_reason(error),
            )
            for label in self._to_truncate
        }
        if isinstance(
            error, BackupFailed
        ):  # its files were harmed: it is no backup any more, and every row is still there
            draft.withdraw()
            self._manifest = None
        with contextlib.suppress(OSError):
            backup_log.append(draft.folder, self._truncate_section(errors=[_reason(error)]))

    def _record_truncate(self, draft: Draft, verified: VerifiedBackup) -> None:
        removed = {label: item.rows_before for label, item in self._truncates.items()}
        record = TruncateRecord(completed_at=self.job.clock(), rows_removed=removed)
        try:
            backup_log.append(draft.folder, self._truncate_section())
            draft.amend(manifests.encode(manifests.with_truncate(verified.manifest, record)))
        except OSError as error:
            # the rows are safe and the tables empty: only the record of it is missing
            message = f"truncated, but it could not be recorded in the log or manifest: {explain(error)}"
            log.warning(message)
            self.errors.append(message)

    # the log

    def _write_log(self, text: str) -> None:
        try:
            backup_log.append(self.job.backup_folder, text)
        except OSError as error:
            raise BackupFailed(
                f"the backup is complete, but its log could not be written: {explain(error)}; nothing was truncated",
                f"Check {self.job.backup_folder / backup_log.LOG_NAME}, then run vecbak again.",
            ) from None

    def _backup_section(self) -> str:
        return backup_log.backup_section(
            moment=self._local_moment(),
            task_id=self.job.task_id,
            database=self._facts.server.database,
            duration=time.monotonic() - self._began,
            tables=self._backups,
        )

    def _truncate_section(self, errors: list[str] | None = None) -> str:
        return backup_log.truncate_section(
            tables=list(self._tables), truncated=self._truncates, asked=bool(self._truncates), errors=errors or []
        )

    def _local_moment(self) -> datetime:
        return self._moment.astimezone()


def _reason(error: BaseException) -> str:
    if isinstance(error, VecbakError):
        return error.message
    return f"interrupted by {error}" if isinstance(error, Interrupted) else f"a bug: {type(error).__name__}"
