"""`vecbak restore --dry-run`: the exact commands, ready to paste, without a password; nothing is locked or written."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from vecbak.backups.formats import compressor_of
from vecbak.backups.manifest import Manifest
from vecbak.operations import targets
from vecbak.operations.collection_restore import only_the_pair, scope_of
from vecbak.operations.dry_run import needed_secrets
from vecbak.operations.job import Job
from vecbak.operations.loading import LOAD_OPTIONS
from vecbak.operations.pasting import Shell, load_elsewhere, session
from vecbak.operations.preview import preview_of
from vecbak.operations.reading import decompress
from vecbak.operations.restore import RestoreOptions
from vecbak.operations.targets import REBUILT_METHODS, Mode, Source, SourceTable, Way
from vecbak.postgres import queries, restore_queries, search_path
from vecbak.postgres.catalog import Table
from vecbak.postgres.definitions import create_index
from vecbak.postgres.names import quote_identifier, quote_literal, quote_name
from vecbak.postgres.programs import Installation, psql_command
from vecbak.postgres.protection import disable, enable
from vecbak.postgres.untrusted import to_paste

# what stands between COPY … FROM stdin; and \. in what pg_restore prints
_ROWS_OF_A_DUMP = r"sed -e '1,/^COPY .* FROM stdin;$/d' -e '/^\\\.$/,$d'"

# what computes something from the rows may need the role's own path
_OWN_PATH = "SELECT pg_catalog.set_config('search_path', :'search_path', true);"


def planned_restore(job: Job, source: Source, manifest: Manifest | None, options: RestoreOptions) -> list[str]:
    """Shell commands: check the files; the guard's session.

    Raises:
        ConnectionFailed: no connection or no login.
    """
    scope = scope_of(source, manifest, options.collections)
    source = only_the_pair(source) if scope else source
    installation = _installation(job, source)
    there = preview_of(job, {table.label: table.target for table in source.tables})
    rows = {table.name: table.rows for table in there.tables}
    kept = {table.label for table in source.tables if targets.is_kept(table, job.config.vector_tables)}
    work = (
        _collection_lines(installation, source, manifest, scope.names, options.mode)
        if scope
        else [
            *_emptying(source, options),
            *(
                line
                for number, table in enumerate(source.tables)
                for line in _table_lines(
                    installation,
                    table,
                    manifest,
                    f"vecbak_rows_{number}",
                    rows_before=0 if options.mode == "replace" else rows.get(table.label, 0),
                    way=targets.way_of_loading(options.mode, rows.get(table.label, 0), kept=table.label in kept),
                )
            ),
        ]
    )
    psql = psql_command(installation, job.endpoint.conninfo)
    lines: list[str | Shell] = [
        queries.begin(
            there.server_version,
            isolation="READ COMMITTED",
            access="READ WRITE",
            application="vecbak guard",
            lock_seconds=job.config.timeouts.lock_seconds,
            own_path=True,
        ),
        "SHOW search_path \\gset",
        *(f"LOCK TABLE {table.target.sql} IN SHARE ROW EXCLUSIVE MODE;" for table in source.tables),
        search_path.PIN,
        *work,
        "ROLLBACK; -- COMMIT; when you have looked at the counts above",
    ]
    return [*needed_secrets(job.endpoint), *_checks(source, manifest), *session(installation, psql, lines)]


def _checks(source: Source, manifest: Manifest | None) -> list[str]:
    if manifest is None or source.manifest is None:
        return []
    files = [file for table in source.tables for file in manifest.tables[table.label].files]
    sums = "\n".join(f"{file.sha256}  {file.name}" for file in files)
    return [f"cd {shlex.quote(str(Path(source.manifest).parent))} && sha256sum --check <<'SUMS'\n{sums}\nSUMS"]


def _emptying(source: Source, options: RestoreOptions) -> list[str]:
    if options.mode != "replace":
        return []
    names = ", ".join(table.target.sql for table in source.tables)
    return [
        "-- vecbak backs up and verifies what stands there before this; nothing here has done so:",
        f"-- TRUNCATE TABLE {names} CONTINUE IDENTITY RESTRICT;",
    ]


def _collection_lines(
    installation: Installation, source: Source, manifest: Manifest | None, names: Sequence[str], mode: Mode
) -> Iterator[str | Shell]:
    """By way of scratch tables; a collection that was made anew since would need its new key there."""
    collections, embeddings = source.tables
    listed = ", ".join(quote_literal(name).strip() for name in names)
    keys = "SELECT uuid FROM pg_temp.vecbak_rows_0"
    for number, table in enumerate(source.tables):
        yield (
            f"CREATE TEMPORARY TABLE vecbak_rows_{number} ON COMMIT DROP AS"
            f" SELECT {_columns(table)} FROM {table.target.sql} WITH NO DATA;"
        )
        yield _OWN_PATH
        yield from _copy_lines(installation, table, f"pg_temp.vecbak_rows_{number}", manifest)
    yield search_path.PIN
    yield f"DELETE FROM pg_temp.vecbak_rows_0 WHERE (name IN ({listed})) IS NOT TRUE;"
    yield f"DELETE FROM pg_temp.vecbak_rows_1 WHERE (collection_id IN ({keys})) IS NOT TRUE;"
    if mode == "replace":
        yield "-- vecbak backs up and verifies what stands there before this; nothing here has done so:"
        yield f"-- DELETE FROM {embeddings.target.sql} WHERE collection_id IN ({keys});"
    yield _OWN_PATH
    for number, table in enumerate(source.tables):
        end = " ON CONFLICT DO NOTHING" if table is collections or mode == "skip-existing" else ""
        yield (
            f"INSERT INTO {table.target.sql} ({_columns(table)}) OVERRIDING SYSTEM VALUE"
            f" SELECT {_columns(table)} FROM pg_temp.vecbak_rows_{number}{end};"
        )
    yield search_path.PIN
    yield f"ANALYZE {embeddings.target.sql};"
    yield f"SELECT count(*) FROM {embeddings.target.sql} WHERE collection_id IN ({keys});"


def _columns(table: SourceTable) -> str:
    return ", ".join(quote_identifier(name) for name in table.columns)


def _copy_lines(
    installation: Installation, table: SourceTable, target: str, manifest: Manifest | None
) -> Iterator[str | Shell]:
    for file in table.files:
        note = "" if manifest else " -- vecbak turns Python's repr into JSON on the way"
        options = LOAD_OPTIONS[manifest.format] if manifest else "format csv, header true"
        copy, how = f"\\copy {target} ({_columns(table)}) from ", f" with ({options}){note}"
        decode = _decode(installation, file.name, manifest)
        if installation.prefix:
            path = "/tmp/vecbak-rows"  # noqa: S108 - made by mkfifo, which refuses what exists
            yield from load_elsewhere(
                installation, f"{copy}'{path}'{how}", path, decode or f"cat {shlex.quote(file.name)}"
            )
        else:
            quoted = decode.replace("'", "''")
            yield f"{copy}program '{quoted}'{how}" if decode else f"{copy}'{file.name}'{how}"


def _table_lines(
    installation: Installation,
    table: SourceTable,
    manifest: Manifest | None,
    scratch: str,
    *,
    rows_before: int,
    way: Way,
) -> Iterator[str | Shell]:
    """Drop the vector indexes, load, build them again: as much of it as the rows that stand there leave to do."""
    if table.definition is None or (way != "load" and rows_before == 0):
        way = "load"
    schema = table.target.schema
    indexes = [
        index
        for index in (table.definition.indexes if table.definition else ())
        if index.method in REBUILT_METHODS and index.constraint is None and table.rows > rows_before
    ]
    for index in indexes:
        yield to_paste(f"DROP INDEX IF EXISTS {quote_name(schema, index.name)};")
    reactions = table.definition.reactions if table.definition and not _goes_elsewhere(table) else ()
    acting = [item for item in reactions if item.would_act]
    yield from map(to_paste, disable(acting))
    if table.definition and way != "load":
        yield from _merge_lines(installation, table, table.definition, manifest, scratch, way)
    else:
        yield _OWN_PATH
        yield from _copy_lines(installation, table, table.target.sql, manifest)
        yield search_path.PIN
    yield from map(to_paste, enable(acting))
    if table.definition:
        for index in indexes:
            yield from map(to_paste, create_index(table.definition, index, schema or table.definition.schema, ()))
    yield f"ANALYZE {table.target.sql};"
    yield f"SELECT {quote_literal(table.label)} AS table, count(*), {table.rows} AS in_the_backup FROM {table.target.sql};"


def _merge_lines(
    installation: Installation,
    table: SourceTable,
    definition: Table,
    manifest: Manifest | None,
    scratch: str,
    way: Way,
) -> Iterator[str | Shell]:
    there = msgspec.structs.replace(definition, schema=table.target.schema or definition.schema)
    yield restore_queries.scratch_table(scratch, there, table.columns)
    scratch = f"pg_temp.{scratch}"
    yield _OWN_PATH
    yield from _copy_lines(installation, table, scratch, manifest)
    yield search_path.PIN
    if way == "merge" and there.primary_key:
        yield "-- vecbak goes on only if the count is 0:"
        yield restore_queries.conflicts(scratch, there, table.columns).strip()
    yield restore_queries.drop_present(scratch, there, table.columns).strip()
    yield _OWN_PATH
    yield restore_queries.insert_all(scratch, there, table.columns, skip_conflicts=way == "skip")
    yield search_path.PIN


def _installation(job: Job, source: Source) -> Installation:
    """What the run would take: an older psql cannot read every CSV."""
    fitting = [item for item in job.installations if item.major >= (18 if source.needs_psql_18 else 0)]
    return (fitting or list(job.installations))[0]


def _goes_elsewhere(table: SourceTable) -> bool:
    return table.definition is None or table.target.schema != table.definition.schema


def _decode(installation: Installation, name: str, manifest: Manifest | None) -> str:
    """The shell command that prints a file's rows; empty if the file holds them as they are."""
    compressor = compressor_of(name)
    unpack = shlex.join(decompress(compressor, name)) if compressor else ""
    if manifest is None or manifest.format != "pg_dump":
        return unpack
    print_it = shlex.join([*installation.prefix, "pg_restore", "--file=-"])
    through = f"{unpack} | {print_it}" if unpack else f"{print_it} <{shlex.quote(name)}"
    return f"{through} | {_ROWS_OF_A_DUMP}"
