"""One connection, bounded: in time as long as it waits for its client, and in number together with all the others."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any, cast

import h11
import msgspec
from uvicorn.protocols.http.h11_impl import H11Protocol

from vecbak.server.problems import MEDIA_TYPE, Problem

CLIENT_SECONDS = 10.0  # for a whole request, from the connection or the answer before it on; and to take an answer
_SLOWEST_BYTES_A_SECOND = 32 * 1024
_MAX_REQUEST_BYTES = (
    32 * 1024 * 1024
)  # of a refused body, thrown away as it comes: who still writes does not see the answer

HEADERS = [  # of every answer: it is no page's script, style, frame or cache entry
    ("Cache-Control", "no-store"),
    ("Content-Security-Policy", "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
]

_NO_LINGERING = struct.pack("ii", 1, 0)  # socket(7)
_MALFORMED = Problem(400, "this is no HTTP request, or its headers are too large", "Send HTTP/1.1.", "invalid")


class BoundedConnection(H11Protocol):
    """HTTP/1.1 by uvicorn, which has a time limit for idle connections alone: one byte now and then keeps one for ever.

    Attributes:
        most: connections at once; a further one takes the place of the one that has waited longest for its client.
    """

    most = 128

    _deadline: asyncio.TimerHandle | None = None
    _waiting_since = 0.0
    _received = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for a request, or make room for it first."""
        super().connection_made(cast(asyncio.Transport, transport))
        self._review()
        if len(self.connections) > self.most:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        super().connection_lost(exc)
        self._stop_waiting()

    def data_received(self, data: bytes) -> None:
        """A part of a request, or of a body that nobody reads any more."""
        self._received += len(data)
        if self._received > _MAX_REQUEST_BYTES:
            self._cut()
            return
        super().data_received(data)
        self._review()

    def pause_writing(self) -> None:
        """The client does not take what it is sent."""
        super().pause_writing()
        self._review()

    def resume_writing(self) -> None:
        """It does."""
        super().resume_writing()
        self._review()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        self._stop_waiting()
        self._received = 0
        super().on_response_complete()
        self._review()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP is told so, unless an answer is on its way already."""
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            self.transport.write(_raw(_MALFORMED))
        self.transport.close()

    def _works(self) -> bool:
        """Whether it is our turn: the request is complete, and the client takes the answer."""
        cycle = self.cycle
        return cycle is not None and not (cycle.response_complete or cycle.more_body or self.flow.write_paused)

    def _review(self) -> None:
        """Wait for the client no longer than it may take, and for our own work as long as it takes."""
        if self._works():
            self._stop_waiting()
        elif self._deadline is None:
            self._waiting_since = self.loop.time()
            seconds = CLIENT_SECONDS + self.transport.get_write_buffer_size() / _SLOWEST_BYTES_A_SECOND
            self._deadline = self.loop.call_later(seconds, self._cut)

    def _stop_waiting(self) -> None:
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None

    def _cut(self) -> None:
        """At once, also what the system still holds for a client that does not take it."""
        connected: socket.socket = self.transport.get_extra_info("socket")
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGERING)
        self.transport.abort()

    def _make_room(self) -> None:
        """Close the one that waits longest for its client: an honest client's request is there at once."""
        waiting = [
            connection for connection in cast(set[BoundedConnection], self.connections) if not connection._works()
        ]
        oldest = min(waiting, key=lambda connection: connection._waiting_since)
        oldest._cut()
        self.connections.discard(oldest)  # asyncio tells it so only later


def connections_of(most: int) -> type[BoundedConnection]:
    """The class of a server's connections."""
    return type("Connection", (BoundedConnection,), {"most": most})


def _raw(problem: Problem) -> bytes:
    """An answer of which no application knows."""
    body = msgspec.json.encode(problem.to_dict())
    headers: list[tuple[str, Any]] = [
        *HEADERS,
        ("Content-Type", MEDIA_TYPE),
        ("Content-Length", len(body)),
        ("Connection", "close"),
    ]
    lines = [f"HTTP/1.1 {problem.status} ", *(f"{name}: {value}" for name, value in headers), "", ""]
    return "\r\n".join(lines).encode() + body
