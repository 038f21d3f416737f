"""What every request must pass before anything reads it: where it comes from, the token, its body. Denied is the default."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vecbak.errors import UsageError
from vecbak.server.bearer import Bearer
from vecbak.server.bodies import Disconnected, read_body
from vecbak.server.origins import check_origin, is_loopback, values
from vecbak.server.problems import Problem, Rejected

# The only ones that need no token. They change nothing and tell nothing of the operator's: no path, no name, no error.
HEALTH = "/healthz"  # from everywhere: a probe should hold no token
DOCUMENTATION = frozenset({"/docs", "/openapi.json"})  # on this machine


def check_address(host: str, bearer: Bearer) -> None:
    """Refuse to be reached from elsewhere by whoever likes.

    Raises:
        UsageError: there is no token, and the address is not loopback.
    """
    if not bearer.exists and not is_loopback(host):
        raise UsageError(
            f"without a token the server binds to loopback only, not to {host!r}",
            "Set VECBAK_API_TOKEN, or leave out --host.",
        )


def needs_token(method: str, path: str, local_address: str) -> bool:
    """Whether a request needs the token: all do that are not named here, those of routes to come too."""
    if method != "GET":
        return True
    return path != HEALTH and not (path in DOCUMENTATION and is_loopback(local_address))


class Gate:
    """ASGI middleware: 403 for foreign names and sites, 401 without the token, 413 and 415 for bodies.

    Args:
        names: by which the server may be called.
    """

    def __init__(self, app: ASGIApp, bearer: Bearer, names: frozenset[str]) -> None:
        self._app = app
        self._bearer = bearer
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer it."""
        if scope["type"] != "http":
            return  # no websockets
        try:
            self._check(scope)
            body = await read_body(scope, receive)
        except Rejected as rejected:
            response = rejected.problem.response()
            if rejected.problem.status == 400:  # where one request ends, the next begins: this one's end is in doubt
                response.headers["Connection"] = "close"
            await response(scope, receive, send)
        except Disconnected:
            return
        else:
            await self._app(scope, _replayed(body, receive), send)

    def _check(self, scope: Scope) -> None:
        """All that can be judged before the body is read."""
        headers, path = scope["headers"], scope["path"]
        local_address = (scope.get("server") or ("",))[0]
        if not path.startswith("/"):  # GET http://elsewhere/…: it names another host than Host does
            raise Rejected(Problem(400, "the target of the request is no path", "Send the path alone.", "invalid"))
        check_origin(headers, local_address, self._names)
        authorization = values(headers, b"authorization")
        if needs_token(scope["method"], path, local_address) and not self._bearer.is_held_by(authorization):
            raise Rejected(self._unauthorized(authorization))

    def _unauthorized(self, authorization: list[bytes]) -> Problem:
        if not self._bearer.exists:
            text = "the server has no token, and without one it tells its health and its documentation alone"
            hint = "Start it with VECBAK_API_TOKEN set, and send it: Authorization: Bearer TOKEN."
            return Problem(401, text, hint, "unauthorized")
        text = "the token is wrong" if authorization else "the token is missing"
        return Problem(401, text, "Send it: Authorization: Bearer TOKEN.", "unauthorized")


def _replayed(body: bytes, receive: Receive) -> Receive:
    waiting = [body]

    async def replay() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return replay
