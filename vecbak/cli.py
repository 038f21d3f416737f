"""The command line: options → configuration → one operation → report. The only composition root.

What a command needs is imported inside it, so that `vecbak --help` answers at once.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from vecbak import __version__, interrupts
from vecbak.errors import Declined, ExitCode, Interrupted, UsageError, VecbakError

if TYPE_CHECKING:
    from vecbak.config import LoadedConfig
    from vecbak.operations.job import Job
    from vecbak.report import LogBook

TASK_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


class Settings:
    """The options that every command shares, and the log."""

    def __init__(self, verbosity: int) -> None:
        self.verbosity = verbosity
        self.log: LogBook | None = None
        self.json = False

    def mask(self, text: str) -> str:
        """Without secrets, as far as they are known yet."""
        return self.log.mask(text) if self.log else text


class Boundary(click.Group):
    """Turns every way to fail into its message and its exit code; nothing leaves it as a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command inside the error boundary."""
        settings = ctx.obj if isinstance(ctx.obj, Settings) else Settings(0)
        try:
            result = super().invoke(ctx)
        except VecbakError as error:
            _show_failure(ctx.obj or settings, error)
            ctx.exit(int(error.exit_code))
        except Interrupted as interrupt:
            _show_interrupt(ctx.obj or settings, interrupt)
            ctx.exit(128 + interrupt.signum)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except BrokenPipeError:
            # whoever read our output went away; Python must not complain about it at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(141)
        except Exception as error:  # noqa: BLE001 - the boundary: what nobody foresaw is a bug, and is reported as one
            _show_failure(ctx.obj or settings, _bug(ctx.obj or settings, error))
            ctx.exit(int(ExitCode.BUG))
        if interrupts.pending() is not None:  # it came while COMMIT was on its way; what was reported is done
            ctx.exit(128 + int(interrupts.pending() or 0))
        return result


def _show_failure(settings: Settings, error: VecbakError) -> None:
    from vecbak import report

    if settings.json:
        report.show_document(_failure_document(error.result, error.message))
    if settings.log:
        settings.log.record_failure(error)
    report.show_error(error, settings.mask)


def _show_interrupt(settings: Settings, interrupt: Interrupted) -> None:
    from vecbak import report

    document = _failure_document(interrupt.result, f"interrupted by {interrupt}")
    if settings.json:
        report.show_document(document)
    kept = f" The backup {document['backup_id']} is complete and kept." if document["backup_performed"] else ""
    text = f"Interrupted by {interrupt}: cleaned up, and nothing was truncated.{kept}"
    if settings.log:
        settings.log.record(text)
    report.show_line(text)


def _failure_document(result: object, message: str) -> dict[str, Any]:
    from vecbak.results import Result

    return (result if isinstance(result, Result) else Result(errors=(message,))).to_dict()


def _bug(settings: Settings, error: Exception) -> VecbakError:
    text = settings.mask("".join(traceback.format_exception(error)))
    path = settings.log.path if settings.log else None
    if path is None:
        descriptor, name = tempfile.mkstemp(prefix="vecbak-bug-", suffix=".log")
        os.close(descriptor)
        path = Path(name)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)
    return VecbakError(
        f"this is probably a bug in vecbak: {type(error).__name__}",
        f"The details are in {path}; please send them to whoever looks after vecbak for you.",
    )


@click.group(cls=Boundary, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="vecbak")
@click.option("-v", "--verbose", count=True, help="Tell every step.")
@click.option("-q", "--quiet", is_flag=True, help="Tell errors only.")
@click.pass_context
def cli(ctx: click.Context, verbose: int, quiet: bool) -> None:
    """Back up, prove, truncate and restore the vector tables of PostgreSQL + pgvector.

    Embeddings cost days and money to make again: nothing is truncated before its backup is proved.

    \b
    Example:
      vecbak init                     write a config
      vecbak backup                   save the tables
      vecbak truncate --task-id nightly
    """
    interrupts.install()
    ctx.obj = Settings(-1 if quiet else min(verbose, 1))


def _options(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    available = {
        "config": click.option(
            "-c", "--config", metavar="FILE", help="Configuration [default: $VECBAK_CONFIG, then ./vecbak.yaml]."
        ),
        "task_id": click.option(
            "--task-id", metavar="ID", help="Names the run; alone, its folder is below tasks_directory."
        ),
        "output_dir": click.option(
            "--output-dir", metavar="DIR", help="The folder of the run, its log and its backups."
        ),
        "dry_run": click.option(
            "--dry-run", is_flag=True, help="Print the exact commands, ready to paste; touch nothing."
        ),
        "json": click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output."),
        "yes": click.option("--yes", is_flag=True, help="Do not ask."),
    }

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for name in reversed(names):
            function = available[name](function)
        return function

    return decorate


@cli.command()
@_options("config")
def init(config: str | None) -> None:
    """Write a commented starter config; an existing file is never overwritten.

    \b
    Example:
      vecbak init --config production.yaml
    """
    from vecbak import report
    from vecbak.starter import starter_text, write_starter

    path = Path(config or os.environ.get("VECBAK_CONFIG") or "vecbak.yaml").expanduser()
    write_starter(path, starter_text())
    report.show_text(
        f"Wrote {path}. Every key is optional; say where the database is, then try `vecbak backup --dry-run`."
    )


@cli.command()
@click.option("--truncate", is_flag=True, help="Empty truncate_tables when the backup is proved.")
@_options("config", "task_id", "output_dir", "dry_run", "json", "yes")
@click.pass_obj
def backup(settings: Settings, /, truncate: bool, **options: Any) -> None:
    """Back up the tables; with --truncate, empty truncate_tables once the backup is proved.

    A backup alone blocks no reader and no writer.

    \b
    Example:
      vecbak backup --task-id before_reload
      vecbak backup --truncate --yes --json
    """
    _run(settings, truncate=truncate, **options)


@cli.command()
@_options("config", "task_id", "output_dir", "dry_run", "json", "yes")
@click.pass_obj
def truncate(settings: Settings, /, **options: Any) -> None:
    """Back up, verify, and only then empty truncate_tables: the same as `backup --truncate`.

    There is no truncate without a backup.

    \b
    Example:
      vecbak truncate --task-id nightly --yes
    """
    _run(settings, truncate=True, **options)


@cli.command("list")
@_options("config", "output_dir", "json")
@click.option("--task-id", metavar="ID", help="Look in this task's folder alone.")
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

    _start_log(settings, as_json)
    inventory = take_inventory(_search_folders(config, task_id, output_dir))
    if as_json:
        report.show_document(report.inventory_document(inventory))
    else:
        report.show_inventory(inventory)


@cli.command()
@click.argument("backup", metavar="BACKUP")
@_options("config", "output_dir", "json")
@click.option("--task-id", metavar="ID", help="Look in this task's folder alone.")
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
    from vecbak.backups.inventory import find_backup

    _start_log(settings, as_json)
    folders = [] if "/" in backup or backup.endswith(".json") else _search_folders(config, task_id, output_dir)
    found = find_backup(backup, folders)
    files = [file.name for entry in found.manifest.tables.values() for file in entry.files]
    entry = backup_log.find_entry(found.path.parent, files)
    if as_json:
        import msgspec

        report.show_document({**msgspec.to_builtins(found.manifest), "manifest": str(found.path), "log": entry})
    else:
        report.show_backup(found, entry)


@cli.command()
@click.option("--directory", metavar="DIR", help="Where to work [default: a temporary folder, removed at the end].")
@click.option(
    "--documents", default=3000, show_default=True, type=click.IntRange(10, 1_000_000), help="Sample documents."
)
@click.pass_obj
def demo(settings: Settings, directory: str | None, documents: int) -> None:
    """Show the main job on an embedded PostgreSQL with sample vectors (extra `vecbak[embedded]`).

    \b
    Example:
      vecbak demo --documents 500
    """
    from vecbak.demo import run_demo

    _start_log(settings, as_json=False)
    run_demo(Path(directory) if directory else None, documents)


def _run(
    settings: Settings,
    *,
    truncate: bool,
    config: str | None,
    task_id: str | None,
    output_dir: str | None,
    dry_run: bool,
    as_json: bool,
    yes: bool,
) -> None:
    from vecbak import report
    from vecbak.operations.backup import back_up
    from vecbak.operations.dry_run import planned_commands
    from vecbak.operations.preview import preview

    book = _start_log(settings, as_json)
    loaded = _load(config)
    with _job(settings, book, loaded, task_id, output_dir) as job:
        if dry_run:
            commands = planned_commands(job, truncate=truncate)
            report.show_document({"dry_run": True, "commands": commands}) if as_json else report.show_text(
                "\n\n".join(commands)
            )
            return
        if truncate and not yes and report.is_interactive() and not report.ask(preview(job)):
            raise Declined("the answer was not yes; nothing was done", "Answer y, or use --yes.")
        result = back_up(job, truncate=truncate)
        interrupts.hold()  # what is done is reported
    if as_json:
        report.show_document(result.to_dict())
    elif settings.verbosity >= 0:
        report.show_result(result, truncate_asked=truncate)


def _start_log(settings: Settings, as_json: bool) -> LogBook:
    from vecbak import report

    settings.json = as_json
    settings.log = report.LogBook(verbosity=settings.verbosity, interactive=sys.stderr.isatty())
    return settings.log


def _load(option: str | None) -> LoadedConfig:
    from vecbak.config_file import find_config, load_config

    return load_config(find_config(option))


def _output_dir(loaded: LoadedConfig, task_id: str | None, output_dir: str | None) -> Path:
    if output_dir is not None:
        if not output_dir or "\0" in output_dir:
            raise UsageError("--output-dir is no folder's name", "Give a path.")
        return Path(output_dir).expanduser().absolute()
    return loaded.resolve(loaded.config.tasks_directory) / str(task_id)


def _check_task_id(task_id: str) -> str:
    if not TASK_ID.fullmatch(task_id):
        raise UsageError(f"--task-id {task_id[:40]!r} cannot name a folder", "Use up to 128 letters, digits, _ and -.")
    return task_id


def _search_folders(config: str | None, task_id: str | None, output_dir: str | None) -> list[Path]:
    from vecbak.backups.inventory import search_folders
    from vecbak.config import Config, LoadedConfig
    from vecbak.config_file import find_config, load_config

    try:
        loaded = load_config(find_config(config))
    except UsageError:
        if config or os.environ.get("VECBAK_CONFIG") or Path("vecbak.yaml").exists():
            raise
        loaded = LoadedConfig(Config(), Path("vecbak.yaml").absolute())  # looking is harmless: no config needed
    where = _output_dir(loaded, task_id and _check_task_id(task_id), output_dir) if output_dir or task_id else None
    return search_folders(where, loaded.resolve(loaded.config.tasks_directory), loaded.config.backup.backup_directory)


@contextlib.contextmanager
def _job(
    settings: Settings, book: LogBook, loaded: LoadedConfig, task_id: str | None, output_dir: str | None
) -> Iterator[Job]:
    from vecbak import report
    from vecbak.operations.job import Job
    from vecbak.postgres.connection import endpoint_from_config
    from vecbak.postgres.programs import find_installations
    from vecbak.postgres.runner import LocalRunner

    config = loaded.config
    task = _check_task_id(task_id) if task_id is not None else f"manual_{datetime.now().astimezone():%Y%m%d_%H%M%S}"
    folder = _output_dir(loaded, task, output_dir)
    with contextlib.ExitStack() as stack:
        if config.connection.embedded:
            from vecbak.postgres.embedded import embedded_server

            data = loaded.resolve(config.connection.embedded)
            endpoint = stack.enter_context(
                embedded_server(
                    data,
                    dbname=config.connection.dbname,
                    user=config.connection.user,
                    connect_seconds=config.timeouts.connect_seconds,
                )
            )
        else:
            endpoint = endpoint_from_config(loaded)
        runner = LocalRunner(endpoint.secrets)
        stack.callback(runner.stop_all)
        book.mask_with(runner.mask)
        bars = sys.stderr.isatty() and settings.verbosity >= 0
        progress = stack.enter_context(report.BarProgress()) if bars else report.LineProgress()
        yield Job(
            config=config,
            endpoint=endpoint,
            installations=find_installations(runner, endpoint.bin_dir),
            runner=runner,
            output_dir=folder,
            task_id=task,
            progress=progress,
            folder_ready=lambda path: book.open(path, config.log_file),
        )


def main() -> NoReturn:
    """The `vecbak` command."""
    cli(prog_name="vecbak")
    raise SystemExit(0)
