"""HTTP as an attacker writes it: bytes on a socket, to loopback alone."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit


class Answer:
    """One answer, or what there was of it."""

    def __init__(self, response: http.client.HTTPResponse, body: bytes) -> None:
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def connect(url: str, *, receive_buffer: int | None = None) -> socket.socket:
    """A connection to a server's URL."""
    parts = urlsplit(url)
    assert parts.hostname in {"127.0.0.1", "::1"}
    connection = socket.socket(socket.AF_INET6 if ":" in parts.hostname else socket.AF_INET)
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(30)
    connection.connect((parts.hostname, parts.port))
    return connection


def head(line: str, headers: Iterable[tuple[str, str]]) -> bytes:
    """A request's head, exactly as said."""
    return "\r\n".join([line, *(f"{name}: {value}" for name, value in headers), "", ""]).encode("latin-1")


def read_answer(connection: socket.socket, method: str = "GET") -> Answer | None:
    """The next answer; None if the connection was closed without one."""
    response = http.client.HTTPResponse(connection, method=method)
    try:
        response.begin()
        return Answer(response, response.read())
    except (http.client.BadStatusLine, http.client.IncompleteRead, ConnectionError):
        return None
    finally:
        response.close()


def ask(
    connection: socket.socket, method: str, target: str, headers: Iterable[tuple[str, str]] = (), body: Any = None
) -> Answer:
    """One request for localhost and its answer, over a connection that goes on to be used."""
    said = [("Host", "localhost"), *headers]
    content = b"" if body is None else json.dumps(body).encode()
    if body is not None:
        said += [("Content-Type", "application/json"), ("Content-Length", str(len(content)))]
    connection.sendall(head(f"{method} {target} HTTP/1.1", said) + content)
    answer = read_answer(connection, method)
    assert answer, (method, target, headers)
    return answer


def exchange(url: str, data: bytes) -> Answer | None:
    """Send bytes over a connection of their own, and read what comes first."""
    with connect(url) as connection:
        with contextlib.suppress(ConnectionError):  # it may answer before it has everything
            connection.sendall(data)
        return read_answer(connection)
