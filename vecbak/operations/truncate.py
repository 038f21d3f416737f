"""TRUNCATE, in the guard's own transaction, after a backup that was verified; never before, never without."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from vecbak.backups.files import FileDamaged
from vecbak.backups.verified import VerifiedBackup
from vecbak.errors import BackupFailed, TruncateFailed
from vecbak.interrupts import shielded
from vecbak.operations.job import Job
from vecbak.postgres.catalog import Table
from vecbak.postgres.guard import Guard, Truncated, transaction_outcome
from vecbak.postgres.programs import Installation
from vecbak.postgres.session import SessionFailed
from vecbak.results import TableTruncate

log = logging.getLogger(__name__)

OUTCOME_SECONDS = 30.0


def truncate_verified(
    job: Job, guard: Guard, installation: Installation, backup: VerifiedBackup, tables: Mapping[str, Table]
) -> dict[str, TableTruncate]:
    """Empty the tables and COMMIT.

    Args:
        backup: the proof that their rows are safe.
        tables: by label; each must be in the backup.

    Returns:
        A result for each table.

    Raises:
        BackupFailed: a file of the backup changed; nothing truncated.
        TruncateFailed: not truncated, or unknown whether; says which.
    """
    began = time.monotonic()
    before = {label: backup.manifest.tables[label].rows for label in tables}
    _check_untouched(backup)
    try:
        truncated = guard.truncate(
            list(tables.values()),
            seconds=job.config.timeouts.truncate_seconds,
            on_wait=lambda: log.info("TRUNCATE waits for its lock"),
        )
    except SessionFailed as error:
        raise TruncateFailed(
            "the connection was lost before TRUNCATE was done; the backup is kept, and every row is still there",
            "Find out why the server ended the session (its log), then run vecbak again.",
            output=error.output,
        ) from None
    _check_untouched(backup)
    with shielded():
        _commit(job, guard, installation, truncated)
    seconds = round(time.monotonic() - began, 3)
    return {
        label: TableTruncate(
            success=True, rows_before=before[label], rows_after=truncated.rows_left[table.oid], duration=seconds
        )
        for label, table in tables.items()
    }


def _check_untouched(backup: VerifiedBackup) -> None:
    try:
        backup.check_untouched()
    except FileDamaged as error:
        raise BackupFailed(
            f"the backup was changed before TRUNCATE: {error}; nothing was truncated",
            "Find out what touches the backup folder, then run vecbak again.",
        ) from None


def _commit(job: Job, guard: Guard, installation: Installation, truncated: Truncated) -> None:
    try:
        guard.commit()
    except SessionFailed as error:
        log.warning("the connection was lost during COMMIT; asking a new session what became of it")
        guard.kill()
        outcome = transaction_outcome(
            job.runner, job.endpoint, installation, truncated.transaction, seconds=OUTCOME_SECONDS
        )
        if outcome == "committed":
            log.warning("COMMIT had succeeded: the tables are truncated")
            return
        if outcome == "aborted":
            raise TruncateFailed(
                "the connection was lost during COMMIT, and the server rolled it back; the backup is kept, and every row is still there",
                "Run vecbak again.",
                output=error.output,
            ) from None
        raise TruncateFailed(
            "the connection was lost during COMMIT, and it is UNKNOWN whether the tables were truncated; the backup is kept and complete",
            f"When the server answers again: SELECT pg_xact_status('{truncated.transaction}'), or count the rows;"
            " every row is in the backup or still in the table.",
            output=error.output,
        ) from None
