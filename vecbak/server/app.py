"""The routes: each turns a request into one operation of a task, or into a look at what is there."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response

from vecbak import __version__, report
from vecbak.config import LoadedConfig
from vecbak.operations.opening import new_task_id
from vecbak.server import operations
from vecbak.server.gate import Gate, require_token
from vecbak.server.models import (
    Accepted,
    BackupRequest,
    Backups,
    ExecuteAnswer,
    ExecuteRequest,
    Health,
    ProblemDocument,
    RestoreRequest,
    TaskId,
    TaskState,
)
from vecbak.server.problems import MEDIA_TYPE, install_handlers
from vecbak.server.states import task_state
from vecbak.server.tasks import Document, Operation, Tasks

PREFIX = "/api/v0/data_pipeline"

Wait = Annotated[bool, Query(description="false: answer 202 at once, with the location to poll.")]

_DESCRIPTION = """Back up, prove, truncate and restore the vector tables of PostgreSQL + pgvector.
The databases are those of the server's configuration. Failures are `application/problem+json`."""


def make_app(loaded: LoadedConfig, tasks: Tasks, token: str) -> FastAPI:
    """The API.

    Args:
        token: that every request needs, but those for `/healthz` and the documentation; empty: none, and then
            truncating and restoring are refused.
    """
    app = FastAPI(title="vecbak", version=__version__, description=_DESCRIPTION, redoc_url=None)
    install_handlers(app)
    app.include_router(_health())
    app.include_router(_task_routes(loaded, tasks))
    app.include_router(_vector_routes(loaded, tasks))
    app.add_middleware(Gate, token=token)
    _describe_security(app)
    return app


def _health() -> APIRouter:
    router = APIRouter()

    @router.get("/healthz", responses=_problems(400, 403, 413))
    async def healthz() -> Health:
        """Whether the server answers; asks no database."""
        return Health(status="ok", version=__version__)

    return router


def _task_routes(loaded: LoadedConfig, tasks: Tasks) -> APIRouter:
    router = APIRouter(prefix=f"{PREFIX}/tasks/{{task_id}}", tags=["tasks"])

    @router.post("/execute", response_model=ExecuteAnswer, responses=_operation_responses())
    async def execute(task_id: TaskId, body: ExecuteRequest, request: Request, wait: Wait = True) -> Response:
        """Run the workflow, or one step; the vectors are managed just before training_load."""
        options = operations.workflow_options(body)
        if operations.truncates(options):
            require_token(request)
        asked = {"operation": "execute", **msgspec.to_builtins(options)}
        return await _answer(tasks, task_id, asked, operations.execute(loaded, options), wait)

    @router.get("", response_model=TaskState, responses=_problems(400, 401, 403, 404, 413, 422, 500))
    def state(task_id: TaskId) -> Document:
        """The state of the task, its steps, its progress."""
        return task_state(loaded, tasks, task_id)

    @router.get("/backups", response_model=Backups, responses=_problems(400, 401, 403, 404, 413, 422, 500))
    def backups(task_id: TaskId) -> Document:
        """The backups in the task's folder."""
        found = report.inventory_document(operations.inventory(loaded, task_id))
        return {"task_id": task_id, "backups": found}

    return router


def _vector_routes(loaded: LoadedConfig, tasks: Tasks) -> APIRouter:
    router = APIRouter(prefix=f"{PREFIX}/vector", tags=["vectors"])

    @router.post("/backup", responses=_operation_responses())
    async def backup(body: BackupRequest, request: Request, wait: Wait = True) -> Response:
        """Back up the tables; empty them after that, if asked."""
        if body.truncate_vector_tables:
            require_token(request)
        task_id = body.task_id or new_task_id()
        asked = {"operation": "backup", **body.model_dump(), "task_id": task_id}
        operation = operations.backup(loaded, body)
        return await _answer(tasks, task_id, asked, operation, wait)

    @router.get("/backups", response_model=Backups, responses=_problems(400, 401, 403, 413, 422, 500))
    def backups() -> Document:
        """All backups that are found."""
        return {"backups": report.inventory_document(operations.inventory(loaded, None))}

    @router.post("/restore", responses=_operation_responses())
    async def restore(body: RestoreRequest, request: Request, wait: Wait = True) -> Response:
        """Restore a backup in one transaction: the tables hold what they held then, or stay as they are."""
        require_token(request)
        found = await run_in_threadpool(operations.find, loaded, body.backup_id, body.task_id)
        task_id = operations.task_of_backup(loaded, found)
        asked = {"operation": "restore", **body.model_dump(), "task_id": task_id}
        return await _answer(tasks, task_id, asked, operations.restoring(loaded, found, body), wait)

    return router


async def _answer(tasks: Tasks, task_id: str, asked: Document, operation: Operation, wait: bool) -> Response:
    work = tasks.start(task_id, asked, operation)
    if not wait:
        location = f"{PREFIX}/tasks/{task_id}"
        accepted = Accepted(task_id=task_id, state="running", location=location)
        return JSONResponse(accepted.model_dump(), 202, {"Location": location})
    outcome = await work.wait()
    return outcome.problem.response() if outcome.problem else JSONResponse(outcome.answer)


def _operation_responses() -> dict[int | str, dict[str, Any]]:
    accepted = {"model": Accepted, "description": "It has begun (`wait=false`)."}
    return {202: accepted, **_problems(400, 401, 403, 404, 409, 413, 422, 500, 503)}


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    schema = ProblemDocument.model_json_schema()
    return {
        status: {"description": schema["description"], "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in statuses
    }


def _describe_security(app: FastAPI) -> None:
    """In OpenAPI: the token of every path but /healthz."""
    document = app.openapi()
    document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    for path, methods in document["paths"].items():
        for method in methods.values():
            method["security"] = [] if path == "/healthz" else [{"token": []}, {}]
