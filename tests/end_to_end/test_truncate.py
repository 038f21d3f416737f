"""`vecbak truncate`: nothing is emptied that was not saved, whatever happens meanwhile."""

from __future__ import annotations

import csv
import json
import threading
import time

import psycopg
import pytest

from tests.support import langchain
from tests.support.command import environment, start_vecbak, vecbak
from tests.support.places import server, server18  # noqa: F401 - fixtures
from tests.support.programs import slow_pg_dump
from tests.support.proxy import Proxy
from tests.support.server import SUPERUSER, SUPERUSER_PASSWORD, bin_folder
from tests.support.workspace import Workspace

EMBEDDING = "langchain_pg_embedding"
COLLECTION = "langchain_pg_collection"


def ids_in(path):
    with path.open(newline="") as file:
        return [row["id"] for row in csv.DictReader(file)]


def wait_until(condition, seconds=20, what="it"):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError(f"waited {seconds} s for {what}")


def vecbak_sessions(database):
    return database.fetch("SELECT pid, application_name FROM pg_stat_activity WHERE application_name LIKE 'vecbak%'")


def test_truncate_empties_the_one_table_and_keeps_the_other(filled, tmp_path):
    space = Workspace(tmp_path, filled)
    done = space.run("truncate", "--json")
    assert done.code == 0, done.stderr
    assert filled.count(EMBEDDING) == 0
    assert filled.count(COLLECTION) == 1
    result = done.json
    assert result["truncate_performed"] is True
    emptied = result["truncate_results"][EMBEDDING]
    assert (emptied["success"], emptied["rows_before"], emptied["rows_after"]) == (True, 62, 0)
    log = (space.backups / "vector_backup_log.txt").read_text()
    assert f"✓ {EMBEDDING}: TRUNCATED (62 rows removed)\n- {COLLECTION}: SKIPPED (collection table preserved)\n" in log
    assert json.loads((space.backups / f"vector_backup_{result['backup_id']}.json").read_text())["truncated"]
    assert ids_in(space.backups / f"{EMBEDDING}_{result['backup_id']}.csv") == [f"doc-{n}" for n in range(62)]
    assert (space.out / "data_pipeline.log").read_text().count("truncated") == 1


def test_backup_with_truncate_is_the_same(filled18, tmp_path):
    done = Workspace(tmp_path, filled18).run("backup", "--truncate", "--json")
    assert done.json["truncate_performed"] is True
    assert filled18.count(EMBEDDING) == 0


def test_no_committed_row_is_lost_under_three_writers(database, tmp_path):
    langchain.fill(database, 50)
    space = Workspace(tmp_path, database)
    space.save(timeouts={"lock_seconds": 30})
    committed: set[str] = {f"doc-{n}" for n in range(50)}
    stop = threading.Event()
    failures = []

    def write(writer):
        number = 0
        try:
            with database.connect(autocommit=False) as connection:
                while not stop.is_set():
                    ids = [f"w{writer}-{number + n}" for n in range(3)]
                    number += 3
                    connection.cursor().executemany(
                        f"INSERT INTO {EMBEDDING} (id, embedding, document) VALUES (%s, array_fill(0.5, ARRAY[32])::vector, 'x')",
                        [(one,) for one in ids],
                    )
                    connection.commit()
                    committed.update(ids)
        except Exception as error:  # noqa: BLE001 - raised below, in the main thread
            failures.append(error)

    writers = [threading.Thread(target=write, args=(n,)) for n in range(3)]
    for thread in writers:
        thread.start()
    try:
        for _ in range(8):
            done = space.run("truncate", "--json")
            assert done.code == 0, done.stderr
            assert done.json["truncate_performed"] is True
    finally:
        stop.set()
        for thread in writers:
            thread.join()
    assert not failures
    saved = [one for path in space.backups.glob(f"{EMBEDDING}_*.csv") for one in ids_in(path)]
    left = [one for (one,) in database.fetch(f"SELECT id FROM {EMBEDDING}")]
    assert len(list(space.backups.glob("vector_backup_*.json"))) == 8
    assert len(saved) + len(left) == len(set(saved) | set(left)), "a row is in two places"
    assert set(saved) | set(left) == committed
    assert len(committed) > 150, "the writers hardly wrote: the test proves nothing"


