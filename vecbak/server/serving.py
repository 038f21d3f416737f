"""The server's process: its socket, its signals, and an end that leaves nothing half done."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

import uvicorn
from fastapi import FastAPI

from vecbak.config import LoadedConfig
from vecbak.errors import UsageError
from vecbak.server.app import make_app
from vecbak.server.bearer import GUESSABLE, Bearer
from vecbak.server.connections import HEADERS, connections_of
from vecbak.server.descriptors import Capacity, take_capacity
from vecbak.server.gate import check_address
from vecbak.server.origins import own_names
from vecbak.server.tasks import Tasks

log = logging.getLogger(__name__)

_MAX_HEADER_BYTES = 16 * 1024


def serve(
    loaded: LoadedConfig,
    host: str,
    port: int,
    token: str,
    allowed_hosts: Sequence[str],
    on_ready: Callable[[str], None],
) -> int:
    """Serve until a signal comes; what runs then is ended in order.

    Args:
        port: 0 for any that is free.
        token: empty for none.
        allowed_hosts: further names by which it may be called.
        on_ready: told the address once it is bound.

    Returns:
        The number of the signal.

    Raises:
        UsageError: the address cannot be bound, or must not be without a token; the token or a name is none; too few
            files may be open.
    """
    bearer, names = Bearer(token), own_names(host, allowed_hosts)
    check_address(host, bearer)
    if bearer.is_guessable:
        log.warning("VECBAK_API_TOKEN has less than %d characters and can be guessed", GUESSABLE)
    capacity = take_capacity(loaded.config.backup.jobs)
    tasks = Tasks(capacity.operations)
    with contextlib.closing(_bind(host, port, capacity.waiting)) as listener:
        server = _Server(make_app(loaded, tasks, bearer, names), tasks, capacity)
        on_ready(_url(listener))
        asyncio.run(server.serve(sockets=[listener]))
    return server.signum


class _Server(uvicorn.Server):
    """Ends what runs before it waits for the answers to it."""

    def __init__(self, app: FastAPI, tasks: Tasks, capacity: Capacity) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="asyncio",
                http=connections_of(capacity.connections),
                h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
                ws="none",
                lifespan="off",
                log_config=None,
                log_level=logging.ERROR,  # not a line for each request that is none: they would fill a disk
                access_log=False,
                server_header=False,
                proxy_headers=False,
                headers=HEADERS,
                backlog=capacity.waiting,
            )
        )
        self._tasks = tasks
        self.signum = 0

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The first signal begins the end; the end is in order, however often it is asked for."""

        def begin_to_end(signum: int, frame: FrameType | None) -> None:
            self.signum = self.signum or signum
            self.should_exit = True

        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.getsignal(number) for number in numbers}
        for number in numbers:
            if before[number] is not signal.SIG_IGN:  # nohup
                signal.signal(number, begin_to_end)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept nothing more, end what runs, and let every answer out."""
        log.info("ending by %s", signal.Signals(self.signum or signal.SIGTERM).name)
        ending = asyncio.create_task(asyncio.to_thread(self._tasks.end_all, self.signum or signal.SIGTERM))
        await super().shutdown(sockets)
        await ending


def _bind(host: str, port: int, backlog: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host.strip("[]"), port), family=family, backlog=backlog)
        # asyncio does so only where it made the socket itself; without it each answer waits 40 ms for the client's ACK
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        raise UsageError(
            f"{host}:{port} cannot be listened on: {error.strerror or error}", "Choose another --host or --port."
        ) from None


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
