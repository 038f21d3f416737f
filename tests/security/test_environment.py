"""The environment is not the configuration: with all of PG* leading to production, nothing of vecbak's own goes there."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import langchain
from tests.support.command import VECBAK, environment, start_vecbak, vecbak
from tests.support.production import ALL_NAMES, Production
from tests.support.server import SUPERUSER, Database, Server, bin_folder
from tests.support.workspace import Workspace
from vecbak.postgres.embedded import embedded_server
from vecbak.postgres.guard import open_guard
from vecbak.postgres.programs import Installation
from vecbak.postgres.runner import LocalRunner

EMBEDDING = "langchain_pg_embedding"
REDIRECTING = (
    "PGHOSTADDR",
    "PGHOST",
    "PGPORT",
    "PGDATABASE",
    "PGUSER",
    "PGPASSWORD",
    "PGSERVICE",
    "PGSERVICEFILE",
    "PGSYSCONFDIR",
)
PSQL = Installation(bin_folder(18), 18, "embedded")


@pytest.fixture
def production(filled18: Database, tmp_path: Path) -> Iterator[Production]:
    """It is looked at once more when the test has ended."""
    found = Production(filled18, tmp_path)
    yield found
    found.assert_untouched()


@pytest.fixture(scope="session")
def staging(server_folder: Path, server18: Server) -> Iterator[Server]:
    """Another server, on its socket alone, with production's own port."""
    server = Server(server_folder / "staging", 18, {"listen_addresses": "''", "port": str(server18.port)})
    server.port = server18.port
    server.create()
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def configured(staging: Server, tmp_path: Path) -> Iterator[Workspace]:
    """A config that names the other server."""
    with staging.new_database(template=langchain.template(staging)) as database:
        yield Workspace(tmp_path, database)


@pytest.fixture(scope="session")
def embedded_data(server_folder: Path) -> Path:
    """A data folder with LangChain's tables, to be copied."""
    folder = server_folder / "embedded"
    with embedded_server(folder, dbname=None, user=None, connect_seconds=10) as endpoint:
        database = Database(_OnSocket(endpoint.parameters["host"]), "postgres")
        database.execute("CREATE EXTENSION vector")
        langchain.fill(database, 20)
    return folder


class _OnSocket(Server):
    """A server that runs already."""

    def __init__(self, folder: str) -> None:
        self.folder, self.port, self.major = Path(folder), 5432, 18


@pytest.fixture
def embedded(embedded_data: Path, server_folder: Path) -> Iterator[Path]:
    """A folder with a config of an embedded server whose tables hold rows."""
    folder = server_folder / "work"
    folder.mkdir()
    subprocess.run(["cp", "-a", embedded_data, folder / "pgdata"], check=True)
    (folder / "vecbak.yaml").write_text(
        "connection: {embedded: ./pgdata}\nbackup: {min_free_bytes: 0, min_free_percent: 0}\n"
    )
    yield folder
    shutil.rmtree(folder)


def backed_up(workspace: Workspace) -> Workspace:
    assert workspace.run("backup").code == 0
    return workspace


def test_the_variables_do_lead_to_production(filled18, tmp_path):
    """Else no test here would prove anything."""
    production = Production(filled18, tmp_path)
    subprocess.run(
        [bin_folder(18) / "psql", "-Xc", "SELECT 1", "host=/nowhere"],
        env=production.leading(),
        check=True,
        capture_output=True,
    )
    with pytest.raises(AssertionError, match="somebody has connected"):
        production.assert_untouched()


# servers of our own


def test_no_variable_alone_reaches_an_embedded_server(production, embedded, monkeypatch):
    for name in ALL_NAMES:
        with monkeypatch.context() as patch:
            patch.setenv(name, production.variables(name)[name])
            with embedded_server(embedded / "pgdata", dbname=None, user=None, connect_seconds=10) as endpoint:
                guard = open_guard(LocalRunner(), endpoint, PSQL, connect_seconds=10)
                where = guard.ask_json("SELECT to_json(current_setting('data_directory'));", "asking")
                guard.close()
            assert where == str(embedded / "pgdata"), name


@pytest.mark.parametrize(
    "names", [(), ("PGHOSTADDR", "PGPORT", "PGPASSWORD"), ("PGSERVICE", "PGSERVICEFILE"), ("PGOPTIONS",)], ids=str
)
def test_a_proof(production, configured, names):
    backed_up(configured)
    done = configured.run("verify", "latest", "--restore", "--json", env=production.environment(*names))
    assert done.code == 0, done.stderr
    assert done.json["proven_restorable"] is True


def test_a_proof_before_truncate(production, configured):
    configured.save(backup={"verify_before_truncate": "restore"})
    done = configured.run("truncate", "--json", env=production.environment(*REDIRECTING))
    assert done.code == 0, done.stderr
    assert done.json["truncate_results"][EMBEDDING]["rows_after"] == 0
    assert configured.database.count(EMBEDDING) == 0


