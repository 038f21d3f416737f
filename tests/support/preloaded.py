"""A process that has imported vecbak already and forks for each run: half of what a short run costs is its start.

What a starting interpreter alone reads (`READ_AT_START`) it cannot be told any more; `tests.support.command` starts
a process of its own for such a run, as it does for one that is struck while it goes on.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

READ_AT_START = ("PYTHON", "LC_", "LANG", "VECBAK_TEST_")
NOT_FOR_EVERYBODY = ("vecbak.__main__", "vecbak.demo", "vecbak.server")  # extras


def may_run_with(environment: Mapping[str, str]) -> bool:
    """Whether nothing in it is of use to a starting interpreter alone."""

    def at_start(variables: Mapping[str, str]) -> dict[str, str]:
        return {name: value for name, value in variables.items() if name.startswith(READ_AT_START)}

    return at_start(environment) == at_start(os.environ)


def run(
    arguments: Sequence[str], *, cwd: Path, environment: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run` with captured output and nothing on standard input."""
    with contextlib.ExitStack() as stack:
        request = stack.enter_context(tempfile.TemporaryFile())
        request.write(json.dumps([arguments, str(cwd), dict(environment)]).encode())
        request.seek(0)
        pipes = [os.pipe() for _ in range(3)]
        socket.send_fds(_channel(), [b"!"], [request.fileno(), *(writer for _, writer in pipes)])
        for _, writer in pipes:
            os.close(writer)
        out, err, end = (stack.enter_context(os.fdopen(reader, "rb")) for reader, _ in pipes)
        pid = int(end.readline())
        with ThreadPoolExecutor(3) as pool:
            read = [pool.submit(file.read) for file in (out, err, end)]
            try:
                status = int(read[2].result(timeout))
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(["vecbak", *arguments], timeout) from None
            texts = [future.result().decode() for future in read[:2]]
    return subprocess.CompletedProcess(["vecbak", *arguments], os.waitstatus_to_exitcode(status), *texts)


@functools.cache
def _channel() -> socket.socket:
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", __name__, str(theirs.fileno())]
    # pipes, as a run has them: Python looks at its standard streams once
    server = subprocess.Popen(
        command, cwd=Path(__file__).parents[2], pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    theirs.close()

    def end() -> None:
        ours.close()
        out, err = server.communicate()
        assert not server.returncode, (out, err)

    atexit.register(end)
    return ours


def _serve(channel: socket.socket) -> None:
    """Start a run for each request; returns in each process that is to be one, and ends when nobody can ask any more."""
    while True:
        _, descriptors, _, _ = socket.recv_fds(channel, 1, 4)
        if not descriptors:
            raise SystemExit
        between = os.fork()
        if between == 0:
            channel.close()
            _become(*descriptors)
            return
        os.waitpid(between, 0)
        for descriptor in descriptors:
            os.close(descriptor)


def _become(request: int, out: int, err: int, end: int) -> None:
    """Be a run whose parent tells its end, and is nobody's child that would have to be waited for."""
    if os.fork() > 0:
        os._exit(0)
    with os.fdopen(end, "wb", buffering=0) as answer:
        if pid := os.fork():
            for descriptor in (request, out, err):
                os.close(descriptor)
            answer.write(b"%d\n" % pid)
            answer.write(b"%d" % os.waitpid(pid, 0)[1])
            os._exit(0)
    with os.fdopen(request, "rb") as file:
        arguments, folder, environment = json.load(file)
    for number, descriptor in ((1, out), (2, err)):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["vecbak", *arguments]


def _main() -> None:
    from vecbak.cli import main

    packages = importlib.import_module("vecbak").__path__
    for module in pkgutil.walk_packages(packages, "vecbak.", onerror=lambda name: None):
        if not module.name.startswith(NOT_FOR_EVERYBODY):
            importlib.import_module(module.name)
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        _serve(channel)
    main()


if __name__ == "__main__":
    _main()
