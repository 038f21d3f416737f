"""What every request must pass before anything reads it: the token, the host's name, the size."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Iterable

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vecbak.errors import UsageError
from vecbak.server.problems import Problem, TokenNeeded

MAX_BODY_BYTES = 64 * 1024
_MAX_DRAINED_BYTES = 32 * 1024 * 1024  # of a body that is refused: a client that still writes would not see the answer
_OPEN_PATHS = frozenset({"/healthz", "/docs", "/docs/oauth2-redirect", "/openapi.json"})
_AUTHORIZED = "vecbak.authorized"

Headers = Iterable[tuple[bytes, bytes]]


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_address(host: str, token: str) -> None:
    """Refuse to be reached from elsewhere by whoever likes.

    Raises:
        UsageError: there is no token, and the address is not loopback.
    """
    if not token and not is_loopback(host):
        raise UsageError(
            f"without a token the server binds to loopback only, not to {host!r}",
            "Set VECBAK_API_TOKEN, or leave out --host.",
        )


def require_token(request: Request) -> None:
    """For what truncates and restores.

    Raises:
        TokenNeeded: the request came without the token, or there is none.
    """
    if not request.scope.get(_AUTHORIZED):
        raise TokenNeeded(
            "truncating and restoring over HTTP need the token",
            "Start the server with VECBAK_API_TOKEN set, and send it: Authorization: Bearer TOKEN.",
        )


class Gate:
    """ASGI middleware: 401 without the token, 403 for foreign host names, 413 for large bodies.

    Args:
        token: empty: none is asked for, and only names of this machine are let in, so that a web page that a browser
            shows here cannot reach the server under a name of its own.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = list(scope["headers"])
        scope[_AUTHORIZED] = self._holds_token(headers)
        problem = self._refusal(scope, headers)
        body = await _read(receive)
        if body is None:
            problem = problem or Problem(
                413, f"the request has more than {MAX_BODY_BYTES} bytes", "No request needs as many.", "too-large"
            )
        if problem:
            await problem.response()(scope, receive, send)
            return
        await self._app(scope, _replayed(body or b"", receive), send)

    def _holds_token(self, headers: Headers) -> bool:
        sent = _header(headers, b"authorization")
        scheme, _, credentials = sent.partition(b" ")
        matches = hmac.compare_digest(credentials.strip(), self._token)
        return bool(self._token) and scheme.lower() == b"bearer" and matches

    def _refusal(self, scope: Scope, headers: Headers) -> Problem | None:
        if self._token:
            if scope[_AUTHORIZED] or scope["path"] in _OPEN_PATHS:
                return None
            text = "the token is wrong" if _header(headers, b"authorization") else "the token is missing"
            return Problem(401, text, "Send it: Authorization: Bearer TOKEN.", "unauthorized")
        host = _header(headers, b"host").decode("latin-1")
        if is_loopback(_without_port(host)):
            return None
        return Problem(403, "without a token the server answers to names of this machine alone", "", "forbidden")


def _header(headers: Headers, name: bytes) -> bytes:
    return next((value for key, value in headers if key == name), b"")


def _without_port(host: str) -> str:
    return host.partition("]")[0].strip("[") if host.startswith("[") else host.partition(":")[0]


async def _read(receive: Receive) -> bytes | None:
    """The body; None if it is too large."""
    body, size, more = bytearray(), 0, True
    while more and size <= _MAX_DRAINED_BYTES:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        chunk = message.get("body", b"")
        size += len(chunk)
        if size <= MAX_BODY_BYTES:
            body += chunk
        more = bool(message.get("more_body", False))
    return bytes(body) if size <= MAX_BODY_BYTES else None


def _replayed(body: bytes, receive: Receive) -> Receive:
    waiting = [body]

    async def replay() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return replay
