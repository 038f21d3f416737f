"""A truncate cannot happen when anything about the backup is wrong; each cause is provoked for real."""

from __future__ import annotations

import contextlib
import os
import threading
import time

import pytest

from tests.support import langchain
from tests.support.command import start_vecbak
from tests.support.programs import psql_filter, slow_pg_dump
from tests.support.server import Database
from tests.support.workspace import Workspace

EMBEDDING = "langchain_pg_embedding"
COLLECTION = "langchain_pg_collection"


@pytest.fixture
def space(filled18, tmp_path):
    return Workspace(tmp_path, filled18)


def assert_nothing_happened(space, done, *, rows=62, kept=("vector_backup_log.txt",)):
    assert done.code == 5, done.stderr
    assert "Hint:" in done.stderr
    assert done.json["backup_performed"] is False
    assert done.json["truncate_performed"] is False
    assert done.json["errors"]
    assert space.database.count(EMBEDDING) == rows
    assert space.files() == list(kept)


def run_on(space, tmp_path):
    from tests.support.command import vecbak

    return vecbak(
        "truncate", "--json", "--output-dir", space.folder / "out", "-c", tmp_path / "vecbak.yaml", cwd=tmp_path
    )


@pytest.mark.needs("root")
def test_no_space_left_in_mid_copy_cleans_up(database18, tmp_path, small_disk):
    langchain.fill(database18, 60, dimensions=512)
    space = Workspace(tmp_path, database18)
    eat = f'open("{small_disk}/eaten", "ab").write(bytes(800_000)); time.sleep(0.1)'
    wrapped = psql_filter(tmp_path, f'if line.startswith("\\\\copy") and "embedding" in line:\n    {eat}')
    space.save(connection={"bin_dir": str(wrapped)})
    space.folder = small_disk
    done = run_on(space, tmp_path)
    assert done.code == 5, done.stderr
    assert "No space left on device" in done.stderr
    assert "Hint:" in done.stderr
    assert database18.count(EMBEDDING) == 60
    assert not list((small_disk / "out").rglob("*.csv*"))
    assert not list((small_disk / "out").rglob("*.json*"))


def test_a_worker_is_terminated_in_mid_copy(space, tmp_path):
    space.database.execute(f"ALTER TABLE {EMBEDDING} ADD slow int")
    langchain.fill(space.database, 3000, dimensions=512)
    run = start_vecbak("truncate", "--json", "--output-dir", space.out, cwd=tmp_path)
    deadline = time.monotonic() + 20
    killed = []
    while not killed and run.poll() is None and time.monotonic() < deadline:
        killed = space.database.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'vecbak worker' AND query LIKE 'COPY%embedding%'"
        )
    out, err = run.communicate(timeout=60)
    assert killed, "the copy was over before it could be ended"
    from tests.support.command import Ended

    assert_nothing_happened(space, Ended(run.returncode, out, err), rows=3000)


def test_psql_copies_fewer_rows_than_there_are(space, tmp_path):
    body = 'if line.startswith("\\\\copy") and "embedding" in line:\n    line = line.replace(") to pstdout", " LIMIT 61) to pstdout")'
    space.save(connection={"bin_dir": str(psql_filter(tmp_path, body))})
    done = space.run("truncate", "--json")
    assert_nothing_happened(space, done)
    assert "62 rows under the snapshot, and 61 were copied" in done.stderr


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        ("os.truncate(path, os.path.getsize(path) - 400)", "changed"),
        ("os.truncate(path, 0)", "changed"),
        ("data = open(path).read(); os.unlink(path); open(path, 'w').write(data)", "replaced"),
        ("os.unlink(path)", "gone"),
        ("os.unlink(path); os.symlink('/etc/passwd', path)", "replaced"),
        ("open(path, 'a').write('x,,,,\\n')", "changed"),
    ],
    ids=["shortened", "emptied", "replaced", "removed", "symlinked", "grown"],
)
def test_the_file_is_harmed_right_after_psql_wrote_its_last_row(space, tmp_path, harm, message):
    body = f"""if line.startswith("\\\\copy") and "embedding" in line:
    path = glob.glob("{space.backups}/langchain_pg_embedding_*.csv.tmp")[0]
    def strike():
        while os.path.getsize(path) < 20_000:  # vecbak writes what it has read
            time.sleep(0.001)
        {harm}
    after(strike)"""
    space.save(connection={"bin_dir": str(psql_filter(tmp_path, body))})
    done = space.run("truncate", "--json")
    assert done.code == 5, done.stderr
    assert message in done.stderr
    assert done.json["truncate_performed"] is False
    assert space.database.count(EMBEDDING) == 62
    assert not space.files("*.json")


