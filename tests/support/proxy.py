"""A small TCP proxy on loopback that cuts a connection at a chosen moment."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from types import TracebackType


class Proxy:
    """Forwards to a port of 127.0.0.1, until a client that has sent one text sends another; then that connection is cut.

    Args:
        cut_at: the text that triggers the cut.
        on_connection_with: what must have been sent before on the same connection.
        forward: whether the server still gets the text; the client never gets its answer.
        then_refuse: whether no further connection is accepted after the cut.
        on_cut: called at the cut, before any further connection goes anywhere, with a function that lets the server have
            the text; gives the port that later connections go to, or None for the same.
    """

    def __init__(
        self,
        port: int,
        *,
        cut_at: bytes,
        on_connection_with: bytes,
        forward: bool = False,
        then_refuse: bool = False,
        on_cut: Callable[[Callable[[], None]], int | None] | None = None,
    ) -> None:
        self._target = port
        self._cut_at = cut_at
        self._precondition = on_connection_with
        self._forward = forward
        self._then_refuse = then_refuse
        self._on_cut = on_cut
        self._switching = threading.Lock()
        self.cut = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with self._switching:
                    target = self._target
                try:
                    server = socket.create_connection(("127.0.0.1", target))
                except ConnectionRefusedError:
                    _close(client)
                    continue
                threading.Thread(target=self._to_server, args=(client, server), daemon=True).start()
                threading.Thread(target=self._to_client, args=(client, server), daemon=True).start()

    def _to_server(self, client: socket.socket, server: socket.socket) -> None:
        seen = False
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                seen = seen or self._precondition in data
                if seen and self._cut_at in data and not self.cut.is_set():
                    self._cut(client, server, data)
                    return
                server.sendall(data)
        _close(server)

    def _cut(self, client: socket.socket, server: socket.socket, data: bytes) -> None:
        self.cut.set()
        if self._then_refuse:
            # on Linux closing does not wake accept(); shutting down does
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        with self._switching:
            _close(client)
            if self._on_cut:
                self._target = self._on_cut(lambda: _send(server, data)) or self._target
            elif self._forward:
                _send(server, data)
            _close(server)

    def _to_client(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                client.sendall(data)
        _close(client)


def _send(server: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):
        server.sendall(data)
        server.settimeout(2)
        server.recv(65536)


def _close(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
