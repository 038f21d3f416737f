"""What is known of a task: what runs in it now, or what its folder says of the last run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vecbak.config import LoadedConfig
from vecbak.operations.opening import task_folder
from vecbak.operations.task_files import CONFIG, RESULT, is_claimed, read_task_file
from vecbak.server.models import TaskState
from vecbak.server.problems import NotFound, masked
from vecbak.server.tasks import Document, Tasks, Work, state_of, workflow_result


def task_state(loaded: LoadedConfig, tasks: Tasks, task_id: str) -> Document:
    """The document of `GET tasks/{id}`.

    Raises:
        NotFound: nobody has heard of the task.
    """
    folder = task_folder(loaded, task_id, None)
    work = tasks.find(task_id)
    if work and work.outcome is None:
        document = _running(loaded, work)
    elif work and not (work.recorded and (folder / RESULT).exists()):
        document = _ended(loaded, work)
    elif folder.is_dir():
        document = _believed(loaded, folder)
        if work and work.outcome and work.outcome.problem:
            document["problem"] = work.outcome.problem.to_dict()
    else:
        raise NotFound(f"there is no task {task_id}", "It has no folder below tasks_directory.")
    return {"task_id": task_id, **document}


def _running(loaded: LoadedConfig, work: Work) -> Document:
    run = work.run
    far: Document = masked(run.result().to_dict(), work.mask) if run else {}
    current = run.current if run else None
    return {
        "state": "running",
        **_head(work.asked),
        "current_step": current,
        "steps": _steps(loaded, work.asked, far.get("steps", []), current),
        "progress": work.progress.to_dict(),
        "warnings": far.get("warnings", []),
    }


def _ended(loaded: LoadedConfig, work: Work) -> Document:
    """Of an operation that left nothing in its folder."""
    outcome = work.outcome
    problem = outcome.problem if outcome else None
    return {
        "state": "completed" if problem is None else "interrupted" if problem.kind == "interrupted" else "failed",
        **_head(work.asked),
        "steps": _steps(loaded, work.asked, []),
        "progress": work.progress.to_dict(),
        "errors": [problem.detail] if problem else [],
        "result": outcome.answer if outcome else None,
        "problem": problem.to_dict() if problem else None,
    }


def _believed(loaded: LoadedConfig, folder: Path) -> Document:
    """What the folder's files say, if they say what vecbak writes: others may have written there."""
    try:
        document = _on_disk(loaded, folder)
        TaskState.model_validate({"task_id": folder.name, **document}).model_dump_json()
    except (AttributeError, KeyError, TypeError, ValueError):
        return {"state": "unknown", "errors": [f"{CONFIG} or {RESULT} is not what vecbak writes"]}
    return document


def _on_disk(loaded: LoadedConfig, folder: Path) -> Document:
    asked = read_task_file(folder, CONFIG)
    result = read_task_file(folder, RESULT)
    if asked is None:
        return {"state": "unknown"}
    if result is None:
        running = is_claimed(folder)  # by a command line, or another server
        errors = [] if running else ["the run was killed before it ended"]
        state = "running" if running else "interrupted"
        return {"state": state, **_head(asked), "steps": _steps(loaded, asked, []), "errors": errors}
    return {
        "state": state_of(result),
        **_head(asked),
        "steps": _steps(loaded, asked, result.get("steps", [])),
        "warnings": result.get("warnings", []),
        "errors": result.get("errors", []),
        "result": workflow_result(result) if "vector_management" in result else result.get("result"),
    }


def _head(asked: Mapping[str, Any]) -> Document:
    names = ("execution_mode", "step_name")
    return {"operation": asked.get("operation", "execute"), **{name: asked.get(name) for name in names}}


def _steps(
    loaded: LoadedConfig, asked: Mapping[str, Any], known: Sequence[Document], current: str | None = None
) -> list[Document]:
    """Those that ran, and those that were still to come."""
    if asked.get("operation", "execute") != "execute":
        return []
    done = {step["name"] for step in known}
    wanted = [asked["step_name"]] if asked.get("step_name") else [step.name for step in loaded.config.workflow.steps]
    waiting = [name for name in wanted if name not in done]
    return [*known, *({"name": name, "status": "running" if name == current else "pending"} for name in waiting)]
