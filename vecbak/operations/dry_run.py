"""`--dry-run`: the exact commands of a run, ready to paste, without a password; nothing is locked or written.

Pasted, they make the files; TRUNCATE is shown but commented out, for nothing would have verified them.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from datetime import datetime

from vecbak.backups.files import data_name, schema_name
from vecbak.backups.formats import COMPRESSORS, file_ending
from vecbak.operations.exporting import CopyExporter, CopyTask, outside_compression
from vecbak.operations.job import Job
from vecbak.operations.parts import Part, cut
from vecbak.operations.preview import read_facts
from vecbak.postgres import queries
from vecbak.postgres.catalog import Table
from vecbak.postgres.names import TableName
from vecbak.postgres.programs import (
    Installation,
    data_dump_command,
    fitting_installation,
    pg_dump_installation,
    psql_command,
    schema_dump_command,
)


def planned_commands(job: Job, *, truncate: bool) -> list[str]:
    """Two shell commands: make the folder; the guard's session, inside which workers and pg_dump run.

    Raises:
        ConnectionFailed: no connection or no login.
        Refused: a table or a program is missing.
    """
    facts, version = read_facts(job)
    installation = fitting_installation(job.installations, version // 10000) or job.installations[0]
    psql = psql_command(installation, job.endpoint.conninfo)
    tables = dict(zip(job.config.vector_tables.supported(), facts.tables, strict=True))
    emptied = {name: tables[name] for name in job.config.vector_tables.truncated()} if truncate else {}
    backup_id = f"{datetime.now().astimezone():{job.config.backup.timestamp_format}}"
    folder = shlex.quote(str(job.backup_folder))
    lines = [
        *_locking(job, tables, set(emptied), version),
        "SELECT pg_export_snapshot() AS snapshot \\gset",
        "\\setenv SNAPSHOT :snapshot",
        _schema_line(job, list(tables.values()), version, backup_id),
        *_data_lines(job, psql, tables, version, backup_id),
        *_truncating(list(emptied.values())),
        "ROLLBACK;",
    ]
    return [
        f"mkdir -p -m 700 {folder} && cd {folder}",
        f"{shlex.join(psql)} <<'VECBAK'\n" + "\n".join(lines) + "\nVECBAK",
    ]


def _locking(job: Job, tables: Mapping[TableName, Table], emptied: set[TableName], version: int) -> list[str]:
    begin = queries.begin(
        version,
        isolation="READ COMMITTED",
        access="READ WRITE" if emptied else "READ ONLY",
        application="vecbak guard",
        lock_seconds=job.config.timeouts.lock_seconds,
    )
    locks = [
        f"LOCK TABLE {name.sql} IN {'SHARE ROW EXCLUSIVE' if name in emptied else 'ACCESS SHARE'} MODE;"
        for name in sorted(tables, key=TableName.lock_order)
    ]
    return [
        begin,
        *locks,
        queries.advisory_locks([table.oid for table in tables.values()]),
        "SET LOCAL search_path = '';",
    ]


def _schema_line(job: Job, tables: list[Table], version: int, backup_id: str) -> str:
    command = schema_dump_command(
        pg_dump_installation(job.installations, version // 10000),
        job.endpoint.conninfo,
        tables=[table.sql for table in tables],
        snapshot="SNAPSHOT",
        lock_seconds=job.config.timeouts.lock_seconds,
        file=schema_name(backup_id) + job.config.backup.backup_temp_suffix,
    )
    return _with_snapshot(command)


def _data_lines(
    job: Job, psql: list[str], tables: Mapping[TableName, Table], version: int, backup_id: str
) -> list[str]:
    backup = job.config.backup
    dump = pg_dump_installation(job.installations, version // 10000)
    outside = outside_compression(job.runner, backup, dump)
    labels = job.config.vector_tables.labels()
    lines = []
    for name, table in tables.items():
        label = labels[name]
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
                _dump_line(job, dump, task, outside) if whole else _worker_line(job, psql, tables, task, version)
            )
    return lines


def _dump_line(job: Job, installation: Installation, task: CopyTask, outside: str) -> str:
    compressor = COMPRESSORS.get(outside)
    file = task.file + job.config.backup.backup_temp_suffix
    command = data_dump_command(
        installation,
        job.endpoint.conninfo,
        table=task.table.sql,
        snapshot="SNAPSHOT",
        compression="none" if compressor else job.config.backup.compression,
        lock_seconds=job.config.timeouts.lock_seconds,
        file=None if compressor else file,
    )
    through = f" | {shlex.join([compressor.program, *compressor.compress])} > {shlex.quote(file)}" if compressor else ""
    return _with_snapshot(command) + through


def _with_snapshot(command: list[str]) -> str:
    return "\\! " + shlex.join(command).replace("--snapshot=SNAPSHOT", '--snapshot="$SNAPSHOT"')


def _worker_line(job: Job, psql: list[str], tables: Mapping[TableName, Table], task: CopyTask, version: int) -> str:
    begin = queries.begin(
        version,
        isolation="REPEATABLE READ",
        access="READ ONLY",
        application="vecbak worker",
        lock_seconds=job.config.timeouts.lock_seconds,
    )
    backup = job.config.backup
    exporter = CopyExporter(job.runner, backup.format, backup.compression, job.config.timeouts.copy_seconds)
    request = [
        begin,
        "SET TRANSACTION SNAPSHOT :'snapshot';",
        queries.lock_nowait(list(tables.values())),
        exporter.request(task, task.file + backup.backup_temp_suffix),
        "\\echo :ROW_COUNT",
    ]
    lines = " ".join(shlex.quote(line) for line in "\n".join(request).splitlines())
    return f"\\! printf '%s\\n' {lines} | {shlex.join(psql)} -v snapshot=\"$SNAPSHOT\""


def _truncating(emptied: list[Table]) -> list[str]:
    if not emptied:
        return []
    statements = [queries.truncate(emptied, 0.1), queries.after_truncate(emptied).strip(), queries.COMMIT]
    return [
        "-- vecbak goes on only when every file is verified and the manifest and log are written; nothing here has proved that:",
        *(f"-- {line}" for line in "\n".join(statements).splitlines()),
    ]
