"""`vecbak backup` and `vecbak truncate`."""

from __future__ import annotations

from typing import Any

import click

from vecbak import interrupts
from vecbak.cli.boundary import Settings
from vecbak.cli.options import load, open_job, options
from vecbak.errors import Declined

_collections = click.option(
    "--collection",
    "collections",
    metavar="NAME",
    multiple=True,
    help="Only this one of LangChain's collections, and its embeddings; may be repeated.",
)
_prune = click.option(
    "--prune", is_flag=True, help="After success, remove older backups of this folder, by the config's retention."
)


@click.command(short_help="Back up the tables; with --truncate, then empty some of them.")
@click.option("--truncate", is_flag=True, help="Empty truncate_tables when the backup is proved.")
@_collections
@click.option("--where", metavar="SQL", help="Only the rows of truncate_tables for which this holds; never truncates.")
@_prune
@options("config", "task_id", "output_dir", "dry_run", "json", "yes")
@click.pass_obj
def backup(settings: Settings, /, truncate: bool, **given: Any) -> None:
    """Back up the tables; with --truncate, empty truncate_tables once the backup is proved.

    A backup alone blocks no reader and no writer.

    \b
    Example:
      vecbak backup --task-id before_reload
      vecbak backup --truncate --yes --json
      vecbak backup --output-dir nightly --prune
      vecbak backup --collection manuals --collection "product faq"
      vecbak backup --where "cmetadata->>'language' = 'de'" --output-dir german
    """
    if given["where"] is not None and (truncate or given["collections"]):
        raise click.UsageError("--where is for a backup alone: it goes with neither --truncate nor --collection")
    _run(settings, truncate=truncate, **given)


@click.command(short_help="Back up, verify, and only then empty truncate_tables.")
@_collections
@_prune
@options("config", "task_id", "output_dir", "dry_run", "json", "yes")
@click.pass_obj
def truncate(settings: Settings, /, **given: Any) -> None:
    """Back up, verify, and only then empty truncate_tables: the same as `backup --truncate`.

    There is no truncate without a backup. With --collection, exactly the embeddings of these collections are deleted; nobody
    who inserts waits for that, and all others stay as they are.

    \b
    Example:
      vecbak truncate --task-id nightly --yes
      vecbak truncate --collection manuals --yes
    """
    _run(settings, truncate=True, where=None, **given)


def _run(
    settings: Settings,
    *,
    truncate: bool,
    collections: tuple[str, ...],
    where: str | None,
    prune: bool,
    config: str | None,
    task_id: str | None,
    output_dir: str | None,
    dry_run: bool,
    as_json: bool,
    yes: bool,
) -> None:
    from vecbak import report
    from vecbak.operations.backup import back_up
    from vecbak.operations.collections import extent_of
    from vecbak.operations.preview import preview

    settings.json = as_json
    loaded = load(config)
    extent = extent_of(collections, where, loaded.config)
    with open_job(settings, loaded, task_id, output_dir, as_json=as_json) as job:
        if dry_run:
            from vecbak.operations.dry_run import planned_commands

            report.show_commands(planned_commands(job, truncate=truncate, extent=extent), as_json=as_json)
            return
        if truncate and not yes and report.is_interactive() and not report.ask_to_truncate(preview(job, extent)):
            raise Declined("the answer was not yes; nothing was done", "Answer y, or use --yes.")
        result = back_up(job, truncate=truncate, prune=prune, extent=extent)
        interrupts.hold()  # what is done is reported
    if as_json:
        report.show_document(result.to_dict())
    elif settings.verbosity >= 0:
        verb = "deleted" if collections else "truncated"
        report.show_result(result, truncate_asked=truncate, truncated_as=verb)


COMMANDS = (backup, truncate)
