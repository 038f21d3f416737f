"""`vector_backup_log.txt`: every run appended, in the form that people's runbooks and scripts read (DESIGN.md 5)."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from vecbak.backups.files import sync_folder
from vecbak.own_files import open_regular
from vecbak.results import TableBackup, TableTruncate
from vecbak.visible import visible_line

LOG_NAME = "vector_backup_log.txt"


def backup_section(
    *, moment: datetime, task_id: str, database: str, duration: float, tables: Mapping[str, TableBackup]
) -> str:
    """The first part of a run's entry.

    Args:
        moment: when the run began, local time.
        duration: seconds.
        tables: results by name.
    """
    lines = [
        "=== Vector Table Backup Log ===",
        f"Backup Time: {moment:%Y-%m-%d %H:%M:%S}",
        f"Task ID: {task_id}",
        f"Database: {database}",
        f"Duration: {duration:.2f}s",
        "",
        "Tables Backup Status:",
        *(_backup_line(name, table) for name, table in tables.items()),
    ]
    return _text(lines)


def truncate_section(
    *,
    tables: Sequence[str],
    truncated: Mapping[str, TableTruncate],
    asked: bool,
    errors: Sequence[str] = (),
) -> str:
    """The second part, appended when it is known what became of the TRUNCATE.

    Args:
        tables: all tables of the run.
        truncated: results of those that were to be truncated.
        asked: whether truncating was asked for.
        errors: of the whole run.
    """
    lines = ["", "Truncate Status:"]
    if not asked:
        lines.append("- Not performed")
    else:
        lines += [_truncate_line(name, truncated[name]) for name in tables if name in truncated]
        lines += [f"- {name}: SKIPPED ({_kind(name)} preserved)" for name in tables if name not in truncated]
    if errors:
        lines += ["", "Errors: " + "; ".join(" ".join(error.split()) for error in errors)]
    return _text(lines) + "\n"


def append(folder: Path, text: str) -> None:
    """Append to the log and fsync it; either all of the text is there afterwards, or the log is as before.

    Raises:
        OSError: the disk, or something that is no regular file in the log's place.
    """
    path = folder / LOG_NAME
    descriptor = open_regular(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        size = os.fstat(descriptor).st_size
        try:
            data = text.encode("utf-8", "replace")
            while data:
                data = data[os.write(descriptor, data) :]
            os.fsync(descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)
    sync_folder(folder)


def find_entry(folder: Path, files: Sequence[str]) -> str:
    """The log's entry of a run, found by one of the file names it mentions; empty if there is none."""
    try:
        with os.fdopen(open_regular(folder / LOG_NAME, os.O_RDONLY), encoding="utf-8", errors="replace") as file:
            text = file.read()
    except OSError:
        return ""
    title = "=== Vector Table Backup Log ==="
    for entry in reversed(text.split(title)[1:]):
        if any(f"-> {name}" in entry for name in files):
            return title + entry.rstrip() + "\n"
    return ""


def _text(lines: Sequence[str]) -> str:
    # a name with a line end would forge another table's line
    return "".join(f"{visible_line(line)}\n" for line in lines)


def _backup_line(name: str, table: TableBackup) -> str:
    if not table.success:
        reason = " ".join(str(table.error).split()) if table.error else "unknown"
        return f"✗ {name}: FAILED - {reason}"
    rows = f"✓ {name}: {table.row_count:,} rows"
    if table.backup_file is None:
        return f"{rows} -> discarded, as the backup is not complete"
    more = f" and {len(table.backup_files) - 1} more" if len(table.backup_files) > 1 else ""
    return f"{rows} -> {table.backup_file}{more} ({table.file_size})"


def _truncate_line(name: str, table: TableTruncate) -> str:
    if table.success:
        return f"✓ {name}: TRUNCATED ({table.rows_before:,} rows removed)"
    return f"✗ {name}: FAILED - {' '.join(str(table.error).split())}"


def _kind(name: str) -> str:
    return "collection table" if "collection" in name else "table"
