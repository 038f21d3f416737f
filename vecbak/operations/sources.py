"""What a restore loads: a verified backup's files, and where they go."""

from __future__ import annotations

from collections.abc import Sequence

from vecbak.backups.inventory import FoundBackup
from vecbak.operations.loading import backup_file
from vecbak.operations.reading import FileReader
from vecbak.operations.targets import Source, SourceTable, pick_tables
from vecbak.operations.verify import verify
from vecbak.postgres.names import TableName
from vecbak.progress import NoProgress


def backup_source(
    found: FoundBackup, reader: FileReader, *, tables: Sequence[TableName], into_schema: str | None, jobs: int
) -> Source:
    """Verify the files of a backup, and say where their rows go.

    Args:
        tables: of `--table`; empty for all.
        into_schema: instead of the schemas that the tables were in.
        jobs: files read at the same time.

    Raises:
        BackupDamaged: a file is not what was written.
        UsageError: a table is not in the backup.
    """
    source = {label: _source_table(label, found, reader, into_schema) for label in found.manifest.tables}
    picked = pick_tables(source, tables)
    _, checked = verify(found, reader, jobs=jobs, progress=NoProgress(), tables=picked)
    return Source(
        backup_id=found.manifest.backup_id,
        manifest=str(found.path),
        tables=tuple(source[label] for label in picked),
        check_untouched=checked.check_untouched,
        needs_psql_18=checked.needs_psql_18,
    )


def _source_table(label: str, found: FoundBackup, reader: FileReader, into_schema: str | None) -> SourceTable:
    entry = found.manifest.tables[label]
    return SourceTable(
        label=label,
        target=TableName(into_schema or entry.table.schema, entry.table.name),
        columns=entry.columns,
        rows=entry.rows,
        size_bytes=entry.size_bytes,
        files=tuple(backup_file(reader, file.name, rows=file.rows, size_bytes=file.size_bytes) for file in entry.files),
        definition=entry.table,
        is_partial=bool(entry.table.condition),
    )
