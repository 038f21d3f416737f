"""Connections that give nothing take nothing: half-open, dribbling, never reading; what runs and what is begun succeeds."""

from __future__ import annotations

import contextlib
import resource
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.security.bare import PATIENCE, Bare, tree
from tests.support.api import PREFIX, TOKEN, Api, serving
from tests.support.command import VECBAK, environment
from tests.support.programs import slow_pg_dump
from tests.support.raw_http import ask, connect, head, read_answer
from tests.support.server import Database
from tests.support.workspace import Workspace
from vecbak.errors import UsageError
from vecbak.server.connections import CLIENT_SECONDS
from vecbak.server.descriptors import divide

MANY = 1010
BEARER = ("Authorization", f"Bearer {TOKEN}")
OWN = [("Host", "localhost"), BEARER, ("Content-Type", "application/json")]
BACKUP = f"POST {PREFIX}/vector/backup HTTP/1.1"
STEP = {"execution_mode": "step", "step_name": "training_load"}
HALF = {
    "nothing": b"",
    "a part of a head": b"POST /api HTTP/1.1\r\nHost: localhost\r\nX-",
    "a part of a body": head(BACKUP, [*OWN, ("Content-Length", "60000")]) + b'{"task_id": "half"',
    "a part of a chunk": head(BACKUP, [*OWN, ("Transfer-Encoding", "chunked")]) + b"ffff\r\n{",
    "an answer that is not read": head("GET /openapi.json HTTP/1.1", [("Host", "localhost")]) * 100,
}