def test_rows_committed_while_the_guard_waits_for_its_lock_are_in_the_backup(filled, tmp_path):
    space = Workspace(tmp_path, filled)
    space.save(timeouts={"lock_seconds": 60})
    with filled.connect(autocommit=False) as writer:
        writer.execute(f"INSERT INTO {EMBEDDING} (id, document) VALUES ('late', 'committed while vecbak waited')")
        writer.execute(f"ALTER TABLE {EMBEDDING} ALTER document TYPE text USING document || '!'")
        run = start_vecbak("truncate", "--json", "--output-dir", space.out, cwd=tmp_path)
        wait_until(lambda: filled.fetch("SELECT 1 FROM pg_locks WHERE NOT granted AND mode = 'ShareRowExclusiveLock'"))
        writer.commit()
    out, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    result = json.loads(out)
    assert result["tables_backed_up"][EMBEDDING]["row_count"] == 63
    text = (space.backups / result["tables_backed_up"][EMBEDDING]["backup_file"]).read_text()
    assert "committed while vecbak waited!" in text


def test_a_reader_that_then_wants_to_write_is_not_waited_out(filled18, tmp_path):
    space = Workspace(tmp_path, filled18)
    space.save(timeouts={"truncate_seconds": 4})
    with filled18.connect(autocommit=False) as reader:
        pid = reader.info.backend_pid
        reader.execute(f"SELECT count(*) FROM {EMBEDDING}")
        run = start_vecbak("truncate", "--json", "--output-dir", space.out, cwd=tmp_path)
        wait_until(
            lambda: filled18.fetch("SELECT 1 FROM pg_locks WHERE granted AND mode = 'ShareRowExclusiveLock'"),
            what="the guard",
        )
        reader.execute(f"INSERT INTO {EMBEDDING} (id, document) VALUES ('reader', 'waits for the guard')")
        out, err = run.communicate(timeout=60)
        reader.commit()
    assert run.returncode == 6, err
    result = json.loads(out)
    assert result["backup_performed"] is True
    assert result["truncate_performed"] is False
    assert f"pid {pid}" in err
    assert "Hint:" in err
    assert filled18.count(EMBEDDING) == 63
    assert f"✗ {EMBEDDING}: FAILED - TRUNCATE was not granted" in (space.backups / "vector_backup_log.txt").read_text()
    assert vecbak("show", "latest", "--output-dir", space.out, cwd=tmp_path).code == 0, "the backup is kept"


def test_no_reader_becomes_a_deadlocks_victim(filled18, tmp_path):
    """Six of them have read one table and wait to write to the other; the server looks for deadlocks at six moments.

    On one and the same table the server itself turns the guard away at once (ProcSleep's early detection).
    """
    space = Workspace(tmp_path, filled18)
    space.save(timeouts={"truncate_seconds": 4}, vector_tables={"truncate_tables": [COLLECTION, EMBEDDING]})
    readers = [filled18.connect(autocommit=False) for _ in range(6)]
    failures = []

    def write(number, reader):
        try:
            reader.execute(f"INSERT INTO {EMBEDDING} (id) VALUES ('reader{number}')")
            reader.commit()
        except psycopg.Error as error:
            failures.append(error)

    for number, reader in enumerate(readers):
        reader.execute(f"SET LOCAL deadlock_timeout = '{1000 + number * 370}ms'")
        reader.execute(f"SELECT count(*) FROM {COLLECTION}")
    run = start_vecbak("truncate", "--json", "--output-dir", space.out, cwd=tmp_path)
    guarded = "SELECT count(*) FROM pg_locks WHERE granted AND mode = 'ShareRowExclusiveLock'"
    wait_until(lambda: filled18.value(guarded) == 2, what="the guard's locks on both tables")
    threads = [threading.Thread(target=write, args=pair) for pair in enumerate(readers)]
    for thread in threads:
        thread.start()
    _out, err = run.communicate(timeout=60)
    for thread, reader in zip(threads, readers, strict=True):
        thread.join(30)
        reader.close()
    assert not failures
    assert run.returncode == 6, err
    assert filled18.count(EMBEDDING) == 68


