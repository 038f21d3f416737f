"""`vecbak prune`."""

from __future__ import annotations

import click

from vecbak.cli.boundary import Settings
from vecbak.cli.options import backup_folders, load, options
from vecbak.errors import BackupFailed, Declined


@click.command(short_help="Remove old backups, by the config's retention.")
@options("config", "output_dir", "in_task")
@click.option("--dry-run", is_flag=True, help="Show what would be kept and removed, and why; remove nothing.")
@options("json", "yes")
@click.pass_obj
def prune(
    settings: Settings,
    config: str | None,
    task_id: str | None,
    output_dir: str | None,
    dry_run: bool,
    as_json: bool,
    yes: bool,
) -> None:
    """Remove old backups, by the config's retention: one is kept if any rule keeps it.

    Every folder is judged on its own: keep_last: 10 keeps ten in each, and a task's folder with one backup keeps it. Days,
    weeks (from Monday) and months are UTC. The last good backup of a folder always stays, and so does the only
    copy of rows that were truncated after it. What is damaged is not removed
    and does not count; files without a manifest are not touched. Without --output-dir or --task-id: in the current folder
    and everywhere below tasks_directory.

    \b
    Example:
      vecbak prune --dry-run
      vecbak prune --output-dir nightly --yes
    """
    from vecbak import report
    from vecbak.operations import prune as pruning
    from vecbak.results import PruneResult

    settings.start_log(as_json=as_json)
    settings.nothing_done = lambda message: PruneResult(dry_run=dry_run, errors=(message,))
    loaded = load(config)
    planned = pruning.plan(backup_folders(loaded, task_id, output_dir), loaded.config.retention)
    result = planned.preview()
    if not dry_run:
        asks = result.of("remove") and not yes and report.is_interactive()
        if asks and not report.ask_to_prune(result):
            raise Declined("the answer was not yes; nothing was removed", "Answer y, or use --yes.")
        result = pruning.prune(planned, suffix=loaded.config.backup.backup_temp_suffix)
    if not as_json and settings.verbosity >= 0:
        report.show_pruned(result)
    if result.errors:
        raise BackupFailed(
            f"not everything could be removed: {result.errors[0]}",
            "Check the folder's permissions and the disk, then run vecbak prune again.",
            output="\n".join(result.errors[1:]),
            result=result,
        )
    if as_json:
        report.show_document(result.to_dict())


COMMANDS = (prune,)
