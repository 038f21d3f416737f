"""What surrounds every backup and truncate: hooks, retention, metrics. Nothing here can undo a backup or hide an error."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import msgspec

from vecbak.errors import Interrupted, reason_of
from vecbak.operations import metrics
from vecbak.operations import prune as pruning
from vecbak.operations.hooks import run_after, run_before, run_on_error
from vecbak.operations.job import Job
from vecbak.paths import path_of
from vecbak.results import Result

log = logging.getLogger(__name__)


def surround(job: Job, operation: Callable[[], Result], *, prune: bool) -> Result:
    """Run the `before` hooks, the operation, and then what its outcome asks for.

    Args:
        prune: whether to remove older backups from the job's folder after success, by the config's retention.

    Returns:
        The operation's result; its `errors` also name what went wrong after it.

    Raises:
        Refused: a `before` hook failed.
        Interrupted: `result` says whether the backup was made.
    """
    began = time.monotonic()
    try:
        run_before(job)
        result = operation()
    except BaseException as error:
        _after_failure(job, error, time.monotonic() - began)
        raise
    return _after_success(job, result, prune=prune)


def _after_failure(job: Job, error: BaseException, seconds: float) -> None:
    if isinstance(error, Interrupted):
        job.runner.stop_all()
    try:
        run_on_error(job, error)
    except Interrupted:
        job.runner.stop_all()  # the hook is given up; the error is still what must be told
    if warning := _record(job, metrics.LastRun(_now(job), False, seconds)):
        log.warning(warning)


def _after_success(job: Job, result: Result, *, prune: bool) -> Result:
    tables = {label: (item.row_count, item.size_bytes) for label, item in result.tables_backed_up.items()}
    warnings: list[str] = []
    try:
        if prune:
            result = _prune(job, result, warnings)
        warnings += run_after(job, result)
    except Interrupted as interrupt:
        job.runner.stop_all()
        interrupt.result = _with_errors(result, [*warnings, reason_of(interrupt)])
        raise
    finally:
        if warning := _record(job, metrics.LastRun(_now(job), True, result.duration, tables)):
            warnings.append(warning)
    for warning in warnings:
        log.warning(warning)
    return _with_errors(result, warnings)


def _prune(job: Job, result: Result, warnings: list[str]) -> Result:
    try:
        planned = pruning.plan([job.backup_folder], job.config.retention)
        done = pruning.prune(planned, suffix=job.config.backup.backup_temp_suffix)
    except OSError as error:
        warnings.append(f"older backups could not be looked through: {error.strerror or error}")
        return result
    warnings += done.errors
    return msgspec.structs.replace(result, pruned=tuple(item.backup_id for item in done.of("removed")))


def _record(job: Job, run: metrics.LastRun) -> str | None:
    """Write the metrics, if they are wanted; what went wrong, in words."""
    wanted = job.config.metrics_textfile
    if not wanted:
        return None
    path = job.config_folder / path_of(wanted)
    try:
        metrics.record(path, run)
    except OSError as error:
        return f"the metrics could not be written to {path}: {error.strerror or error}"
    return None


def _now(job: Job) -> float:
    return job.clock().timestamp()


def _with_errors(result: Result, errors: list[str]) -> Result:
    return msgspec.structs.replace(result, errors=(*result.errors, *errors))
