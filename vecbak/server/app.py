"""The routes: each turns a request into one operation of a task, or into a look at what is there."""

from __future__ import annotations

import functools
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, FastAPI, Query
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response

from vecbak import __version__, report
from vecbak.config import LoadedConfig
from vecbak.operations.opening import new_task_id
from vecbak.server import documentation, operations
from vecbak.server.bearer import Bearer
from vecbak.server.gate import HEALTH, Gate, needs_token
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


def make_app(loaded: LoadedConfig, tasks: Tasks, bearer: Bearer, names: frozenset[str]) -> FastAPI:
    """The API.

    Args:
        bearer: the token that every request needs which the gate does not let through without one.
        names: by which the server may be called.
    """
    app = FastAPI(
        title="vecbak",
        version=__version__,
        description=_DESCRIPTION,
        openapi_url=None,  # see _documentation
        docs_url=None,  # its page loads a script from elsewhere
        redoc_url=None,
        redirect_slashes=False,  # a redirect repeats the Host that the client made up
    )
    install_handlers(app)
    app.include_router(_health())
    app.include_router(_task_routes(loaded, tasks))
    app.include_router(_vector_routes(loaded, tasks))
    app.add_middleware(Gate, bearer=bearer, names=names)
    app.include_router(_documentation(app))
    _describe_security(app)
    return app


def _health() -> APIRouter:
    router = APIRouter()

    @router.get(HEALTH, responses=_problems(400, 403, 413, 415))
    async def healthz() -> Health:
        """Whether the server answers; asks no database."""
        return Health(status="ok", version=__version__)

    return router


def _documentation(app: FastAPI) -> APIRouter:
    """Both are made once: who asks for them needs no token, and must not cost more than the sending."""
    router = APIRouter(include_in_schema=False)

    @functools.cache
    def page() -> bytes:
        return documentation.page(app.openapi()).encode()

    @functools.cache
    def document() -> bytes:
        return msgspec.json.encode(app.openapi())

    @router.get("/docs")
    async def docs() -> Response:
        return Response(page(), media_type="text/html; charset=utf-8")

    @router.get("/openapi.json")
    async def openapi() -> Response:
        return Response(document(), media_type="application/json")

    return router


def _task_routes(loaded: LoadedConfig, tasks: Tasks) -> APIRouter:
    router = APIRouter(prefix=f"{PREFIX}/tasks/{{task_id}}", tags=["tasks"])

    @router.post("/execute", response_model=ExecuteAnswer, responses=_operation_responses())
    async def execute(task_id: TaskId, body: ExecuteRequest, wait: Wait = True) -> Response:
        """Run the workflow, or one step; the vectors are managed just before training_load."""
        options = operations.workflow_options(body)
        asked = {"operation": "execute", **msgspec.to_builtins(options)}
        return await _answer(tasks, task_id, asked, operations.execute(loaded, options), wait)

    @router.get("", response_model=TaskState, responses=_problems(400, 401, 403, 404, 413, 415, 422, 500))
    def state(task_id: TaskId) -> Document:
        """The state of the task, its steps, its progress."""
        return task_state(loaded, tasks, task_id)

    @router.get("/backups", response_model=Backups, responses=_problems(400, 401, 403, 404, 413, 415, 422, 500))
    def backups(task_id: TaskId) -> Document:
        """The backups in the task's folder."""
        found = report.inventory_document(operations.inventory(loaded, task_id))
        return {"task_id": task_id, "backups": found}

    return router


def _vector_routes(loaded: LoadedConfig, tasks: Tasks) -> APIRouter:
    router = APIRouter(prefix=f"{PREFIX}/vector", tags=["vectors"])

    @router.post("/backup", responses=_operation_responses())
    async def backup(body: BackupRequest, wait: Wait = True) -> Response:
        """Back up the tables; empty them after that, if asked."""
        task_id = body.task_id or new_task_id()
        asked = {"operation": "backup", **body.model_dump(), "task_id": task_id}
        operation = operations.backup(loaded, body)
        return await _answer(tasks, task_id, asked, operation, wait)

    @router.get("/backups", response_model=Backups, responses=_problems(400, 401, 403, 413, 415, 422, 500))
    def backups() -> Document:
        """All backups that are found."""
        return {"backups": report.inventory_document(operations.inventory(loaded, None))}

    @router.post("/restore", responses=_operation_responses())
    async def restore(body: RestoreRequest, wait: Wait = True) -> Response:
        """Restore a backup in one transaction: the tables hold what they held then, or stay as they are."""
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
    return {202: accepted, **_problems(400, 401, 403, 404, 409, 413, 415, 422, 500, 503)}


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    schema = ProblemDocument.model_json_schema()
    return {
        status: {"description": schema["description"], "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in statuses
    }


def _describe_security(app: FastAPI) -> None:
    """In OpenAPI: the token wherever the gate wants it."""
    document = app.openapi()
    document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            operation["security"] = [{"token": []}] if needs_token(method.upper(), path, local_address="") else []
