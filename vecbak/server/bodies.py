"""The body of a request: of bounded size, complete, and JSON that everybody reads alike."""

from __future__ import annotations

import json
from typing import Any

from starlette.types import Receive, Scope

from vecbak.server.origins import values
from vecbak.server.problems import Problem, Rejected

MAX_BODY_BYTES = 64 * 1024
_INVALID = "The fields and their types are at /docs."


class Disconnected(Exception):
    """The client went away before its request was complete."""


async def read_body(scope: Scope, receive: Receive) -> bytes:
    """The whole body.

    Raises:
        Rejected: it is too large, or no JSON.
        Disconnected: a part of it never came; what did come may look like a request, and is none.
    """
    headers = scope["headers"]
    lengths = values(headers, b"content-length")
    if lengths and values(headers, b"transfer-encoding"):  # two lengths: a proxy may believe the other one
        raise Rejected(Problem(400, "the request has both Content-Length and Transfer-Encoding", _INVALID, "invalid"))
    if lengths and int(lengths[0]) > MAX_BODY_BYTES:
        raise _too_large()
    body, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise _too_large()
        more = bool(message.get("more_body", False))
    if body:
        _check_type(values(headers, b"content-type"))
        _check_json(bytes(body))
    return bytes(body)


def _check_type(types: list[bytes]) -> None:
    """A web page can send other types elsewhere without asking the browser's permission."""
    if len(types) != 1 or types[0].partition(b";")[0].strip().lower() != b"application/json":
        raise Rejected(
            Problem(415, "the body is not declared as JSON", "Send it with: Content-Type: application/json", "not-json")
        )


def _check_json(body: bytes) -> None:
    """What two parsers could read in two ways is refused: a name given twice, NaN, another encoding."""
    try:
        json.loads(body.decode(), object_pairs_hook=_without_twins, parse_constant=_no_number)
    except RecursionError:
        raise Rejected(Problem(400, "the body is nested too deeply", _INVALID, "invalid")) from None
    except ValueError as error:  # not UTF-8 too
        reason = (
            str(error)
            if isinstance(error, json.JSONDecodeError | _NotStrict)
            else "it is not UTF-8, or a number is too long"
        )
        raise Rejected(Problem(400, f"the body is no valid JSON: {reason}", _INVALID, "invalid")) from None


class _NotStrict(ValueError):
    """JSON that is read differently here and there."""


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _NotStrict("a name is given twice in one object")
    return found


def _no_number(name: str) -> None:
    raise _NotStrict(f"{name} is no number")


def _too_large() -> Rejected:
    return Rejected(
        Problem(413, f"the request has more than {MAX_BODY_BYTES} bytes", "No request needs as many.", "too-large")
    )
