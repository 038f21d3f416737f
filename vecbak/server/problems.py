"""Failures as `application/problem+json` (RFC 9457): the message and hint of the command line, and nothing more."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from vecbak.errors import ExitCode, Interrupted, RestoreUnknown, TruncateUnknown, UsageError, VecbakError

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

_MOST_ERRORS, _LONGEST_NAME = 20, 200  # of a request, told back to its client

_STATUS = {
    ExitCode.DECLINED: 409,
    ExitCode.USAGE: 400,
    ExitCode.CONNECTION: 503,
    ExitCode.REFUSED: 409,
    ExitCode.BACKUP_FAILED: 500,
    ExitCode.TRUNCATE_FAILED: 409,  # a lock, mostly: the tables are as before
    ExitCode.BUSY: 409,
    ExitCode.RESTORE_FAILED: 409,  # the rows do not fit the target, mostly: it is as before
    ExitCode.BUG: 500,
}
_TITLES = {
    400: "Invalid request",
    401: "A token is needed",
    403: "Forbidden",
    404: "Not found",
    405: "Method not allowed",
    409: "Conflict: nothing was changed",
    413: "Request too large",
    415: "Not declared as JSON",
    422: "Wrong types",
    500: "The operation failed",
    503: "Not available now",
}
_NAMES = {code: code.name.lower().replace("_", "-") for code in ExitCode}


class NotFound(UsageError):
    """There is no such task or backup."""


class Stopping(VecbakError):
    """The server is ending and begins nothing any more."""


class Problem(msgspec.Struct, frozen=True):
    """One failure, as a client is told it.

    Attributes:
        kind: the last part of `type`.
        extra: further members: `exit_code`, `errors`, `result`.
    """

    status: int
    detail: str
    hint: str = ""
    kind: str = ""
    extra: Mapping[str, Any] = msgspec.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The document."""
        return {
            "type": f"urn:vecbak:problem:{self.kind}" if self.kind else "about:blank",
            "title": _TITLES.get(self.status, "Error"),
            "status": self.status,
            "detail": self.detail,
            "hint": self.hint,
            **self.extra,
        }

    def response(self) -> JSONResponse:
        """For the client."""
        headers = {"WWW-Authenticate": 'Bearer realm="vecbak"'} if self.status == 401 else None
        return JSONResponse(self.to_dict(), self.status, headers, MEDIA_TYPE)


class Rejected(Exception):
    """A request that is answered before it reaches the application."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


def problem_of(error: BaseException, result: Mapping[str, Any] | None = None) -> Problem:
    """What a failed operation is to a client.

    Args:
        result: how far it came.
    """
    extra: dict[str, Any] = {"result": result} if result else {}
    if isinstance(error, Stopping):
        return Problem(503, error.message, error.hint, "stopping")
    if isinstance(error, Interrupted):
        text = f"interrupted by {error}: the server is ending; what ran was ended in order"
        extra["exit_code"] = 128 + error.signum
        return Problem(503, text, "Look at the task when the server runs again.", "interrupted", extra)
    if isinstance(error, VecbakError):
        extra["exit_code"] = int(error.exit_code)
        return Problem(_status_of(error), error.message, error.hint, _NAMES[error.exit_code], extra)
    extra["exit_code"] = int(ExitCode.BUG)
    text = f"this is probably a bug in vecbak: {type(error).__name__}"
    return Problem(500, text, "The details are in the server's log.", "bug", extra)


def _status_of(error: VecbakError) -> int:
    if isinstance(error, NotFound):
        return 404
    if isinstance(error, TruncateUnknown | RestoreUnknown):
        return 500
    return _STATUS[error.exit_code]


def masked(document: Any, mask: Callable[[str], str]) -> Any:
    """The same document without secrets."""
    if isinstance(document, str):
        return mask(document)
    if isinstance(document, dict):
        return {key: masked(value, mask) for key, value in document.items()}
    if isinstance(document, list | tuple):
        return [masked(value, mask) for value in document]
    return document


def install_handlers(app: FastAPI) -> None:
    """Make every failure a problem document."""

    @app.exception_handler(VecbakError)
    def failed(request: Request, error: VecbakError) -> JSONResponse:
        return problem_of(error).response()

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return _validation_problem(error).response()

    @app.exception_handler(HTTPException)
    def refused(request: Request, error: HTTPException) -> JSONResponse:
        hint = "The paths are at /docs." if error.status_code in {404, 405} else ""
        response = Problem(error.status_code, str(error.detail), hint).response()
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    def bug(request: Request, error: Exception) -> JSONResponse:
        log.error("a bug: %s", type(error).__name__, exc_info=error)
        return problem_of(error).response()


def _validation_problem(error: RequestValidationError) -> Problem:
    found = error.errors()
    errors = [
        {"location": _printable(".".join(map(str, item["loc"]))), "message": _printable(str(item["msg"]))}
        for item in found[:_MOST_ERRORS]
    ]
    status = 422 if any(_is_wrong_type(item) for item in found) else 400
    detail = "; ".join(f"{item['location']}: {item['message']}" for item in errors)
    return Problem(status, detail, "The fields and their types are at /docs.", "invalid", {"errors": errors})


def _printable(text: str) -> str:
    """What can be sent back, whatever names a client made up: no lone surrogates, nothing long."""
    return text[:_LONGEST_NAME].encode("utf-8", "backslashreplace").decode()


def _is_wrong_type(item: Mapping[str, Any]) -> bool:
    """Whether a value has the wrong type, and not only the wrong content."""
    kind = str(item["type"])
    if kind in {"literal_error", "enum"}:
        return not isinstance(item.get("input"), str)
    return kind == "missing" or kind.endswith(("_type", "_parsing"))