def test_a_reader_that_never_ends_is_named_and_rows_stay(filled18, tmp_path):
    space = Workspace(tmp_path, filled18)
    space.save(timeouts={"truncate_seconds": 1})
    with filled18.connect(autocommit=False) as reader:
        reader.execute(f"SELECT count(*) FROM {EMBEDDING}")
        done = space.run("truncate", "--json")
        reader.rollback()
    assert done.code == 6
    assert "idle in transaction" in done.stderr
    assert filled18.count(EMBEDDING) == 62


def test_a_migration_queued_in_mid_copy_goes_on_afterwards(database18, tmp_path):
    langchain.fill(database18, 2000, dimensions=256)
    space = Workspace(tmp_path, database18)
    run = start_vecbak("truncate", "--json", "--output-dir", space.out, cwd=tmp_path)
    wait_until(lambda: len(vecbak_sessions(database18)) >= 2, what="the workers")
    with database18.connect() as migration:
        migration.execute(f"ALTER TABLE {EMBEDDING} ADD COLUMN added int")
    out, err = run.communicate(timeout=60)
    assert run.returncode in (0, 5, 7), err
    if run.returncode == 0:
        assert json.loads(out)["truncate_performed"] is True
        assert database18.count(EMBEDDING) == 0
    else:
        assert database18.count(EMBEDDING) == 2000
    assert database18.fetch("SELECT 1 FROM pg_attribute WHERE attname = 'added'")


@pytest.mark.local
@pytest.mark.parametrize("forwarded", [True, False], ids=["commit-arrived", "commit-lost"])
def test_what_is_reported_is_true_when_the_connection_breaks_during_commit(filled, tmp_path, forwarded):
    space = Workspace(tmp_path, filled)
    with Proxy(filled.server.port, cut_at=b"COMMIT", on_connection_with=b"TRUNCATE TABLE", forward=forwarded) as proxy:
        space.save(connection={"dsn": f"postgresql://{SUPERUSER}@127.0.0.1:{proxy.port}/{filled.name}"})
        done = space.run("truncate", "--json", env=environment(PGPASSWORD=SUPERUSER_PASSWORD))
        assert proxy.cut.is_set()
    if forwarded:
        assert done.code == 0, done.stderr
        assert done.json["truncate_performed"] is True
        assert filled.count(EMBEDDING) == 0
    else:
        assert done.code == 6, done.stderr
        assert done.json["truncate_performed"] is False
        assert filled.count(EMBEDDING) == 62
    assert done.json["backup_performed"] is True
    assert SUPERUSER_PASSWORD not in done.stdout + done.stderr


@pytest.mark.local
def test_unknown_outcome_of_commit_is_reported_as_unknown(filled18, tmp_path):
    space = Workspace(tmp_path, filled18)
    space.save(timeouts={"truncate_seconds": 1})
    with Proxy(
        filled18.server.port, cut_at=b"COMMIT", on_connection_with=b"TRUNCATE TABLE", forward=True, then_refuse=True
    ) as proxy:
        space.save(connection={"dsn": f"postgresql://{SUPERUSER}@127.0.0.1:{proxy.port}/{filled18.name}"})
        done = space.run("truncate", "--json", env=environment(PGPASSWORD=SUPERUSER_PASSWORD))
    assert done.code == 6
    assert "UNKNOWN" in done.stderr
    assert f'SELECT count(*) FROM ONLY "public"."{EMBEDDING}"' in done.stderr


