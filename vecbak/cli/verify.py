"""`vecbak verify`."""

from __future__ import annotations

import click

from vecbak import interrupts
from vecbak.cli.boundary import Settings
from vecbak.cli.options import load_or_defaults, open_local_job, options, reading_backup


@click.command(short_help="Read every file of a backup again; or prove it.")
@click.argument("backup", metavar="BACKUP")
@click.option("--restore", is_flag=True, help="Prove it: restore it on a throw-away server and compare byte for byte.")
@click.option("--on", "on", metavar="DSN", help="With --restore: in a scratch schema of this database instead.")
@options("config", "output_dir", "json", "in_task")
@click.pass_obj
def verify(
    settings: Settings,
    backup: str,
    restore: bool,
    on: str | None,
    config: str | None,
    task_id: str | None,
    output_dir: str | None,
    as_json: bool,
) -> None:
    """Read every file of a backup again: size, SHA-256, complete, rows. BACKUP is an id, `latest`, or a manifest's path.

    With --restore the outcome is recorded in the manifest. --on takes no password: use ~/.pgpass or $PGPASSWORD.

    \b
    Example:
      vecbak verify latest
      vecbak verify 20250720_121007 --restore
    """
    from vecbak import report
    from vecbak.operations.prove import file_reader, prove_found
    from vecbak.operations.verify import verify as verify_files
    from vecbak.postgres.connection import endpoint_from_dsn
    from vecbak.results import VerifyResult

    settings.nothing_done = lambda message: VerifyResult(errors=(message,))
    if on is not None and not restore:
        raise click.UsageError("--on needs --restore")
    loaded = load_or_defaults(config)
    with (
        open_local_job(settings, loaded, as_json=as_json) as job,
        reading_backup(backup, loaded, task_id, output_dir) as found,
    ):
        endpoint = endpoint_from_dsn(on, loaded) if on is not None else None
        reader = file_reader(job, found.manifest, found.path.parent)
        result, _ = verify_files(found, reader, jobs=loaded.config.backup.jobs, progress=job.progress)
        if restore:
            result = prove_found(job, found, result, endpoint)
        interrupts.hold()
    if as_json:
        report.show_document(result.to_dict())
    elif settings.verbosity >= 0:
        report.show_verified(result)


COMMANDS = (verify,)
