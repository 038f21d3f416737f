"""Copying tables into files: workers that share the guard's snapshot, and a finisher that hashes what they wrote."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import msgspec

from vecbak.backups.draft import Draft
from vecbak.backups.files import FileDamaged, FinishedFile
from vecbak.checkpoints import reach
from vecbak.errors import VecbakError
from vecbak.operations.exporting import CopyTask, Exporter
from vecbak.operations.tally import Tally
from vecbak.postgres.worker import Worker

POLL_SECONDS = 0.25


class Copied(msgspec.Struct, frozen=True):
    """One file's outcome: either a finished file or an error.

    Attributes:
        counted: rows of the whole table under the snapshot, told with its first part alone.
        rows: in the file, by the program that wrote it, or by the one that read it back.
        began: on time.monotonic()'s clock.
        ended: on time.monotonic()'s clock.
    """

    task: CopyTask
    counted: int | None
    rows: int
    began: float
    ended: float
    file: FinishedFile | None
    error: str | None


class CopyCrew:
    """A few threads, each with a worker session of its own, that empty one queue of tables and parts.

    While a worker copies the next part, the finished one is synced, hashed and checked in another thread.

    Args:
        open_worker: connects a worker; called in the thread that goes on to use it, because a child dies with that thread.
        jobs: how many workers, at most.
        count_seconds: for counting a table.
    """

    def __init__(
        self,
        tasks: Sequence[CopyTask],
        draft: Draft,
        exporter: Exporter,
        open_worker: Callable[[], Worker],
        tally: Tally,
        *,
        jobs: int,
        count_seconds: float,
    ) -> None:
        self._draft = draft
        self._exporter = exporter
        self._open_worker = open_worker
        self._tally = tally
        self._count_seconds = count_seconds
        self._tasks: queue.SimpleQueue[CopyTask] = queue.SimpleQueue()
        for task in tasks:
            self._tasks.put(task)
        count = min(jobs, len(tasks))
        self._threads = [threading.Thread(target=self._run, name=f"copy-{n}", daemon=True) for n in range(count)]
        self._finisher = ThreadPoolExecutor(max_workers=count, thread_name_prefix="finish")
        self._finishing: list[Future[Copied]] = []
        self._failed: list[Copied] = []
        self._crash: BaseException | None = None
        self._opened = threading.Barrier(count + 1)
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

    def wait(self, on_poll: Callable[[], None]) -> list[Copied]:
        """Wait for every file, whatever becomes of the others.

        Args:
            on_poll: called every quarter of a second.
        """
        next_poll = time.monotonic() + POLL_SECONDS
        for thread in self._threads:
            while thread.is_alive():
                thread.join(max(0.0, next_poll - time.monotonic()))
                if time.monotonic() >= next_poll:
                    on_poll()
                    next_poll = time.monotonic() + POLL_SECONDS
        for future in self._finishing:
            while not future.done():
                try:
                    future.result(POLL_SECONDS)
                except TimeoutError:
                    on_poll()
        if self._crash:
            raise self._crash
        return [*self._failed, *(future.result() for future in self._finishing)]

    def abort(self) -> None:
        """No further file is begun; the sessions must have been ended, or end by themselves."""
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
                worker = self._copy(worker, task)
        except threading.BrokenBarrierError:
            pass
        except BaseException as error:  # noqa: BLE001 - carried over to the main thread, which raises it
            self._crash = self._crash or error
            self._opened.abort()
        finally:
            if worker:
                worker.close() if not self._aborted else worker.kill()

    def _copy(self, worker: Worker | None, task: CopyTask) -> Worker | None:
        """Make one file; returns the worker if it can go on."""
        began, counted = time.monotonic(), None
        try:
            session = worker or self._open_worker()
            target = self._draft.create(task.file)
            self._tally.begin(task.label, session.backend_pid)
            if task.part.is_first:
                counted = session.count(task.table, timeout=self._count_seconds)
            reach("copying")
            written = self._exporter.export(session, task, target)
        except (VecbakError, FileDamaged, OSError) as error:
            self._tally.fail(task.label)
            self._failed.append(Copied(task, counted, 0, began, time.monotonic(), None, explain(error)))
            return None
        self._tally.copied(task.label, session.backend_pid, written or 0)
        self._finishing.append(self._finisher.submit(self._finish, task, counted, written, began))
        return session

    def _finish(self, task: CopyTask, counted: int | None, written: int | None, began: float) -> Copied:
        try:
            reach("finishing")
            file = self._draft.finish(task.file, self._exporter.check_ends)
            found = self._exporter.examine(task, file)
        except (VecbakError, FileDamaged, OSError) as error:
            self._tally.fail(task.label)
            return Copied(task, counted, written or 0, began, time.monotonic(), None, explain(error))
        problem = None
        if written is not None and found is not None and written != found:
            problem = f"psql copied {written:,} rows of {task.table.name}, and the file holds {found:,}"
        rows = written if written is not None else found or 0
        self._tally.finish(task.label, file.size_bytes, rows)
        return Copied(task, counted, rows, began, time.monotonic(), file, problem)


def explain(error: Exception) -> str:
    """One line: what failed, and what the program said last."""
    if isinstance(error, OSError):
        name = Path(error.filename).name if isinstance(error.filename, str) else ""
        return f"{name}: {error.strerror}" if name else str(error.strerror or error)
    if isinstance(error, VecbakError) and error.output:
        return f"{error.message}: {error.output.splitlines()[0]}"
    return str(error)
