"""TRUNCATE, in the guard's own transaction, after a backup that was verified; never before, never without."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from vecbak.backups.files import FileDamaged
from vecbak.backups.verified import VerifiedBackup
from vecbak.checkpoints import reach
from vecbak.errors import BackupFailed, TruncateFailed, TruncateUnknown
from vecbak.operations.committing import commit
from vecbak.operations.job import Job
from vecbak.postgres.catalog import Table
from vecbak.postgres.guard import Guard, Truncated
from vecbak.postgres.programs import Installation
from vecbak.postgres.session import SessionFailed

log = logging.getLogger(__name__)


def empty_tables(job: Job, guard: Guard, backup: VerifiedBackup, tables: Mapping[str, Table]) -> Truncated:
    """TRUNCATE the tables; nothing is final before `commit_truncate`.

    Args:
        backup: the proof that their rows are safe.
        tables: by label; each must be in the backup.

    Raises:
        BackupFailed: a file of the backup changed, or it holds some of the rows alone; nothing truncated.
        TruncateFailed: the lock was not granted, the server refused, or the connection was lost.
    """
    if missing := tables.keys() - backup.manifest.tables.keys():
        raise BackupFailed(f"{', '.join(missing)} is not in the backup; nothing was truncated")
    if partly := [label for label in tables if backup.manifest.tables[label].table.condition]:
        raise BackupFailed(f"the backup holds only some rows of {', '.join(partly)}; nothing was truncated")
    check_untouched(backup)
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
    reach("truncated")
    check_untouched(backup)
    return truncated


def commit_truncate(job: Job, guard: Guard, installation: Installation, truncated: Truncated) -> None:
    """COMMIT; if the connection breaks meanwhile, ask a new session what became of it.

    Raises:
        TruncateFailed: not truncated, or unknown whether; says which.
    """
    end = commit(job, guard, installation, truncated.transaction)
    if end.outcome == "aborted":
        raise TruncateFailed(
            "the connection was lost during COMMIT, and the server rolled it back;"
            " the backup is kept, and every row is still there",
            "Run vecbak again.",
            output=end.output,
        )
    if end.outcome == "unknown":
        raise TruncateUnknown(
            "the connection was lost during COMMIT, and it is UNKNOWN whether the tables were truncated;"
            " the backup is kept and complete",
            f"When the server answers again: SELECT pg_xact_status('{truncated.transaction}'), or count the rows;"
            " every row is in the backup or still in the table.",
            output=end.output,
        )


def check_untouched(backup: VerifiedBackup) -> None:
    """Look at the backup's files once more, just before and after its rows are removed.

    Raises:
        BackupFailed: one was changed.
    """
    try:
        backup.check_untouched()
    except FileDamaged as error:
        raise BackupFailed(
            f"the backup was changed before TRUNCATE: {error}; nothing was truncated",
            "Find out what touches the backup folder, then run vecbak again.",
        ) from None
