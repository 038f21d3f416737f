"""Requests that are none, bodies that are read in two ways, task folders that somebody else filled: refused, and never a 5xx."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.security.bare import PATIENCE, Bare, tree
from tests.support.api import PREFIX, TOKEN, Api, serving
from tests.support.raw_http import connect, exchange, head, read_answer

BEARER = ("Authorization", f"Bearer {TOKEN}")
JSON = ("Content-Type", "application/json")
OWN = [("Host", "localhost"), BEARER]
BACKUP = f"POST {PREFIX}/vector/backup HTTP/1.1"
LISTED = f"GET {PREFIX}/vector/backups HTTP/1.1"
MALFORMED = [
    b"\r\n\r\n", b"\x00" * 100, b"\xff" * 100, b"GET\r\n\r\n", b"GET /\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /\xc3\xa4 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n", b"GET / HTTP/1.1\r\nHost: localhost\r\nX\r\n\r\n", b"GET / HTTP/1.1\r\n folded: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\x00b\r\n\r\n", b"GET / HTTP/1.1\r\nHost: localhost\r\n: x\r\n\r\n", b"G\x00T / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\nHost: localhost\n\n" + b"\x16\x03\x01\x02\x00\x01", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20 + b"\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1, 2\r\n\r\n", b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: identity\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
    b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 30000,
    b"GET /" + b"a" * 70000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 70000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 20000 + b"\r\n",
]  # fmt: skip
DECEIVING = [
    b'{"task_id": "a", "task_id": "b"}', b'{"truncate_vector_tables": false, "truncate_vector_tables": true}', b'{"collections": [{"a": 1, "a": 1}]}',
    b'{"task_id": NaN}', b'{"task_id": Infinity}', b'{"task_id": -Infinity}', b"[" * 60000, b'{"a":' * 10000, b'{"a":' * 10000 + b"1" + b"}" * 10000,
    b"1" * 60000, b'{"task_id": ' + b"9" * 60000 + b"}", b'{"task_id": 1e99999}', '{"task_id": "a"}'.encode("utf-16"), '{"task_id": "a"}'.encode("utf-32-le"),
    b'\xef\xbb\xbf{"task_id": "a"}', b'{"task_id": "\xff"}', b'{"task_id": "\\ud800"}', b'{"\\ud800": 1}', b'{"task_id": "a"}{"task_id": "b"}', b"null", b"true",
    b"{'task_id': 'a'}", b'{"task_id": "a",}', b"{} // x", b'{"task_id": "a\x00"}', b'{"task_id": "a\\n"}', b'{"task_id": "../a"}', b'{"__class__": "x"}',
]  # fmt: skip


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Bare:
    return Bare(tmp_path_factory.mktemp("requests"))


@pytest.fixture(scope="module")
def api(bare: Bare) -> Iterator[Api]:
    with serving(bare) as api:
        yield api


def posted(api: Api, body: bytes):
    answer = exchange(api.url, head(BACKUP, [*OWN, JSON, ("Content-Length", str(len(body)))]) + body)
    assert answer
    return answer


def test_what_is_no_request(bare: Bare, api: Api):
    """Answered in the shape of all failures or closed; nothing of it in the log (`serving` looks for tracebacks)."""
    for data in MALFORMED:
        answer = exchange(api.url, data)
        if answer:
            assert answer.status in {400, 401, 403, 501}, data[:80]
            assert answer.headers["content-type"] == "application/problem+json", data[:80]
            assert answer.json["hint"]
    assert api.client.get("/healthz").status_code == 200
    assert (bare.folder / "server.log").stat().st_size < 2000


def test_what_goes_wrong_after_the_answer(bare: Bare, api: Api):
    """The answer to a wrong token is out when its body turns out to be none."""
    for first in (b"zz\r\n", b"1\r\nx\r\n-\r\n", b"\x00" * 50 + b"\r\n"):
        with connect(api.url) as connection:
            connection.sendall(head(BACKUP, [("Host", "localhost"), ("Transfer-Encoding", "chunked")]))
            answer = read_answer(connection)
            assert answer
            assert answer.status == 401
            connection.sendall(first)
            connection.settimeout(PATIENCE)
            assert connection.recv(10) == b""
    assert "Traceback" not in (bare.folder / "server.log").read_text()
    assert "Fatal" not in (bare.folder / "server.log").read_text()


def test_two_lengths_are_refused(bare: Bare, api: Api):
    """A proxy that believes the other one lets a request pass inside a body: nothing more is read of that connection."""
    hidden = head(LISTED, OWN)
    lengths = [("Transfer-Encoding", "chunked"), ("Content-Length", str(5 + len(hidden)))]
    for both in (lengths, lengths[::-1]):
        with connect(api.url) as connection:
            connection.sendall(head(BACKUP, [*OWN, JSON, *both]) + b"0\r\n\r\n" + hidden)
            said = _all(connection)
        assert [int(part[:3]) for part in said.split(b"HTTP/1.1 ")[1:]] == [400]


def test_a_body_that_is_longer_than_said_is_another_request(bare: Bare, api: Api):
    before = tree(bare.folder)
    with connect(api.url) as connection:
        connection.sendall(
            head("GET /healthz HTTP/1.1", [("Host", "localhost"), ("Content-Length", "0")])
            + b'{"backup_id": "latest"}\r\n\r\n'
        )
        said = _all(connection)
    assert said.startswith(b"HTTP/1.1 200")
    assert b"HTTP/1.1 400" in said
    assert tree(bare.folder) == before


def test_pipelined_requests_are_judged_one_by_one(bare: Bare, api: Api):
    before = tree(bare.folder)
    closing = ("Connection", "close")
    with connect(api.url) as connection:
        connection.sendall(
            head(LISTED, OWN) + head(LISTED, [("Host", "localhost")]) + head(LISTED, OWN)
            + head(LISTED, [("Host", "evil.example"), BEARER]) + head(BACKUP, [("Host", "localhost"), JSON, ("Content-Length", "2")]) + b"{}"
            + head("GET /healthz HTTP/1.1", [("Host", "localhost"), closing])
        )  # fmt: skip
        said = _all(connection)
    assert [int(part[:3]) for part in said.split(b"HTTP/1.1 ")[1:]] == [200, 401, 200, 403, 401, 200]
    assert tree(bare.folder) == before


def _all(connection: socket.socket) -> bytes:
    said = b""
    with contextlib.suppress(ConnectionResetError):  # closed while there was more to read
        while data := connection.recv(65536):
            said += data
    return said


def test_no_other_protocol_is_spoken(api: Api):
    keys = [("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="), ("Sec-WebSocket-Version", "13")]
    for upgrade in ("websocket", "h2c", "TLS/1.0", "vecbak"):
        said = [
            ("Connection", "Upgrade, HTTP2-Settings"),
            ("Upgrade", upgrade),
            ("HTTP2-Settings", "AAMAAABkAARAAAAAAAIAAAAA"),
            *keys,
        ]
        for own, expected in ((OWN, 200), (OWN[:1], 401)):
            answer = exchange(api.url, head(LISTED, [*own, *said]))
            assert answer
            assert answer.status == expected
            assert "upgrade" not in answer.headers


def test_methods_that_nobody_meant(bare: Bare, api: Api):
    before = tree(bare.folder)
    for method in ("HEAD", "TRACE", "OPTIONS", "PUT", "PATCH", "DELETE", "PURGE", "PROPFIND"):
        for path in (
            "/healthz",
            "/docs",
            f"{PREFIX}/vector/backups",
            f"{PREFIX}/tasks/x/execute",
            f"{PREFIX}/vector/restore",
        ):
            answer = api.client.request(method, path)
            assert answer.status_code == 405, (method, path)
            assert TOKEN not in answer.text
    assert tree(bare.folder) == before


# bodies


def test_json_that_is_read_in_two_ways(bare: Bare, api: Api):
    before = tree(bare.folder)
    for body in DECEIVING:
        answer = posted(api, body)
        assert answer.status in {400, 422}, (body[:60], answer.body)
        assert answer.headers["content-type"] == "application/problem+json"
        assert len(answer.body) < 10_000
    assert tree(bare.folder) == before


def test_a_body_of_mistakes_is_not_told_back_in_full(api: Api):
    for body in (
        {f"k{number}": 1 for number in range(4000)},
        {"x" * 60000: 1},
        {"collections": [0] * 20000},
        {"task_id": "x" * 60000},
    ):
        answer = posted(api, json.dumps(body).encode())
        assert answer.status in {400, 422}
        assert len(answer.body) < 20_000
    body = {"header\r\nSet-Cookie: x": "\r\n\r\n<script>"}
    answer = posted(api, json.dumps(body).encode())
    assert "set-cookie" not in answer.headers


# task folders that others filled


PLANTED: dict[str, bytes] = {
    "no JSON": b"{", "a list": b"[]", "deep": b'{"a":' * 100000, "numbers": b'{"operation": 7, "step_name": {}, "success": 1}',
    "steps": b'{"operation": "execute", "steps": [1, null, {"name": {}}], "success": true}', "surrogate": b'{"operation": "\\ud800", "errors": ["\\ud800"]}',
    "nan": b'{"operation": "backup", "result": {"a": NaN, "b": 1e999}}', "pipeline": b'{"vector_management": 1, "steps": 7, "errors": 1}',
    "null": b'{"operation": null, "steps": null, "errors": null, "warnings": null, "result": null}', "latin": b'{"operation": "\xff"}',
    "long": b'{"operation": "' + b"x" * (17 << 20) + b'"}',
}  # fmt: skip


@pytest.mark.parametrize("kind", PLANTED)
def test_a_task_that_somebody_else_wrote(bare: Bare, api: Api, kind: str):
    folder = bare.folder / "tasks" / f"planted-{kind.replace(' ', '-')}"
    folder.mkdir(parents=True)
    for names in (("task_config.json",), ("task_config.json", "task_result.json")):
        for name in names:
            (folder / name).write_bytes(PLANTED[kind])
        answer = api.client.get(f"{PREFIX}/tasks/{folder.name}")
        assert answer.status_code == 200, answer.text
        assert answer.json()["state"] in {"unknown", "failed", "interrupted", "completed"}
    (folder / "task_config.json").write_bytes(b'{"operation": "execute"}')
    assert api.client.get(f"{PREFIX}/tasks/{folder.name}").status_code == 200


def test_links_and_pipes_are_not_read(bare: Bare, api: Api):
    secret = bare.folder / "secret.json"
    secret.write_text('{"operation": "a secret", "success": true, "errors": ["a secret"]}')
    folder = bare.folder / "tasks" / "linked"
    folder.mkdir(parents=True)
    for name in ("task_config.json", "task_result.json"):
        (folder / name).symlink_to(secret)
    assert "secret" not in api.client.get(f"{PREFIX}/tasks/linked").text
    for name in ("task_config.json", "task_result.json"):
        (folder / name).unlink()
        os.mkfifo(folder / name)
    (folder / "vector_bak").mkdir()
    os.mkfifo(folder / "vector_bak" / "vector_backup_20250101_000000.json")
    (folder / "vector_bak" / "vector_backup_20250101_000001.json").symlink_to(secret)
    began = time.monotonic()
    for path in ("/tasks/linked", "/tasks/linked/backups", "/vector/backups"):
        answer = api.client.get(f"{PREFIX}{path}", timeout=PATIENCE)
        assert answer.status_code == 200
        assert "a secret" not in answer.text
    assert time.monotonic() - began < PATIENCE
    (bare.folder / "tasks" / "dev").mkdir()
    (bare.folder / "tasks" / "dev" / "task_config.json").symlink_to("/dev/zero")
    assert api.client.get(f"{PREFIX}/tasks/dev", timeout=PATIENCE).json()["state"] == "unknown"


def test_names_of_tasks_and_backups_leave_no_folder(bare: Bare, api: Api):
    before = tree(bare.folder)
    outside = Path("/etc/passwd")
    for name in (
        "..",
        ".",
        "%2e%2e",
        "..%2f..%2fetc",
        "%2fetc%2fpasswd",
        "a%2fb",
        "a%5cb",
        "a%00",
        "a%0d%0aX:1",
        "%ff",
        "a;b",
        "~",
        "a" * 129,
        "-a%20b",
    ):
        for suffix in ("", "/backups"):
            answer = exchange(api.url, head(f"GET {PREFIX}/tasks/{name}{suffix} HTTP/1.1", OWN))
            assert answer
            assert answer.status in {400, 404}, name
            assert "x" not in answer.headers
    for name in (str(outside), "../x", "x.json", "vector_backup_x.json", "", "*", "a\u0000", "latest\n"):
        assert api.restore(name).status_code == 400
        assert api.restore("latest", task_id=name or ".").status_code == 400
        assert api.backup(name or ".").status_code == 400
    assert tree(bare.folder) == before


# whatever else


_NAMES = st.sampled_from(["Host", "Authorization", "Content-Type", "Origin", "Sec-Fetch-Site", "Content-Length", "Transfer-Encoding",
                          "Connection", "Expect", "Upgrade", "Cookie", "X-Forwarded-For", "Accept", "X"])  # fmt: skip
_VALUES = st.sampled_from(["localhost", "evil.example", "Bearer", "Bearer x", "application/json", "text/plain", "null", "0", "2", "99999999",
                           "chunked", "close", "100-continue", "websocket", "none", "cross-site", "\xff", "\t", ""])  # fmt: skip
_TARGETS = st.sampled_from(["/healthz", "/docs", "/openapi.json", f"{PREFIX}/vector/backup", f"{PREFIX}/tasks/x/execute", f"{PREFIX}/vector/restore",
                            f"{PREFIX}/tasks/x", "/", "*", "//", "/%2e%2e/healthz", "/healthz?x", "/healthz/../docs", "http://localhost/healthz"])  # fmt: skip
_REQUESTS = st.tuples(
    st.sampled_from(["GET", "POST", "HEAD", "OPTIONS", "PUT", "CONNECT", "X"]), _TARGETS, st.sampled_from(["HTTP/1.1", "HTTP/1.0", "HTTP/2"]),
    st.lists(st.tuples(_NAMES, _VALUES), max_size=6), st.booleans(), st.sampled_from([b"", b"{}", b'{"a": 1}', b"0\r\n\r\n", b"\r\n", b"\x00"]),
)  # fmt: skip


@settings(
    max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(_REQUESTS)
def test_no_request_without_the_token_does_anything(bare: Bare, api: Api, request_: tuple):
    method, target, version, headers, named, body = request_
    said = [*([("Host", "localhost")] if named else []), *headers, ("Connection", "close")]
    before = tree(bare.folder)
    with connect(api.url) as connection:
        connection.sendall(head(f"{method} {target} {version}", said) + body)
        connection.shutdown(socket.SHUT_WR)
        answer = read_answer(connection, method)
    if answer and answer.status < 400:
        assert (answer.status, method) == (200, "GET")
        assert target.partition("?")[0] in {"/healthz", "/docs", "/openapi.json"}
    assert answer is None or answer.status < 500 or answer.status == 501
    assert tree(bare.folder) == before
