"""Steps 5 to 8 of the guarded operation: copy what the guard has locked, prove it, publish it, log it.

Backup, truncate and the safety backup of a restore are all made here.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Literal

import msgspec

from vecbak import __version__
from vecbak.backups import log as backup_log
from vecbak.backups import manifest as manifests
from vecbak.backups.draft import Draft, remove_leftovers, start_draft
from vecbak.backups.files import FileDamaged, FinishedFile, make_folder
from vecbak.backups.formats import Format
from vecbak.backups.inventory import FoundBackup, date_in
from vecbak.backups.manifest import CollectionEntry, Manifest, Programs, SchemaFile
from vecbak.backups.removal import reading
from vecbak.backups.verified import VerifiedBackup
from vecbak.checkpoints import reach
from vecbak.errors import BackupFailed, Busy, Refused, UsageError, reason_of
from vecbak.operations import durability, preflight
from vecbak.operations.copying import explain
from vecbak.operations.job import Job
from vecbak.operations.outcome import TableOutcome
from vecbak.operations.transfer import Transfer
from vecbak.operations.write_block import WriteBlock
from vecbak.postgres.catalog import Facts, Table
from vecbak.postgres.diagnosis import copy_hint
from vecbak.postgres.guard import Guard
from vecbak.postgres.programs import Installation
from vecbak.postgres.session import SessionFailed
from vecbak.results import TableBackup

log = logging.getLogger(__name__)


class Locked(msgspec.Struct, frozen=True):
    """What a guard holds, and the programs that fit its server.

    Attributes:
        tables: by label, locked and judged.
        counts: rows by label.
        write_block: how long writers wait for us; None if none do.
        emptied: labels of the tables that are to lose the rows that are meant.
        scope: what was asked for, where only some rows are meant.
    """

    guard: Guard
    installation: Installation
    dump_installation: Installation
    facts: Facts
    tables: Mapping[str, Table]
    counts: Mapping[str, int]
    emptied: frozenset[str] = frozenset()
    scope: Literal["collections", "where"] | None = None
    write_block: WriteBlock | None = None


def count_and_find_room(
    job: Job, guard: Guard, dump_installation: Installation, tables: Mapping[str, Table]
) -> dict[str, int]:
    """Count the tables, and refuse what could not be written.

    Returns:
        Rows by label.

    Raises:
        Refused: the format cannot hold them, the folder cannot be written, or the disk is too small.
    """
    preflight.check_format(job, tuple(tables.values()), dump_installation)
    preflight.check_folder(job.backup_folder)
    seconds = job.config.timeouts.copy_seconds
    counts = {label: guard.count(table, timeout=seconds) for label, table in tables.items()}
    backup, listed = job.config.backup, tuple(tables.values())

    def estimate(format: Format) -> int:
        wanted = msgspec.structs.replace(backup, format=format)
        widths = {
            label: guard.row_bytes(table, counts[label], binary=format == "binary", timeout=seconds)
            for label, table in tables.items()
        }
        return sum(
            preflight.estimate_bytes(wanted, counts[label], width, tables[label].table_bytes)
            for label, width in widths.items()
        )

    def binary() -> dict[str, int]:
        wanted = msgspec.structs.replace(job, config=msgspec.structs.replace(job.config, backup=msgspec.structs.replace(backup, format="binary")))  # fmt: skip
        possible = backup.format != "binary" and not any(preflight.format_problems(wanted, listed, dump_installation))
        return {"binary": estimate("binary")} if possible else {}

    preflight.check_space(job.backup_folder, backup, estimate(backup.format), listed, binary)
    return counts


class Saving:
    """One backup in the making: what is known so far, and the steps that add to it.

    Args:
        began: of the run, on time.monotonic()'s clock.
        moment: when the run began; the backup's id.

    Attributes:
        backups: results by label.
        published: the manifest's file, as long as the backup is valid.
        errors: all but the one that is raised.
    """

    def __init__(self, job: Job, locked: Locked, *, began: float, moment: datetime) -> None:
        self._job = job
        self._locked = locked
        self._began = began
        self._moment = moment
        self.backups: dict[str, TableBackup] = {}
        self.published: FinishedFile | None = None
        self.backup_id: str | None = None
        self.errors: list[str] = []
        self._collections: dict[str, CollectionEntry] | None = None
        self._place = durability.place_of(job)

    @contextlib.contextmanager
    def draft(self) -> Iterator[Draft]:
        """The backup's files while they are written; without a manifest at the end they are removed.

        Raises:
            Refused: the folder cannot be written.
        """
        backup, folder = self._job.config.backup, self._job.backup_folder
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
            open_log(self._job)
            log.info("vecbak %s: backup %s of task %s", __version__, draft.backup_id, self._job.task_id)
            if self._place.warning:
                log.warning(self._place.warning)
            reach("drafted")
            yield draft
        finally:
            draft.close()

    def save(self, draft: Draft) -> VerifiedBackup:
        """Copy, prove and publish.

        Raises:
            VecbakError: no backup was made; the log says why.
        """
        self.backup_id = draft.backup_id
        explaining = self._locked.write_block.explaining() if self._locked.write_block else contextlib.nullcontext()
        try:
            with explaining:
                verified = self._publish(draft, *self._transfer(draft))
        except SessionFailed as error:
            failure = BackupFailed(
                f"the backup failed: {error.message}",
                "Nothing was truncated. See the server's log.",
                output=error.output,
            )
            self.discard(draft, failure)
            raise failure from None
        except BaseException as error:
            self.discard(draft, error)
            raise
        log.info("backup %s is complete and verified", draft.backup_id)
        return verified

    def discard(self, draft: Draft, error: BaseException) -> None:
        """It is no backup any more; the log keeps why."""
        self.withdraw(draft)
        if isinstance(error, Busy):
            return
        reason = reason_of(error)
        for label in self._locked.tables:
            self.backups.setdefault(label, TableBackup.missing(reason))
        with contextlib.suppress(OSError):  # the failure itself is what must be reported
            not_truncated = backup_log.truncate_section(
                tables=list(self._locked.tables), truncated={}, asked=False, errors=[*self.errors, reason]
            )
            backup_log.append(draft.folder, self.section() + not_truncated)

    def withdraw(self, draft: Draft) -> None:
        """Take the manifest back."""
        draft.withdraw()
        self.published = None

    def section(self) -> str:
        """The backup's part of its log entry."""
        return backup_log.backup_section(
            moment=self._moment.astimezone(),
            task_id=self._job.task_id,
            database=self._locked.facts.server.database,
            duration=time.monotonic() - self._began,
            tables=self.backups,
        )

    def write_log(self, text: str) -> None:
        """Append to the backups' log.

        Raises:
            BackupFailed: it cannot be written.
        """
        try:
            backup_log.append(self._job.backup_folder, text)
        except OSError as error:
            raise BackupFailed(
                f"the backup is complete, but its log could not be written: {explain(error)}; nothing was truncated",
                f"Check {self._job.backup_folder / backup_log.LOG_NAME}, then run vecbak again.",
            ) from None

    def _check_write_block(self) -> None:
        if self._locked.write_block:
            self._locked.write_block.check()

    def _transfer(self, draft: Draft) -> tuple[list[TableOutcome], FinishedFile]:
        locked = self._locked
        transfer = Transfer(
            self._job, locked.guard, locked.installation, locked.dump_installation, draft, locked.tables, locked.counts
        )
        moved = transfer.run(self._check_write_block)
        self._collections = transfer.collections
        return moved

    def _publish(self, draft: Draft, outcomes: list[TableOutcome], schema: FinishedFile) -> VerifiedBackup:
        self._check_copies(outcomes)
        reach("copied")
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
        self.published = published
        self.backups = {item.label: item.to_result() for item in outcomes}
        reach("published")
        return verified

    def _check_copies(self, outcomes: list[TableOutcome]) -> None:
        failed = [item for item in outcomes if item.error]
        self.backups = {item.label: item.to_result(kept=not failed) for item in outcomes}
        if failed:
            self.errors += [f"{item.label}: {item.error}" for item in failed[1:]]
            raise BackupFailed(
                f"the backup of {', '.join(item.label for item in failed)} failed: {failed[0].error}",
                f"Nothing was truncated, and no file was kept. {copy_hint(failed[0].error or '')}",
            )

    def _counts_now(self) -> dict[str, int]:
        seconds = self._job.config.timeouts.copy_seconds
        return {
            label: self._locked.guard.count(table, timeout=seconds)
            for label, table in self._locked.tables.items()
            if label in self._locked.emptied
        }

    def _make_manifest(self, draft: Draft, outcomes: list[TableOutcome], schema: FinishedFile) -> Manifest:
        locked, parameters = self._locked, self._job.endpoint.parameters
        return Manifest(
            format_version=manifests.PARTIAL_VERSION if locked.scope else manifests.FORMAT_VERSION,
            backup_id=draft.backup_id,
            task_id=self._job.task_id,
            created_at=date_in(draft.folder, self._moment),
            database=locked.facts.server.database,
            host=self._job.endpoint.host,
            port=parameters.get("port"),
            format=self._job.config.backup.format,
            compression=self._job.config.backup.compression,
            server=locked.facts.server,
            programs=Programs(
                vecbak=__version__, psql=locked.installation.major, pg_dump=locked.dump_installation.major
            ),
            settings=locked.guard.settings,
            search_path=locked.guard.own["search_path"],
            duration=round(time.monotonic() - self._began, 3),
            tables={item.label: self._with_sequences(item).to_entry() for item in outcomes},
            schema_file=SchemaFile(name=schema.path.name, size_bytes=schema.size_bytes, sha256=schema.sha256),
            collections=self._collections,
            scope=locked.scope,
            removing=tuple(label for label in locked.tables if label in locked.emptied),
            durable=self._place.durable,
        )

    def _with_sequences(self, outcome: TableOutcome) -> TableOutcome:
        # read after the rows: no row holds a value that its sequence, as it is recorded, is still to give
        return msgspec.structs.replace(outcome, table=self._locked.guard.with_positions(outcome.table))


@contextlib.contextmanager
def not_pruned(draft: Draft, verified: VerifiedBackup) -> Iterator[None]:
    """As long as the context lasts, no other run's prune removes a backup whose rows are about to go.

    The run's own claim does not do that: it goes with the manifest that is replaced, and before a restore's COMMIT.

    Raises:
        BackupFailed: somebody removed it already.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(reading(FoundBackup(draft.manifest_path, verified.manifest)))
        except UsageError:
            raise BackupFailed(
                f"the backup {draft.backup_id} was removed as soon as it was made; nothing was truncated",
                "Find out what touches the backup folder, then run vecbak again.",
            ) from None
        yield


def open_log(job: Job) -> None:
    """Open the run's log in its output directory, which is made if need be.

    Raises:
        Refused: it cannot be written.
    """
    try:
        make_folder(job.output_dir)
        job.folder_ready(job.output_dir)
    except OSError as error:
        raise Refused(
            f"{job.output_dir / job.config.log_file} cannot be written: {error.strerror}",
            "Remove what stands in its place, or set log_file.",
        ) from None