@pytest.fixture(autouse=True)
def enough_descriptors() -> Iterator[None]:
    """For the attacker."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(soft, 3 * MANY)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def bare(tmp_path: Path) -> Bare:
    return Bare(tmp_path)


@contextlib.contextmanager
def half_open(url: str, count: int, *said: bytes) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        connections = []
        for number in range(count):
            connection = stack.enter_context(connect(url, receive_buffer=4096))
            with contextlib.suppress(OSError):  # its place may have been taken already
                connection.setblocking(False)
                connection.send(said[number % len(said)])
            connections.append(connection)
        yield connections


def is_closed(connection: socket.socket) -> bool:
    """Whether the server has ended it, whatever it said before."""
    try:
        while connection.recv(65536):
            pass
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def descriptors(api: Api) -> int:
    return len(list(Path(f"/proc/{api.process.pid}/fd").iterdir()))


def memory(api: Api) -> int:
    """Resident, in MB."""
    status = Path(f"/proc/{api.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) // 1024


def test_a_backup_succeeds_beside_a_thousand_half_open_connections(tmp_path: Path, filled18: Database):
    """One that runs, and one that is begun; under the limit of open files that most systems have."""
    workspace = Workspace(tmp_path, filled18)
    workspace.save(tasks_directory="tasks", connection={"bin_dir": str(slow_pg_dump(tmp_path, seconds=2))})
    with serving(workspace, open_files=1024) as api, ThreadPoolExecutor(1) as pool:
        running = pool.submit(api.backup, "running")
        deadline = time.monotonic() + 30
        while not (tmp_path / "tasks" / "running").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        with half_open(api.url, MANY, *HALF.values()):
            began = time.monotonic()
            assert api.client.get("/healthz").status_code == 200
            assert time.monotonic() - began < PATIENCE
            begun = api.backup("begun")
            assert begun.status_code == 200, begun.text
            assert running.result().status_code == 200, running.result().text
            assert descriptors(api) < 400
            assert memory(api) < 300
    assert not (tmp_path / "tasks" / "half").exists()


def test_who_dribbles_or_never_reads_is_cut_off(bare: Bare):
    """A byte now and then, in the head, in the body, between requests; and whoever takes no answer.

    But not who waits for our own work, and asks again after it.
    """
    slow = bare.folder / "slow"
    slow.write_text(f"#!/bin/sh\nsleep {CLIENT_SECONDS + 2}\n")
    slow.chmod(0o755)
    bare.step(str(slow))
    pipelined = head("GET /openapi.json HTTP/1.1", [("Host", "localhost")]) * 400
    refused = head(BACKUP, [("Host", "localhost"), ("Transfer-Encoding", "chunked")])
    with serving(bare) as api, contextlib.ExitStack() as stack, ThreadPoolExecutor(1) as pool:
        honest = pool.submit(_long_work, api)
        lines = {
            kind: stack.enter_context(connect(api.url, receive_buffer=4096))
            for kind in (*HALF, "idle", "refused", "deaf")
        }
        for kind, said in HALF.items():
            lines[kind].sendall(said)
        assert ask(lines["idle"], "GET", "/healthz").status == 200
        lines["refused"].sendall(refused)
        lines["deaf"].setblocking(False)
        for start in range(0, len(pipelined), 65536):
            with contextlib.suppress(BlockingIOError):
                lines["deaf"].send(pipelined[start : start + 65536])
        began, dribble = (
            time.monotonic(),
            {"a part of a head": b"a", "a part of a body": b" ", "idle": b"G", "refused": b"1\r\nx\r\n"},
        )
        cut: dict[str, float] = {}
        while len(cut) < len(lines) and time.monotonic() - began < 3 * CLIENT_SECONDS + PATIENCE:
            for kind in set(lines) - set(cut):
                if kind in dribble:
                    with contextlib.suppress(OSError):
                        lines[kind].send(dribble[kind])
                # told by the system, so that nothing is read of what must not be read
                if _is_cut(lines[kind]):
                    cut[kind] = time.monotonic() - began
            time.sleep(0.2)
        assert set(cut) == set(lines), cut
        assert min(cut.values()) > CLIENT_SECONDS / 2 - 1  # uvicorn's own, for idle ones
        assert honest.result()


def _long_work(api: Api) -> bool:
    with connect(api.url) as connection:
        began = time.monotonic()
        answer = ask(connection, "POST", f"{PREFIX}/tasks/slow/execute", [BEARER], STEP)
        assert time.monotonic() - began > CLIENT_SECONDS
        assert answer.status == 200, answer.body
        return ask(connection, "GET", "/healthz").status == 200


def _is_cut(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP | select.POLLHUP | select.POLLERR)
    return bool(poll.poll(0))


def test_the_place_of_the_longest_waiting_is_taken(bare: Bare):
    most = divide(1024, 2).connections
    with serving(bare, open_files=1024) as api, half_open(api.url, most, b"GET /healthz HTTP/1.1\r\n") as connections:
        time.sleep(0.3)
        assert not any(map(is_closed, connections))
        with connect(api.url) as late:
            assert ask(late, "GET", "/healthz").status == 200
            assert [is_closed(connection) for connection in connections] == [True] + [False] * (most - 1)


def test_a_request_that_was_cut_off_is_none(bare: Bare):
    """What came of it would be a request: the load."""
    body = b'{"execution_mode": "step", "step_name": "training_load"}'
    before = tree(bare.folder)
    with serving(bare) as api:
        for length in ([("Content-Length", "4000")], [("Transfer-Encoding", "chunked")]):
            sent = body if length[0][0] == "Content-Length" else b"%x\r\n%s\r\n" % (len(body), body)
            with connect(api.url) as connection:
                connection.sendall(head(f"POST {PREFIX}/tasks/cut/execute HTTP/1.1", [*OWN, *length]) + sent)
                time.sleep(0.3)
                connection.shutdown(socket.SHUT_WR)
        time.sleep(1)
        assert api.client.get("/healthz").status_code == 200
    assert tree(bare.folder) == before


def test_many_large_bodies_take_no_memory(bare: Bare):
    with serving(bare) as api:
        before = memory(api)
        large = head(BACKUP, [*OWN, ("Transfer-Encoding", "chunked")]) + (b"ffff\r\n" + b" " * 65535 + b"\r\n") * 64
        with ThreadPoolExecutor(16) as pool:
            assert all(pool.map(lambda _: _sent(api, large), range(128)))
        assert memory(api) - before < 100
        for claimed in ("65537", "9" * 20, "99999999999999"):
            with connect(api.url) as connection:
                connection.settimeout(PATIENCE)
                connection.sendall(head(BACKUP, [*OWN, ("Content-Length", claimed)]))
                answer = read_answer(connection)
                assert answer
                assert answer.status == 413


def _sent(api: Api, data: bytes) -> bool:
    with connect(api.url) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(data)
        answer = read_answer(connection)
        return answer is None or answer.status == 413


def test_a_body_without_end_is_not_read_for_ever(bare: Bare):
    chunk = (b"ffff\r\n" + b"x" * 65535 + b"\r\n") * 16
    with serving(bare) as api, connect(api.url) as connection:
        connection.sendall(head(BACKUP, [("Host", "localhost"), ("Transfer-Encoding", "chunked")]))
        sent = 0
        with contextlib.suppress(OSError):
            while sent < 256 * 1024 * 1024:
                connection.sendall(chunk)
                sent += len(chunk)
        assert sent < 64 * 1024 * 1024


# its own limits


def test_the_operations_that_run_at_once_are_bounded(bare: Bare):
    bare.step("sleep", "3")
    most = divide(256, 2).operations
    with serving(bare, open_files=256) as api:
        first = [api.execute(f"t{number}", wait=False, **STEP).status_code for number in range(most)]
        assert first == [202] * most
        refused = api.execute("one-more", wait=False, **STEP)
        assert (refused.status_code, refused.json()["exit_code"]) == (409, 7)
        assert "at once" in refused.json()["detail"]
        assert not (bare.folder / "tasks" / "one-more").exists()


def test_the_limit_of_open_files(bare: Bare):
    """Divided so that both have their share, raised as far as needed, refused where it is too low."""
    for limit in range(200, 5000, 7):
        for jobs in (1, 2, 16):
            with contextlib.suppress(UsageError):
                found = divide(limit, jobs)
                used = found.connections + found.waiting + found.operations * (64 + 8 * jobs)
                assert used <= limit - 64
                assert found.connections >= 16
                assert found.waiting < found.connections
    with pytest.raises(UsageError, match="too low"):
        divide(150, 2)
    assert divide(1024, 2).operations >= 8
    command = ["sh", "-c", 'ulimit -n 100 && exec "$@"', "sh", str(VECBAK), "serve", "--port", "0"]
    env = environment(VECBAK_API_TOKEN=TOKEN)
    done = subprocess.run(command, cwd=bare.folder, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "ulimit -n 1024" in done.stderr
    with serving(bare, open_files=1024) as api:  # what the hint says
        assert api.client.get("/healthz").status_code == 200
    with serving(bare) as api:
        said = Path(f"/proc/{api.process.pid}/limits").read_text().partition("Max open files")[2].split()
        assert int(said[0]) >= divide(1 << 20, 2).operations * (64 + 16)


def test_it_ends_whoever_is_connected(bare: Bare):
    pipelined = head("GET /openapi.json HTTP/1.1", [("Host", "localhost")]) * 400
    with serving(bare) as api, contextlib.ExitStack() as stack:
        for said in (*HALF.values(), pipelined):
            connection = stack.enter_context(connect(api.url, receive_buffer=4096))
            connection.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                connection.send(said)
        time.sleep(0.5)
        began = time.monotonic()
        assert api.end(signal.SIGTERM) == 143
        assert time.monotonic() - began < 3 * CLIENT_SECONDS + PATIENCE
