"""The Python API: `VectorTableManager`, for trainers that manage their vectors themselves.

Putting it into an existing trainer:

    from vecbak import VectorTableManager

    async def train(task_folder: str, backup: bool, truncate: bool) -> None:
        vectors = VectorTableManager(task_folder)
        await vectors.execute_vector_management(backup, truncate)  # raises if the old vectors are not safe
        await load_training_data(task_folder)
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from vecbak.config import Config, LoadedConfig
from vecbak.config_file import find_config, load_config
from vecbak.interrupts import Scope
from vecbak.logbook import folder_log
from vecbak.operations.collections import extent_of
from vecbak.operations.management import manage_vectors
from vecbak.operations.opening import TASK_ID, open_job
from vecbak.paths import absolute, path_of
from vecbak.results import Result

T = TypeVar("T")
log = logging.getLogger(__name__)


class VectorTableManager:
    """Manages the vector tables of one task; every method can be awaited in any running event loop.

    Each call works in a thread of its own, which has ended, as has every program that it started, when the call returns.
    A call that is cancelled ends in order: its transaction is rolled back. Where a parent process (`vecbak run`, `vecbak
    workflow`) has managed the same tables already, `execute_vector_management` only says so.

    Args:
        task_output_dir: the task's folder; backups go into `backup.backup_directory` below it.
        task_id: None: the folder's name, where it can be one.
        config: a file, or a `vecbak.config.Config`; None: `$VECBAK_CONFIG`, then `./vecbak.yaml`.
        collections: only these of LangChain's, and their embeddings; none: whole tables.

    Attributes:
        environment: variables for child processes, so that a `vecbak run` among them does not do the same again.

    Raises:
        UsageError: the configuration cannot be read.
    """

    def __init__(
        self,
        task_output_dir: str | Path,
        task_id: str | None = None,
        config: str | Path | Config | None = None,
        *,
        collections: Sequence[str] = (),
    ) -> None:
        if isinstance(collections, str):
            raise TypeError("collections: a list of names, not one string")
        self.collections = tuple(collections)
        self.task_output_dir = absolute(path_of(task_output_dir))
        self.environment: dict[str, str] = {}
        name = self.task_output_dir.name
        self.task_id = task_id or (name if TASK_ID.fullmatch(name) else None)
        if isinstance(config, Config):
            self._loaded = LoadedConfig(config, absolute(Path("vecbak.yaml")))
        else:
            self._loaded = load_config(find_config(None if config is None else str(config)))

    async def backup_vector_tables(self) -> dict[str, Any]:
        """Back up the tables, always.

        Returns:
            The result of DESIGN.md section 6, with a `summary`.

        Raises:
            VecbakError: there is no backup; `message`, `hint` and `exit_code` say why, `result` how far it came.
        """
        return await self._run(backup=True, truncate=False, once=False)

    async def truncate_vector_tables(self) -> dict[str, Any]:
        """Back up, verify, and only then empty `truncate_tables`.

        Returns:
            The same.

        Raises:
            VecbakError: nothing was truncated.
        """
        return await self._run(backup=True, truncate=True, once=False)

    async def execute_vector_management(self, backup: bool, truncate: bool) -> dict[str, Any]:
        """What a pipeline's flags ask for, once: `truncate` implies `backup`; neither does nothing.

        Returns:
            The same; `note` says so where nothing was done.

        Raises:
            VecbakError: it could not be done; nothing was truncated.
        """
        return await self._run(backup=backup, truncate=truncate, once=True)

    async def _run(self, *, backup: bool, truncate: bool, once: bool) -> dict[str, Any]:
        scope = Scope()

        def manage() -> Result:
            with scope.entered():
                return self._manage(scope, backup, truncate, once)

        def end() -> None:
            log.warning("cancelled: ending what runs")
            scope.end(thread, signal.SIGTERM)

        thread, result = _start(manage)
        result.add_done_callback(lambda done: done.exception())  # of a cancelled call nobody else asks for it
        try:
            return (await asyncio.shield(result)).to_dict()
        except asyncio.CancelledError:
            await asyncio.shield(_start(end)[1])
            raise
        finally:
            thread.join()

    def _manage(self, scope: Scope, backup: bool, truncate: bool, once: bool) -> Result:
        config = self._loaded.config
        with folder_log(config.log_file) as file:
            job = open_job(
                self._loaded,
                task_id=self.task_id,
                output_dir=self.task_output_dir,
                folder_ready=file.open,
                mask_with=file.mask_with,
            )
            with job as opened:
                scope.stop = opened.runner.stop_all
                managed = manage_vectors(
                    opened,
                    backup=backup,
                    truncate=truncate,
                    extent=extent_of(self.collections, None, config),
                    environment=os.environ if once else {},
                )
                self.environment = managed.environment
                return managed.result


def _start(work: Callable[[], T]) -> tuple[threading.Thread, asyncio.Future[T]]:
    """Do it in a thread of its own; the future is of the running event loop."""
    future: Future[T] = Future()

    def settle() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised where it is awaited
            future.set_exception(error)

    thread = threading.Thread(target=settle, name="vecbak")
    thread.start()
    return thread, asyncio.wrap_future(future)