@pytest.mark.parametrize("harm", ["shorten", "flip", "replace", "remove"])
def test_the_file_is_harmed_after_its_checksum(space, tmp_path, harm):
    space.save(connection={"bin_dir": str(slow_pg_dump(tmp_path, seconds=1))})
    struck = threading.Event()

    def strike():
        while not struck.is_set():
            for path in space.backups.glob(f"{EMBEDDING}_*.csv"):
                if harm == "shorten":
                    os.truncate(path, 1000)
                elif harm == "flip":
                    with path.open("r+b") as file:
                        file.seek(500)
                        file.write(b"#")
                elif harm == "replace":
                    path.with_name("other").write_bytes(path.read_bytes())
                    path.with_name("other").rename(path)
                else:
                    path.unlink()
                struck.set()
            time.sleep(0.001)

    thread = threading.Thread(target=strike, daemon=True)
    thread.start()
    done = space.run("truncate", "--json")
    thread.join(5)
    assert struck.is_set()
    assert done.code == 5, done.stderr
    assert done.json["truncate_performed"] is False
    assert done.json["backup_performed"] is False
    assert space.database.count(EMBEDDING) == 62
    assert not space.files("*.json")


@pytest.mark.needs("root")
def test_the_manifest_cannot_be_written(filled18, tmp_path, small_disk):
    space = Workspace(tmp_path, filled18)
    fill = f"dd if=/dev/zero of={small_disk}/eaten bs=1k 2>/dev/null"
    space.save(connection={"bin_dir": str(slow_pg_dump(tmp_path, after=fill))})
    space.folder = small_disk
    done = run_on(space, tmp_path)
    assert done.code == 5, done.stderr
    assert "No space left on device" in done.stderr
    assert filled18.count(EMBEDDING) == 62
    assert not [path.name for path in (small_disk / "out").rglob("*") if "2026" in path.name or path.suffix == ".json"]


@pytest.mark.parametrize("obstacle", ["folder", "symlink"])
def test_the_log_cannot_be_written(space, tmp_path, obstacle):
    space.backups.mkdir(parents=True)
    log = space.backups / "vector_backup_log.txt"
    if obstacle == "folder":
        log.mkdir()
    else:
        (tmp_path / "elsewhere").write_text("mine")
        log.symlink_to(tmp_path / "elsewhere")
    done = space.run("truncate", "--json")
    assert done.code == 5, done.stderr
    assert done.json["truncate_performed"] is False
    assert space.database.count(EMBEDDING) == 62
    if obstacle == "symlink":
        assert (tmp_path / "elsewhere").read_text() == "mine"


def test_pg_dump_fails(space, tmp_path):
    space.save(connection={"bin_dir": str(slow_pg_dump(tmp_path, after="echo pg_dump broke >&2; exit 1"))})
    done = space.run("truncate", "--json")
    assert_nothing_happened(space, done)
    assert "pg_dump broke" in done.stderr


def test_psql_dies_in_mid_copy(space, tmp_path):
    body = 'if line.startswith("\\\\copy") and "embedding" in line:\n    child.kill()'
    space.save(connection={"bin_dir": str(psql_filter(tmp_path, body))})
    assert_nothing_happened(space, space.run("truncate", "--json"))


