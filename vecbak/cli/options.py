"""The options that commands share, and what they mean: which config, which folders, which job."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vecbak.cli.boundary import Settings
from vecbak.paths import absolute

if TYPE_CHECKING:
    from vecbak.backups.inventory import FoundBackup
    from vecbak.config import LoadedConfig
    from vecbak.operations.job import Job

_AVAILABLE = {
    "config": click.option(
        "-c", "--config", metavar="FILE", help="Configuration [default: $VECBAK_CONFIG, then ./vecbak.yaml]."
    ),
    "task_id": click.option(
        "--task-id", metavar="ID", help="Names the run; alone, its folder is below tasks_directory."
    ),
    "in_task": click.option("--task-id", metavar="ID", help="Look in this task's folder alone."),
    "output_dir": click.option("--output-dir", metavar="DIR", help="The folder of the run, its log and its backups."),
    "dry_run": click.option("--dry-run", is_flag=True, help="Print the exact commands, ready to paste; touch nothing."),
    "json": click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output."),
    "yes": click.option("--yes", is_flag=True, help="Do not ask."),
}


def options(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add shared options to a command, in this order."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for name in reversed(names):
            function = _AVAILABLE[name](function)
        return function

    return decorate


def load(option: str | None) -> LoadedConfig:
    """The configuration that a command works with.

    Raises:
        UsageError: there is none, or it cannot be read.
    """
    from vecbak.config_file import find_config, load_config

    return load_config(find_config(option))


def load_or_defaults(option: str | None) -> LoadedConfig:
    """The same for commands that only look: no config at all means the defaults."""
    from vecbak.config import Config, LoadedConfig

    if option or os.environ.get("VECBAK_CONFIG") or os.path.lexists("vecbak.yaml"):
        return load(option)
    return LoadedConfig(Config(), absolute(Path("vecbak.yaml")))


def backup_folders(loaded: LoadedConfig, task_id: str | None, output_dir: str | None) -> list[Path]:
    """Where backups are looked for: in one run's folder if it is named, else everywhere that they could be."""
    from vecbak.operations import opening

    if task_id is not None:
        opening.check_task_id(task_id)
    return opening.backup_folders(loaded, task_id, output_dir)


def find(backup: str, loaded: LoadedConfig, task_id: str | None, output_dir: str | None) -> FoundBackup:
    """The backup that a command's BACKUP means.

    Raises:
        UsageError: there is none, or more than one.
    """
    from vecbak.backups.inventory import find_backup, is_path

    return find_backup(backup, [] if is_path(backup) else backup_folders(loaded, task_id, output_dir))


@contextlib.contextmanager
def reading_backup(
    backup: str, loaded: LoadedConfig, task_id: str | None, output_dir: str | None
) -> Iterator[FoundBackup]:
    """The same for commands that use its content: no prune removes it meanwhile.

    Raises:
        BackupDamaged: its manifest is not what was written.
        UsageError: there is none, or more than one.
    """
    from vecbak.backups.manifest import undamaged
    from vecbak.backups.removal import reading

    with undamaged():
        found = find(backup, loaded, task_id, output_dir)
    with reading(found):
        yield found


@contextlib.contextmanager
def open_local_job(settings: Settings, loaded: LoadedConfig, *, as_json: bool) -> Iterator[Job]:
    """A job for commands that read files and need no database: it has no folder, and no server is started.

    Raises:
        Refused: there is no usable psql.
    """
    from vecbak.bars import LineProgress
    from vecbak.operations.opening import local_job

    book = settings.start_log(as_json=as_json)
    with local_job(loaded, progress=LineProgress()) as job:
        book.mask_with(job.runner.mask)
        yield job


@contextlib.contextmanager
def open_job(
    settings: Settings, loaded: LoadedConfig, task_id: str | None, output_dir: str | Path | None, *, as_json: bool
) -> Iterator[Job]:
    """A job that logs to standard error and to its folder, with bars where somebody watches.

    Raises:
        VecbakError: as `vecbak.operations.opening.open_job`.
    """
    from vecbak.bars import BarProgress, LineProgress
    from vecbak.operations import opening

    book = settings.start_log(as_json=as_json)
    with contextlib.ExitStack() as stack:
        watched = sys.stderr.isatty() and settings.verbosity >= 0
        progress = stack.enter_context(BarProgress()) if watched else LineProgress()
        job = opening.open_job(
            loaded,
            task_id=task_id,
            output_dir=output_dir,
            progress=progress,
            folder_ready=lambda path: book.open(path, loaded.config.log_file),
            mask_with=book.mask_with,
        )
        yield stack.enter_context(job)
