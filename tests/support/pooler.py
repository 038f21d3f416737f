"""A real pgbouncer in front of a test server (Debian: apt-get install pgbouncer)."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.needs import program
from tests.support.server import SUPERUSER, SYSTEM_USER, Server, free_port


@contextlib.contextmanager
def pgbouncer(server: Server, folder: Path, mode: str) -> Iterator[int]:
    """Run it on loopback in a pool mode; gives its port."""
    found = program("pgbouncer")
    assert found, "the test says that it needs pgbouncer"
    port = free_port()
    folder.mkdir()
    config = folder / "pgbouncer.ini"
    config.write_text(
        f"[databases]\n* = host={server.folder} port={server.port} user={SUPERUSER}\n[pgbouncer]\n"
        f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = {mode}\n"
    )
    user = SYSTEM_USER if os.geteuid() == 0 else None
    process = subprocess.Popen(
        [found, "-q", config], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, user=user
    )  # fmt: skip
    try:
        _wait_for(port, process)
        yield port
    finally:
        process.kill()
        process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise AssertionError("pgbouncer did not start")
