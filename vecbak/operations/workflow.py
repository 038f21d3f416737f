"""`vecbak workflow`: the steps of the configuration, with the vectors managed exactly once, just before training_load."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from vecbak.config import Step
from vecbak.errors import Interrupted, UsageError, VecbakError, exit_code_of, reason_of
from vecbak.operations import durability
from vecbak.operations.collections import extent_of
from vecbak.operations.job import Job
from vecbak.operations.management import NOT_ASKED, Managed, manage_vectors
from vecbak.operations.pipeline import TIMED_OUT, Loaded, OnFailure, check_command, load_and_watch
from vecbak.operations.saving import open_log
from vecbak.operations.task_files import RESULT, claim_task, write_task_file
from vecbak.postgres.runner import ProgramTimeout
from vecbak.results import Result, plain

log = logging.getLogger(__name__)

TRAINING_LOAD = "training_load"


class WorkflowOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for; written to `task_config.json`. No collections: those of the configuration, or whole tables."""

    execution_mode: Literal["complete", "step"] = "complete"
    step_name: str | None = None
    backup_vector_tables: bool = False
    truncate_vector_tables: bool = False
    skip_training_load: bool = False
    on_failure: OnFailure = "keep"
    allow_empty: bool = False
    collections: tuple[str, ...] = ()


class StepResult(msgspec.Struct, frozen=True, kw_only=True):
    """One step: `done`, `failed` or `skipped`; its exit code and seconds."""

    name: str
    status: Literal["done", "failed", "skipped"]
    exit_code: int | None = None
    duration: float = 0.0
    error: str | None = None


class WorkflowResult(msgspec.Struct, frozen=True, kw_only=True):
    """What came out; written to `task_result.json`.

    Attributes:
        exit_code: of the first step that failed, else 0.
        restored: the restore after a failed load.
    """

    success: bool
    task_id: str
    execution_mode: str
    step_name: str | None
    steps: tuple[StepResult, ...]
    vector_management: dict[str, Any]
    warnings: tuple[str, ...] = ()
    restored: dict[str, Any] | None = None
    errors: tuple[str, ...] = ()
    exit_code: int = 0
    duration: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """As plain dicts, lists, strings and numbers."""
        return plain(self)


def run_workflow(
    job: Job, options: WorkflowOptions, watch: Callable[[WorkflowRun], None] = lambda _: None
) -> WorkflowResult:
    """Run the steps; a failed one ends the run.

    Args:
        watch: is handed the run, so that another thread can ask how far it is.

    Raises:
        Busy: another run works in the same folder.
        UsageError: there is no such step, or none at all.
        VecbakError: the vectors could not be managed, or not brought back; `result` is the WorkflowResult.
        Interrupted: the step was ended, and the vectors brought back if that was asked for.
    """
    run = WorkflowRun(job, options)
    watch(run)
    with contextlib.ExitStack() as claim:
        try:
            run.execute(claim)
        except (VecbakError, Interrupted) as error:
            run.end(error)
            raise
        return run.end(None)


