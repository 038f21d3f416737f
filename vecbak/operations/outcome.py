"""One table's outcome, put together from its files: for the manifest and for the result."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from vecbak.backups.files import FinishedFile
from vecbak.backups.manifest import DataFile, TableEntry
from vecbak.operations.copying import Copied
from vecbak.postgres.catalog import Table
from vecbak.results import TableBackup, human_size


class TableOutcome(msgspec.Struct, frozen=True):
    """All files of one table, in order."""

    label: str
    table: Table
    files: tuple[Copied, ...]

    @property
    def rows(self) -> int:
        """In all files."""
        return sum(item.rows for item in self.files)

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(item.file.size_bytes for item in self.files if item.file)

    @property
    def finished(self) -> tuple[FinishedFile, ...]:
        """The files."""
        return tuple(item.file for item in self.files if item.file)

    @property
    def duration(self) -> float:
        """Seconds from the first file's beginning to the last one's end."""
        return round(max(item.ended for item in self.files) - min(item.began for item in self.files), 3)

    @property
    def error(self) -> str | None:
        """What is wrong with it; every row under the snapshot must be in one of its files."""
        for item in self.files:
            if item.error:
                return item.error
        counted = next(item.counted for item in self.files if item.counted is not None)
        if self.rows == counted:
            return None
        return f"{self.table.name} has {counted:,} rows under the snapshot, and {self.rows:,} were copied"

    def to_result(self, *, kept: bool = True) -> TableBackup:
        """For the result.

        Args:
            kept: whether its files stay.
        """
        names = tuple(file.path.name for file in self.finished) if kept else ()
        result = TableBackup(
            success=self.error is None,
            row_count=self.rows,
            file_size=human_size(self.size_bytes),
            size_bytes=self.size_bytes,
            backup_file=names[0] if names else None,
            backup_files=names,
            duration=self.duration,
        )
        return result.with_error(self.error) if self.error else result

    def to_entry(self) -> TableEntry:
        """For the manifest."""
        return TableEntry(
            table=self.table,
            rows=self.rows,
            size_bytes=self.size_bytes,
            columns=self.table.copied_columns,
            files=tuple(_data_file(item) for item in self.files),
            duration=self.duration,
        )


def outcomes_of(copied: Sequence[Copied], tables: dict[str, Table]) -> list[TableOutcome]:
    """Group files by table, tables in the order given, files by part."""
    return [
        TableOutcome(
            label,
            table,
            tuple(
                sorted(
                    (item for item in copied if item.task.label == label), key=lambda item: item.task.part.number or 0
                )
            ),
        )
        for label, table in tables.items()
    ]


def _data_file(item: Copied) -> DataFile:
    assert item.file is not None  # noqa: S101 - a table with an error has no entry
    return DataFile(name=item.file.path.name, size_bytes=item.file.size_bytes, sha256=item.file.sha256, rows=item.rows)
