"""A small TCP proxy on loopback that cuts a connection at a chosen moment."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType


class Proxy:
    """Forwards to a port of 127.0.0.1, until a client that has sent one text sends another; then that connection is cut.

    Args:
        cut_at: the text that triggers the cut.
        on_connection_with: what must have been sent before on the same connection.
        forward: whether the server still gets the text; the client never gets its answer.
        then_refuse: whether no further connection is accepted after the cut.
    """

    def __init__(
        self, port: int, *, cut_at: bytes, on_connection_with: bytes, forward: bool, then_refuse: bool = False
    ) -> None:
        self._target = port
        self._cut_at = cut_at
        self._precondition = on_connection_with
        self._forward = forward
        self._then_refuse = then_refuse
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
                server = socket.create_connection(("127.0.0.1", self._target))
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
        _close(client)
        if self._forward:
            server.sendall(data)
            with contextlib.suppress(OSError):
                server.settimeout(2)
                server.recv(65536)
        _close(server)

    def _to_client(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                client.sendall(data)
        _close(client)


def _close(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
