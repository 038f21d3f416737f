"""Without the token nobody has anything done, whichever route, method or place he tries it with."""

from __future__ import annotations

import asyncio
import base64
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from tests.security.bare import PATIENCE, Bare, tree
from tests.support.api import PREFIX, TOKEN, Api, serving
from tests.support.command import environment, vecbak
from tests.support.raw_http import ask, connect, head, read_answer
from vecbak.config import Config, LoadedConfig
from vecbak.errors import UsageError
from vecbak.server import bearer as bearer_module
from vecbak.server.app import make_app
from vecbak.server.bearer import Bearer
from vecbak.server.gate import needs_token
from vecbak.server.tasks import Tasks

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PURGE", "get")
OPEN = {("GET", "/healthz"), ("GET", "/docs"), ("GET", "/openapi.json")}
BODIES: tuple[dict[str, Any], ...] = (
    {},
    {"execution_mode": "step", "step_name": "training_load"},
    {"task_id": "x", "truncate_vector_tables": False},
    {"backup_id": "latest", "mode": "replace"},
)
BASIC = base64.b64encode(f"vecbak:{TOKEN}".encode()).decode()
WITHOUT = [
    {},
    *({"Authorization": value} for value in (
        "Bearer", "Bearer ", "Bearer wrong", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN.upper()}", f"Bearer {TOKEN},",
        f"Bearer {TOKEN} {TOKEN}", f'Bearer "{TOKEN}"', f"Bearer\t{TOKEN}", f"Bearer={TOKEN}", TOKEN, f"Token {TOKEN}", f"Basic {TOKEN}",
        f"Basic {BASIC}", f"Digest {TOKEN}", f"BearerX {TOKEN}", "Bearer " + "x" * 8000, "Bearer \u00e4\u00f6", "Bearer \u00ff" * 2, "Bearer None", "Bearer null",
    )),
    {"X-Api-Key": TOKEN},
    {"X-Authorization": f"Bearer {TOKEN}"},
    {"Proxy-Authorization": f"Bearer {TOKEN}"},
    {"X-Forwarded-Authorization": f"Bearer {TOKEN}"},
    {"Cookie": f"token={TOKEN}; Authorization=Bearer {TOKEN}"},
    {"X-Http-Method-Override": "GET", "X-Original-Url": "/healthz", "X-Rewrite-Url": "/healthz"},
]  # fmt: skip
QUERIES = ("", f"?token={TOKEN}", f"?access_token={TOKEN}", f"?Authorization=Bearer%20{TOKEN}")


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Bare:
    return Bare(tmp_path_factory.mktemp("token"))


@pytest.fixture(scope="module", params=[TOKEN, None], ids=["with a token", "without one"])
def api(request: pytest.FixtureRequest, bare: Bare) -> Iterator[Api]:
    with serving(bare, token=request.param, send=None) as api:
        yield api


def an_app(token: str = TOKEN) -> FastAPI:
    loaded = LoadedConfig(Config(), Path("/nowhere/vecbak.yaml"))
    return make_app(loaded, Tasks(1), Bearer(token), frozenset({"localhost"}))


def routes(app: FastAPI) -> set[str]:
    """From the routing table, whatever it is nested in."""
    found, waiting = set(), list(app.routes)
    while waiting:
        route = waiting.pop()
        if path := getattr(route, "path", None):
            found.add(path)
        for name in ("original_router", "router", "app"):
            waiting += getattr(getattr(route, name, None), "routes", [])
    return found


def called(app: FastAPI, method: str, path: str, *, local: str = "127.0.0.1", **headers: str) -> int:
    """The status of a request that comes in at an address of this machine; 0 if there was no answer."""
    said: list[dict[str, Any]] = []
    sent = [(b"host", b"localhost"), *((name.encode(), value.encode()) for name, value in headers.items())]
    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(), "root_path": "", "query_string": b"",
        "headers": sent, "server": (local, 8484), "client": (local, 1), "http_version": "1.1", "scheme": "http",
    }  # fmt: skip

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        said.append(message)

    asyncio.run(app(scope, receive, send))
    return int(said[0]["status"]) if said else 0


