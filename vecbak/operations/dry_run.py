"""`--dry-run`: the exact commands of a run, ready to paste, without a password; nothing is locked or written.

Pasted, they make the files; TRUNCATE is shown but commented out, for nothing would have verified them.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from datetime import datetime

from vecbak.backups.formats import COMPRESSORS, COPY_OPTIONS, file_ending
from vecbak.backups.naming import data_name, schema_name
from vecbak.operations.exporting import CopyTask, outside_compression
from vecbak.operations.extent import Chosen, Extent
from vecbak.operations.job import Job
from vecbak.operations.parts import Part, cut
from vecbak.operations.pasting import EXPORT_SNAPSHOT, Shell, session
from vecbak.operations.preview import read_chosen
from vecbak.postgres import collection_queries, queries, search_path
from vecbak.postgres.catalog import Table
from vecbak.postgres.connection import Endpoint
from vecbak.postgres.names import TableName
from vecbak.postgres.programs import (
    DUMP_ENVIRONMENT,
    Installation,
    data_dump_command,
    fitting_installation,
    pg_dump_installation,
    psql_command,
    schema_dump_command,
)


def planned_commands(job: Job, *, truncate: bool, extent: Extent) -> list[str]:
    """Shell commands: make the folder; the guard's session, inside which workers and pg_dump run.

    Raises:
        ConnectionFailed: no connection or no login.
        Refused: a table or a program is missing.
    """
    chosen, version = read_chosen(job, extent, truncate=truncate)
    installation = fitting_installation(job.installations, version // 10000) or job.installations[0]
    psql = psql_command(installation, job.endpoint.conninfo)
    emptied = set(job.config.vector_tables.truncated()) if truncate else set()
    backup_id = f"{datetime.now().astimezone():{job.config.backup.timestamp_format}}"
    folder = shlex.quote(str(job.backup_folder))
    lines: list[str | Shell] = [
        *_locking(job, extent, chosen, emptied, version),
        EXPORT_SNAPSHOT,
        _schema_line(job, list(chosen.tables.values()), version, backup_id),
        *_data_lines(job, installation, chosen.tables, version, backup_id),
        *_emptying(job, extent, list(chosen.to_empty.values())),
        "ROLLBACK;",
    ]
    return [
        *needed_secrets(job.endpoint),
        f"mkdir -p -m 700 {folder} && cd {folder}",
        *session(installation, psql, lines),
    ]


def needed_secrets(endpoint: Endpoint) -> list[str]:
    """What must be in the environment before commands are pasted, and what must not: the config's password is not shown."""
    taken = sorted(name for name, value in endpoint.environment.items() if value is None and name.startswith("PG"))
    unset = [f"unset {' '.join(taken)}"] if taken else []
    if endpoint.password is None:
        return unset
    return [*unset, 'export PGPASSWORD="${PGPASSWORD:?set it to the password that the configuration has}"']


def _locking(job: Job, extent: Extent, chosen: Chosen, emptied: set[TableName], version: int) -> list[str]:
    begin = queries.begin(
        version,
        isolation=extent.isolation,
        access="READ WRITE" if emptied else "READ ONLY",
        application="vecbak guard",
        lock_seconds=job.config.timeouts.lock_seconds,
        own_path=True,
    )
    locks = [
        f"LOCK TABLE {name.sql} IN {extent.lock if name in emptied else 'ACCESS SHARE'} MODE;"
        for name in sorted(job.config.vector_tables.supported(), key=TableName.lock_order)
    ]
    return [
        begin,
        *locks,
        search_path.PIN,
        queries.advisory_locks([table.oid for table in chosen.tables.values()]),
    ]


