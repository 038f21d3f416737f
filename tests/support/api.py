"""`vecbak serve` as a process, and a client for it."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import httpx

from tests.support.command import VECBAK, environment
from tests.support.workspace import Workspace

TOKEN = "a-token-of-the-tests-4711"
PREFIX = "/api/v0/data_pipeline"


class Api:
    """A running server.

    Args:
        token: that the client sends; None: no header.
    """

    def __init__(self, process: subprocess.Popen[bytes], url: str, token: str | None) -> None:
        self.process = process
        self.url = url
        headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        limits = httpx.Limits(max_connections=50)
        self.client = httpx.Client(base_url=url, headers=headers, timeout=60, limits=limits, trust_env=False)

    def execute(self, task: str, *, wait: bool = True, **body: Any) -> httpx.Response:
        return self.client.post(f"{PREFIX}/tasks/{task}/execute", json=body, params={} if wait else {"wait": "false"})

    def backup(self, task: str, **body: Any) -> httpx.Response:
        return self.client.post(f"{PREFIX}/vector/backup", json={"task_id": task, **body})

    def restore(self, backup_id: str, **body: Any) -> httpx.Response:
        return self.client.post(f"{PREFIX}/vector/restore", json={"backup_id": backup_id, **body})

    def state(self, task: str) -> dict[str, Any]:
        answer = self.client.get(f"{PREFIX}/tasks/{task}")
        assert answer.status_code == 200, answer.text
        document: dict[str, Any] = answer.json()
        return document

    def await_state(self, task: str, *states: str) -> dict[str, Any]:
        deadline = time.monotonic() + 30
        while (document := self.state(task))["state"] not in states:
            assert time.monotonic() < deadline, document
            time.sleep(0.05)
        return document

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=60)


@contextlib.contextmanager
def serving(
    workspace: Workspace,
    *arguments: str,
    token: str | None = TOKEN,
    send: str | None = TOKEN,
    open_files: int | None = None,
) -> Iterator[Api]:
    """Run it on a free port.

    Args:
        arguments: further ones of `vecbak serve`.
        token: the server's.
        send: the client's.
        open_files: how many it may have, RLIMIT_NOFILE.
    """
    log = workspace.folder / "server.log"
    command = [str(VECBAK), "serve", "--port", "0", *arguments]
    if open_files is not None:
        command = ["sh", "-c", 'ulimit -n "$0" && exec "$@"', str(open_files), *command]
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=workspace.folder, env=environment(VECBAK_API_TOKEN=token),
            stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip
    try:
        api = Api(process, _url(process, log), send)
        with api.client:
            yield api
    finally:
        process.kill()
        process.wait()
    assert not [line for line in log.read_text().splitlines() if line.startswith("Traceback")], log.read_text()


def _url(process: subprocess.Popen[bytes], log: Any) -> str:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        if found := re.search(r"listens on (http://\S+);", log.read_text()):
            return found.group(1)
        time.sleep(0.02)
    raise AssertionError(log.read_text())
