"""A peer that vanishes without a word: the run ends in bounded time, with every row there and no file left.

Two machines of our own stand for the network (`tests.support.network`); the DSN makes the times short, as users can too.
A peer that is only slow, and still acknowledges what it is sent, is waited for.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.command import start_vecbak
from tests.support.network import CLIENT, SERVER, SERVER_ADDRESS, Network
from tests.support.server import SUPERUSER, SUPERUSER_PASSWORD, Database, Server
from tests.support.stopped import Stopped
from tests.support.workspace import Workspace
from vecbak.postgres.keepalive import IDLE_SECONDS, INTERVAL_SECONDS, PROBES, UNANSWERED_MILLISECONDS

pytestmark = [pytest.mark.local, pytest.mark.needs("root", "ip")]

SHORT = "keepalives_idle=1&keepalives_interval=1&keepalives_count=2&tcp_user_timeout=2000"
SOON = 15.0  # seconds: SHORT, and what psql and we take to end
NOTICED = max(IDLE_SECONDS + INTERVAL_SECONDS * PROBES, UNANSWERED_MILLISECONDS / 1000)  # by default
STALLED = 75.0  # seconds
ROWS = 1000
MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network() as network:
        yield network


@pytest.fixture(scope="module")
def far_server(network: Network, server_folder: Path) -> Iterator[Server]:
    """PostgreSQL 18 on the other machine; the tests themselves reach it over its Unix socket."""
    server = Server(server_folder / "far", 18, {"listen_addresses": f"'{SERVER_ADDRESS}'"})
    server.create()
    with (server.data / "pg_hba.conf").open("a") as file:
        file.write("host all all 10.213.0.0/16 scram-sha-256\n")
    with network.on(SERVER):
        server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def database(far_server: Server, network: Network) -> Iterator[Database]:
    """A table of some 200 MB, which no socket's buffer holds."""
    with far_server.new_database() as database:
        database.execute("CREATE TABLE items (id int PRIMARY KEY, body text, embedding vector(3))")
        database.execute("ALTER TABLE items ALTER body SET STORAGE EXTERNAL")
        database.execute(
            "INSERT INTO items SELECT n, repeat(md5(n::text), 6400), '[1,2,3]' FROM generate_series(1, %s) AS n", [ROWS]
        )
        yield database
        network.speak()


@pytest.fixture
def space(tmp_path: Path, database: Database) -> Workspace:
    return told(Workspace(tmp_path, database), SHORT)


def told(space: Workspace, parameters: str) -> Workspace:
    """How vecbak reaches the table from its own machine."""
    address = f"{SERVER_ADDRESS}:{space.database.server.port}/{space.database.name}"
    space.config.pop("connection", None)
    space.save(
        connection={"dsn": f"postgresql://{SUPERUSER}@{address}?{parameters}", "password": SUPERUSER_PASSWORD},
        vector_tables={"supported_tables": ["items"], "truncate_tables": ["items"]},
        timeouts={"connect_seconds": 2, "truncate_seconds": 2},
    )
    return space


class Run:
    """vecbak on its machine."""

    def __init__(self, network: Network, space: Workspace, *arguments: str) -> None:
        with network.on(CLIENT):
            self.process = start_vecbak(*arguments, "--output-dir", space.out, cwd=space.folder)

    def wait_until(self, happened: Callable[[], object]) -> None:
        """It runs until then."""
        deadline = time.monotonic() + 30
        while not happened():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                raise AssertionError(self.process.communicate())
            time.sleep(0.005)

    def wait(self, seconds: float) -> tuple[int, str]:
        return ended(self.process, seconds)


def stopped(network: Network, space: Workspace, step: str, *arguments: str) -> Stopped:
    with network.on(CLIENT):
        return Stopped(space, step, *arguments)


def ended(process: subprocess.Popen[str], seconds: float) -> tuple[int, str]:
    """Its exit code and what it said; it ends in time."""
    try:
        _, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    assert "Traceback" not in errors
    return process.returncode, errors


