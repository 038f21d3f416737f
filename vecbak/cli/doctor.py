"""`vecbak doctor`."""

from __future__ import annotations

from functools import partial

import click

from vecbak.cli.boundary import Settings
from vecbak.cli.options import backup_folders, load, open_job, options
from vecbak.errors import UsageError


@click.command(short_help="Check everything that a run needs; say how to mend it.")
@options("config", "task_id", "output_dir", "json")
@click.pass_context
def doctor(ctx: click.Context, config: str | None, task_id: str | None, output_dir: str | None, as_json: bool) -> None:
    """Check every precondition of backup, truncate and restore; say what would fail, and how to mend it.

    Nothing is locked and nothing is written. Exits with 0, or with the code that `backup --truncate` would end with (without
    truncate_tables: `backup`).

    \b
    Example:
      vecbak doctor
      vecbak doctor --task-id nightly --json
    """
    from vecbak import report
    from vecbak.operations import doctor as examining

    settings: Settings = ctx.obj
    settings.start_log(as_json=as_json)
    try:
        loaded = load(config)
    except UsageError as error:
        examination = examining.unreadable(error)
    else:
        folders = backup_folders(loaded, task_id, output_dir)
        job = partial(open_job, settings, loaded, task_id, output_dir, as_json=as_json)
        examination = examining.examine(loaded, job, folders)
    if as_json:
        report.show_document(report.examination_document(examination))
    else:
        report.show_examination(examination)
    ctx.exit(examination.exit_code)


COMMANDS = (doctor,)
