"""Programs in a container: whatever ends a run ends them too, and nothing that can happen to a container loses a row."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import langchain
from tests.support.command import environment, start_vecbak
from tests.support.container import ContainerServer, container_server, docker
from tests.support.server import SUPERUSER_PASSWORD, SYSTEM_USER, Database
from tests.support.workspace import Workspace
from vecbak.checkpoints import STOP_AT, STOP_FILE

EMBEDDING = "langchain_pg_embedding"
ROWS = 8000
LARGE = f"""
    CREATE TABLE large (id int PRIMARY KEY, v vector(1536)); ALTER TABLE large ALTER v SET STORAGE EXTERNAL;
    INSERT INTO large SELECT n, array_fill(0.1234567::real, ARRAY[1536])::vector FROM generate_series(1, {ROWS}) n"""
# a constraint, as triggers keep still while rows are loaded
SLOW_ROWS = """
    CREATE FUNCTION slow(text) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RETURN true; END';
    ALTER TABLE {} ADD CHECK (slow(id::text));
    CREATE OR REPLACE FUNCTION slow(text) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.05); RETURN true; END'"""


@pytest.fixture
def large(container18: ContainerServer, tmp_path: Path) -> Iterator[Workspace]:
    """A table that takes a while to be copied."""
    with container18.new_database() as database:
        yield large_in(database, tmp_path)


@pytest.fixture
def own(docker_engine: None, tmp_path: Path) -> Iterator[Workspace]:
    """The same in a container of its own, which may be broken."""
    with container_server(18) as server:
        yield large_in(Database(server, "postgres"), tmp_path)


def large_in(database: Database, folder: Path) -> Workspace:
    database.execute("CREATE EXTENSION IF NOT EXISTS vector")
    database.execute(LARGE)
    space = Workspace(folder, database)
    space.save(vector_tables={"supported_tables": ["large"], "truncate_tables": ["large"]}, backup={"jobs": 1})
    return space


def server_of(space: Workspace) -> ContainerServer:
    assert isinstance(space.database.server, ContainerServer)
    return space.database.server


def wait_for(condition, seconds=20, what="it"):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.02)
    return found


def copying(space: Workspace, command: str) -> bool:
    query = "SELECT 1 FROM pg_stat_progress_copy WHERE command = %s AND datname = %s AND tuples_processed > 3"
    return bool(space.database.fetch(query, [command, space.database.name]))


def start_in_mid_copy(space: Workspace, *arguments: str, command: str = "COPY TO"):
    run = start_vecbak(*arguments, "--output-dir", space.out, cwd=space.folder)
    wait_for(lambda: copying(space, command), what="the copy")
    return run


def assert_nothing_is_left_behind(space: Workspace) -> None:
    """Neither programs in the container nor their sessions on the server; and nothing of ours made the server restart."""
    server = server_of(space)
    wait_for(lambda: not server.processes(), what=f"the programs to end: {server.processes()}")
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'vecbak%%' AND datname = %s"
    wait_for(lambda: space.database.value(sessions, [space.database.name]) == 0, what="the sessions to end")
    assert "vecbak" not in docker("exec", server.name, "ls", "/tmp")
    assert "terminating any other active server processes" not in server.log()


# what ends a run ends its programs


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_ended_backup_leaves_nothing_behind(large: Workspace, number):
    run = start_in_mid_copy(large, "truncate")
    run.send_signal(number)
    _, err = run.communicate(timeout=30)
    assert run.returncode == (-9 if number == signal.SIGKILL else 128 + number), err
    assert_nothing_is_left_behind(large)
    assert large.database.count("large") == ROWS
    assert number == signal.SIGKILL or large.files() == ["vector_backup_log.txt"]
    done = large.run("truncate", "--json")
    assert done.code == 0, done.stderr
    assert done.json["truncate_results"]["large"]["rows_before"] == ROWS


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_ended_restore_leaves_nothing_behind(large: Workspace, number):
    assert large.run("backup").code == 0
    large.database.execute("DELETE FROM large WHERE id > 100")
    large.database.execute(SLOW_ROWS.format("large"))
    run = start_in_mid_copy(
        large, "restore", "latest", "--mode", "replace", "--yes", "--no-safety-backup", command="COPY FROM"
    )
    run.send_signal(number)
    _, err = run.communicate(timeout=30)
    assert run.returncode == (-9 if number == signal.SIGKILL else 128 + number), err
    assert_nothing_is_left_behind(large)
    assert large.database.count("large") == 100


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_statement_that_nobody_waits_for_any_more_is_ended(large: Workspace, number):
    """psql waits for the server meanwhile, and would not notice that its pipes are closed."""
    assert large.run("backup").code == 0
    large.database.execute("DELETE FROM large WHERE id > 100")
    last = f"BEGIN IF n = {ROWS} THEN PERFORM pg_sleep(90); END IF; RETURN true; END"
    large.database.execute(f"""
        CREATE FUNCTION wait(n int) RETURNS boolean LANGUAGE plpgsql AS '{last}';
        ALTER TABLE large ADD CHECK (wait(id))""")
    restore = ("restore", "latest", "--mode", "replace", "--yes", "--no-safety-backup")
    run = start_vecbak(*restore, "--output-dir", large.out, cwd=large.folder)
    asleep = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = %s"
    wait_for(lambda: large.database.fetch(asleep, [large.database.name]), seconds=60, what="the last row")
    run.send_signal(number)
    _, err = run.communicate(timeout=30)
    assert run.returncode == (-9 if number == signal.SIGKILL else 128 + number), err
    assert_nothing_is_left_behind(large)
    assert large.database.count("large") == 100


