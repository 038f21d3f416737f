"""Commands that need no server: `vecbak init`, `vecbak list`, `vecbak show`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from vecbak.cli.boundary import Settings
from vecbak.cli.options import backup_folders, find, load_or_defaults, open_local_job, options
from vecbak.paths import absolute, path_of


@click.command(short_help="Write a commented starter config.")
@click.option(
    "--discover", is_flag=True, help="Connect, and name every table that holds vectors, with rows and dimensions."
)
@click.option(
    "--dsn", metavar="DSN", help="With --discover: the database, without a password [default: PG* variables]."
)
@options("config")
@click.pass_obj
def init(settings: Settings, discover: bool, dsn: str | None, config: str | None) -> None:
    """Write a commented starter config; an existing file is never overwritten.

    \b
    Example:
      vecbak init --config production.yaml
      vecbak init --discover --dsn postgresql://vecbak@db.example/vectors
    """
    from vecbak import report
    from vecbak.starter import starter_text, write_starter

    if dsn is not None and not discover:
        raise click.UsageError("--dsn needs --discover")
    path = path_of(config or os.environ.get("VECBAK_CONFIG") or "vecbak.yaml")
    absolute(path)  # there must be a folder that it starts from
    write_starter(path, _discovered(settings, path, dsn) if discover else starter_text())
    report.show_text(f"Wrote {path}. Every key is optional; say where the database is, then try `vecbak doctor`.")


def _discovered(settings: Settings, path: Path, dsn: str | None) -> str:
    """The starter file for a database's tables."""
    import msgspec

    from vecbak.config import Config, LoadedConfig
    from vecbak.errors import UsageError
    from vecbak.operations.discovery import discover
    from vecbak.postgres.connection import endpoint_from_config, endpoint_from_dsn
    from vecbak.starter import starter_for

    if os.path.lexists(path):
        raise UsageError(f"{path} exists already; it was not touched", "Name another file with --config FILE.")
    loaded = LoadedConfig(Config(), absolute(path))
    endpoint = endpoint_from_dsn(dsn, loaded) if dsn is not None else endpoint_from_config(loaded)
    with open_local_job(settings, loaded, as_json=False) as job:
        return starter_for(discover(msgspec.structs.replace(job, endpoint=endpoint)), dsn)


@click.command("list")
@options("config", "output_dir", "json", "in_task")
@click.pass_obj
def list_backups(
    settings: Settings, config: str | None, task_id: str | None, output_dir: str | None, as_json: bool
) -> None:
    """List the backups found, newest first.

    Without --output-dir: in the current folder and everywhere below tasks_directory.

    \b
    Example:
      vecbak list --json
    """
    from vecbak import report
    from vecbak.backups.inventory import take_inventory

    settings.start_log(as_json=as_json)
    inventory = take_inventory(backup_folders(load_or_defaults(config), task_id, output_dir))
    if as_json:
        report.show_document(report.inventory_document(inventory))
    else:
        report.show_inventory(inventory)


@click.command()
@click.argument("backup", metavar="BACKUP")
@options("config", "output_dir", "json", "in_task")
@click.pass_obj
def show(
    settings: Settings, backup: str, config: str | None, task_id: str | None, output_dir: str | None, as_json: bool
) -> None:
    """Show one backup: its manifest and log. BACKUP is an id, `latest`, or the path of a manifest.

    \b
    Example:
      vecbak show latest
      vecbak show 20250720_121007 --json
    """
    from vecbak import report
    from vecbak.backups import log as backup_log

    settings.start_log(as_json=as_json)
    found = find(backup, load_or_defaults(config), task_id, output_dir)
    files = [file.name for entry in found.manifest.tables.values() for file in entry.files]
    entry = backup_log.find_entry(found.path.parent, files)
    if as_json:
        import msgspec

        report.show_document({**msgspec.to_builtins(found.manifest), "manifest": str(found.path), "log": entry})
    else:
        report.show_backup(found, entry)


COMMANDS = (init, list_backups, show)
