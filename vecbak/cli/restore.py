"""`vecbak restore`."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vecbak import interrupts
from vecbak.cli.boundary import Settings
from vecbak.cli.options import load, open_job, options, reading_backup
from vecbak.errors import Declined, UsageError
from vecbak.paths import absolute, path_of

if TYPE_CHECKING:
    from vecbak.backups.inventory import FoundBackup
    from vecbak.backups.manifest import Manifest
    from vecbak.operations.job import Job
    from vecbak.operations.restore import RestoreOptions
    from vecbak.operations.targets import Mode, Source
    from vecbak.postgres.names import TableName
    from vecbak.results import RestoreResult


@click.command(short_help="Restore a backup: all of it, or nothing.")
@click.argument("backup", metavar="BACKUP", required=False)
@click.option(
    "--mode",
    type=click.Choice(["error", "replace", "append", "skip-existing"]),
    default="error",
    show_default=True,
    help="What becomes of rows that are there already.",
)
@click.option("--table", "tables", metavar="NAME", multiple=True, help="Only this table; may be repeated.")
@click.option(
    "--collection",
    "collections",
    metavar="NAME",
    multiple=True,
    help="Only this one of LangChain's collections, whatever the others have become; may be repeated.",
)
@click.option("--into-schema", metavar="NAME", help="Into the tables of this schema instead.")
@click.option("--create", is_flag=True, help="Make schemas and tables that are missing, as they were.")
@click.option(
    "--no-policies",
    is_flag=True,
    help="With --create: leave out policies; row-level security is switched on all the same.",
)
@click.option("--no-safety-backup", is_flag=True, help="With --mode replace: do not back up what is replaced.")
@click.option(
    "--csv-pair",
    nargs=2,
    metavar="COLLECTION.csv EMBEDDING.csv",
    help="Instead of BACKUP: two files that a hand-written exporter left.",
)
@click.option(
    "--migrate",
    is_flag=True,
    help="Bring an older LangChain's rows (uuid, custom_id, json) into today's tables (id, jsonb).",
)
@click.option("--skip-bad-rows", metavar="FILE", help="With --csv-pair: write unreadable rows there and go on.")
@options("config", "task_id", "output_dir", "dry_run", "json", "yes")
@click.pass_obj
def restore(settings: Settings, /, **given: Any) -> None:
    """Restore a backup in one transaction: the tables hold what they held then, or stay as they are.

    BACKUP is an id, `latest`, or a manifest's path. By default a table that vecbak truncates must be empty, and
    one that it keeps may hold rows: equal ones are skipped, missing ones inserted, others refuse. `replace` backs up
    what stands there, empties the tables and loads them; `append` adds; `skip-existing` adds rows whose key is not there.
    With --collection, and always of a backup that was made with it, all that is about these collections alone, by name.
    Readers of a table that is emptied, or whose vector indexes are built again, wait until the end.

    \b
    Example:
      vecbak restore latest
      vecbak restore 20250720_121007 --mode replace --yes
      vecbak restore latest --collection manuals --mode replace
      vecbak restore latest --into-schema drill --create
      vecbak restore 20240101_000000 --migrate
      vecbak restore --csv-pair langchain_pg_collection_20250101_000000.csv langchain_pg_embedding_20250101_000000.csv
    """
    _check(given["backup"], given["csv_pair"], given["skip_bad_rows"])
    _run(settings, **given)


def _check(backup: str | None, csv_pair: tuple[str, str] | None, skip_bad_rows: str | None) -> None:
    if (backup is None) == (csv_pair is None):
        raise click.UsageError("Name a BACKUP (an id, `latest`, or a manifest's path), or --csv-pair.")
    if skip_bad_rows is not None and csv_pair is None:
        raise click.UsageError("--skip-bad-rows needs --csv-pair")


def _run(
    settings: Settings,
    *,
    backup: str | None,
    mode: Mode,
    tables: tuple[str, ...],
    collections: tuple[str, ...],
    into_schema: str | None,
    create: bool,
    no_policies: bool,
    no_safety_backup: bool,
    csv_pair: tuple[str, str] | None,
    skip_bad_rows: str | None,
    migrate: bool,
    config: str | None,
    task_id: str | None,
    output_dir: str | None,
    dry_run: bool,
    as_json: bool,
    yes: bool,
) -> None:
    from vecbak import report
    from vecbak.operations.dry_restore import planned_restore
    from vecbak.operations.opening import folder_of_backup
    from vecbak.operations.restore import RestoreOptions
    from vecbak.operations.restore import restore as run_restore

    settings.json = as_json
    settings.nothing_done = partial(_nothing_done, mode, None)
    loaded = load(config)
    names, schema = _parse(tables), _schema(into_schema)
    options = RestoreOptions(
        mode=mode,
        create=create,
        safety_backup=not no_safety_backup,
        collections=collections,
        migrate=migrate,
        policies=not no_policies,
    )
    with contextlib.ExitStack() as stack:
        found = stack.enter_context(reading_backup(backup, loaded, task_id, output_dir)) if backup is not None else None
        settings.nothing_done = partial(_nothing_done, mode, found)
        folder: str | Path | None = output_dir
        if output_dir is None and task_id is None:
            folder = folder_of_backup(found.path if found else absolute(Path((csv_pair or ("", ""))[1])), loaded)
        job = stack.enter_context(open_job(settings, loaded, task_id, folder, as_json=as_json))
        if found:
            source = _source(job, found, names, schema)
        else:
            source = _pair(job, csv_pair, names, schema, skip_bad_rows, touch_nothing=dry_run, migrate=migrate)
        manifest = found.manifest if found else None
        if dry_run:
            report.show_commands(planned_restore(job, source, manifest, options), as_json=as_json)
            return
        if mode == "replace" and not yes and report.is_interactive():
            _ask(job, source, manifest, options)
        result = run_restore(job, source, manifest, options)
        interrupts.hold()  # what is done is reported
    if as_json:
        report.show_document(result.to_dict())
    elif settings.verbosity >= 0:
        report.show_restored(result)


def _nothing_done(mode: Mode, found: FoundBackup | None, message: str) -> RestoreResult:
    from vecbak.results import RestoreResult

    backup_id, manifest = (found.manifest.backup_id, str(found.path)) if found else (None, None)
    return RestoreResult(backup_id=backup_id, manifest=manifest, mode=mode, errors=(message,))


def _source(job: Job, found: FoundBackup, names: Sequence[TableName], schema: str | None) -> Source:
    from vecbak.operations.prove import file_reader
    from vecbak.operations.sources import backup_source

    reader = file_reader(job, found.manifest, found.path.parent)
    return backup_source(found, reader, tables=names, into_schema=schema, jobs=job.config.backup.jobs)


def _pair(
    job: Job,
    csv_pair: tuple[str, str] | None,
    names: Sequence[TableName],
    schema: str | None,
    skip_bad_rows: str | None,
    *,
    touch_nothing: bool,
    migrate: bool,
) -> Source:
    from vecbak.operations.csv_pair import pair_source

    collection, embedding = map(Path, csv_pair or ("", ""))
    skip = path_of(skip_bad_rows) if skip_bad_rows is not None else None
    return pair_source(job, collection, embedding, schema, names, skip, touch_nothing=touch_nothing, migrate=migrate)


def _ask(job: Job, source: Source, manifest: Manifest | None, options: RestoreOptions) -> None:
    from vecbak import report
    from vecbak.operations.collection_restore import scope_of
    from vecbak.operations.preview import preview_of

    scope = scope_of(source, manifest, options.collections)
    wanted = {table.label: table.target for table in source.tables}
    preview = preview_of(job, wanted, scope.names if scope else ())
    if not report.ask_to_replace(preview, source.backup_id, safety_backup=options.safety_backup):
        raise Declined("the answer was not yes; nothing was done", "Answer y, or use --yes.")


def _parse(tables: tuple[str, ...]) -> list[TableName]:
    from vecbak.postgres.names import parse_table_name

    try:
        return [parse_table_name(text) for text in tables]
    except ValueError as error:
        raise UsageError(f"--table: {error}", "Write it as in the config.") from None


def _schema(text: str | None) -> str | None:
    from vecbak.postgres.names import parse_table_name

    if text is None:
        return None
    try:
        name = parse_table_name(text)
    except ValueError:
        raise UsageError(
            f"--into-schema: {text!r} is no schema's name",
            "Put an odd name into double quotes, and those into single ones for the shell: '\"My Schema\"'.",
        ) from None
    if name.schema is not None:
        raise UsageError("--into-schema names one schema, without a dot", "Put an odd name into double quotes.")
    return name.name


COMMANDS = (restore,)