def test_a_timeout_ends_the_program_and_its_backend(large: Workspace):
    large.save(timeouts={"copy_seconds": 0.3})
    done = large.run("truncate", "--json")
    assert done.code == 5, done.stderr
    assert "took longer than 0.3 s" in done.stderr or "pg_dump did not end within" in done.stderr
    assert_nothing_is_left_behind(large)
    assert large.database.count("large") == ROWS


def test_the_backend_of_a_failed_load_does_not_go_on(large: Workspace):
    assert large.run("backup").code == 0
    large.database.execute("DELETE FROM large WHERE id > 100; ALTER TABLE large ADD CHECK (id < 4000)")
    done = large.run("restore", "latest", "--mode", "replace", "--yes", "--no-safety-backup")
    assert done.code == 8, done.stderr
    assert "violates check constraint" in done.stderr
    assert_nothing_is_left_behind(large)
    assert large.database.count("large") == 100


# what ends the container


def test_a_container_killed_in_mid_backup(own: Workspace):
    server = server_of(own)
    run = start_in_mid_copy(own, "truncate", "--json")
    docker("kill", server.name)
    out, err = run.communicate(timeout=60)
    assert run.returncode == 5, err
    assert f"the container {server.name} is not running (exit code 137)" in err
    assert '"truncate_performed": false' in out
    assert own.files() == ["vector_backup_log.txt"]
    docker("start", server.name)
    server.wait()
    assert own.database.count("large") == ROWS
    assert own.run("truncate").code == 0
    assert own.database.count("large") == 0


def test_a_container_stopped_between_truncate_and_commit(own: Workspace):
    server = server_of(own)
    stop = own.folder / "stop"
    own.save(timeouts={"truncate_seconds": 2})
    env = environment(**{STOP_AT: "truncated", STOP_FILE: str(stop)})
    run = start_vecbak("truncate", "--json", "--output-dir", own.out, cwd=own.folder, env=env)
    wait_for(stop.exists, what="the truncate")
    docker("kill", server.name)
    stop.unlink()
    _, err = run.communicate(timeout=60)
    assert run.returncode == 6, err
    docker("start", server.name)
    server.wait()
    assert own.database.count("large") == ROWS
    assert len(own.files("vector_backup_2*.json")) == 1


def test_a_container_killed_in_mid_restore(own: Workspace):
    server = server_of(own)
    assert own.run("backup").code == 0
    own.database.execute("DELETE FROM large WHERE id > 100")
    own.database.execute(SLOW_ROWS.format("large"))
    restore = ("restore", "latest", "--mode", "replace", "--yes", "--no-safety-backup")
    run = start_in_mid_copy(own, *restore, command="COPY FROM")
    docker("kill", server.name)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 8, err
    assert f"the container {server.name} is not running (exit code 137)" in err
    docker("start", server.name)
    server.wait()
    assert own.database.count("large") == 100
    own.database.execute("DROP FUNCTION slow CASCADE")
    done = own.run(*restore)
    assert done.code == 0, done.stderr
    assert own.database.count("large") == ROWS


# finding it


@pytest.fixture
def space(container18: ContainerServer, tmp_path: Path) -> Iterator[Workspace]:
    with container18.new_database() as database:
        langchain.fill(database, 5)
        yield Workspace(tmp_path, database)


def refused(space: Workspace, code: int, *words: str, **options) -> None:
    done = space.run("backup", **options)
    assert done.code == code, done.stderr
    assert "Hint:" in done.stderr
    for word in words:
        assert word in done.stderr
    assert space.files() == []
    assert not list(space.folder.glob("core*"))