class WorkflowRun:
    """One run: what is known so far, and the steps that add to it.

    Attributes:
        current: the name of the step that runs now.
    """

    def __init__(self, job: Job, options: WorkflowOptions) -> None:
        self.job = job
        collections = options.collections or job.config.workflow.collections
        self.options = msgspec.structs.replace(options, collections=collections)
        self._extent = extent_of(collections, None, job.config)
        self._began = time.monotonic()
        self._steps: list[StepResult] = []
        self._warnings: list[str] = []
        self._errors: list[str] = []
        self._managed = Managed(Result(task_id=job.task_id, note=NOT_ASKED), {})
        self._loaded: Loaded | None = None
        self._exit_code = 0
        self._claimed = False
        self.current: str | None = None

    def result(self) -> WorkflowResult:
        """What happened so far."""
        restored = self._loaded.restored if self._loaded else None
        return WorkflowResult(
            success=not self._errors,
            task_id=self.job.task_id,
            execution_mode=self.options.execution_mode,
            step_name=self.options.step_name,
            steps=tuple(self._steps),
            vector_management=self._managed.result.to_dict(),
            warnings=tuple(self._warnings),
            restored=restored.to_dict() if restored else None,
            errors=tuple(self._errors),
            exit_code=self._exit_code,
            duration=round(time.monotonic() - self._began, 3),
        )

    def execute(self, claim: contextlib.ExitStack) -> None:
        """The steps, in order.

        Args:
            claim: is given what holds the task; to be closed after `end`.
        """
        steps = self._wanted()
        for step in steps:
            check_command(step.command)
        backup, truncate = self._wanted_management()
        if truncate:  # the steps before it may take hours
            durability.check(durability.place_of(self.job))
        open_log(self.job)
        asked = {"task_id": self.job.task_id, **msgspec.to_builtins(self.options)}
        claim.enter_context(claim_task(self.job.output_dir, asked))
        self._claimed = True
        managed = False
        for step in steps:
            is_load = step.name == TRAINING_LOAD
            self.current = step.name
            if is_load:
                managed = True
                self._manage(backup, truncate)
            if is_load and self.options.skip_training_load:
                log.info("step %s: skipped", step.name)
                self._steps.append(StepResult(name=step.name, status="skipped"))
                continue
            if not self._run(step, watched=is_load):
                return
        if not managed and self.options.execution_mode == "complete":
            if backup or truncate:
                self._warn("no step is named training_load: the vectors are managed after the last one")
            self._manage(backup, truncate)

    def end(self, error: VecbakError | Interrupted | None) -> WorkflowResult:
        """Record what came out, and return it."""
        if error is not None:
            self._errors.append(reason_of(error))
            self._exit_code = exit_code_of(error)
            if isinstance(error.result, Loaded):
                self._loaded = error.result
            elif isinstance(error.result, Result):
                self._managed = Managed(error.result, {})
        result = self.result()
        if error is not None:
            error.result = result
        if self._claimed:
            write_task_file(self.job.output_dir, RESULT, result.to_dict())
        return result

    def _wanted(self) -> Sequence[Step]:
        steps = self.job.config.workflow.steps
        if not steps:
            raise UsageError(
                "the configuration has no workflow.steps", "Write them; config/workflow.yaml is an example."
            )
        if self.options.step_name is None:
            return steps
        found = [step for step in steps if step.name == self.options.step_name]
        if not found:
            names = ", ".join(step.name for step in steps)
            raise UsageError(f"there is no step {self.options.step_name!r}", f"The configuration has {names}.")
        return found

    def _wanted_management(self) -> tuple[bool, bool]:
        options = self.options
        asked = options.backup_vector_tables or options.truncate_vector_tables or options.skip_training_load
        if self.options.step_name in {None, TRAINING_LOAD}:
            return self.options.backup_vector_tables, self.options.truncate_vector_tables
        if asked:
            note = "not performed (the options belong to training_load)"
            self._managed = Managed(Result(task_id=self.job.task_id, note=note), {})
            self._warn(f"the vector options are ignored: they belong to training_load, not to {self.options.step_name}")
        return False, False

    def _warn(self, text: str) -> None:
        log.warning(text)
        self._warnings.append(text)

    def _manage(self, backup: bool, truncate: bool) -> None:
        self._managed = manage_vectors(self.job, backup=backup, truncate=truncate, extent=self._extent)

    def _run(self, step: Step, *, watched: bool) -> bool:
        log.info("step %s: %s", step.name, step.command[0])
        began = time.monotonic()
        try:
            if watched:
                loaded = self._loaded = load_and_watch(
                    self.job,
                    self._managed,
                    lambda: self._execute(step),
                    on_failure=self.options.on_failure,
                    allow_empty=self.options.allow_empty,
                    extent=self._extent,
                )
                code, failure = loaded.exit_code, loaded.failure
            else:
                code = self._execute(step)
                code = 128 - code if code < 0 else code
                failure = f"ended with exit code {code}" if code else None
        except BaseException as error:
            self._add(step, began, None, str(error))
            raise
        self._add(step, began, code, failure)
        if failure:
            self._errors.append(f"step {step.name} {failure}")
            self._exit_code = code
        return failure is None

    def _add(self, step: Step, began: float, code: int | None, error: str | None) -> None:
        seconds = round(time.monotonic() - began, 3)
        status: Literal["done", "failed"] = "failed" if error else "done"
        log.info("step %s: %s after %.1f s", step.name, status, seconds)
        self._steps.append(StepResult(name=step.name, status=status, exit_code=code, duration=seconds, error=error))

    def _execute(self, step: Step) -> int:
        try:
            return self.job.runner.follow(
                step.command,
                timeout=step.timeout_seconds,
                environment={**task_environment(self.job), **self._managed.environment},
                on_line=lambda line: log.info("[%s] %s", step.name, line),
            )
        except ProgramTimeout as error:
            log.error("step %s: %s", step.name, error.message)
            return TIMED_OUT


def task_environment(job: Job) -> Mapping[str, str]:
    """What commands of a task are told."""
    return {"VECBAK_TASK_ID": job.task_id, "VECBAK_OUTPUT_DIR": str(job.output_dir)}