def test_everything_on_an_embedded_server(production, embedded):
    env = production.environment()
    for command in (["doctor"], ["backup"], ["truncate"], ["restore", "latest"], ["backup", "--dry-run"]):
        done = vecbak(*command, "--output-dir", "out", cwd=embedded, env=env)
        assert done.code == 0, (command, done.stdout, done.stderr)
    done = vecbak("truncate", "--output-dir", "out", "--json", cwd=embedded, env=env)
    assert done.json["truncate_results"][EMBEDDING]["rows_before"] == 20
    assert done.json["server"]["address"] is None


def test_what_an_embedded_servers_dry_run_prints_goes_nowhere_else(production, embedded):
    """The server is not running any more: pasted, the commands must fail, and not find another one."""
    env = production.environment()
    script = vecbak("truncate", "--dry-run", "--output-dir", "out", cwd=embedded, env=env).stdout
    assert set(production.variables("PGHOSTADDR", "PGOPTIONS", "PGSERVICE")) <= set(script.splitlines()[0].split()[1:])
    pasted = subprocess.run(["bash", "-c", script], cwd=embedded, env=env, capture_output=True, text=True, check=False)
    assert pasted.returncode != 0
    assert str(embedded / "pgdata") in pasted.stderr


def test_the_demo(production, tmp_path):
    done = vecbak("demo", "--documents", "20", cwd=tmp_path, env=production.environment(), timeout=280)
    assert done.code == 0, done.stderr
    assert "byte for byte the same" in done.stdout