def test_by_id_and_by_label(space: Workspace):
    server = server_of(space)
    space.save(connection={"container": docker("inspect", "--format", "{{.Id}}", server.name)[:12]})
    assert space.run("backup").code == 0
    with container_server(18, "--label", "com.docker.compose.service=db-of-this-test") as labelled:
        database = Database(labelled, "postgres")
        langchain.fill(database, 3)
        for key in ("com.docker.compose.service=db-of-this-test", "label=com.docker.compose.service=db-of-this-test"):
            space.save(connection={"container": key, "dbname": "postgres"})
            done = space.run("backup", "--json")
            assert done.code == 0, done.stderr
            assert done.json["tables_backed_up"][EMBEDDING]["row_count"] == 3
        docker("run", "--detach", "--name", f"{labelled.name}-2", "--label", "com.docker.compose.service=db-of-this-test",
               "--entrypoint", "sleep", docker("inspect", "--format", "{{.Config.Image}}", labelled.name), "300")  # fmt: skip
        try:
            done = space.run("backup")
            assert done.code == 2
            assert (
                f"2 containers have the label com.docker.compose.service=db-of-this-test: {labelled.name}"
                in done.stderr
            )
        finally:
            docker("rm", "--force", f"{labelled.name}-2")


def test_a_bare_container_is_enough(own: Workspace):
    """User and database as the image was told, the socket inside trusts."""
    own.config["connection"] = {"container": server_of(own).name}
    own.save()
    done = own.run("backup", "--json")
    assert done.code == 0, done.stderr
    assert done.json["database"] == "postgres"


def test_none_of_that_name(space: Workspace):
    space.save(connection={"container": "no-such-container"})
    refused(space, 3, "there is no container no-such-container", server_of(space).name)
    space.save(connection={"container": "com.docker.compose.service=none"})
    refused(space, 3, "no container has the label com.docker.compose.service=none")


def test_paused_then_stopped(own: Workspace):
    name = server_of(own).name
    docker("pause", name)
    refused(own, 3, f"the container {name} is paused", f"docker unpause {name}")
    docker("unpause", name)
    docker("stop", "--time", "1", name)
    refused(own, 3, f"the container {name} is not running", f"docker start {name}")
    done = own.run("doctor")
    assert done.code == 3
    assert f"the container {name} is not running" in done.stdout


def test_one_without_psql(space: Workspace):
    image = docker("inspect", "--format", "{{.Config.Image}}", server_of(space).name)
    name = f"{server_of(space).name}-bare"
    docker("run", "--detach", "--name", name, "--env", "PATH=/bin", "--entrypoint", "sleep", image, "300")
    try:
        space.save(connection={"container": name})
        refused(space, 4, f"there is no psql 13 or newer in the container {name}")
    finally:
        docker("rm", "--force", name)


def test_no_engine(space: Workspace, tmp_path):
    nowhere = f"unix://{tmp_path}/nothing.sock"
    refused(space, 3, "the Docker engine does not answer", nowhere, env=environment(DOCKER_HOST=nowhere))


def test_no_docker_command(space: Workspace, tmp_path):
    refused(space, 4, "needs the `docker` command", env=environment(PATH=str(tmp_path)))


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_no_permission(space: Workspace, server_folder: Path):
    home = server_folder / "no-permission"
    home.mkdir(exist_ok=True)
    home.chmod(0o777)
    (home / "vecbak.yaml").write_text((space.folder / "vecbak.yaml").read_text())
    (home / "vecbak.yaml").chmod(0o644)
    code = f"import os; os.setgroups([]); import pwd; user = pwd.getpwnam('{SYSTEM_USER}'); os.setgid(user.pw_gid); os.setuid(user.pw_uid)"
    code += "\nfrom vecbak.cli import main\nmain()"
    every_module = (
        "for item in pkgutil.walk_packages(vecbak.__path__, 'vecbak.'):\n"
        "    importlib.import_module(item.name) if '__main__' not in item.name else None"
    )
    # imported while it is still root, whose Python it may be
    python = [
        sys.executable,
        "-c",
        f"import encodings.utf_8_sig, importlib, logging.handlers, pkgutil, docker, vecbak\n{every_module}\n{code}",
    ]
    done = subprocess.run(
        [*python, "backup", "--output-dir", str(home)], cwd=home, env=environment(), capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "may not be opened by this user" in done.stderr
    assert "usermod -aG docker" in done.stderr


def test_a_password_reaches_the_program_and_nothing_else(space: Workspace):
    space.save(connection={"host": "127.0.0.1", "user": "postgres", "password": SUPERUSER_PASSWORD})
    shown = space.run("backup", "--dry-run")
    assert shown.code == 0, shown.stderr
    done = space.run("backup")
    assert done.code == 0, done.stderr
    told = shown.stdout + shown.stderr + done.stdout + done.stderr
    assert SUPERUSER_PASSWORD not in told + (space.out / "data_pipeline.log").read_text()
    space.save(connection={"password": "wrong-4471"})
    wrong = space.run("backup")
    assert wrong.code == 3
    assert "password authentication failed" in wrong.stderr
    assert "wrong-4471" not in wrong.stderr
