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
        return msgspec.json.decode(msgspec.json.encode(self), type=dict[str, Any])


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a run did; `truncate_performed` says what happened, never what was asked for.

    Attributes:
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
    pruned: tuple[str, ...] | UnsetType = UNSET

    def to_dict(self) -> dict[str, Any]:
        """As plain dicts, lists, strings and numbers."""
        return msgspec.json.decode(msgspec.json.encode(self), type=dict[str, Any])


def human_size(size_bytes: int) -> str:
    """`45.6 KB`: powers of 1024, named as most people name them."""
    return humanize.naturalsize(size_bytes, binary=True).replace("iB", "B")
