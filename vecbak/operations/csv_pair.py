"""`vecbak restore --csv-pair`: what hand-written exporters left, read twice: once to judge every row, once to load."""

from __future__ import annotations

import contextlib
import csv
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

import msgspec

from vecbak.backups import handwritten
from vecbak.backups.files import FileDamaged, FinishedFile, examine_file
from vecbak.backups.handwritten import BadRecord, Converter, Record, Target
from vecbak.backups.rows import Consumer
from vecbak.errors import BackupDamaged, RestoreFailed, UsageError
from vecbak.operations.copying import explain
from vecbak.operations.job import Job
from vecbak.operations.loading import SourceFile
from vecbak.operations.migration import is_older, migration_of
from vecbak.operations.preview import read_tables
from vecbak.operations.targets import Source, SourceTable, pick_tables
from vecbak.postgres.catalog import Table
from vecbak.postgres.names import TableName

COLLECTION, EMBEDDING = "langchain_pg_collection", "langchain_pg_embedding"
TOLD_ROWS = 20

_OLDER = {"uuid": Target("uuid", True), "custom_id": Target("character varying", False)}
_STAMP = re.compile(r"_(\d[0-9_T-]*)\.csv$")


class _BadRows(msgspec.Struct):
    """Rows that cannot be read: the first ones for the message, all of them for `--skip-bad-rows`."""

    file: TextIO | None
    count: int = 0
    told: list[str] = msgspec.field(default_factory=list)

    def add(self, path: Path, record: Record, reason: str) -> None:
        self.count += 1
        if len(self.told) < TOLD_ROWS:
            self.told.append(f"{path.name}, line {record.line}: {reason}")
        if self.file is not None:
            raw = record.raw.decode("utf-8", "backslashreplace").rstrip("\r\n")
            csv.writer(self.file).writerow([path.name, record.line, reason, raw])


def pair_source(
    job: Job,
    collection: Path,
    embedding: Path,
    into_schema: str | None,
    wanted: Sequence[TableName],
    skip_bad_rows: Path | None,
    *,
    touch_nothing: bool = False,
    migrate: bool = False,
) -> Source:
    """Judge every row of two files against the tables that they are for.

    Args:
        wanted: of `--table`; empty for both.
        skip_bad_rows: a new file for the rows that cannot be read; None: one of them refuses the whole.
        touch_nothing: only say what would happen; that file is not written.
        migrate: an older LangChain's embeddings become today's.

    Raises:
        BackupDamaged: rows that cannot be read; names their lines.
        RestoreFailed: a table has other columns.
        UsageError: a file cannot be read or written.
    """
    paths = {COLLECTION: collection, EMBEDDING: embedding}
    names = {label: _target(job, label, into_schema) for label in paths}
    tables = dict(zip(paths, read_tables(job, list(names.values())), strict=True))
    with _open_bad_rows(None if touch_nothing else skip_bad_rows) as bad:
        found = {label: _table(label, paths[label], tables[label], names[label], bad, migrate) for label in paths}
    if bad.count and skip_bad_rows is None:
        more = f" (and {bad.count - len(bad.told):,} more)" if bad.count > len(bad.told) else ""
        raise BackupDamaged(
            f"{bad.count:,} rows cannot be read; nothing was loaded",
            "Mend them, or leave them out with --skip-bad-rows FILE, which writes them there.",
            output="\n".join(bad.told) + more,
        )
    picked = pick_tables({label: table for label, (table, _) in found.items()}, wanted)
    files = [file for _, file in found.values()]
    stamp = _STAMP.search(embedding.name)

    def check_untouched() -> None:
        for file in files:
            file.check_untouched()

    return Source(
        backup_id=stamp.group(1) if stamp else embedding.stem,
        manifest=None,
        tables=tuple(found[label][0] for label in picked),
        check_untouched=check_untouched,
        needs_psql_18=True,  # a document may hold a line that is \.
        skipped_rows=bad.count,
    )


@contextlib.contextmanager
def _open_bad_rows(path: Path | None) -> Iterator[_BadRows]:
    if path is None:
        yield _BadRows(None)
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise UsageError(
            f"--skip-bad-rows {path} cannot be written: {error.strerror}", "Name a file that does not exist."
        ) from None
    with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerow(["file", "line", "reason", "row"])
        try:
            yield _BadRows(file)
        except BaseException:  # nothing is restored: it must not be in the way of the next attempt
            path.unlink(missing_ok=True)
            raise


def _target(job: Job, label: str, into_schema: str | None) -> TableName:
    if into_schema is not None:
        return TableName(into_schema, label)
    named = [name for name in job.config.vector_tables.supported() if name.name == label]
    return named[0] if named else TableName(None, label)


def _table(
    label: str, path: Path, table: Table, target: TableName, bad: _BadRows, migrate: bool
) -> tuple[SourceTable, FinishedFile]:
    try:
        columns = handwritten.header(path)
        wanted = _targets_of(path, columns, table, _OLDER if migrate and is_older(dict.fromkeys(columns, "")) else {})
        converter = Converter(columns, wanted)
        found = examine_file(path)
        rows = 0
        for record in _rows(path):
            try:
                converter.convert(record)
                rows += 1
            except BadRecord as error:
                bad.add(path, record, str(error))
    except BadRecord as error:
        raise BackupDamaged(
            f"{error}; nothing was loaded", "Mend the file: it must be CSV with a header line."
        ) from None
    except (FileDamaged, OSError) as error:
        raise UsageError(f"{path} cannot be read: {explain(error)}", "Check the path and its permissions.") from None

    def feed(consume: Consumer) -> None:
        for record in _rows(path):
            try:
                line = converter.convert(record)
            except BadRecord:
                continue  # told, and written down, when it was judged
            consume(line)

    file = SourceFile(path.name, rows, found.size_bytes, "format csv", feed)
    migration = migration_of({name: wanted[name].type for name in columns}) if migrate else None
    loaded = tuple(migration.values) if migration else tuple(columns)
    return SourceTable(label, target, loaded, rows, found.size_bytes, (file,), None, migration=migration), found


def _targets_of(path: Path, columns: Sequence[str], table: Table, older: Mapping[str, Target]) -> dict[str, Target]:
    there = dict(older) | {
        column.name: Target(column.type, column.not_null) for column in table.columns if not column.generated
    }
    if missing := [name for name in columns if name not in there]:
        raise RestoreFailed(
            f"{path.name} has the column {', '.join(missing)}, which the table {table.name} has not",
            f"{table.name} has {', '.join(there)}. The files may be of another generation of LangChain's tables.",
        )
    return there


def _rows(path: Path) -> Iterator[Record]:
    every = handwritten.records(path)
    next(every, None)  # the header
    return every
