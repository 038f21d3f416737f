"""`vecbak verify --restore`: load a backup somewhere else, export it again, compare byte for byte.

Everything happens in one transaction that is never committed: whatever becomes of us, nothing of it stays behind.
"""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from vecbak import __version__
from vecbak.backups import manifest as manifests
from vecbak.backups.amending import amend_manifest
from vecbak.backups.files import FileDamaged
from vecbak.backups.inventory import FoundBackup
from vecbak.backups.manifest import Manifest, Proof, TableEntry
from vecbak.checkpoints import reach
from vecbak.errors import BackupFailed, ConnectionFailed, RestoreFailed, UsageError, VecbakError
from vecbak.operations import provable
from vecbak.operations.copying import explain
from vecbak.operations.job import Job
from vecbak.operations.loading import Different, backup_file, compare, load
from vecbak.operations.locking import begin
from vecbak.operations.provable import nearest_major
from vecbak.operations.proving_role import in_ordinary_role, warn_of_superuser
from vecbak.operations.reading import FileReader, pg_restore_for
from vecbak.operations.verify import Checked
from vecbak.postgres import restore_queries
from vecbak.postgres.catalog import Column, Protection, Server, Table
from vecbak.postgres.connection import Endpoint
from vecbak.postgres.definitions import create_table, relocate
from vecbak.postgres.guard import Guard
from vecbak.postgres.names import quote_identifier, quote_name
from vecbak.postgres.programs import find_installations, wheel_programs
from vecbak.postgres.recorded_definitions import check_tables, check_types
from vecbak.postgres.session import SessionFailed
from vecbak.postgres.throw_away import SERVER_FOLDER, throw_away_folder
from vecbak.postgres.type_definitions import bare_types, create_type, renamed, types_of
from vecbak.results import VerifyResult

log = logging.getLogger(__name__)


def file_reader(job: Job, manifest: Manifest, folder: Path) -> FileReader:
    """What reads the files of a backup."""
    pg_restore = pg_restore_for(job.installations, manifest.programs.pg_dump)
    return FileReader(job.runner, folder, manifest.format, pg_restore, job.config.timeouts.restore_seconds)


def prove(job: Job, manifest: Manifest, folder: Path, on: Endpoint | None = None) -> Proof:
    """Restore a backup on a throw-away server, or in a scratch schema, and compare.

    Args:
        folder: where its files are.
        on: another server; None: the embedded one, of the version nearest to the backup's.

    Raises:
        BackupFailed: it could not be restored, or what came back differs.
        Refused: the embedded server is not installed, or lacks a type that nothing can make there.
        ConnectionFailed: the server cannot be reached.
    """
    began = time.monotonic()
    for problem in provable.type_problems(
        [entry.table for entry in manifest.tables.values()], elsewhere=on is not None
    ):
        raise problem
    with contextlib.ExitStack() as stack:
        endpoint = on or stack.enter_context(_throw_away_server(manifest))
        bin_dir = endpoint.bin_dir if on else wheel_programs()[max(provable.EMBEDDED_MAJORS)]  # whatever PATH leads to
        prover = msgspec.structs.replace(job, endpoint=endpoint, installations=find_installations(job.runner, bin_dir))
        if on is None:
            prover = in_ordinary_role(prover, vector="vector" in manifest.server.extensions)
        guard, _ = prover.connect(oldest_psql=18 if manifest.format == "csv" else None)
        stack.callback(guard.close)
        if on is not None:
            warn_of_superuser(guard)
        try:
            server = _restore_and_compare(prover, guard, manifest, file_reader(job, manifest, folder))
        except (SessionFailed, FileDamaged, Different, RestoreFailed, OSError) as error:
            output = error.output if isinstance(error, VecbakError) else ""
            raise BackupFailed(
                f"the backup {manifest.backup_id} is not proven restorable: {explain(error)}",
                "Nothing was changed. Keep the files for the investigation, and make another backup.",
                output=output,
            ) from None
    seconds = round(time.monotonic() - began, 3)
    log.info(
        "backup %s was restored and exported again in the role %s: byte for byte the same (%.1f s)",
        manifest.backup_id,
        server.user,
        seconds,
    )
    return Proof(
        proven_at=datetime.now(UTC),
        duration=seconds,
        server=server.version,
        vector=server.extensions.get("vector"),
        place="scratch schema" if on else "embedded server",
        vecbak=__version__,
    )


