"""Whatever breaks in the middle of a restore: the target holds exactly what it held before."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import threading
import time
import uuid
from pathlib import Path

import pytest

from tests.end_to_end.test_restore import EMBEDDING, both, content
from tests.support import langchain
from tests.support.command import start_vecbak
from tests.support.proxy import Proxy
from tests.support.server import SUPERUSER, SUPERUSER_PASSWORD, Database, Server
from tests.support.workspace import Workspace

# a constraint, as triggers keep still while rows are loaded
SLOW_ROWS = f"""
    CREATE FUNCTION slow(text) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RETURN true; END';
    ALTER TABLE {EMBEDDING} ADD CHECK (slow(id::text));
    CREATE OR REPLACE FUNCTION slow(text) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.05); RETURN true; END'"""
LOADING = (
    "SELECT pid FROM pg_stat_activity WHERE application_name = 'vecbak guard' AND query LIKE 'COPY%%' AND datname = %s"
)


@pytest.fixture
def workspace(tmp_path, filled18: Database) -> Workspace:
    """A backup of other rows than those that stand there, and a table that takes its time to be loaded."""
    workspace = Workspace(tmp_path, filled18)
    assert workspace.run("backup").code == 0
    filled18.execute(f"UPDATE {EMBEDDING} SET document = 'now: ' || document")
    filled18.execute(SLOW_ROWS)
    return workspace


def start_restore(workspace: Workspace):
    process = start_vecbak(
        "restore", "latest", "--mode", "replace", "--yes", "--output-dir", workspace.out, cwd=workspace.folder
    )
    deadline = time.monotonic() + 60
    with workspace.database.connect() as connection:
        while not (found := connection.execute(LOADING, [workspace.database.name]).fetchall()):
            assert time.monotonic() < deadline, "the restore never came to loading"
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
    time.sleep(0.3)
    return process, found[0][0]


def wait_until_gone(database: Database) -> None:
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'vecbak%%' AND datname = %s"
    deadline = time.monotonic() + 10
    while database.value(query, [database.name]):
        assert time.monotonic() < deadline, "a session was left over"
        time.sleep(0.1)


@pytest.mark.parametrize(("format", "compression"), [("csv", "none"), ("binary", "zstd"), ("pg_dump", "lz4")])
@pytest.mark.parametrize("victim", ["vecbak", "psql"])
def test_a_large_file_does_not_keep_it_waiting(tmp_path, database18: Database, format, compression, victim):
    """What is in the pipes must not be loaded to its end first, nor may a decompressor be waited for."""
    database18.execute(f"""
        CREATE TABLE {EMBEDDING} (id int PRIMARY KEY, x text);
        INSERT INTO {EMBEDDING} SELECT n, (SELECT string_agg(md5(n::text || k), '') FROM generate_series(1, 200) k)
          FROM generate_series(1, 2000) n;
        {SLOW_ROWS}""")
    workspace = Workspace(tmp_path, database18)
    workspace.save(
        vector_tables={"supported_tables": [EMBEDDING], "truncate_tables": [EMBEDDING]},
        backup={"format": format, "compression": compression},
    )
    assert workspace.run("backup").code == 0
    process, _ = start_restore(workspace)
    began = time.monotonic()
    if victim == "vecbak":
        process.send_signal(signal.SIGINT)
    for pid in psql_of(process) if victim == "psql" else ():
        os.kill(pid, signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - began < 12  # a grace time and a half; loading would take 100 s
    assert process.returncode == (130 if victim == "vecbak" else 8), errors
    wait_until_gone(database18)
    assert database18.count(EMBEDDING) == 2000


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_vecbak_is_killed(workspace: Workspace, number):
    before = both(workspace.database)
    process, _ = start_restore(workspace)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number)
    if number != signal.SIGKILL:
        assert "as it was before" in errors
    wait_until_gone(workspace.database)
    assert both(workspace.database) == before
    assert len(workspace.files("vector_backup_*.json")) == 2  # the safety backup stays
    assert workspace.run("verify", "latest").code == 0
    workspace.database.execute("DROP FUNCTION slow CASCADE")
    first = sorted(workspace.backups.glob("vector_backup_*.json"))[0]
    assert workspace.run("restore", first, "--mode", "replace").code == 0


def psql_of(process) -> list[int]:
    return [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/status")
        if f"PPid:\t{process.pid}\n" in path.read_text() and "Name:\tpsql" in path.read_text()
    ]


def test_psql_is_killed(workspace: Workspace):
    before = both(workspace.database)
    process, _ = start_restore(workspace)
    for pid in psql_of(process):
        os.kill(pid, signal.SIGKILL)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 8, errors
    assert "as it was before" in errors
    wait_until_gone(workspace.database)
    assert both(workspace.database) == before


def test_the_backend_is_terminated(workspace: Workspace):
    before = both(workspace.database)
    process, pid = start_restore(workspace)
    workspace.database.execute("SELECT pg_terminate_backend(%s)", [pid])
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 8, errors
    assert both(workspace.database) == before