@pytest.mark.local
def test_killed_guard_ends_the_run_with_every_row_there(database18, tmp_path):
    langchain.fill(database18, 2000, dimensions=256)
    space = Workspace(tmp_path, database18)
    wrapped = slow_pg_dump(tmp_path, seconds=3)
    space.save(connection={"bin_dir": str(wrapped)})
    run = start_vecbak("truncate", "--json", "--output-dir", space.out, cwd=tmp_path)
    wait_until(lambda: list(space.backups.glob(f"{EMBEDDING}_*.csv")), what="the finished copy")
    database18.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'vecbak guard'")
    _out, err = run.communicate(timeout=60)
    assert run.returncode == 5, err
    assert database18.count(EMBEDDING) == 2000
    assert space.files() == ["vector_backup_log.txt"]


@pytest.mark.local
@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_interrupted_runs_clean_up(database18, tmp_path, number):
    import signal

    langchain.fill(database18, 500)
    space = Workspace(tmp_path, database18)
    space.save(connection={"bin_dir": str(slow_pg_dump(tmp_path, seconds=30))})
    run = start_vecbak("truncate", "--json", "--output-dir", space.out, cwd=tmp_path)
    wait_until(lambda: list(space.backups.glob(f"{EMBEDDING}_*.csv")), what="the finished copy")
    run.send_signal(getattr(signal, number))
    _out, err = run.communicate(timeout=30)
    assert run.returncode == 128 + getattr(signal, number), err
    assert "Interrupted" in err
    assert space.files() == ["vector_backup_log.txt"]
    assert database18.count(EMBEDDING) == 500
    wait_until(lambda: not vecbak_sessions(database18), what="the sessions to end")


@pytest.mark.local
def test_a_killed_run_leaves_rows_and_locks_as_they_were_and_the_next_run_tidies_up(database18, tmp_path):
    langchain.fill(database18, 500)
    space = Workspace(tmp_path, database18)
    space.save(connection={"bin_dir": str(slow_pg_dump(tmp_path, seconds=30))})
    run = start_vecbak("truncate", "--output-dir", space.out, cwd=tmp_path)
    wait_until(lambda: list(space.backups.glob(f"{EMBEDDING}_*.csv")), what="the finished copy")
    run.kill()
    run.communicate(timeout=30)
    wait_until(lambda: not vecbak_sessions(database18), seconds=10, what="the sessions to end")
    assert database18.count(EMBEDDING) == 500
    left = space.files()
    assert left
    time.sleep(1.1)  # the next run is to have another id
    space.save(connection={"bin_dir": str(bin_folder(18))})
    done = space.run("backup", "--json")
    assert done.code == 0, done.stderr
    assert not set(left) & set(space.files())
    assert len(space.files("vector_backup_*.json")) == 1


@pytest.mark.local
def test_writers_are_not_kept_waiting_for_longer_than_allowed(database18, tmp_path):
    langchain.fill(database18, 100)
    space = Workspace(tmp_path, database18)
    space.save(connection={"bin_dir": str(slow_pg_dump(tmp_path, seconds=20))}, timeouts={"write_block_seconds": 1})
    done = space.run("truncate", "--json")
    assert done.code == 5, done.stderr
    assert "writers" in done.stderr
    assert database18.count(EMBEDDING) == 100


@pytest.mark.local
def test_insert_waits_until_the_run_is_over_and_is_kept(database18, tmp_path):
    langchain.fill(database18, 100)
    space = Workspace(tmp_path, database18)
    space.save(connection={"bin_dir": str(slow_pg_dump(tmp_path, seconds=1))})
    run = start_vecbak("truncate", "--output-dir", space.out, cwd=tmp_path)
    wait_until(lambda: vecbak_sessions(database18), what="the guard")
    wait_until(lambda: database18.fetch("SELECT 1 FROM pg_locks WHERE granted AND mode = 'ShareRowExclusiveLock'"))
    with psycopg.connect(database18.socket_dsn, autocommit=True) as writer:
        writer.execute(f"INSERT INTO {EMBEDDING} (id, document) VALUES ('next', 'generation')")
    run.communicate(timeout=30)
    assert run.returncode == 0
    assert database18.fetch(f"SELECT id FROM {EMBEDDING}") == [("next",)]