def _schema_line(job: Job, tables: list[Table], version: int, backup_id: str) -> Shell:
    command = schema_dump_command(
        pg_dump_installation(job.installations, version // 10000),
        job.endpoint.conninfo,
        tables=[table.sql for table in tables],
        snapshot="SNAPSHOT",
        lock_seconds=job.config.timeouts.lock_seconds,
    )
    file = schema_name(backup_id) + job.config.backup.backup_temp_suffix
    return Shell(f"{_with_snapshot(command)} > {shlex.quote(file)}")


def _data_lines(
    job: Job, installation: Installation, tables: Mapping[str, Table], version: int, backup_id: str
) -> list[Shell]:
    backup = job.config.backup
    dump = pg_dump_installation(job.installations, version // 10000)
    outside = outside_compression(job.runner, backup, dump)
    lines = []
    for label, table in tables.items():
        whole = backup.format == "pg_dump"
        parts = (
            [Part()] if whole else cut(table, part_bytes=backup.part_bytes, jobs=backup.jobs, server_version=version)
        )
        for part in parts:
            task = CopyTask(
                label,
                table,
                part,
                data_name(label, backup_id, file_ending(backup.format, outside, part.number)),
            )
            lines.append(
                _dump_line(job, dump, task, outside)
                if whole
                else _worker_line(job, installation, tables, task, version)
            )
    return lines


def _dump_line(job: Job, installation: Installation, task: CopyTask, outside: str) -> Shell:
    compressor = COMPRESSORS.get(outside)
    file = task.file + job.config.backup.backup_temp_suffix
    command = data_dump_command(
        installation,
        job.endpoint.conninfo,
        table=task.table.sql,
        sequences=task.table.sequence_names,
        snapshot="SNAPSHOT",
        compression="none" if compressor else job.config.backup.compression,
        lock_seconds=job.config.timeouts.lock_seconds,
    )
    through = f" | {shlex.join([compressor.program, *compressor.compress])}" if compressor else ""
    pins = " ".join(f"{name}={value}" for name, value in DUMP_ENVIRONMENT.items())
    return Shell(f"{pins} {_with_snapshot(command)}{through} > {shlex.quote(file)}")


def _with_snapshot(command: list[str]) -> str:
    return shlex.join(command).replace("--snapshot=SNAPSHOT", '--snapshot="$SNAPSHOT"')


def _worker_line(
    job: Job, installation: Installation, tables: Mapping[str, Table], task: CopyTask, version: int
) -> Shell:
    begin = queries.begin(
        version,
        isolation="REPEATABLE READ",
        access="READ ONLY",
        application="vecbak worker",
        lock_seconds=job.config.timeouts.lock_seconds,
    )
    backup = job.config.backup
    compressor = COMPRESSORS.get(backup.compression)
    file, options = task.file + backup.backup_temp_suffix, COPY_OPTIONS[backup.format]
    compress = shlex.join([compressor.program, *compressor.compress]) if compressor else None
    request = [begin, "SET TRANSACTION SNAPSHOT :'snapshot';", queries.lock_nowait(list(tables.values()))]
    if not installation.prefix:
        copy = queries.copy_to_file(task.table, task.part.condition, file, options, compress)
        request += [copy, "\\echo :ROW_COUNT"]
        into = ""
    else:  # its psql cannot write our files
        request.append(queries.copy_out(task.table, task.part.condition, options))
        into = f"{f' | {compress}' if compress else ''} > {shlex.quote(file)}"
    lines = " ".join(shlex.quote(line) for line in "\n".join(request).splitlines())
    psql = shlex.join(psql_command(installation, job.endpoint.conninfo))
    return Shell(f"printf '%s\\n' {lines} | {psql} -v snapshot=\"$SNAPSHOT\"{into}")


def _emptying(job: Job, extent: Extent, emptied: list[Table]) -> list[str]:
    if not emptied:
        return []
    if extent.scope:
        seconds = job.config.timeouts.lock_seconds
        statements = [collection_queries.delete(table, seconds) for table in emptied]
        statements += [collection_queries.after_delete(table).strip() for table in emptied]
    else:
        statements = [queries.truncate(emptied, 0.1), queries.after_truncate(emptied).strip()]
    statements.append(queries.COMMIT)
    return [
        "-- vecbak goes on only when every file is verified and the manifest and log are written; nothing here has proved that:",
        *(f"-- {line}" for line in "\n".join(statements).splitlines()),
    ]