def test_every_route_with_every_method_and_every_wrong_credential(bare: Bare, api: Api):
    paths = {path.replace("{task_id}", "x") for path in routes(an_app())} | {
        "/nothing",
        "/healthz/",
        "//healthz",
        "/docs/oauth2-redirect",
    }
    assert len(paths) >= 13, paths
    before = tree(bare.folder)
    with connect(api.url) as connection:
        for path, method, headers in itertools.product(sorted(paths), METHODS, WITHOUT):
            for query in QUERIES if not headers else QUERIES[:1]:
                body = BODIES[len(path) % len(BODIES)] if method == "POST" else None
                answer = ask(connection, method, path + query, headers.items(), body)
                expected = 200 if (method, path) in OPEN else 401
                assert answer.status == expected, (method, path, query, headers, answer.body)
    assert tree(bare.folder) == before


def test_every_operation_with_every_body(bare: Bare, api: Api):
    """The load of the issue, by any local user: not one step, task, file or folder comes of it."""
    before = tree(bare.folder)
    operations = [path for path in routes(an_app()) if path.endswith(("/execute", "/backup", "/restore"))]
    assert len(operations) == 3
    for path, body, wait in itertools.product(operations, BODIES, ("", "?wait=false")):
        answer = api.client.post(path.replace("{task_id}", "x") + wait, json=body)
        assert answer.status_code == 401
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.json()["hint"]
    assert tree(bare.folder) == before
    assert not (bare.folder / "stepped").exists()


def test_a_header_that_is_sent_twice_is_not_believed(api: Api):
    for values in ((TOKEN, "wrong"), ("wrong", TOKEN), (TOKEN, TOKEN)):
        headers = [("Authorization", f"Bearer {value}") for value in values]
        assert api.client.get(f"{PREFIX}/vector/backups", headers=headers).status_code == 401


def test_what_is_open_tells_nothing_of_the_operator(bare: Bare, api: Api):
    for _, path in sorted(OPEN):
        answer = api.client.get(path)
        for secret in (
            TOKEN,
            str(bare.folder),
            bare.folder.name,
            "127.0.0.1:1",
            "nowhere",
            "training_load_of_ours",
            "python",
        ):
            assert secret not in answer.text, (path, secret)
    assert set(api.client.get("/healthz").json()) == {"status", "version"}


def test_the_token_is_in_no_log_and_no_document(bare: Bare):
    with serving(bare) as api:
        for path in (
            "/openapi.json",
            "/docs",
            "/healthz",
            f"{PREFIX}/tasks/{TOKEN}x",
            f"{PREFIX}/vector/backups?token={TOKEN}x",
        ):
            text = api.client.get(path).text
            assert TOKEN not in text or TOKEN in path
            api.client.get(path, headers={"Authorization": f"Basic {TOKEN}"})
        api.backup("logged")
        api.execute("logged", execution_mode="step", step_name="training_load")
        with connect(api.url) as broken:
            broken.sendall(b"GET /\r\nAuthorization: Bearer " + TOKEN.encode() + b"\r\n\x00\r\n\r\n")
            answer = read_answer(broken)
            assert answer
            assert TOKEN.encode() not in answer.body
    for file in bare.folder.rglob("*"):
        assert not file.is_file() or TOKEN.encode() not in file.read_bytes(), file
    (bare.folder / "stepped").unlink()


def test_a_route_to_come_is_closed():
    app = an_app()
    done: list[str] = []

    @app.api_route("/new", methods=["GET", "POST"])
    def new() -> str:
        done.append("new")
        return "done"

    inner = FastAPI()
    inner.add_api_route("/below", new, methods=["GET", "POST"])
    app.mount("/healthz/mounted", inner)
    app.mount("/docs/mounted", inner)
    for path, method in itertools.product(
        ("/new", "/healthz/mounted/below", "/docs/mounted/below", "/healthz/new"), ("GET", "POST")
    ):
        assert called(app, method, path) == 401
    assert not done
    assert called(app, "GET", "/new", authorization=f"Bearer {TOKEN}") == 200
    assert done == ["new"]
    assert {"/new", "/below", "/healthz"} <= routes(app)


def test_only_what_is_named_needs_no_token():
    app = an_app()
    said = app.openapi()["paths"]
    for path in routes(app):
        for method in ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"):
            assert needs_token(method, path, "127.0.0.1") == ((method, path) not in OPEN)
            if operation := said.get(path, {}).get(method.lower()):
                assert operation["security"] == ([] if path == "/healthz" else [{"token": []}])


