"""A web page on this machine's browser, or a name that points here, has nothing done: with the right token neither."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.security.bare import Bare, tree
from tests.support.api import PREFIX, TOKEN, Api, serving
from tests.support.command import environment, vecbak
from tests.support.raw_http import Answer, connect, exchange, head, read_answer

BEARER = ("Authorization", f"Bearer {TOKEN}")
LISTED = f"{PREFIX}/vector/backups"
STEP = b'{"execution_mode": "step", "step_name": "training_load"}'
NAMES_OF_OTHERS = [
    "evil.example", "evil.example:{port}", "localhost.evil.example", "evil.localhost", "127.0.0.1.evil.example", "127.0.0.1.nip.io",
    "127.0.0.1.", "localhost..", ".localhost", "localhost:", "localhost:x", "localhost:123456", "localhost:{port}:{port}", "localhost/",
    "localhost@evil.example", "evil.example@localhost", "localhost#", "localhost evil.example", "localhost,evil.example", "127.1",
    "2130706433", "0x7f.0.0.1", "0177.0.0.1", "0.0.0.0",  # noqa: S104 - it must refuse
    "10.0.0.1", "169.254.169.254", "192.0.2.1:{port}", "[::]", "[2001:db8::1]",
    "[::1", "::1", "[::1%25lo]", "[localhost]", "local\u00e4host", "", "http://localhost",
]  # fmt: skip
OWN_NAMES = [
    "127.0.0.1", "127.0.0.1:{port}", "localhost", "LOCALHOST:{port}", "LocalHost.", "localhost.:{port}", "127.0.0.1:80", "localhost:9",
    "[::1]", "[::1]:{port}", "[0:0:0:0:0:0:0:1]", "127.0.0.2",
]  # fmt: skip
FOREIGN_ORIGINS = [
    "null", "NULL", "", "http://evil.example", "https://localhost:{port}", "http://localhost", "http://localhost:1", "http://127.0.0.1:{port}",
    "http://localhost:{port}.evil.example", "http://localhost:{port}/", "http://localhost:{port}@evil.example", "http://evil.example:{port}",
    "file://", "ws://localhost:{port}", "chrome-extension://abcdef", "localhost:{port}", "http://localhost:{port} http://evil.example",
    "http://localhost:{port}, http://evil.example", "http://[::1]:{port}", "http://localhost:{port}\u00e4", "http://sub.localhost:{port}",
]  # fmt: skip


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Bare:
    return Bare(tmp_path_factory.mktemp("sites"))


@pytest.fixture(scope="module")
def api(bare: Bare) -> Iterator[Api]:
    with serving(bare) as api:
        yield api


def asked(
    api: Api, *headers: tuple[str, str], line: str = f"GET {LISTED} HTTP/1.1", body: bytes = b""
) -> Answer | None:
    port = api.url.rpartition(":")[2]
    said = [(name, value.format(port=port)) for name, value in headers]
    return exchange(api.url, head(line, said) + body)


def status(api: Api, *headers: tuple[str, str], **options: object) -> int:
    answer = asked(api, *headers, **options)  # type: ignore[arg-type]
    assert answer
    if answer.status >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json["hint"]
    return answer.status


def test_it_answers_to_its_own_names(api: Api):
    for host in OWN_NAMES:
        assert status(api, ("Host", host), BEARER) == 200, host


@pytest.mark.parametrize("path", [LISTED, "/healthz", "/docs"])
def test_it_answers_to_no_other_name(api: Api, path: str):
    """DNS rebinding: the page's own name points here."""
    for host in NAMES_OF_OTHERS:
        assert status(api, ("Host", host), BEARER, line=f"GET {path} HTTP/1.1") == 403, host


def test_what_a_proxy_would_say_changes_nothing(api: Api):
    forwarded = [
        (name, "localhost")
        for name in ("X-Forwarded-Host", "Forwarded", "X-Host", "X-Forwarded-Server", "X-Original-Host")
    ]
    assert status(api, ("Host", "evil.example"), *forwarded, BEARER) == 403
    assert status(api, ("Host", "localhost"), ("X-Forwarded-For", "127.0.0.1"), ("X-Real-Ip", "127.0.0.1")) == 401
    assert (
        status(api, ("Host", "localhost"), ("X-Forwarded-Host", "evil.example"), ("X-Forwarded-Proto", "https"), BEARER)
        == 200
    )


