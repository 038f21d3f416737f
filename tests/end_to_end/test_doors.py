"""Doors that stay shut: what comes between in mid-run, odd names and arguments, and many runs in a row."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.command import vecbak
from tests.support.load import Traffic, back_up_often
from tests.support.programs import psql_filter
from tests.support.server import Database
from tests.support.stopped import Stopped
from tests.support.workspace import Workspace
from vecbak.config_file import load_config
from vecbak.operations.backup import back_up
from vecbak.operations.opening import open_job

EMBEDDING = "langchain_pg_embedding"


@pytest.fixture
def workspace(tmp_path, filled18: Database) -> Workspace:
    return Workspace(tmp_path, filled18)


# what comes between


def test_a_privilege_is_lost_before_truncate(tmp_path, filled18: Database):
    filled18.execute("""DO $$ BEGIN CREATE ROLE loser LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
        GRANT SELECT ON ALL TABLES IN SCHEMA public TO loser; GRANT TRUNCATE ON langchain_pg_embedding TO loser""")
    workspace = Workspace(tmp_path, filled18)
    workspace.save(connection={"dsn": filled18.socket_dsn.replace("postgres@", "loser@")})
    run = Stopped(workspace, "published", "truncate", "--yes")
    filled18.execute("REVOKE TRUNCATE ON langchain_pg_embedding FROM loser")
    code, errors = run.go()
    assert code == 6, errors
    assert "TRUNCATE privilege" in errors
    assert filled18.count(EMBEDDING) == 62
    assert workspace.run("verify", "latest").code == 0


@pytest.mark.parametrize(
    "change", ["DROP TABLE {} CASCADE", "ALTER TABLE {} ADD COLUMN x int", "ALTER TABLE {} RENAME TO other"]
)
@pytest.mark.parametrize("command", ["backup", "truncate"])
def test_a_migration_queued_in_mid_run_waits_for_us_and_is_not_kept_waiting(workspace: Workspace, change, command):
    run = Stopped(workspace, "workers open", command, "--yes")
    done = threading.Event()

    def migrate() -> None:
        workspace.database.execute(change.format(EMBEDDING))
        done.set()

    thread = threading.Thread(target=migrate)
    thread.start()
    time.sleep(0.3)
    assert not done.is_set()
    code, errors = run.go()
    thread.join(30)
    # pg_dump's lock queues behind the migration, which waits for us: it gives up, and the migration goes on
    assert code == 5, errors
    assert "lock that was not granted in time" in errors
    assert done.is_set()
    assert workspace.files("*.json") == []


def test_a_migration_between_guard_and_workers(workspace: Workspace):
    workspace.save(timeouts={"lock_seconds": 1})
    run = Stopped(workspace, "checked", "backup")
    thread = threading.Thread(target=lambda: workspace.database.execute(f"ALTER TABLE {EMBEDDING} ADD COLUMN x int"))
    thread.start()
    time.sleep(0.3)
    code, errors = run.go()
    thread.join(30)
    assert code == 7, errors
    assert workspace.files() in ([], ["vector_backup_log.txt"])
    assert workspace.run("backup").code == 0


@pytest.mark.parametrize(
    ("step", "expected", "words"),
    [("drafted", 7, "a table was replaced while the backup began"), ("logged", 6, "not the ones that were backed up")],
)
def test_schemas_change_places(workspace: Workspace, step, expected, words):
    # a schema's new name waits for no lock on its tables
    database = workspace.database
    database.execute(f"""CREATE SCHEMA app; ALTER TABLE langchain_pg_collection SET SCHEMA app; ALTER TABLE {EMBEDDING} SET SCHEMA app;
        CREATE SCHEMA staging; CREATE TABLE staging.langchain_pg_collection AS TABLE app.langchain_pg_collection;
        CREATE TABLE staging.{EMBEDDING} AS TABLE app.{EMBEDDING}; UPDATE staging.{EMBEDDING} SET id = 'other-' || id""")
    tables = ["app.langchain_pg_collection", f"app.{EMBEDDING}"]
    workspace.save(vector_tables={"supported_tables": tables, "truncate_tables": tables[1:]})
    run = Stopped(workspace, step, "truncate", "--yes")
    database.execute("ALTER SCHEMA app RENAME TO past; ALTER SCHEMA staging RENAME TO app")
    code, errors = run.go()
    assert code == expected, errors
    assert words in errors
    assert [database.count(f"{schema}.{EMBEDDING}") for schema in ("past", "app")] == [62, 62]
    assert len(workspace.files("*.json")) == (step == "logged")


def test_a_migration_holds_the_table(workspace: Workspace):
    workspace.save(timeouts={"lock_seconds": 0.3})
    with workspace.database.connect(autocommit=False, application_name="migration") as other:
        other.execute(f"LOCK TABLE {EMBEDDING} IN ACCESS EXCLUSIVE MODE")
        for command in ("backup", "truncate"):
            done = workspace.run(command)
            assert done.code == 7
            assert "migration" in done.stderr


def test_a_psql_that_hangs(workspace: Workspace, tmp_path):
    wrapped = psql_filter(tmp_path, 'if "\\\\copy" in line: time.sleep(60)')
    workspace.save(connection={"bin_dir": str(wrapped)}, timeouts={"copy_seconds": 1})
    began = time.monotonic()
    done = workspace.run("truncate")
    assert done.code == 5, done.stderr
    assert "longer than 1 s" in done.stderr
    assert time.monotonic() - began < 30
    assert workspace.database.count(EMBEDDING) == 62


def test_a_clock_that_jumps_back(workspace: Workspace):
    now = datetime.now(UTC)
    ids = []
    for moment in (now, now - timedelta(days=400), now):
        with open_job(load_config(workspace.folder / "vecbak.yaml"), task_id="t", output_dir=workspace.out) as job:
            ids.append(
                back_up(msgspec.structs.replace(job, clock=lambda moment=moment: moment), truncate=False).backup_id
            )
    assert len(set(ids)) == 3
    assert workspace.run("verify", "latest").code == 0
    assert len(workspace.run("list", "--json").json) == 3


def test_a_thousand_tables(tmp_path, database18: Database):
    names = [f"t{number:04d}" for number in range(1000)]
    with database18.connect(autocommit=False) as connection:
        for name in names:
            connection.execute(
                f"CREATE TABLE {name} (id int PRIMARY KEY, v vector(2)); INSERT INTO {name} VALUES (1, '[1,2]')"
            )  # type: ignore[arg-type]
    workspace = Workspace(tmp_path, database18)
    workspace.save(vector_tables={"supported_tables": names, "truncate_tables": names})
    done = workspace.run("truncate", "--json", timeout=240)
    assert done.code == 0, done.stderr
    assert done.json["summary"]["tables"] == 1000
    assert all(database18.count(name) == 0 for name in names[::100])
    assert workspace.run("restore", "latest", timeout=240).code == 0
    assert all(database18.count(name) == 1 for name in names[::100])


# names and arguments


ODD = [
    '"',
    "'",
    ".",
    " ",
    "%",
    "\\",
    "$",
    ";",
    "--",
    "é",
    "🚿",
    ":x",
    "select",
    "-o",
    "{}",
    "`id`",
    "$(id)",
    "|",
    "&",
    "*",
]
NAME = st.one_of(
    st.lists(st.sampled_from(ODD), min_size=1, max_size=6).map("".join),
    st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1, max_size=15),
)


@given(name=NAME)
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_odd_table_names(database18: Database, tmp_path_factory, name):
    if len(name.encode()) > 63:
        return
    quoted = '"' + name.replace('"', '""') + '"'
    with database18.connect() as connection:
        connection.execute(f"DROP TABLE IF EXISTS {quoted}; CREATE TABLE {quoted} ({quoted} int, v vector(1))".encode())
        connection.execute(f"INSERT INTO {quoted} VALUES (7, '[1]')".encode())
        workspace = Workspace(tmp_path_factory.mktemp("odd"), database18)
        workspace.save(vector_tables={"supported_tables": [quoted], "truncate_tables": [quoted]})
        done = workspace.run("truncate")
        assert done.code == 0, done.stderr
        assert connection.execute(f"SELECT count(*) FROM {quoted}".encode()).fetchall() == [(0,)]
        done = workspace.run("restore", "latest")
        assert done.code == 0, done.stderr
        assert connection.execute(f"SELECT * FROM {quoted}".encode()).fetchall() == [(7, "[1]")]
        connection.execute(f"DROP TABLE {quoted}".encode())


@given(text=st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=40))
@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_backup_argument_is_an_error_and_no_traceback(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("any")
    for command in ("show", "verify"):
        done = vecbak(command, "--", text, cwd=folder)
        assert done.code in {2, 5}, done.stderr
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "sub/file.csv", ""])
def test_a_manifest_that_points_outside_its_folder_is_refused(workspace: Workspace, name):
    assert workspace.run("backup").code == 0
    path = next(workspace.backups.glob("vector_backup_*.json"))
    file = next(workspace.backups.glob(f"{EMBEDDING}_*.csv")).name
    path.write_text(path.read_text().replace(f'"{file}"', f'"{name}"'))
    for command in (["verify"], ["restore", "--mode", "replace"]):
        done = workspace.run(*command, path)
        assert done.code == 5, done.stderr
    assert workspace.database.count(EMBEDDING) == 62


def test_links_in_the_backup_folder_are_not_followed(workspace: Workspace, tmp_path):
    assert workspace.run("backup").code == 0
    file = next(workspace.backups.glob(f"{EMBEDDING}_*.csv"))
    elsewhere = tmp_path / "elsewhere.csv"
    file.rename(elsewhere)
    file.symlink_to(elsewhere)
    assert workspace.run("verify", "latest").code == 5
    assert workspace.run("restore", "latest", "--mode", "replace").code == 5


# many runs


def test_many_backups_in_a_row_while_others_write_and_search(workspace: Workspace):
    """No growth of memory, threads, files or connections; searches go on. What they feel of it `scripts/load` prints."""
    with Traffic(workspace, dimensions=32) as traffic:
        used = back_up_often(workspace, 50)
    assert traffic.failures == []
    assert traffic.written > 50
    assert len(traffic.latencies) > 50
    assert len(workspace.files("vector_backup_*.json")) == 50
    # the least of ten: what one run is just closing is not growth
    first, last = used[:10], used[-10:]
    assert min(item.descriptors for item in last) <= min(item.descriptors for item in first)
    assert min(item.threads for item in last) <= min(item.threads for item in first)
    assert used[-1].peak_kib <= used[9].peak_kib * 1.1
    assert {item.connections for item in used} == {0}


def test_no_file_is_touched_outside_the_output_directory(workspace: Workspace):
    before = set(workspace.folder.rglob("*"))
    assert workspace.run("truncate").code == 0
    assert workspace.run("restore", "latest").code == 0
    new = set(workspace.folder.rglob("*")) - before
    assert all(workspace.out in (path, *path.parents) for path in new)
    assert {oct(path.stat().st_mode & 0o777) for path in new if path.is_file()} == {"0o600"}
    assert {oct(path.stat().st_mode & 0o777) for path in new if path.is_dir()} == {"0o700"}
