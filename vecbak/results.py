"""What operations return: the one shape that `--json`, the Python API and the HTTP API hand out (DESIGN.md 6)."""

from __future__ import annotations

from typing import Any

import humanize
import msgspec
from msgspec import UNSET, UnsetType


class TableBackup(msgspec.Struct, frozen=True, kw_only=True):
    """One table in a backup: rows, bytes on disk, file names, seconds."""

    success: bool
    row_count: int
    file_size: str
    size_bytes: int
    backup_file: str | None
    backup_files: tuple[str, ...]
    duration: float
    error: str | UnsetType = UNSET

    @classmethod
    def missing(cls, error: str) -> TableBackup:
        """Of a table that was not copied."""
        return cls(
            success=False,
            row_count=0,
            file_size="0 Bytes",
            size_bytes=0,
            backup_file=None,
            backup_files=(),
            duration=0,
            error=error,
        )

    def with_error(self, error: str) -> TableBackup:
        """The same, with what is wrong with it."""
        return msgspec.structs.replace(self, error=error)


class TableTruncate(msgspec.Struct, frozen=True, kw_only=True):
    """One table that was to be truncated: rows before and after (None: not known), seconds."""

    success: bool
    rows_before: int
    rows_after: int | None
    duration: float
    error: str | UnsetType = UNSET


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A run in figures: tables, rows, files, bytes of the files."""

    tables: int
    rows: int
    files: int
    size_bytes: int
    size: str


class PrunedBackup(msgspec.Struct, frozen=True, kw_only=True):
    """One backup that `prune` looked at.

    Attributes:
        action: `keep` or `remove`; `removed` once it is gone.
        reasons: why it is kept, in words.
        size_bytes: of its data files.
    """

    backup_id: str
    backup_directory: str
    manifest: str
    created_at: str
    rows: int
    size_bytes: int
    action: str
    reasons: tuple[str, ...]


class PruneResult(msgspec.Struct, frozen=True, kw_only=True):
    """What `prune` did, or with `dry_run` would do; backups by folder, newest first."""

    dry_run: bool
    backups: tuple[PrunedBackup, ...] = ()
    freed_bytes: int = 0
    errors: tuple[str, ...] = ()

    def of(self, *actions: str) -> list[PrunedBackup]:
        """The backups to which this happened, or is to happen."""
        return [item for item in self.backups if item.action in actions]

    def to_dict(self) -> dict[str, Any]:
        """As plain dicts, lists, strings and numbers."""
        return plain(self)


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a run did; `truncate_performed` says what happened, never what was asked for.

    Attributes:
        durable: false where the backup folder does not last: a temporary one, memory, a task's own.
        server: the one that answered, once one has.
        note: why nothing was done, where nothing was.
        pruned: ids of the older backups that were removed; only where that was asked for.
    """

    backup_performed: bool = False
    truncate_performed: bool = False
    backup_id: str | None = None
    task_id: str | None = None
    database: str | None = None
    backup_directory: str | None = None
    manifest: str | None = None
    tables_backed_up: dict[str, TableBackup] = {}
    truncate_results: dict[str, TableTruncate] = {}
    errors: tuple[str, ...] = ()
    duration: float = 0.0
    durable: bool | UnsetType = UNSET
    server: dict[str, str | int | bool | None] | UnsetType = UNSET
    note: str | UnsetType = UNSET
    pruned: tuple[str, ...] | UnsetType = UNSET

    @property
    def summary(self) -> Summary:
        """The run in figures."""
        kept = [table for table in self.tables_backed_up.values() if table.success and table.backup_files]
        size = sum(table.size_bytes for table in kept)
        return Summary(
            tables=len(kept),
            rows=sum(table.row_count for table in kept),
            files=sum(len(table.backup_files) for table in kept),
            size_bytes=size,
            size=human_size(size),
        )

    def to_dict(self) -> dict[str, Any]:
        """As plain dicts, lists, strings and numbers, with the summary."""
        return {**plain(self), "summary": plain(self.summary)}

    def describe(self) -> str:
        """One line for logs and terminals: what was performed, and how much."""
        if not isinstance(self.note, UnsetType):
            return f"vector tables: {self.note}"
        backup = f"backup {'performed' if self.backup_performed else 'NOT performed'}"
        truncate = f"truncate {'performed' if self.truncate_performed else 'not performed'}"
        item = self.summary
        return (
            f"vector tables: {backup}, {truncate}; {item.tables} tables, {item.rows:,} rows, {item.files} files,"
            f" {item.size}, {self.duration:.2f} s"
        )


class TableRestore(msgspec.Struct, frozen=True, kw_only=True):
    """One table that was restored: rows before and after, rows loaded, rows that were there already, seconds."""

    success: bool
    target: str
    rows_before: int
    rows_after: int | None
    row_count: int = 0
    rows_skipped: int = 0
    duration: float = 0.0
    error: str | UnsetType = UNSET


class RestoreResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a restore did.

    Attributes:
        safety_backup: the id of the backup of what stood there before, if one was made.
        safety_manifest: its manifest's path.
        indexes_rebuilt: names.
        migrated: with `--migrate`, by table: rows, and where their ids come from.
        skipped_bad_rows: rows of hand-written files that could not be read and were written to `--skip-bad-rows`.
        server: the one that answered, once one has.
    """

    restore_performed: bool = False
    backup_id: str | None = None
    manifest: str | None = None
    mode: str = "error"
    task_id: str | None = None
    database: str | None = None
    tables_restored: dict[str, TableRestore] = {}
    safety_backup: str | None = None
    safety_manifest: str | None = None
    indexes_rebuilt: tuple[str, ...] = ()
    skipped_bad_rows: int = 0
    migrated: dict[str, dict[str, Any]] | UnsetType = UNSET
    server: dict[str, str | int | bool | None] | UnsetType = UNSET
    warnings: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    duration: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """As plain dicts, lists, strings and numbers."""
        return plain(self)


class FileCheck(msgspec.Struct, frozen=True, kw_only=True):
    """One file that was verified: bytes and rows found, and what is wrong with it."""

    success: bool
    size_bytes: int | None
    rows: int | None
    error: str | UnsetType = UNSET


class VerifyResult(msgspec.Struct, frozen=True, kw_only=True):
    """What verifying a backup found.

    Attributes:
        verified: every file is as it was written.
        proven_restorable: it was restored and exported again, byte for byte the same; None if that was not asked for.
        files: by name.
    """

    verified: bool = False
    proven_restorable: bool | None = None
    backup_id: str | None = None
    manifest: str | None = None
    database: str | None = None
    rows: int = 0
    size_bytes: int = 0
    files: dict[str, FileCheck] = {}
    proof: dict[str, Any] | None = None
    errors: tuple[str, ...] = ()
    duration: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """As plain dicts, lists, strings and numbers."""
        return plain(self)


def plain(struct: msgspec.Struct) -> dict[str, Any]:
    """As plain dicts, lists, strings and numbers; a path that is no text (os.fsdecode) stays what it is."""
    document: dict[str, Any] = _with_lists(msgspec.to_builtins(struct))
    return document


def _with_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_lists(item) for key, item in value.items()}
    return [_with_lists(item) for item in value] if isinstance(value, list | tuple) else value


def human_size(size_bytes: int) -> str:
    """`45.6 KB`: powers of 1024, named as most people name them."""
    return humanize.naturalsize(size_bytes, binary=True).replace("iB", "B")
