"""One operation per task at a time, each in a thread of its own, which ends after every program that it started."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

import msgspec

from vecbak.errors import Busy, Interrupted, VecbakError, reason_of
from vecbak.interrupts import Scope
from vecbak.operations.workflow import WorkflowRun
from vecbak.server.problems import Problem, Stopping, masked, problem_of

log = logging.getLogger(__name__)

_REMEMBERED = 1000  # operations that ended; their folders know them too

Document = dict[str, Any]


class RowProgress:
    """Rows by table, for whoever asks."""

    def __init__(self) -> None:
        self._tables: dict[str, Document] = {}
        self._lock = threading.Lock()

    def started(self, table: str, rows: int) -> None:
        """A table's copy begins."""
        self._set(table, status="running", rows=0, total_rows=rows)

    def advanced(self, table: str, rows: int) -> None:
        """Rows copied so far."""
        self._set(table, rows=rows)

    def finished(self, table: str, rows: int, size_bytes: int) -> None:
        """Its file is complete and hashed."""
        self._set(table, status="done", rows=rows, total_rows=rows, size_bytes=size_bytes)

    def failed(self, table: str) -> None:
        """Its copy failed."""
        self._set(table, status="failed")

    def to_dict(self) -> dict[str, Document]:
        """As it is now."""
        with self._lock:
            return {table: dict(state) for table, state in self._tables.items()}

    def _set(self, table: str, **changes: object) -> None:
        with self._lock:
            self._tables.setdefault(table, {"status": "running", "rows": 0}).update(changes)


class Outcome(msgspec.Struct, frozen=True):
    """How an operation ended: with an answer, or with a problem."""

    answer: Document | None = None
    problem: Problem | None = None


class Work:
    """One operation.

    Args:
        asked: what was asked for, as `task_config.json` holds it.

    Attributes:
        mask: removes secrets from texts.
        run: of a workflow, how far it is.
        recorded: whether its folder knows of it.
        outcome: None as long as it runs.
    """

    def __init__(self, task_id: str, asked: Document) -> None:
        self.task_id = task_id
        self.asked = asked
        self.progress = RowProgress()
        self.scope = Scope()
        self.mask: Callable[[str], str] = lambda text: text
        self.run: WorkflowRun | None = None
        self.recorded = False
        self.outcome: Outcome | None = None
        self.thread: threading.Thread | None = None
        self.ended: Future[Outcome] = Future()

    async def wait(self) -> Outcome:
        """Its outcome; whoever waits may go away, it goes on."""
        return await asyncio.shield(asyncio.wrap_future(self.ended))

    def end(self, signum: int) -> None:
        """End it in order, and return when its thread has ended."""
        if self.thread:
            self.scope.end(self.thread, signum)


Operation = Callable[[Work], Document]


class Tasks:
    """The operations that run, and the last ones that did.

    Args:
        most: that run at once.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._running: dict[str, Work] = {}
        self._ended: OrderedDict[str, Work] = OrderedDict()
        self._stopping = False
        self._lock = threading.Lock()

    def start(self, task_id: str, asked: Document, operation: Operation) -> Work:
        """Begin an operation.

        Args:
            operation: runs in a thread of its own and returns the answer.

        Raises:
            Busy: one runs in this task, or as many as can run at once.
            Stopping: the server is ending.
        """
        work = Work(task_id, asked)
        with self._lock:
            if self._stopping:
                raise Stopping("the server is ending", "Ask again when it runs again.")
            if running := self._running.get(task_id):
                raise Busy(
                    f"an operation runs in task {task_id}: {running.asked.get('operation', 'execute')}",
                    "Wait for its end, or use another task.",
                )
            if len(self._running) >= self._most:
                raise Busy(
                    f"{self._most} operations run, as many as can at once", "Ask again when one of them has ended."
                )
            self._running[task_id] = work
        work.thread = threading.Thread(target=self._run, args=(work, operation), name=f"task-{task_id}")
        work.thread.start()
        return work

    def find(self, task_id: str) -> Work | None:
        """What runs in a task, or ran last."""
        with self._lock:
            return self._running.get(task_id) or self._ended.get(task_id)

    def end_all(self, signum: int) -> None:
        """Begin nothing any more, and end what runs: its transactions are rolled back, what is committing is recorded."""
        with self._lock:
            self._stopping = True
            running = list(self._running.values())
        enders = [threading.Thread(target=work.end, args=(signum,), name="end") for work in running]
        for ender in enders:
            ender.start()
        for ender in enders:
            ender.join()

    def _run(self, work: Work, operation: Operation) -> None:
        with work.scope.entered():
            outcome = _outcome(work, operation)
        with self._lock:
            work.outcome = outcome
            work.scope.stop, work.run = (lambda: None), None
            del self._running[work.task_id]
            self._ended[work.task_id] = work
            self._ended.move_to_end(work.task_id)
            while len(self._ended) > _REMEMBERED:
                self._ended.popitem(last=False)
        work.ended.set_result(outcome)


def _outcome(work: Work, operation: Operation) -> Outcome:
    try:
        return Outcome(answer=operation(work))
    except (VecbakError, Interrupted) as error:
        log.warning("task %s: %s", work.task_id, work.mask(reason_of(error)))
        failure: BaseException = error
        if isinstance(error, VecbakError) and work.scope.asked is not None:
            failure = Interrupted(work.scope.asked)  # what broke, broke because its programs were ended
        return Outcome(problem=_masked_problem(failure, result_of(error.result), work.mask))
    except Exception as error:
        log.error("task %s: a bug", work.task_id, exc_info=error)
        return Outcome(problem=problem_of(error))


def result_of(result: object) -> Document | None:
    """What an operation's result is in an answer, under `result`."""
    if not hasattr(result, "to_dict"):
        return None
    document: Document = result.to_dict()
    if "steps" in document:
        return workflow_result(document)
    return {"restore" if "restore_performed" in document else "vector_management": document}


def workflow_result(document: Mapping[str, Any]) -> Document:
    """`workflow_state` and `vector_management` of a workflow's result."""
    steps = document["steps"]
    names = {status: [step["name"] for step in steps if step["status"] == status] for status in _STATUSES}
    state = {
        "state": state_of(document),
        "current_step": None,
        "completed_steps": names["done"],
        "failed_steps": names["failed"],
        "skipped_steps": names["skipped"],
        "steps": steps,
        "exit_code": document["exit_code"],
        "errors": document["errors"],
        "duration": document["duration"],
    }
    return {"workflow_state": state, "vector_management": document["vector_management"]}


_STATUSES = ("done", "failed", "skipped")


def state_of(document: Mapping[str, Any]) -> str:
    """`completed`, `failed` or `interrupted`: of a `task_result.json`."""
    if document.get("success"):
        return "completed"
    errors = document.get("errors") or []
    return "interrupted" if any(str(error).startswith("interrupted by ") for error in errors) else "failed"


def _masked_problem(error: BaseException, result: Document | None, mask: Callable[[str], str]) -> Problem:
    found = problem_of(error, result)
    return Problem(found.status, mask(found.detail), mask(found.hint), found.kind, masked(found.extra, mask))