def test_a_host_that_is_sent_twice_or_not_at_all(api: Api):
    assert status(api, ("Host", "localhost"), ("Host", "evil.example"), BEARER) == 400
    assert status(api, ("Host", "localhost"), ("Host", "localhost"), BEARER) == 400
    assert status(api, BEARER) == 400
    assert status(api, BEARER, line=f"GET {LISTED} HTTP/1.0") == 403
    assert status(api, ("Host", "localhost"), BEARER, line=f"GET {LISTED} HTTP/1.0") == 200


def test_a_target_that_names_another_host(api: Api):
    own = [("Host", "localhost:{port}"), BEARER]
    for target in (
        f"http://evil.example{LISTED}",
        f"http://localhost{LISTED}",
        f"HTTP://x@y{LISTED}",
        "*",
        "evil.example:443",
        "healthz",
        "?x",
    ):
        assert status(api, *own, line=f"GET {target} HTTP/1.1") == 400, target
    assert status(api, *own, line="CONNECT evil.example:443 HTTP/1.1") == 400
    assert status(api, *own, line="OPTIONS * HTTP/1.1") == 400
    assert status(api, *own, line=f"GET //evil.example{LISTED} HTTP/1.1") == 404


def test_no_page_of_another_origin(api: Api):
    for origin in FOREIGN_ORIGINS:
        assert status(api, ("Host", "localhost:{port}"), BEARER, ("Origin", origin)) == 403, origin
    for origin in ("http://localhost:{port}", "HTTP://LOCALHOST:{port}"):
        assert status(api, ("Host", "localhost:{port}"), BEARER, ("Origin", origin)) == 200
        assert (
            status(api, ("Host", "localhost:{port}"), BEARER, ("Origin", origin), ("Origin", "http://evil.example"))
            == 403
        )
    assert status(api, ("Host", "localhost"), BEARER, ("Origin", "http://localhost:80")) == 200
    assert status(api, ("Host", "[::1]:{port}"), BEARER, ("Origin", "http://[::1]:{port}")) == 200


def test_no_page_of_another_site(api: Api):
    own = [("Host", "localhost"), BEARER]
    for site in ("cross-site", "same-site", "CROSS-SITE", "same-origin, cross-site", "", "unheard-of", "same-origin;x"):
        for path in (LISTED, "/healthz"):
            assert status(api, *own, ("Sec-Fetch-Site", site), line=f"GET {path} HTTP/1.1") == 403, site
    assert status(api, *own, ("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Site", "cross-site")) == 403
    for site in ("same-origin", "none"):
        assert status(api, *own, ("Sec-Fetch-Site", site)) == 200


def test_no_preflight_is_granted(api: Api):
    asks = [("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", "authorization, content-type"),
            ("Access-Control-Request-Private-Network", "true"), ("Access-Control-Request-Local-Network", "true")]  # fmt: skip
    for path in (LISTED, f"{PREFIX}/vector/backup", f"{PREFIX}/tasks/x/execute", "/healthz", "/docs", "/nothing"):
        for origin in ("http://evil.example", "null", "http://localhost:{port}"):
            for own in ([], [BEARER]):
                said = [("Host", "localhost:{port}"), ("Origin", origin), *asks, *own]
                answer = asked(api, *said, line=f"OPTIONS {path} HTTP/1.1")
                assert answer
                assert answer.status in {401, 403, 404, 405}
                assert not [name for name in answer.headers if name.startswith("access-control")]


# bodies that a page can send without asking


@pytest.mark.parametrize(
    "types",
    [
        [], ["text/plain"], ["application/x-www-form-urlencoded"], ["multipart/form-data; boundary=x"], ["application/jsonp"],
        ["text/json"], ["application/vnd.api+json"], ["text/plain; application/json"], ["application/json, text/plain"], [""],
        ["application/json", "text/plain"], ["text/plain", "application/json"], ["application/json", "application/json"], ["*/*"],
    ],
)  # fmt: skip
def test_a_body_must_be_declared_as_json(bare: Bare, api: Api, types: list[str]):
    before = tree(bare.folder)
    declared = [("Content-Type", value) for value in types]
    headers = [("Host", "localhost"), BEARER, *declared, ("Content-Length", str(len(STEP)))]
    assert status(api, *headers, line=f"POST {PREFIX}/tasks/typed/execute HTTP/1.1", body=STEP) == 415
    assert tree(bare.folder) == before


