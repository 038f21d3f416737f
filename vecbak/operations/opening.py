"""From a configuration to a `Job`: the task's folder, the endpoint, the programs. Shared by every way into vecbak."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

from vecbak.backups.inventory import search_folders
from vecbak.config import Config, LoadedConfig
from vecbak.errors import UsageError
from vecbak.operations.job import Job
from vecbak.postgres.connection import Endpoint, endpoint_from_config
from vecbak.postgres.programs import find_installations
from vecbak.postgres.runner import LocalRunner
from vecbak.progress import NoProgress, Progress

log = logging.getLogger(__name__)

TASK_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


def check_task_id(task_id: str) -> str:
    """The same, if it can name a folder.

    Raises:
        UsageError: it cannot.
    """
    if not TASK_ID.fullmatch(task_id):
        raise UsageError(f"--task-id {task_id[:40]!r} cannot name a folder", "Use up to 128 letters, digits, _ and -.")
    return task_id


def new_task_id() -> str:
    """`manual_20250720_121007`: for a run that nobody named."""
    return f"manual_{datetime.now().astimezone():%Y%m%d_%H%M%S}"


def task_folder(loaded: LoadedConfig, task_id: str, output_dir: str | Path | None) -> Path:
    """The output directory of a run, absolute.

    Args:
        output_dir: `--output-dir`; None: the task's own folder below tasks_directory.

    Raises:
        UsageError: no folder's name.
    """
    if output_dir is None:
        return loaded.resolve(loaded.config.tasks_directory) / check_task_id(task_id)
    if not str(output_dir) or "\0" in str(output_dir):
        raise UsageError("--output-dir is no folder's name", "Give a path.")
    return Path(output_dir).expanduser().absolute()


def backup_folders(loaded: LoadedConfig, task_id: str | None, output_dir: str | None) -> list[Path]:
    """Where backups are looked for: in one run's folder if it is named, else everywhere that they could be.

    Raises:
        UsageError: no folder's name.
    """
    config = loaded.config
    where = task_folder(loaded, task_id or "", output_dir) if task_id is not None or output_dir is not None else None
    return search_folders(where, loaded.resolve(config.tasks_directory), config.backup.backup_directory)


def folder_of_backup(file: Path, loaded: LoadedConfig) -> Path | None:
    """The output directory that a backup's file is in, so that a safety backup goes beside it; None if it is in none."""
    below = Path(loaded.config.backup.backup_directory).parts
    folder = file.parent
    return Path(*folder.parts[: -len(below)]) if folder.parts[-len(below) :] == below else None


@contextlib.contextmanager
def open_endpoint(loaded: LoadedConfig) -> Iterator[Endpoint]:
    """The config's database; an embedded server runs as long as the context.

    Raises:
        UsageError: a dsn that cannot be read.
        ConnectionFailed: the embedded server does not start.
    """
    connection = loaded.config.connection
    if not connection.embedded:
        yield endpoint_from_config(loaded)
        return
    from vecbak.postgres.embedded import embedded_server

    with embedded_server(
        loaded.resolve(connection.embedded),
        dbname=connection.dbname,
        user=connection.user,
        connect_seconds=loaded.config.timeouts.connect_seconds,
    ) as endpoint:
        yield endpoint


@contextlib.contextmanager
def open_job(
    loaded: LoadedConfig,
    *,
    task_id: str | None,
    output_dir: str | Path | None = None,
    progress: Progress | None = None,
    folder_ready: Callable[[Path], None] = lambda _: None,
    mask_with: Callable[[Callable[[str], str]], None] = lambda _: None,
) -> Iterator[Job]:
    """Everything that an operation is given; every program that it started has ended when the context ends.

    Args:
        task_id: None: a new one, from the time.
        folder_ready: called with the output directory as soon as it may be written.
        mask_with: called with the function that removes secrets from texts.

    Raises:
        UsageError: the configuration, the task id or the folder.
        ConnectionFailed: the embedded server does not start.
        Refused: there is no usable psql.
    """
    task = check_task_id(task_id) if task_id is not None else new_task_id()
    folder = task_folder(loaded, task, output_dir)
    if loaded.config == Config():  # a file emptied by accident must not pass in silence
        log.info("%s sets nothing: LangChain's tables, and libpq's own environment", loaded.path)
    with contextlib.ExitStack() as stack:
        endpoint = stack.enter_context(open_endpoint(loaded))
        runner = LocalRunner(endpoint.secrets)
        stack.callback(runner.stop_all)
        mask_with(runner.mask)
        yield Job(
            config=loaded.config,
            endpoint=endpoint,
            installations=find_installations(runner, endpoint.bin_dir),
            runner=runner,
            output_dir=folder,
            task_id=task,
            progress=progress or NoProgress(),
            folder_ready=folder_ready,
            config_folder=loaded.path.parent,
        )


@contextlib.contextmanager
def local_job(loaded: LoadedConfig, *, progress: Progress | None = None) -> Iterator[Job]:
    """A job that only reads files; its endpoint is libpq's own environment, and nothing connects to it.

    Raises:
        Refused: there is no usable psql.
    """
    runner = LocalRunner(Endpoint({}).secrets)
    try:
        yield Job(
            config=loaded.config,
            endpoint=Endpoint({}),
            installations=find_installations(runner, None),
            runner=runner,
            output_dir=Path.cwd(),
            task_id="",
            progress=progress or NoProgress(),
        )
    finally:
        runner.stop_all()