def test_a_demo_that_is_interrupted_takes_nothing_of_others_along(production, tmp_path):
    (tmp_path / "tmp").mkdir()
    env = {**production.environment(), "TMPDIR": str(tmp_path / "tmp")}
    run = start_vecbak("demo", "--documents", "20", cwd=tmp_path, env=env)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "tmp").glob("*/data_pipeline/training_data/before_reload/vector_bak/*.json")):
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    run.send_signal(2)
    run.communicate(timeout=60)
    while any((tmp_path / "tmp").glob("vecbak-*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not list((tmp_path / "tmp").glob("vecbak-*"))


def test_a_demo_in_a_folder_that_holds_something(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "vecbak.yaml").write_text("# mine\n")
    done = vecbak("demo", "--directory", "mine", cwd=tmp_path)
    assert done.code == 4
    assert "mine is not empty" in done.stderr
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["vecbak.yaml"]
    assert (tmp_path / "mine" / "vecbak.yaml").read_text() == "# mine\n"
    done = vecbak("demo", "--directory", "mine/vecbak.yaml", cwd=tmp_path)
    assert done.code == 4


# a server that the config names


@pytest.mark.parametrize("name", [*REDIRECTING, "all"])
def test_a_named_host_is_the_one_that_is_reached(production, configured, name):
    env = production.environment(*(REDIRECTING if name == "all" else (name, "PGPASSWORD", "PGSERVICEFILE")))
    done = configured.run("truncate", "--json", env=env)
    assert done.code == 0, done.stderr
    assert done.json["database"] == configured.database.name
    assert configured.database.count(EMBEDDING) == 0


def test_a_named_service_is_the_one_that_is_reached(production, configured, tmp_path):
    server = configured.database.server
    (tmp_path / "services").write_text(
        f"[staging]\nhost={server.folder}\nport={server.port}\nuser={SUPERUSER}\ndbname={configured.database.name}\n"
    )
    configured.config["connection"] = {"service": "staging"}
    configured.save()
    env = production.environment("PGHOSTADDR", "PGHOST", "PGPORT", "PGDATABASE", "PGUSER", "PGPASSWORD")
    env["PGSERVICEFILE"] = str(tmp_path / "services")
    done = configured.run("truncate", "--json", env=env)
    assert done.code == 0, done.stderr
    assert configured.database.count(EMBEDDING) == 0
    assert "unset PGHOSTADDR" in configured.run("backup", "--dry-run", env=env).stdout


def test_a_dsn_on_the_command_line_is_the_one_that_is_reached(production, configured):
    backed_up(configured)
    env = production.environment(*REDIRECTING)
    done = configured.run("verify", "latest", "--restore", "--on", configured.database.socket_dsn, env=env)
    assert done.code == 0, done.stderr
    assert f"database {configured.database.name}" in done.stderr
    done = vecbak(
        "init", "--discover", "--dsn", configured.database.socket_dsn, "-c", "new.yaml", cwd=configured.folder, env=env
    )
    assert done.code == 0, done.stderr


def test_what_a_dry_run_prints_reaches_it_too(production, configured):
    env = production.environment(*REDIRECTING)
    script = configured.run("backup", "--dry-run", env=env).stdout
    pasted = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, check=False)
    assert pasted.returncode == 0, pasted.stderr


@pytest.mark.parametrize(
    "names",
    [("PGOPTIONS", "PGCLIENTENCODING", "PGDATESTYLE", "PGTZ", "PG_COLOR", "PSQL_PAGER", "PAGER", "PSQLRC")],
    ids=str,
)
def test_settings_of_the_environment_change_nothing_in_a_backup(production, configured, names):
    """The session's, which libpq sends for us; those of the connection itself (TLS, authentication) are the user's to choose."""
    plain = backed_up(configured).run("show", "latest", "--json").json
    env = production.environment(*names)
    env["PGOPTIONS"] = "-c default_transaction_read_only=on -c statement_timeout=1"
    assert configured.run("backup", env=env).code == 0
    shown = configured.run("show", "latest", "--json").json
    assert shown["backup_id"] != plain["backup_id"]

    def digests(document):
        return {name: [file["sha256"] for file in entry["files"]] for name, entry in document["tables"].items()}

    assert digests(shown) == digests(plain)
    assert configured.run("truncate", env=env).code == 0
    assert configured.run("restore", "latest", env=env).code == 0
    assert configured.database.count(EMBEDDING) == 62


def test_a_users_own_command_keeps_its_variables(production, configured):
    env = production.environment(*REDIRECTING, "PG_COLOR")
    done = vecbak("run", "--output-dir", configured.out, "--", "/usr/bin/env", cwd=configured.folder, env=env)
    assert done.code == 0, done.stderr
    for name, value in production.variables(*REDIRECTING, "PG_COLOR").items():
        assert f"{name}={value}" in done.stdout.splitlines()


# the server that answered


def answered(database: Database) -> tuple[str, int]:
    return (
        database.value("SELECT system_identifier::text FROM pg_control_system()"),
        database.value("SELECT oid::bigint FROM pg_database WHERE datname = current_database()"),
    )


def test_log_result_and_manifest_name_the_server_that_answered(filled18, tmp_path):
    space = Workspace(tmp_path, filled18)
    port = filled18.server.port
    space.config["connection"] = {
        "host": "localhost", "port": port, "dbname": filled18.name, "user": SUPERUSER, "password": "over-the-wire-7731"
    }  # fmt: skip
    space.save()
    done = space.run("truncate", "--json")
    assert done.code == 0, done.stderr
    system, oid = answered(filled18)
    server = done.json["server"]
    assert (server["address"], server["port"]) == ("127.0.0.1", port)
    assert (server["system_identifier"], server["database_oid"], server["timeline"]) == (system, oid, 1)
    line = f"server: 127.0.0.1 port {port}, PostgreSQL 18"
    assert line in done.stderr
    assert line in (space.out / "data_pipeline.log").read_text()
    shown = space.run("show", "latest", "--json").json
    assert (shown["host"], shown["port"]) == ("localhost", str(port)), "what was typed"
    assert shown["server"]["address"] == "127.0.0.1"
    assert shown["server"]["system_identifier"] == system
    assert f"127.0.0.1 port {port}" in space.run("show", "latest").stdout
    restored = space.run("restore", "latest", "--json")
    assert restored.json["server"] == server


def test_a_role_that_may_not_ask_for_the_system_identifier(filled18, tmp_path):
    filled18.execute(
        "CREATE ROLE curious LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO curious;"
        "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC"
    )
    try:
        space = Workspace(tmp_path, filled18)
        space.save(connection=filled18.server.connection(filled18.name, "curious"))
        done = space.run("backup", "--json")
        assert done.code == 0, done.stderr
        assert done.json["server"]["system_identifier"] is None
        assert done.json["server"]["port"] == filled18.server.port
    finally:
        filled18.execute(
            "GRANT EXECUTE ON FUNCTION pg_control_system() TO PUBLIC; DROP OWNED BY curious; DROP ROLE curious"
        )


def test_the_question_names_it(filled18, tmp_path):
    space = Workspace(tmp_path, filled18)
    controller, terminal = pty.openpty()
    run = subprocess.Popen(
        [VECBAK, "truncate", "--output-dir", space.out], cwd=tmp_path, env=environment(TERM="dumb"), stdin=terminal,
        stdout=terminal, stderr=terminal, start_new_session=True,
    )  # fmt: skip
    os.close(terminal)
    said = b""
    while b"Go on?" not in said:
        said += os.read(controller, 4096)
    os.write(controller, b"n\n")
    assert run.wait(timeout=60) == 1
    os.close(controller)
    system, _ = answered(filled18)
    assert f"server    Unix socket port {filled18.server.port}, PostgreSQL 18" in said.decode()
    assert f"system identifier {system}" in said.decode()
    assert filled18.count(EMBEDDING) == 62