def test_json_is_json_however_it_is_written(api: Api):
    for declared in ("application/json", "Application/JSON", "application/json; charset=utf-8", "application/json;"):
        headers = [("Host", "localhost"), BEARER, ("Content-Type", declared), ("Content-Length", "9")]
        assert status(api, *headers, line=f"POST {PREFIX}/vector/restore HTTP/1.1", body=b'{"x": 1 }') == 422


def test_a_page_cannot_run_the_load(bare: Bare, api: Api):
    """The step of the issue from a page, as browsers would send it, with a token that the page cannot know."""
    before = tree(bare.folder)
    from_page = [("Host", "localhost:{port}"), ("Origin", "http://evil.example"), ("Sec-Fetch-Site", "cross-site"),
                 ("Sec-Fetch-Mode", "no-cors"), ("Content-Length", str(len(STEP)))]  # fmt: skip
    line = f"POST {PREFIX}/tasks/page/execute HTTP/1.1"
    for kind in ([], [("Content-Type", "text/plain")], [("Content-Type", "application/json")]):
        for known in ([], [BEARER]):
            assert status(api, *from_page, *kind, *known, line=line, body=STEP) == 403
    assert tree(bare.folder) == before


# answers that no page can use


def test_answers_are_of_no_use_to_a_page(api: Api):
    own = [("Host", "localhost"), BEARER]
    answers = [
        asked(api, *own), asked(api, ("Host", "localhost")), asked(api, ("Host", "evil.example")), asked(api, *own, line="GET /nothing HTTP/1.1"),
        asked(api, *own, line="GET /docs HTTP/1.1"), asked(api, *own, line="GET /openapi.json HTTP/1.1"), asked(api, *own, line="nonsense"),
        asked(api, *own, line="PUT /healthz HTTP/1.1"), asked(api, *own, line=f"POST {PREFIX}/vector/backup HTTP/1.1"),
    ]  # fmt: skip
    assert [answer.status for answer in answers if answer] == [200, 401, 403, 404, 200, 200, 400, 405, 422]
    for answer in answers:
        assert answer
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert {"default-src 'none'", "frame-ancestors 'none'"} <= set(
            answer.headers["content-security-policy"].split("; ")
        )
        assert "server" not in answer.headers
        assert "set-cookie" not in answer.headers


def test_the_documentation_loads_nothing(api: Api):
    page = api.client.get("/docs").text
    assert f"{PREFIX}/vector/restore" in page
    assert not re.search(
        r"<(script|link|img|iframe|style|form|object|base)\b|\bon\w+=|javascript:|https?://", page, re.I
    )
    assert re.findall(r'(?:href|src)="([^"]*)"', page) == ["/openapi.json"]
    document = api.client.get("/openapi.json").json()
    for path, methods in document["paths"].items():
        for method in methods:
            assert f"{method.upper()} {path}" in page


# other names, and other addresses


def test_a_proxys_name_is_let_in_if_said(bare: Bare):
    with serving(bare, "--allowed-host", "Vecbak.example.org", "--allowed-host", "other") as api:
        for host in ("vecbak.example.org", "VECBAK.example.org:443", "vecbak.example.org.", "other:1", "localhost"):
            assert status(api, ("Host", host), BEARER) == 200, host
        https = ("Origin", "https://vecbak.example.org")
        assert status(api, ("Host", "vecbak.example.org"), BEARER, https) == 200
        assert status(api, ("Host", "vecbak.example.org"), BEARER, ("Origin", "https://evil.example")) == 403
        for host in ("example.org", "x.vecbak.example.org", "evil.example"):
            assert status(api, ("Host", host), BEARER) == 403


@pytest.mark.parametrize("name", ["", "a b", "http://x", "x/y", "x:80", "*", "\u00e4.example"])
def test_what_is_no_name_cannot_be_let_in(bare: Bare, name: str):
    done = vecbak(
        "serve", "--port", "0", "--allowed-host", name, cwd=bare.folder, env=environment(VECBAK_API_TOKEN=TOKEN)
    )
    assert done.code == 2
    assert "--allowed-host" in done.stderr


def test_on_ipv6(bare: Bare):
    with serving(bare, "--host", "::1") as api, connect(api.url) as connection:
        for host, expected in (("[::1]", 200), ("localhost", 200), ("[2001:db8::1]", 403), ("evil.example", 403)):
            connection.sendall(head(f"GET {LISTED} HTTP/1.1", [("Host", host), BEARER]))
            answer = read_answer(connection)
            assert answer
            assert answer.status == expected
