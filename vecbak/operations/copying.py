"""Copying tables into files: workers that share the guard's snapshot, and a finisher that hashes what they wrote."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from vecbak.backups.files import Draft, FileDamaged, FinishedFile
from vecbak.errors import VecbakError
from vecbak.postgres.catalog import Table
from vecbak.postgres.worker import Worker
from vecbak.progress import Progress

POLL_SECONDS = 0.25


@dataclass(frozen=True)
class CopyTask:
    """One table to copy: the config's name for it, and its file's final name."""

    label: str
    table: Table
    file: str


@dataclass(frozen=True)
class Copied:
    """One table's outcome: either a finished file or an error.

    Attributes:
        counted: rows under the snapshot.
        rows: what psql said it copied.
        duration: seconds.
    """

    task: CopyTask
    counted: int
    rows: int
    duration: float
    file: FinishedFile | None
    error: str | None


class CopyCrew:
    """A few threads, each with a worker session of its own, that empty one queue of tables.

    Args:
        open_worker: connects a worker; called in the thread that goes on to use it, because a child dies with that thread.
        jobs: how many workers, at most.
        copy_seconds: for one table.
    """

    def __init__(
        self,
        tasks: Sequence[CopyTask],
        draft: Draft,
        open_worker: Callable[[], Worker],
        progress: Progress,
        *,
        jobs: int,
        copy_seconds: float,
    ) -> None:
        self._draft = draft
        self._open_worker = open_worker
        self._progress = progress
        self._copy_seconds = copy_seconds
        self._tasks: queue.SimpleQueue[CopyTask] = queue.SimpleQueue()
        for task in tasks:
            self._tasks.put(task)
        self._threads = [
            threading.Thread(target=self._run, name=f"copy-{n}", daemon=True) for n in range(min(jobs, len(tasks)))
        ]
        self._finisher = ThreadPoolExecutor(max_workers=len(self._threads), thread_name_prefix="finish")
        self._finishing: list[Future[Copied]] = []
        self._failed: list[Copied] = []
        self._crash: BaseException | None = None
        self._copying: dict[int, str] = {}
        self._opened = threading.Barrier(len(self._threads) + 1)
        self._aborted = False

    def open(self) -> None:
        """Open every worker now, before anything can queue between the guard and them.

        Raises:
            VecbakError: one of them could not be opened; none of them goes on.
        """
        for thread in self._threads:
            thread.start()
        try:
            self._opened.wait()
        except threading.BrokenBarrierError:
            self.abort()
            raise self._crash or VecbakError("a worker did not open") from None

    def wait(self, on_poll: Callable[[dict[int, str]], None]) -> list[Copied]:
        """Wait for every table, whatever becomes of the others.

        Args:
            on_poll: called every quarter of a second with the label that each server process copies.
        """
        next_poll = time.monotonic() + POLL_SECONDS
        for thread in self._threads:
            while thread.is_alive():
                thread.join(max(0.0, next_poll - time.monotonic()))
                if time.monotonic() >= next_poll:
                    on_poll(dict(self._copying))
                    next_poll = time.monotonic() + POLL_SECONDS
        for future in self._finishing:
            while not future.done():
                try:
                    future.result(POLL_SECONDS)
                except TimeoutError:
                    on_poll({})
        if self._crash:
            raise self._crash
        return [*self._failed, *(future.result() for future in self._finishing)]

    def abort(self) -> None:
        """No further table is begun; the sessions must have been ended, or end by themselves."""
        self._aborted = True
        self._opened.abort()

    def join(self) -> None:
        """Wait until no thread of the crew touches a file any more."""
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        self._finisher.shutdown(wait=True, cancel_futures=True)

    def _run(self) -> None:
        worker: Worker | None = None
        try:
            worker = self._open_worker()
            self._opened.wait()
            while not self._aborted:
                try:
                    task = self._tasks.get_nowait()
                except queue.Empty:
                    break
                worker = self._copy(worker or self._open_worker, task)
        except threading.BrokenBarrierError:
            pass
        except BaseException as error:  # noqa: BLE001 - carried over to the main thread, which raises it
            self._crash = self._crash or error
            self._opened.abort()
        finally:
            if worker:
                worker.close() if not self._aborted else worker.kill()

    def _copy(self, worker: Worker | Callable[[], Worker], task: CopyTask) -> Worker | None:
        """Copy one table; returns the worker if it can go on."""
        began, counted = time.monotonic(), 0
        try:
            session = worker if isinstance(worker, Worker) else worker()
            temporary = self._draft.create(task.file)
            counted = session.count(task.table, timeout=self._copy_seconds)
            self._progress.started(task.label, counted)
            self._copying[session.backend_pid] = task.label
            try:
                rows = session.copy(task.table, temporary, timeout=self._copy_seconds)
            finally:
                del self._copying[session.backend_pid]
        except (VecbakError, OSError) as error:
            self._progress.failed(task.label)
            self._failed.append(Copied(task, counted, 0, time.monotonic() - began, None, explain(error)))
            return None
        self._finishing.append(self._finisher.submit(self._finish, task, counted, rows, began))
        return session

    def _finish(self, task: CopyTask, counted: int, rows: int, began: float) -> Copied:
        try:
            file = self._draft.finish(task.file, csv=True)
        except (FileDamaged, OSError) as error:
            self._progress.failed(task.label)
            return Copied(task, counted, rows, time.monotonic() - began, None, explain(error))
        self._progress.finished(task.label, rows, file.size_bytes)
        return Copied(task, counted, rows, time.monotonic() - began, file, _count_error(task, counted, rows, file))


def _count_error(task: CopyTask, counted: int, rows: int, file: FinishedFile) -> str | None:
    in_file = None if file.records is None else file.records - 1  # the header
    if rows == counted and in_file in {None, rows}:
        return None
    held = "" if in_file is None else f", and the file holds {in_file:,}"
    return f"{task.table.name} has {counted:,} rows under the snapshot, psql copied {rows:,}{held}"


def explain(error: Exception) -> str:
    """One line: what failed, and what the program said last."""
    if isinstance(error, OSError):
        name = Path(error.filename).name if isinstance(error.filename, str) else ""
        return f"{name}: {error.strerror}" if name else str(error.strerror or error)
    if isinstance(error, VecbakError) and error.output:
        return f"{error.message}: {error.output.splitlines()[0]}"
    return str(error)
