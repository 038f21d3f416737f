"""Small structs to build on, and the runner that answers only what a test has written down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from vecbak.backups.manifest import DataFile, Manifest, Programs, SchemaFile, TableEntry
from vecbak.postgres.catalog import Column, Facts, Server, Table
from vecbak.postgres.runner import Completed


def column(name: str, **changes: Any) -> Column:
    """A plain text column."""
    return Column(**{"name": name, "type": "text", "not_null": False, "default": None, "generated": "", "identity": "", **changes})  # fmt: skip


def table(name: str = "items", oid: int = 16384, **changes: Any) -> Table:
    """A plain table that may be read and truncated, with nothing in the way."""
    fields: dict[str, Any] = {
        "oid": oid, "schema": "public", "name": name, "kind": "r", "access_method": "heap", "heap_pages": 1, "owner": "olga", "comment": None, "can_select": True,
        "can_truncate": True, "row_security": False, "estimated_rows": 2, "total_bytes": 16384, "table_bytes": 8192,
        "children": (), "foreign_keys": (), "publications": (), "truncate_triggers": (),
        "columns": (column("id"), column("text")), "constraints": (), "indexes": (), "sequences": (),
    }  # fmt: skip
    return Table(**{**fields, **changes})


def server(**changes: Any) -> Server:
    """A primary."""
    fields: dict[str, Any] = {
        "database": "highway_db", "user": "vecbak", "version": "18.1", "in_recovery": False,
        "extensions": {"vector": "0.8.1"}, "encoding": "UTF8",
    }  # fmt: skip
    return Server(**{**fields, **changes})


def facts(*tables: Table, **changes: Any) -> Facts:
    """The catalogs of a server with these tables."""
    return Facts(server=server(**changes), tables=tables)


def data_file(name: str = "items_20250720_121007.csv", **changes: Any) -> DataFile:
    """A data file of two rows."""
    return DataFile(**{"name": name, "size_bytes": 19, "sha256": "a" * 64, "rows": 2, **changes})


def manifest(**changes: Any) -> Manifest:
    """A backup of one table."""
    entry = TableEntry(table=table(), rows=2, size_bytes=19, columns=("id", "text"), files=(data_file(),), duration=0.1)
    fields: dict[str, Any] = {
        "format_version": 1, "backup_id": "20250720_121007", "task_id": "nightly",
        "created_at": datetime(2025, 7, 20, 10, 10, 7, tzinfo=UTC), "database": "highway_db", "host": "localhost",
        "port": "5432", "format": "csv", "compression": "none", "server": server(),
        "programs": Programs(vecbak="0.1", psql=18, pg_dump=18), "settings": {"DateStyle": "ISO"}, "duration": 0.5,
        "tables": {"items": entry},
        "schema_file": SchemaFile(name="vector_schema_20250720_121007.sql", size_bytes=5, sha256="b" * 64),
    }  # fmt: skip
    return Manifest(**{**fields, **changes})


class ScriptedRunner:
    """Answers the command lines that it was given, each once; any other fails the test."""

    def __init__(self, answers: Mapping[tuple[str, ...], str | Completed]) -> None:
        self.answers = dict(answers)

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Completed:
        """The answer to this very command line."""
        assert tuple(argv) in self.answers, f"unexpected: {argv}"
        assert timeout > 0
        assert (folder, environment) == (None, None)
        answer = self.answers.pop(tuple(argv))
        return Completed(0, answer, "") if isinstance(answer, str) else answer

    def start(
        self, argv: Sequence[str], *, folder: Path | None = None, environment: Mapping[str, str] | None = None
    ) -> NoReturn:
        """Nothing is started."""
        raise AssertionError(f"unexpected: {argv}")

    def stop_all(self) -> NoReturn:
        """Nothing is stopped."""
        raise AssertionError("unexpected: stop_all")

    def mask(self, text: str) -> str:
        """There are no secrets."""
        return text