def test_one_failing_table_does_not_stop_the_others_but_nothing_is_kept(space, tmp_path):
    body = 'if line.startswith("\\\\copy") and "langchain_pg_collection" in line:\n    child.kill()'
    space.save(connection={"bin_dir": str(psql_filter(tmp_path, body))}, backup={"jobs": 1})
    done = space.run("truncate", "--json")
    assert_nothing_happened(space, done)
    tables = done.json["tables_backed_up"]
    assert tables["langchain_pg_collection"]["success"] is False
    assert tables["langchain_pg_collection"]["error"]
    assert tables[EMBEDDING]["success"] is True
    assert tables[EMBEDDING]["row_count"] == 62
    assert tables[EMBEDDING]["backup_file"] is None
    log = (space.backups / "vector_backup_log.txt").read_text()
    assert "✗ langchain_pg_collection: FAILED - " in log
    assert "- Not performed" in log
    assert "Errors: " in log


def test_a_copy_that_takes_too_long_is_ended(space, tmp_path):
    body = 'if line.startswith("\\\\copy") and "embedding" in line:\n    child.stdin.write(b"SELECT pg_sleep(30);\\n"); child.stdin.flush()'
    space.save(connection={"bin_dir": str(psql_filter(tmp_path, body))}, timeouts={"copy_seconds": 1})
    began = time.monotonic()
    done = space.run("truncate", "--json")
    assert time.monotonic() - began < 25
    assert_nothing_happened(space, done)
    assert "longer than 1 s" in done.stderr
    with contextlib.suppress(StopIteration):
        assert not space.database.fetch(
            "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(30)%' AND state = 'active' AND pid <> pg_backend_pid()"
        )


@pytest.mark.parametrize("name", ["csv", "binary"])
def test_a_table_with_a_row_that_cannot_be_read_fails_alone(space, name):
    """Not in preflight, by whether the sample happens to meet the row: the others are copied, and all is told."""
    database = space.database
    database.execute("CREATE TYPE mood AS ENUM ('good', 'bad')")
    database.execute("CREATE TABLE moods (id int PRIMARY KEY, mood mood)")
    database.execute("INSERT INTO moods VALUES (1, 'good'), (2, 'bad')")
    database.execute("SET allow_system_table_mods = on; DELETE FROM pg_enum WHERE enumlabel = 'bad'")
    space.save(backup={"format": name}, vector_tables={"supported_tables": [COLLECTION, EMBEDDING, "moods"]})
    done = space.run("truncate", "--json")
    assert done.code == 5, done.stderr
    tables = done.json["tables_backed_up"]
    assert {label: table["success"] for label, table in tables.items()} == {
        COLLECTION: True,
        EMBEDDING: True,
        "moods": False,
    }
    assert "invalid internal value for enum" in tables["moods"]["error"]
    assert database.count(EMBEDDING) == 62
    log = (space.backups / "vector_backup_log.txt").read_text()
    assert "\n✗ moods: FAILED - " in log
    assert space.files() == ["vector_backup_log.txt"]


def test_text_in_no_encoding_is_explained(server18, database18, tmp_path):
    ascii_database = Database(server18, f"ascii_{database18.name}")
    database18.execute(f"CREATE DATABASE {ascii_database.name} ENCODING 'SQL_ASCII' TEMPLATE template0")
    try:
        ascii_database.execute(r"CREATE TABLE notes (id int PRIMARY KEY, text text)")
        ascii_database.execute(r"INSERT INTO notes VALUES (1, 'gr' || E'\374' || 'n')")
        space = Workspace(tmp_path, ascii_database)
        space.save(vector_tables={"supported_tables": ["notes"], "truncate_tables": ["notes"]})
        done = space.run("truncate")
        assert done.code == 5
        assert "SQL_ASCII" in done.stderr
        assert ascii_database.count("notes") == 1
    finally:
        database18.execute(f"DROP DATABASE {ascii_database.name} WITH (FORCE)")
