"""`vecbak verify`: every file of a backup read again and held against the manifest; nothing is believed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET

from vecbak.backups.files import FileDamaged, FinishedFile, examine_file
from vecbak.backups.inventory import FoundBackup
from vecbak.backups.manifest import DataFile, Manifest, TableEntry
from vecbak.backups.rows import CsvRows, row_reader
from vecbak.errors import BackupDamaged
from vecbak.operations.copying import explain
from vecbak.operations.reading import FileReader
from vecbak.results import FileCheck, VerifyResult

if TYPE_CHECKING:
    from vecbak.progress import Progress

SCHEMA = ""  # the schema file's place among the tables


class CheckedFile(msgspec.Struct, frozen=True):
    """One file: what was found, or what is wrong with it.

    Attributes:
        label: its table, empty for the schema file.
        rows: as counted by walking through it; None for the schema file.
        needs_psql_18: a line of it is `\\.`, where older versions of psql would stop to read.
    """

    label: str
    name: str
    found: FinishedFile | None
    rows: int | None
    error: str | None
    needs_psql_18: bool = False

    def to_result(self) -> FileCheck:
        """For the result."""
        size = self.found.size_bytes if self.found else None
        return FileCheck(
            success=self.error is None, size_bytes=size, rows=self.rows, error=self.error if self.error else UNSET
        )


class Checked(msgspec.Struct, frozen=True):
    """All files of a backup."""

    files: tuple[CheckedFile, ...]

    @property
    def errors(self) -> tuple[str, ...]:
        """What is wrong, the place first."""
        return tuple(item.error for item in self.files if item.error)

    @property
    def needs_psql_18(self) -> bool:
        """Whether older versions of psql cannot load it."""
        return any(item.needs_psql_18 for item in self.files)

    def check_untouched(self) -> None:
        """Look at every file again.

        Raises:
            FileDamaged: one is gone, was replaced, or was touched since it was verified.
        """
        for item in self.files:
            if item.found:
                item.found.check_untouched()


def verify(
    found: FoundBackup, reader: FileReader, *, jobs: int, progress: Progress, tables: Sequence[str] | None = None
) -> tuple[VerifyResult, Checked]:
    """Read every file against the manifest: there, regular, size, SHA-256, complete, rows.

    Args:
        jobs: files read at the same time.
        tables: labels; None for all.

    Raises:
        BackupDamaged: names every file that is not as it was written; `result` is a VerifyResult.
    """
    began = time.monotonic()
    manifest = found.manifest
    entries = {label: entry for label, entry in manifest.tables.items() if tables is None or label in tables}
    checked = Checked(_check_all(manifest, entries, reader, jobs, progress, found.path.parent))
    result = VerifyResult(
        verified=not checked.errors,
        backup_id=manifest.backup_id,
        manifest=str(found.path),
        database=manifest.database,
        rows=sum(item.rows or 0 for item in checked.files),
        size_bytes=sum(item.found.size_bytes for item in checked.files if item.found),
        files={item.name: item.to_result() for item in checked.files},
        errors=checked.errors,
        duration=round(time.monotonic() - began, 3),
    )
    if checked.errors:
        raise BackupDamaged(
            f"the backup {manifest.backup_id} is damaged: {checked.errors[0]}"
            + (f" (and {len(checked.errors) - 1} more)" if len(checked.errors) > 1 else ""),
            f"The folder is {found.path.parent}. Bring the file back from a copy, or use another backup (`vecbak list`).",
            output="\n".join(checked.errors[1:]),
            result=result,
        )
    return result, checked


def _check_all(
    manifest: Manifest,
    entries: Mapping[str, TableEntry],
    reader: FileReader,
    jobs: int,
    progress: Progress,
    folder: Path,
) -> tuple[CheckedFile, ...]:
    known = {file.sha256: file.name for entry in manifest.tables.values() for file in entry.files}
    known[manifest.schema_file.sha256] = manifest.schema_file.name
    left = {label: len(entry.files) for label, entry in entries.items()}
    given_up = threading.Event()

    def check(label: str, entry: TableEntry, file: DataFile) -> CheckedFile:
        item = _check_data(label, entry, file, reader, known, given_up)
        left[label] -= 1
        if item.error:
            progress.failed(label)
        elif left[label] == 0:
            progress.finished(label, entry.rows, entry.size_bytes)
        return item

    for label, entry in entries.items():
        progress.started(label, entry.rows)
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        waiting = [pool.submit(check, label, entry, file) for label, entry in entries.items() for file in entry.files]
        try:
            return (_check_schema(manifest, folder, known), *(item.result() for item in waiting))
        except BaseException:
            given_up.set()
            pool.shutdown(cancel_futures=True)
            raise


def _check_data(
    label: str,
    entry: TableEntry,
    file: DataFile,
    reader: FileReader,
    known: Mapping[str, str],
    given_up: threading.Event,
) -> CheckedFile:
    rows = row_reader(reader.format, len(entry.columns))

    def feed(chunk: bytes) -> None:
        if given_up.is_set():  # Ctrl-C must not wait for gigabytes
            raise FileDamaged("was not read to its end")
        rows.feed(chunk)

    def look() -> FinishedFile:
        return reader.read(file.name, feed)

    path = reader.folder / file.name
    found, error = _examined(path, file.size_bytes, file.sha256, look, known)
    if not error and (problem := rows.problem()):
        error = f"{path}: {problem}"
    elif not error and rows.rows != file.rows:
        error = f"{path}: holds {rows.rows:,} rows, the manifest says {file.rows:,}"
    marked = isinstance(rows, CsvRows) and rows.has_end_mark
    return CheckedFile(label, file.name, found, rows.rows, error, marked)


def _check_schema(manifest: Manifest, folder: Path, known: Mapping[str, str]) -> CheckedFile:
    schema = manifest.schema_file
    path = folder / schema.name
    found, error = _examined(path, schema.size_bytes, schema.sha256, lambda: examine_file(path), known)
    return CheckedFile(SCHEMA, schema.name, found, None, error)


def _examined(
    path: Path, size: int, sha256: str, look: Callable[[], FinishedFile], known: Mapping[str, str]
) -> tuple[FinishedFile | None, str | None]:
    """The file and what is wrong with it; its size first, for a file cut short explains every other complaint."""
    try:
        there = path.lstat().st_size
        if there != size:
            how = "was cut short" if there < size else "has extra bytes"
            return None, f"{path}: {how}: {there:,} bytes, the manifest says {size:,}"
        found = look()
    except FileNotFoundError:
        return None, f"{path}: is missing"
    except (FileDamaged, OSError) as error:
        unlike = _checksum_differs(path, sha256, known)
        return None, unlike or f"{path}: {explain(error)}"
    if found.sha256 != sha256:
        return found, _checksum_differs(path, sha256, known)
    return found, None


def _checksum_differs(path: Path, sha256: str, known: Mapping[str, str]) -> str | None:
    try:
        actual = examine_file(path).sha256
    except (FileDamaged, OSError):
        return None
    if actual == sha256:
        return None
    whose = f"; it is the content of {known[actual]}" if actual in known else ""
    return f"{path}: its content was changed: SHA-256 is {actual}, the manifest says {sha256}{whose}"