def prove_found(
    job: Job, found: FoundBackup, result: VerifyResult, checked: Checked, on: Endpoint | None
) -> VerifyResult:
    """Prove a backup on disk, and record it in its manifest.

    Args:
        result: of verifying its files.
        checked: those files: what was proven must be what was verified.

    Raises:
        BackupFailed: as `prove`; `result` says so.
    """
    try:
        proof = prove(job, found.manifest, found.path.parent, on)
        _check_untouched(checked)
    except VecbakError as error:
        error.result = msgspec.structs.replace(result, proven_restorable=False, errors=(error.message,))
        raise
    seconds = round(result.duration + proof.duration, 3)

    def record(now: Manifest) -> Manifest:
        if (now.backup_id, now.tables) != (found.manifest.backup_id, found.manifest.tables):
            raise UsageError(f"{found.path.name} is of another backup now")
        return manifests.with_proof(now, proof)

    proven = msgspec.structs.replace(result, proven_restorable=True, proof=msgspec.to_builtins(proof), duration=seconds)
    try:
        amend_manifest(found.path, record, job.config.backup.backup_temp_suffix)
    except OSError as error:
        # it is proven all the same: a read-only archive cannot take the note
        message = f"the proof could not be recorded in the manifest: {explain(error)}"
        log.warning(message)
        return msgspec.structs.replace(proven, errors=(message,))
    return proven


def _check_untouched(checked: Checked) -> None:
    try:
        checked.check_untouched()
    except FileDamaged as error:
        raise BackupFailed(
            f"a file was changed while it was proven: {error}",
            "Find out what touches the backup folder, then verify again.",
        ) from None


def _restore_and_compare(job: Job, guard: Guard, manifest: Manifest, reader: FileReader) -> Server:
    seconds = job.config.timeouts.restore_seconds
    begin(guard, job.config.timeouts, writes=True, recorded=manifest.settings)
    schema = f"vecbak_verify_{uuid.uuid4().hex[:12]}"
    guard.ask(f"CREATE SCHEMA {quote_identifier(schema)};", "making a scratch schema")
    if "vector" in manifest.server.extensions and "vector" not in guard.facts([]).server.extensions:
        # in a schema that nobody else can have put anything into
        guard.ask(f"CREATE EXTENSION vector SCHEMA {quote_identifier(schema)};", "making pgvector")
    server = guard.facts([]).server
    log.info("proving it on %s; database %s", server.name, server.database)
    types, names = bare_types(types_of(entry.table for entry in manifest.tables.values()), schema)
    check_types(types)
    for item in types:
        guard.define([relocate(create_type(item), manifest.server, server)], f"making the type {item.sql}")
    guard.ask(restore_queries.ONE_PROCESS, "pinning the order of rows")
    for label, entry in manifest.tables.items():
        bare = _bare(entry, names)
        check_tables([bare])
        wanted = [relocate(column.type, manifest.server, server) for column in bare.columns]
        if unknown := guard.query(restore_queries.unknown_types(wanted), f"looking for the types of {label}"):
            raise Different(f"the server does not know the type {', '.join(unknown)} of {label}")
        statements = [relocate(line, manifest.server, server) for line in create_table(bare, schema)]
        guard.define(statements, f"making the table {label}")
        target = quote_name(schema, entry.table.name)
        job.progress.started(label, entry.rows)
        loaded = 0
        for file in entry.files:
            source = backup_file(reader, file.name, rows=file.rows, size_bytes=file.size_bytes)
            rows = load(guard, target, entry.columns, source, seconds=seconds)
            if rows != file.rows:
                raise Different(f"{file.name}: {rows:,} rows were loaded, the manifest says {file.rows:,}")
            loaded += rows
            job.progress.advanced(label, loaded)
        compare(guard, target, entry.columns, [file.name for file in entry.files], reader, seconds=seconds)
        job.progress.finished(label, entry.rows, entry.size_bytes)
        guard.ask(f"DROP TABLE {target};", "dropping the scratch table")
    return server


def _bare(entry: TableEntry, types: Mapping[str, str]) -> Table:
    """The columns that the files hold and nothing else: defaults may call functions that exist at the source alone.

    Args:
        types: the names that types have here.
    """
    columns = tuple(
        Column(name=column.name, type=renamed(column.type, types), not_null=column.not_null, default=None, generated="", identity="")
        for column in entry.table.columns
        if column.name in entry.columns
    )  # fmt: skip
    return msgspec.structs.replace(
        entry.table,
        columns=columns,
        sequences=(),
        comment=None,
        persistence="p",
        tablespace=None,
        options=(),
        partition_by=None,
        partitions=(),
        constraints=(),
        indexes=(),
        protection=Protection(),
    )


@contextlib.contextmanager
def _throw_away_server(manifest: Manifest) -> Iterator[Endpoint]:
    from vecbak.postgres.embedded import embedded_server

    major = nearest_major(manifest.server.version)
    with throw_away_folder("verify") as folder:
        try:
            with embedded_server(
                folder / SERVER_FOLDER, dbname=None, user=None, connect_seconds=30, major=major
            ) as found:
                reach("proving")
                yield found
        except ConnectionFailed as error:
            raise BackupFailed(
                f"the throw-away server did not work: {error.message}", error.hint, output=error.output
            ) from None
