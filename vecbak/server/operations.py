"""From a request to an operation of vecbak, in the task's own folder."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vecbak.backups.inventory import FoundBackup, Inventory, find_backup, take_inventory
from vecbak.backups.manifest import undamaged
from vecbak.backups.removal import reading
from vecbak.config import LoadedConfig
from vecbak.errors import Interrupted, UsageError, VecbakError, reason_of
from vecbak.logbook import folder_log
from vecbak.operations.backup import back_up
from vecbak.operations.collections import extent_of
from vecbak.operations.job import Job
from vecbak.operations.opening import TASK_ID, backup_folders, folder_of_backup, new_task_id, open_job, task_folder
from vecbak.operations.prove import file_reader
from vecbak.operations.restore import RestoreOptions, restore
from vecbak.operations.sources import backup_source
from vecbak.operations.task_files import RESULT, claim_task, write_task_file
from vecbak.operations.workflow import WorkflowOptions, WorkflowRun, run_workflow
from vecbak.results import RestoreResult, Result
from vecbak.server.models import BackupRequest, ExecuteRequest, RestoreRequest
from vecbak.server.problems import NotFound, masked
from vecbak.server.tasks import Document, Operation, Work, result_of, workflow_result

log = logging.getLogger(__name__)


def workflow_options(request: ExecuteRequest) -> WorkflowOptions:
    """What a request asks of the workflow."""
    return WorkflowOptions(
        execution_mode=request.execution_mode,
        step_name=request.step_name,
        backup_vector_tables=request.wants("backup_vector_tables"),
        truncate_vector_tables=request.wants("truncate_vector_tables"),
        skip_training_load=request.wants("skip_training"),
        collections=request.wanted_collections(),
    )


def execute(loaded: LoadedConfig, options: WorkflowOptions) -> Operation:
    """Run the workflow, or a step of it."""

    def operation(work: Work) -> Document:
        def watch(run: WorkflowRun) -> None:
            work.run = run

        def recorded() -> None:
            work.recorded = True

        with _opened(loaded, work, None, lambda _: recorded()) as job:
            result = run_workflow(job, options, watch)
        document: Document = masked(result.to_dict(), work.mask)
        return {
            "success": result.success,
            "task_id": work.task_id,
            "execution_mode": result.execution_mode,
            "step_name": result.step_name,
            "result": workflow_result(document),
            "warnings": list(document["warnings"]),
        }

    return operation


def backup(loaded: LoadedConfig, request: BackupRequest) -> Operation:
    """Back up the tables, and truncate if asked."""

    def run(job: Job) -> Result:
        extent = extent_of(request.collections, None, job.config)
        return back_up(job, truncate=request.truncate_vector_tables, extent=extent)

    return lambda work: _recorded(loaded, work, None, run)


def restoring(loaded: LoadedConfig, found: FoundBackup, request: RestoreRequest) -> Operation:
    """Restore a backup; a safety backup goes beside it."""

    def run(job: Job) -> RestoreResult:
        with reading(found):
            reader = file_reader(job, found.manifest, found.path.parent)
            source = backup_source(found, reader, tables=(), into_schema=None, jobs=loaded.config.backup.jobs)
            options = RestoreOptions(mode=request.mode, collections=tuple(request.collections))
            return restore(job, source, found.manifest, options)

    folder = folder_of_backup(found.path, loaded)
    return lambda work: _recorded(loaded, work, folder, run)


def task_of_backup(loaded: LoadedConfig, found: FoundBackup) -> str:
    """The task whose folder a backup is in; a new one if that is no task's."""
    folder = folder_of_backup(found.path, loaded)
    return folder.name if folder and TASK_ID.fullmatch(folder.name) else new_task_id()


def find(loaded: LoadedConfig, backup_id: str, task_id: str | None) -> FoundBackup:
    """The backup that a request means.

    Raises:
        NotFound: there is none, or more than one.
        BackupDamaged: its manifest is not what was written.
    """
    try:
        with undamaged():
            return find_backup(backup_id, backup_folders(loaded, task_id, None))
    except UsageError as error:
        raise NotFound(error.message, "GET /api/v0/data_pipeline/vector/backups names what there is.") from None


def inventory(loaded: LoadedConfig, task_id: str | None) -> Inventory:
    """All backups, or those of one task.

    Raises:
        NotFound: there is no such task.
    """
    if task_id is not None and not task_folder(loaded, task_id, None).is_dir():
        raise NotFound(f"there is no task {task_id}", "It has no folder below tasks_directory.")
    return take_inventory(backup_folders(loaded, task_id, None))


@contextlib.contextmanager
def _opened(loaded: LoadedConfig, work: Work, folder: Path | None, ready: Callable[[Path], Any]) -> Iterator[Job]:
    """The job of a work, with its own log; its programs have ended when the context ends."""

    def folder_ready(path: Path) -> None:
        book.open(path)
        ready(path)

    def mask_with(mask: Callable[[str], str]) -> None:
        book.mask_with(mask)
        work.mask = mask

    with folder_log(loaded.config.log_file) as book:
        job = open_job(
            loaded,
            task_id=work.task_id,
            output_dir=folder,
            progress=work.progress,
            folder_ready=folder_ready,
            mask_with=mask_with,
        )
        with job as opened:
            work.scope.stop = opened.runner.stop_all
            yield opened


def _recorded(
    loaded: LoadedConfig, work: Work, folder: Path | None, run: Callable[[Job], Result | RestoreResult]
) -> Document:
    """Run an operation whose folder, once it may be written, holds what was asked for and what came out."""
    with contextlib.ExitStack() as claim:

        def ready(path: Path) -> None:
            if not work.recorded:
                claim.enter_context(claim_task(path, work.asked))
                work.recorded = True

        with _opened(loaded, work, folder, ready) as job:
            try:
                result = run(job)
            except (VecbakError, Interrupted) as error:
                failed = {"success": False, "result": result_of(error.result), "errors": [reason_of(error)]}
                _record(work, job, failed)
                raise
            errors = list(result.errors)
            _record(work, job, {"success": True, "result": result_of(result), "errors": errors})
        answer: Document = masked({"success": True, **result.to_dict()}, work.mask)
        return answer


def _record(work: Work, job: Job, document: Document) -> None:
    if work.recorded:
        head = {"task_id": work.task_id, "operation": work.asked["operation"]}
        write_task_file(job.output_dir, RESULT, masked({**head, **document}, work.mask))