@pytest.mark.parametrize("how", ["SIGKILL", "immediate"])
def test_the_server_is_killed(tmp_path, server_folder, how):
    server = Server(server_folder / f"k{uuid.uuid4().hex[:6]}", 18)
    server.create()
    server.start()
    try:
        with server.new_database() as database:
            langchain.fill(database, 62)
            workspace = Workspace(tmp_path, database)
            assert workspace.run("backup").code == 0
            database.execute(f"UPDATE {EMBEDDING} SET document = 'now: ' || document")
            database.execute(SLOW_ROWS)
            before = both(database)
            process, _ = start_restore(workspace)
            server.kill() if how == "SIGKILL" else server.stop("immediate")
            _, errors = process.communicate(timeout=60)
            assert process.returncode == 8, errors
            start_again(server)
            assert both(database) == before
    finally:
        server.stop()


def start_again(server: Server) -> None:
    """As soon as those that a killed one left behind have ended."""
    deadline = time.monotonic() + 30
    while True:
        try:
            server.start()
            return
        except subprocess.CalledProcessError:
            assert time.monotonic() < deadline
            time.sleep(0.3)


def test_a_restore_that_takes_too_long_is_given_up(workspace: Workspace):
    workspace.save(timeouts={"restore_seconds": 0.5})
    before = both(workspace.database)
    done = workspace.run("restore", "latest", "--mode", "replace")
    assert done.code == 8
    assert "longer than 0.5 s" in done.stderr
    assert both(workspace.database) == before


def test_a_file_that_changes_while_it_is_loaded(workspace: Workspace):
    before = both(workspace.database)
    file = sorted(workspace.backups.glob(f"{EMBEDDING}_*.csv"))[0]
    process, _ = start_restore(workspace)
    content_before = file.read_bytes()
    file.write_bytes(content_before)  # the same bytes, but nobody has verified them
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 5, errors
    assert both(workspace.database) == before


def test_no_row_is_lost_under_writers(tmp_path, filled: Database):
    """Every acknowledged row is in the table or in the safety backup."""
    workspace = Workspace(tmp_path, filled)
    assert workspace.run("backup").code == 0
    acknowledged: list[set[str]] = [set(), set(), set()]
    stop = threading.Event()

    def write(number: int) -> None:
        with filled.connect() as connection:
            while not stop.is_set():
                key = f"w{number}-{uuid.uuid4()}"
                connection.execute(
                    f"INSERT INTO {EMBEDDING} (id, collection_id, document) SELECT %s, uuid, %s FROM langchain_pg_collection LIMIT 1",
                    [key, key],
                )
                acknowledged[number].add(key)

    threads = [threading.Thread(target=write, args=[number]) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        first = sorted(workspace.backups.glob("vector_backup_*.json"))[0]
        for _ in range(3):
            time.sleep(0.2)
            done = workspace.run("restore", first, "--mode", "replace")
            assert done.code == 0, done.stderr
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    saved: set[str] = set()
    for path in workspace.backups.glob(f"{EMBEDDING}_*.csv"):
        with path.open(newline="", encoding="utf-8") as file:
            saved |= {row["id"] for row in csv.DictReader(file)}
    there = set(content_ids(filled))
    lost = [key for keys in acknowledged for key in keys if key not in there and key not in saved]
    assert lost == []
    assert sum(map(len, acknowledged)) > 50


def content_ids(database: Database) -> list[str]:
    return [row[0] for row in database.fetch(f"SELECT id FROM {EMBEDDING}")]


def test_two_restores_at_once(workspace: Workspace):
    before = content(workspace.database, EMBEDDING)
    process, _ = start_restore(workspace)
    workspace.save(timeouts={"lock_seconds": 0.3})
    done = workspace.run("restore", "latest", "--mode", "replace")
    assert done.code == 7
    assert "another vecbak run" in done.stderr
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert content(workspace.database, EMBEDDING) == before


@pytest.mark.parametrize("forward", [True, False])
def test_the_connection_breaks_during_commit(workspace: Workspace, forward):
    database = workspace.database
    database.execute("DROP FUNCTION slow CASCADE")
    before = both(database)
    cut = {"cut_at": b"COMMIT;", "on_connection_with": b"ANALYZE", "forward": forward}
    with Proxy(database.server.port, **cut) as proxy:
        workspace.config["connection"] = {
            "host": "127.0.0.1",
            "port": proxy.port,
            "dbname": database.name,
            "user": SUPERUSER,
            "password": SUPERUSER_PASSWORD,
            "sslmode": "disable",
        }
        workspace.save()
        done = workspace.run("restore", "latest", "--mode", "replace")
        assert proxy.cut.is_set()
    assert done.code == (0 if forward else 8), done.stderr
    assert (both(database) == before) == (not forward)