def until(happened: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def written(space: Workspace) -> int:
    """Bytes in data files so far."""
    return (
        sum(path.stat().st_size for path in space.backups.rglob("*") if path.is_file()) if space.backups.exists() else 0
    )


def sessions(space: Workspace) -> dict[str, int]:
    """vecbak's on the server, by name."""
    found = space.database.fetch(
        "SELECT application_name, pid FROM pg_stat_activity WHERE datname = current_database()"
        " AND (application_name LIKE 'vecbak%' OR application_name = 'pg_dump')"
    )
    return dict(found)


def assert_nothing_happened(space: Workspace) -> None:
    assert space.database.count("items") == ROWS
    assert [name for name in space.files() if name != "vector_backup_log.txt"] == []


def assert_backup_is_good(network: Network, space: Workspace) -> None:
    code, errors = Run(network, space, "verify", "latest").wait(60)
    assert code == 0, errors


FORMATS = pytest.mark.parametrize("format", ["csv", "pg_dump"])


@FORMATS
def test_while_a_table_is_copied(network: Network, space: Workspace, format: str):
    space.save(backup={"format": format, "compression": "none"})
    run = Run(network, space, "truncate", "--yes")
    run.wait_until(lambda: written(space) > MEGABYTE)
    network.fall_silent()
    code, errors = run.wait(SOON)
    assert code == 5, errors
    assert_nothing_happened(space)


def test_a_worker_that_waits_for_an_answer(network: Network, space: Workspace):
    """What it asked was acknowledged, so that only keepalives can notice; until then it is waited for."""
    run = stopped(network, space, "copying", "truncate", "--yes")
    os.kill(sessions(space)["vecbak worker"], signal.SIGSTOP)
    worker = sessions(space)["vecbak worker"]
    try:
        (space.folder / "reached").unlink()
        time.sleep(5)  # longer than either of SHORT's limits
        assert run.process.poll() is None
        network.fall_silent()
        code, errors = ended(run.process, SOON)
    finally:
        os.kill(worker, signal.SIGCONT)
    assert code == 5, errors
    assert_nothing_happened(space)


STEPS = {"locked": 3, "workers open": 5, "copied": 5, "truncated": 6}


@pytest.mark.parametrize("step", STEPS)
def test_at_a_step_of_a_truncate(network: Network, space: Workspace, step: str):
    space.save(backup={"compression": "none"})
    run = stopped(network, space, step, "truncate", "--yes")
    network.fall_silent()
    (space.folder / "reached").unlink()
    code, errors = ended(run.process, SOON)
    assert code == STEPS[step], errors
    if STEPS[step] in {3, 5}:
        assert_nothing_happened(space)
    else:
        assert space.database.count("items") == ROWS
        network.speak()
        assert_backup_is_good(network, space)


def test_before_it_connects(network: Network, space: Workspace):
    network.fall_silent()
    code, errors = Run(network, space, "truncate", "--yes").wait(SOON)
    assert code == 3, errors
    assert_nothing_happened(space)


def emptied(network: Network, space: Workspace) -> None:
    """A backup, and no rows."""
    space.save(backup={"compression": "none"})
    code, errors = Run(network, space, "truncate", "--yes").wait(120)
    assert code == 0, errors


def loaded_bytes(space: Workspace) -> int:
    found = space.database.fetch("SELECT bytes_processed FROM pg_stat_progress_copy WHERE command = 'COPY FROM'")
    return int(found[0][0]) if found else 0


def test_while_rows_are_loaded(network: Network, space: Workspace):
    emptied(network, space)
    run = Run(network, space, "restore", "latest")
    run.wait_until(lambda: loaded_bytes(space) > MEGABYTE)
    network.fall_silent()
    code, errors = run.wait(SOON)
    assert code == 8, errors
    network.speak()
    assert_backup_is_good(network, space)
    for pid in sessions(space).values():  # its own keepalives are the default's
        space.database.execute("SELECT pg_terminate_backend(%s)", [pid])
    code, errors = Run(network, space, "restore", "latest").wait(120)
    assert code == 0, errors
    assert space.database.count("items") == ROWS


def test_by_default_both_sides_notice_within_about_two_minutes(network: Network, space: Workspace):
    """The server lets go of the tables, and the run ends."""
    told(space, "").save(backup={"compression": "none"})
    run = Run(network, space, "truncate", "--yes")
    run.wait_until(lambda: written(space) > MEGABYTE)
    network.fall_silent()
    began = time.monotonic()
    until(lambda: "vecbak guard" not in sessions(space), NOTICED + 10)
    code, errors = run.wait(NOTICED + 20 - (time.monotonic() - began))
    assert code == 5, errors
    assert_nothing_happened(space)


def test_a_backup_that_stands_still_for_long_goes_on(network: Network, space: Workspace):
    """As after Ctrl-Z, or where a disk stalls: we acknowledge what we do not read yet."""
    told(space, "").save(backup={"compression": "none"})
    run = Run(network, space, "truncate", "--yes")
    run.wait_until(lambda: written(space) > MEGABYTE)
    run.process.send_signal(signal.SIGSTOP)
    assert written(space) < ROWS * 100_000, "it was too fast"
    time.sleep(STALLED)
    run.process.send_signal(signal.SIGCONT)
    code, errors = run.wait(60)
    assert code == 0, errors
    assert_backup_is_good(network, space)


def test_a_server_that_takes_its_time_with_a_row_is_waited_for(network: Network, space: Workspace):
    """As with a large HNSW index on a slow disk: it acknowledges what it does not read yet."""
    told(space, "")
    emptied(network, space)
    run = Run(network, space, "restore", "latest")
    run.wait_until(lambda: loaded_bytes(space) > MEGABYTE)
    (pid,) = sessions(space).values()
    os.kill(pid, signal.SIGSTOP)
    time.sleep(STALLED)
    os.kill(pid, signal.SIGCONT)
    code, errors = run.wait(60)
    assert code == 0, errors
    assert space.database.count("items") == ROWS