def test_from_elsewhere_only_the_health_is_told():
    app = an_app()
    assert called(app, "GET", "/healthz", local="192.0.2.7") == 200
    for path in ("/docs", "/openapi.json"):
        assert called(app, "GET", path, local="192.0.2.7") == 401
        assert called(app, "GET", path, local="192.0.2.7", authorization=f"Bearer {TOKEN}") == 200
        assert called(app, "GET", path, local="::1") == 200


def test_other_protocols_are_not_spoken():
    async def nothing(*_: Any) -> None:
        raise AssertionError("it was spoken")

    for kind in ("websocket", "lifespan", "other"):
        asyncio.run(
            an_app().build_middleware_stack().app({"type": kind, "path": "/healthz", "headers": []}, nothing, nothing)
        )


# the token itself


def test_it_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch):
    compared: list[tuple[bytes, bytes]] = []

    def recorded(left: bytes, right: bytes) -> bool:
        compared.append((left, right))
        return left == right

    monkeypatch.setattr(bearer_module.hmac, "compare_digest", recorded)
    held = Bearer(TOKEN)
    sent = [TOKEN, "", "a", "x" * 8000, "\u00e4", TOKEN[:-1]]
    assert [held.is_held_by([b"Bearer " + token.encode()]) for token in sent] == [True] + [False] * 5
    assert len(compared) == len(sent)
    assert {len(side) for pair in compared for side in pair} == {32}


@pytest.mark.parametrize(
    "token",
    [" ", "\t", "\n", "two words", TOKEN + "\n", " " + TOKEN, "tok\u00e4n", "\udcff" * 20, "t\x01ken", "x" * 1025],
)
def test_what_cannot_be_sent_is_no_token(bare: Bare, token: str):
    with pytest.raises(UsageError):
        Bearer(token)


def test_a_token_that_cannot_be_sent_ends_the_start(bare: Bare):
    for token in ("   ", "h\u00e9h\u00e9-secret"):
        done = vecbak("serve", "--port", "0", cwd=bare.folder, env=environment(VECBAK_API_TOKEN=token))
        assert done.code == 2
        assert "VECBAK_API_TOKEN" in done.stderr
        assert "secret" not in done.stderr
        assert "openssl rand -hex 32" in done.stderr


@pytest.mark.parametrize("sent", [[], [b""], [b"Bearer "], [b"Bearer"], [b" "], [b"Bearer \x00"]])
def test_no_token_is_held_by_nobody(sent: list[bytes]):
    assert not Bearer("").is_held_by(sent)
    assert not Bearer(TOKEN).is_held_by(sent)


def test_a_token_that_can_be_guessed_is_warned_of(bare: Bare):
    with serving(bare, token="short-0") as api:
        said = (bare.folder / "server.log").read_text()
        assert "can be guessed" in said
        assert "short-0" not in said
        assert (
            api.client.get(f"{PREFIX}/vector/backups", headers={"Authorization": "Bearer short-0"}).status_code == 200
        )


# the token before the body


def test_the_token_is_judged_before_the_body_comes(api: Api):
    wrong = [("Host", "localhost"), ("Authorization", "Bearer wrong"), ("Content-Type", "application/json")]
    for more in (
        [("Content-Length", "60000")],
        [("Transfer-Encoding", "chunked")],
        [("Content-Length", "60000"), ("Expect", "100-continue")],
    ):
        with connect(api.url) as connection:
            connection.settimeout(PATIENCE)
            connection.sendall(head(f"POST {PREFIX}/vector/backup HTTP/1.1", [*wrong, *more]))
            answer = read_answer(connection)
            assert answer
            assert answer.status == 401


def test_a_wrong_token_is_told_before_a_wrong_body(api: Api):
    for content, kind in ((b"x" * 70000, "application/json"), (b"{", "application/json"), (b"{}", "text/plain")):
        answer = api.client.post(f"{PREFIX}/vector/backup", content=content, headers={"Content-Type": kind})
        assert answer.status_code == 401


def test_a_client_that_still_writes_sees_the_answer(api: Api):
    chunks = (b"x" * 65536 for _ in range(64))
    assert api.client.post(f"{PREFIX}/vector/backup", content=chunks).status_code == 401
