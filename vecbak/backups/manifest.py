"""The manifest: what makes files a backup. Written last, it names every file with its size, checksum and rows.

It carries a checksum of itself, so that any change of any byte is noticed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, get_args

import msgspec

from vecbak.backups.dates import in_utc
from vecbak.backups.formats import Compression, Format
from vecbak.backups.manifest_check import problem_of
from vecbak.errors import BackupDamaged, UsageError
from vecbak.postgres.catalog import Server, Table

FORMAT_VERSION = 1
PARTIAL_VERSION = 2  # holds some rows alone; an older vecbak, which would replace all rows by them, refuses it
KNOWN_VERSIONS = (FORMAT_VERSION, PARTIAL_VERSION)
MAXIMUM_BYTES = 256 << 20


class DamagedManifest(UsageError):
    """A manifest that is not what was written."""


@contextlib.contextmanager
def undamaged() -> Iterator[None]:
    """For whoever needs what a manifest says, and not only looks.

    Raises:
        BackupDamaged: one is not what was written.
    """
    try:
        yield
    except DamagedManifest as error:
        raise BackupDamaged(error.message, error.hint) from None


Moment = Annotated[datetime, msgspec.Meta(tz=True)]  # one without a zone cannot be compared with the others

_CHECKSUM = re.compile(rb'"checksum": "([0-9a-f]{64})"')


class DataFile(msgspec.Struct, frozen=True, kw_only=True):
    """One data file: its name in the manifest's folder, bytes, SHA-256 in hex, rows without the header."""

    name: str
    size_bytes: int
    sha256: str
    rows: int


class SchemaFile(msgspec.Struct, frozen=True, kw_only=True):
    """The `pg_dump --schema-only` beside the data, for people."""

    name: str
    size_bytes: int
    sha256: str


class TableEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One table: what it was, and the files that hold its rows, in order."""

    table: Table
    rows: int
    size_bytes: int
    columns: tuple[str, ...]
    files: tuple[DataFile, ...]
    duration: float


class CollectionEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One of LangChain's collections in a backup: its key, and its embeddings."""

    uuid: str
    rows: int


class Programs(msgspec.Struct, frozen=True, kw_only=True):
    """Versions of what made the backup."""

    vecbak: str
    psql: int
    pg_dump: int


class TruncateRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What was truncated after this backup: rows removed by table, and when (UTC)."""

    completed_at: Moment
    rows_removed: dict[str, int]


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """That this backup was restored and exported again, byte for byte the same.

    Attributes:
        proven_at: UTC.
        duration: seconds.
        server: where: its PostgreSQL version.
        vector: its pgvector version, None if it has none.
        place: `embedded server` or `scratch schema`.
    """

    proven_at: Moment
    duration: float
    server: str
    vector: str | None
    place: str
    vecbak: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """One backup.

    Attributes:
        created_at: when its run began, UTC; backups are ordered by it. Where the clock had gone back, just after the one before.
        tables: by the name that the config gave.
        settings: what the sessions had pinned.
        search_path: the connecting role's own, under which its rows were written; never used, only compared. None: not recorded.
        collections: LangChain's, by name; None where the backup holds no such tables, or an older vecbak made it.
        scope: what was asked for, where the backup holds some rows alone: `collections`, or `where`.
        removing: tables whose rows its run was about to remove; `truncated` says that it did, but who is killed right after
            COMMIT cannot write that any more.
        durable: false where it was made in a place that does not last: a temporary folder, memory, a task's own folder.
        checksum: SHA-256 of this document with an empty checksum.
    """

    format_version: int
    backup_id: str
    task_id: str
    created_at: Moment
    database: str
    host: str | None
    port: str | None
    format: str
    compression: str
    server: Server
    programs: Programs
    settings: dict[str, str]
    duration: float
    tables: dict[str, TableEntry]
    schema_file: SchemaFile
    truncated: TruncateRecord | None = None
    proven_restorable: Proof | None = None
    collections: dict[str, CollectionEntry] | None = None
    scope: Literal["collections", "where"] | None = None
    removing: tuple[str, ...] = ()
    durable: bool = True
    search_path: str | None = None
    checksum: str = ""

    @property
    def rows(self) -> int:
        """Rows of all tables."""
        return sum(entry.rows for entry in self.tables.values())

    @property
    def size_bytes(self) -> int:
        """Bytes of all data files."""
        return sum(entry.size_bytes for entry in self.tables.values())


def encode(manifest: Manifest) -> bytes:
    """The bytes of a manifest, its checksum filled in."""
    checksum = hashlib.sha256(_bytes(manifest, "")).hexdigest()
    return _bytes(manifest, checksum)


def with_truncate(manifest: Manifest, record: TruncateRecord) -> Manifest:
    """The manifest that also says what was truncated."""
    return msgspec.structs.replace(manifest, truncated=record)


def with_proof(manifest: Manifest, proof: Proof) -> Manifest:
    """The manifest that also says that it was restored."""
    return msgspec.structs.replace(manifest, proven_restorable=proof)


def read(path: Path) -> Manifest:
    """Read a manifest and check it against itself.

    Raises:
        DamagedManifest: it is no manifest, or was changed.
        UsageError: it cannot be read, or is of another version.
    """
    data = _read_regular_file(path)
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DamagedManifest(
            f"{path} is no vecbak manifest, or is damaged: {error}", "`vecbak list` shows the backups there are."
        ) from None
    if manifest.format_version not in KNOWN_VERSIONS:
        raise UsageError(
            f"{path} has format version {manifest.format_version}; this vecbak knows {', '.join(map(str, KNOWN_VERSIONS))}",
            "Use a newer vecbak.",
        )
    if not _is_intact(data):
        raise DamagedManifest(
            f"{path} was changed since it was written: its checksum does not agree",
            "Restore the file from a copy; its data files may still be good.",
        )
    if manifest.format not in get_args(Format) or manifest.compression not in get_args(Compression):
        raise UsageError(f"{path} has a format or compression that this vecbak does not know", "Use a newer vecbak.")
    if problem := problem_of(manifest, data):
        raise DamagedManifest(
            f"{path} is no manifest that vecbak wrote: {problem}",
            "Do not use this manifest; find out where it comes from.",
        )
    return _with_usable_dates(manifest)


def _read_regular_file(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size > MAXIMUM_BYTES:
                raise UsageError(
                    f"{path} is no manifest: not a regular file, or too large", "Name a vector_backup_….json."
                )
            return file.read()
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror}", "`vecbak list` shows the backups there are."
        ) from None


def _with_usable_dates(manifest: Manifest) -> Manifest:
    replace = msgspec.structs.replace
    truncated, proof = manifest.truncated, manifest.proven_restorable
    return replace(
        manifest,
        created_at=in_utc(manifest.created_at),
        truncated=truncated and replace(truncated, completed_at=in_utc(truncated.completed_at)),
        proven_restorable=proof and replace(proof, proven_at=in_utc(proof.proven_at)),
    )


def _is_intact(data: bytes) -> bool:
    # over the bytes as they are, so that a newer vecbak with more fields can check it too
    found = list(_CHECKSUM.finditer(data))
    if not found:
        return False
    start, end = found[-1].span(1)
    return hashlib.sha256(data[:start] + data[end:]).hexdigest() == found[-1].group(1).decode()


def _bytes(manifest: Manifest, checksum: str) -> bytes:
    document = msgspec.json.encode(msgspec.structs.replace(manifest, checksum=checksum))
    return msgspec.json.format(document, indent=1) + b"\n"
