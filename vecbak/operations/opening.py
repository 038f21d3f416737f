"""From a configuration to a `Job`: the task's folder, the endpoint, the programs. Shared by every way into vecbak."""

from __future__ import annotations

import contextlib
import logging
import re
import signal
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import msgspec

from vecbak.backups.inventory import search_folders
from vecbak.config import Config, LoadedConfig
from vecbak.errors import Refused, UsageError
from vecbak.operations.job import Job
from vecbak.paths import absolute, path_of
from vecbak.postgres.connection import Endpoint, endpoint_from_config, endpoint_inside
from vecbak.postgres.programs import Installation, find_installations
from vecbak.postgres.runner import LocalRunner
from vecbak.progress import NoProgress, Progress
from vecbak.streams import fill_closed

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
    return absolute(path_of(output_dir))


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
        ConnectionFailed: the embedded server does not start, or there is no such container, or it does not run.
        Refused: there is no usable psql.
    """
    fill_closed()
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        raise Refused(
            "this process ignores SIGCHLD, and so no program's exit code could be told",
            "signal.signal(signal.SIGCHLD, signal.SIG_DFL) in its main thread, before vecbak is called.",
        )
    task = check_task_id(task_id) if task_id is not None else new_task_id()
    folder = task_folder(loaded, task, output_dir)
    if loaded.config == Config():  # a file emptied by accident must not pass in silence
        log.info("%s sets nothing: LangChain's tables, and libpq's own environment", loaded.path)
    if output_dir is not None and not path_of(output_dir).is_absolute():
        log.info("--output-dir %s is %s", output_dir, folder)
    with contextlib.ExitStack() as stack:
        endpoint = stack.enter_context(open_endpoint(loaded))
        reached = stack.enter_context(_reached(loaded, endpoint))
        mask_with(reached.runner.mask)
        yield Job(
            config=loaded.config,
            endpoint=reached.endpoint,
            installations=reached.installations,
            runner=reached.runner,
            output_dir=folder,
            task_id=task,
            progress=progress or NoProgress(),
            folder_ready=folder_ready,
            config_folder=loaded.path.parent,
        )


@contextlib.contextmanager
def local_job(loaded: LoadedConfig, *, progress: Progress | None = None) -> Iterator[Job]:
    """A job that only reads files; its endpoint is libpq's own environment, and nothing connects to it.

    Its programs are this machine's, or those of the config's container where this machine has none.

    Raises:
        Refused: there is no usable psql.
    """
    with _programs_for_files(loaded) as reached:
        yield Job(
            config=loaded.config,
            endpoint=reached.endpoint,
            installations=reached.installations,
            runner=reached.runner,
            output_dir=loaded.path.parent,
            task_id="",
            progress=progress or NoProgress(),
        )


class _Reached(msgspec.Struct, frozen=True):
    """A way to the database: the endpoint as its programs see it, the programs, and what runs them."""

    endpoint: Endpoint
    installations: tuple[Installation, ...]
    runner: LocalRunner


@contextlib.contextmanager
def _reached(loaded: LoadedConfig, endpoint: Endpoint) -> Iterator[_Reached]:
    """The programs of this machine, or of the config's container; all have ended when the context ends."""
    wanted = loaded.config.connection.container
    if not wanted:
        runner = LocalRunner(endpoint.secrets)
        try:
            yield _Reached(endpoint, find_installations(runner, endpoint.bin_dir), runner)
        finally:
            runner.stop_all()
        return
    from vecbak.postgres.attended import container_runner
    from vecbak.postgres.container import find_container
    from vecbak.postgres.inside import contained_installation

    container = find_container(wanted, seconds=loaded.config.timeouts.connect_seconds)
    with container_runner(container, endpoint.secrets) as runner:
        installation = contained_installation(runner, container)
        yield _Reached(endpoint_inside(endpoint, container.name, container.environment), (installation,), runner)


@contextlib.contextmanager
def _programs_for_files(loaded: LoadedConfig) -> Iterator[_Reached]:
    with contextlib.ExitStack() as stack:
        runner = LocalRunner(Endpoint({}).secrets)
        stack.callback(runner.stop_all)
        try:
            reached = _Reached(Endpoint({}), find_installations(runner, None), runner)
        except Refused:
            if not loaded.config.connection.container:
                raise
            reached = stack.enter_context(_reached(loaded, Endpoint({})))
        yield reached
