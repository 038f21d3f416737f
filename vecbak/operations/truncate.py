"""TRUNCATE, in the guard's own transaction, after a backup that was verified; never before, never without."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from vecbak.backups.files import FileDamaged
from vecbak.backups.verified import VerifiedBackup
from vecbak.checkpoints import reach
from vecbak.errors import BackupFailed, TruncateFailed, TruncateUnknown
from vecbak.operations.committing import Ending, commit
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


def commit_truncate(
    job: Job,
    guard: Guard,
    installation: Installation,
    truncated: Truncated,
    tables: Mapping[str, Table],
    counts: Mapping[str, int],
) -> None:
    """COMMIT; if the connection breaks meanwhile, find out what became of it.

    Args:
        tables: that were emptied, by label.
        counts: the rows that they had.

    Raises:
        TruncateFailed: not truncated, or unknown whether; says which.
    """
    end = commit(job, guard, installation, truncated.mark, list(tables.values()))
    about = f" ({end.server})" if end.server else ""
    if end.outcome == "aborted":
        raise _rolled_back(end, about, {table.oid: (label, counts[label]) for label, table in tables.items()})
    if end.outcome == "unknown":
        raise TruncateUnknown(
            f"the connection was lost during COMMIT, and it is UNKNOWN whether the tables were truncated{about};"
            " the backup is kept and complete",
            f"When the server answers again: {how_to_tell(tables.values())}. Rows that are not in the table are in the backup.",
            output=end.output,
        )


def how_to_tell(tables: Iterable[Table]) -> str:
    """What a person can ask the server, when vecbak could not."""
    counts = "; ".join(f"SELECT count(*) FROM {table.source}{table.where}" for table in tables)
    return f"{counts} (0: the rows were removed)"


def _rolled_back(end: Ending, about: str, expected: Mapping[int, tuple[str, int]]) -> TruncateFailed:
    fewer = [
        f"{label} has {end.rows[oid]:,} rows there, and had {rows:,}"
        for oid, (label, rows) in expected.items()
        if oid in end.rows and end.rows[oid] < rows
    ]
    text = "every row is still there" if not fewer else f"of its rows some are not there: {'; '.join(fewer)}"
    error = TruncateFailed(
        f"the connection was lost during COMMIT, and the server rolled it back{about}; the backup is kept, and {text}",
        "Run vecbak again."
        if not fewer
        else "Bring the missing rows back from this backup: vecbak restore latest --mode skip-existing",
        output=end.output,
    )
    error.rows_after = end.rows
    return error


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
