"""`--collection`: exactly these rows are saved and deleted, and nobody else's are touched or kept waiting."""

from __future__ import annotations

import csv
import threading
import time

import pytest

from tests.support.collections import COLLECTION, EMBEDDING, add, everything, key, rows_of
from tests.support.command import start_vecbak
from tests.support.programs import slow_pg_dump
from tests.support.server import Database
from tests.support.workspace import Workspace


@pytest.fixture
def three(database18: Database) -> Database:
    """Collections a, b and c with 30, 20 and 10 embeddings."""
    for name, rows in (("a", 30), ("b", 20), ("c", 10)):
        add(database18, name, rows)
    return database18


@pytest.fixture
def space(tmp_path, three: Database) -> Workspace:
    """A workspace on them."""
    return Workspace(tmp_path, three)


def ids_in(path):
    with path.open(newline="") as file:
        return [row["id"] for row in csv.DictReader(file)]


# backup and truncate


@pytest.mark.parametrize("format", ["csv", "binary"])
def test_exactly_these_embeddings_are_saved_and_deleted(space: Workspace, format):
    space.save(backup={"format": format, "part_bytes": 1, "jobs": 2})
    database = space.database
    others = rows_of(database, "b")
    done = space.run("truncate", "--collection", "a", "--collection", "c", "--json")
    assert done.code == 0, done.stderr
    emptied = done.json["truncate_results"][EMBEDDING]
    assert (emptied["rows_before"], emptied["rows_after"]) == (40, 0)
    assert (rows_of(database, "a"), rows_of(database, "b"), rows_of(database, "c")) == ([], others, [])
    assert database.count(COLLECTION) == 3
    shown = space.run("show", "latest", "--json").json
    assert shown["format_version"] == 2  # an older vecbak would replace all rows by these
    assert shown["collections"] == {
        "a": {"uuid": key(database, "a"), "rows": 30},
        "c": {"uuid": key(database, "c"), "rows": 10},
    }
    assert space.run("verify", "latest").code == 0


def test_a_backup_alone_deletes_nothing(space: Workspace):
    before = everything(space.database)
    done = space.run("backup", "--collection", "b", "--json")
    assert done.code == 0, done.stderr
    assert done.json["tables_backed_up"][EMBEDDING]["row_count"] == 20
    assert done.json["tables_backed_up"][COLLECTION]["row_count"] == 1
    assert done.json["truncate_performed"] is False
    assert everything(space.database) == before


def test_list_and_show_say_which_collections_a_backup_holds(space: Workspace):
    assert space.run("backup").code == 0
    assert space.run("backup", "--collection", "b").code == 0
    newest, first = space.run("list", "--json").json
    assert newest["collections"] == {"b": {"uuid": key(space.database, "b"), "rows": 20}}
    assert newest["scope"] == "collections"
    assert {name: item["rows"] for name, item in first["collections"].items()} == {"a": 30, "b": 20, "c": 10}
    assert first["scope"] is None
    assert "b alone" in space.run("list").stdout
    shown = space.run("show", "latest").stdout
    assert "collection b: 20 rows" in shown
    assert "these collections alone" in shown


def test_an_unknown_collection_names_those_that_exist(space: Workspace):
    before = everything(space.database)
    done = space.run("truncate", "--collection", "nobody")
    assert done.code == 2
    assert "'a', 'b', 'c'" in done.stderr
    assert space.files() == []
    assert everything(space.database) == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("CREATE TABLE notes (id varchar REFERENCES langchain_pg_embedding(id) ON DELETE CASCADE)", "foreign key"),
        ("CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END';"
         "CREATE TRIGGER gone AFTER DELETE ON langchain_pg_embedding FOR EACH ROW EXECUTE FUNCTION f()", "gone"),
        ("CREATE RULE kept AS ON DELETE TO langchain_pg_embedding DO INSTEAD NOTHING", "kept"),
    ],
)  # fmt: skip
def test_what_could_take_other_rows_along_is_refused(space: Workspace, change, words):
    space.database.execute(change)
    before = everything(space.database)
    done = space.run("truncate", "--collection", "a")
    assert done.code == 4
    assert words in done.stderr
    assert everything(space.database) == before
    assert space.files() == []
    assert space.run("backup", "--collection", "a").code == 0


def test_pg_dump_cannot_do_it(space: Workspace):
    space.save(backup={"format": "pg_dump"})
    done = space.run("backup", "--collection", "a")
    assert done.code == 4
    assert "csv or binary" in done.stderr


def test_dry_run_shows_the_delete_and_deletes_nothing(space: Workspace):
    before = everything(space.database)
    done = space.run("truncate", "--collection", "a", "--dry-run")
    assert done.code == 0, done.stderr
    assert "REPEATABLE READ" in done.stdout
    assert (
        f'-- DELETE FROM ONLY "public"."{EMBEDDING}" WHERE ("collection_id" OPERATOR(pg_catalog.=) ANY (ARRAY[\'{key(space.database, "a")}\']::pg_catalog.uuid[]))'
        in done.stdout
    )
    assert "TRUNCATE" not in done.stdout
    assert everything(space.database) == before


def slowly(space: Workspace, tmp_path) -> threading.Event:
    """Make the next runs wait in mid-backup, when all snapshots have been taken, until the file `go` is there."""
    wrapped = slow_pg_dump(tmp_path, after=f"touch {tmp_path}/waits; while [ ! -e {tmp_path}/go ]; do sleep 0.05; done")
    space.save(connection={"bin_dir": str(wrapped)})
    return threading.Event()


def wait_for(path, seconds=30):
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.02)


@pytest.mark.parametrize(
    "meanwhile",
    [
        f"UPDATE {EMBEDDING} SET document = 'changed' WHERE id = 'a-3'",
        f"DELETE FROM {EMBEDDING} WHERE id = 'a-3'",
        f"UPDATE {EMBEDDING} SET collection_id = (SELECT uuid FROM {COLLECTION} WHERE name = 'b') WHERE id = 'a-3'",
    ],
)
def test_a_saved_row_that_somebody_changes_begins_the_run_again(space: Workspace, tmp_path, meanwhile):
    slowly(space, tmp_path)
    run = start_vecbak("truncate", "--collection", "a", "--output-dir", space.out, cwd=tmp_path)
    wait_for(tmp_path / "waits")
    space.database.execute(meanwhile)
    before = set(everything(space.database)[1])
    (tmp_path / "go").touch()
    _, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    assert "beginning again" in err
    assert rows_of(space.database, "a") == []
    manifests = space.files("vector_backup_*.json")
    assert len(manifests) == 1  # the first attempt's was withdrawn
    saved = ids_in(next(space.backups.glob(f"{EMBEDDING}_*.csv")))
    left = [row[0] for row in space.database.fetch(f"SELECT id FROM {EMBEDDING}")]
    assert len(saved) + len(left) == len(before)


def test_after_three_attempts_it_gives_up_and_nothing_is_deleted(space: Workspace):
    space.save(timeouts={"lock_seconds": 0.3})
    before = everything(space.database)
    with space.database.connect(autocommit=False) as other:
        other.execute(f"UPDATE {EMBEDDING} SET document = 'held' WHERE id = 'a-3'")
        done = space.run("truncate", "--collection", "a", "--json")
        other.rollback()
    assert done.code == 7
    assert done.stderr.count("beginning again") == 2
    assert done.json["truncate_performed"] is False
    assert done.json["truncate_results"][EMBEDDING]["rows_after"] == 30
    assert everything(space.database) == before


def test_rows_that_come_or_move_in_meanwhile_stay(space: Workspace, tmp_path):
    slowly(space, tmp_path)
    run = start_vecbak("truncate", "--collection", "a", "--output-dir", space.out, cwd=tmp_path)
    wait_for(tmp_path / "waits")
    uuid = key(space.database, "a")
    with space.database.connect(options="-c lock_timeout=100ms -c statement_timeout=2s") as other:
        other.execute(f"INSERT INTO {EMBEDDING} (id, collection_id, document) VALUES ('new', %s, 'x')", [uuid])
        other.execute(f"UPDATE {EMBEDDING} SET collection_id = %s WHERE id = 'b-1'", [uuid])
        other.execute(f"UPDATE {EMBEDDING} SET document = 'y' WHERE id = 'c-1'")
    (tmp_path / "go").touch()
    _, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    assert "beginning again" not in err
    assert space.database.fetch(f"SELECT id FROM {EMBEDDING} WHERE collection_id = %s ORDER BY id", [uuid]) == [
        ("b-1",),
        ("new",),
    ]
    assert len(rows_of(space.database, "b")) == 19
    assert space.database.value(f"SELECT document FROM {EMBEDDING} WHERE id = 'c-1'") == "y"


def test_inserts_do_not_wait_for_the_delete_either(space: Workspace):
    space.save(timeouts={"lock_seconds": 60})
    ids = [f"{name}-new" for name in ("a", "b")]
    with space.database.connect(autocommit=False) as other:
        other.execute(
            f"SELECT FROM {EMBEDDING} WHERE id = 'a-3' FOR UPDATE"
        )  # the DELETE waits for this row, and holds others
        run = start_vecbak("truncate", "--collection", "a", "--output-dir", space.out, cwd=space.folder)
        deadline = time.monotonic() + 60
        while not space.database.fetch(
            "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'DELETE%'"
        ):
            assert run.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        with space.database.connect(options="-c lock_timeout=100ms -c statement_timeout=2s") as writer:
            for one in ids:
                writer.execute(
                    f"INSERT INTO {EMBEDDING} (id, collection_id) VALUES (%s, %s)", [one, key(space.database, one[0])]
                )
            writer.execute(f"UPDATE {EMBEDDING} SET document = 'y' WHERE id = 'b-1'")
        other.rollback()
    _, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    assert "beginning again" not in err
    assert [
        one
        for (one,) in space.database.fetch(f"SELECT id FROM {EMBEDDING} WHERE id LIKE 'a-%' OR id = 'b-new' ORDER BY 1")
    ] == ids
    assert len(ids_in(next(space.backups.glob(f"{EMBEDDING}_*.csv")))) == 30


def test_a_vacuum_is_suggested_after_many(space: Workspace):
    assert "VACUUM" not in space.run("truncate", "--collection", "b").stderr
    uuid = key(space.database, "a")
    space.database.execute(
        f"INSERT INTO {EMBEDDING} (id, collection_id) SELECT 'more-' || n, %s FROM generate_series(1, 10000) n", [uuid]
    )
    done = space.run("truncate", "--collection", "a")
    assert done.code == 0, done.stderr
    assert f'VACUUM (ANALYZE) "public"."{EMBEDDING}";' in done.stderr


def test_doctor_wants_an_index_on_collection_id(space: Workspace):
    def found() -> list[str]:
        checks = space.run("doctor", "--json").json["checks"]
        return [item["hint"] for item in checks if item["name"] == f"table {EMBEDDING}" and item["status"] == "warning"]

    assert found() == []
    space.database.execute(f"""
        INSERT INTO {EMBEDDING} (id) SELECT 'more-' || n FROM generate_series(1, 10000) n;
        CREATE INDEX of_some ON {EMBEDDING} (collection_id) WHERE document IS NOT NULL;
        CREATE INDEX second ON {EMBEDDING} (id, collection_id); ANALYZE {EMBEDDING}""")
    assert found() == [f'CREATE INDEX CONCURRENTLY ON "public"."{EMBEDDING}" (collection_id);']
    space.database.execute(f"CREATE INDEX of_all ON {EMBEDDING} (collection_id)")
    assert found() == []


def test_a_migration_before_the_lock_does_not_hide_rows(space: Workspace):
    # a snapshot taken before the lock would see none of the rows of a table that was rewritten meanwhile
    with space.database.connect(autocommit=False) as other:
        other.execute(f"ALTER TABLE {EMBEDDING} ALTER document TYPE text USING document || '!'")
        run = start_vecbak("truncate", "--collection", "a", "--output-dir", space.out, cwd=space.folder)
        deadline = time.monotonic() + 20
        while not space.database.fetch("SELECT 1 FROM pg_locks WHERE NOT granted AND mode = 'RowExclusiveLock'"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        other.commit()
    _, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    assert len(ids_in(next(space.backups.glob(f"{EMBEDDING}_*.csv")))) == 30


def test_no_committed_row_is_lost_under_writers_in_this_and_another_collection(database: Database, tmp_path):
    for name in ("a", "b"):
        add(database, name, 20)
    space = Workspace(tmp_path, database)
    keys = {name: key(database, name) for name in ("a", "b")}
    committed = {f"{name}-{n}" for name in ("a", "b") for n in range(20)}
    stop, failures, longest = threading.Event(), [], [0.0]

    def write(writer: int) -> None:
        name, number = ("a", "a", "b")[writer], 0
        try:
            with database.connect(autocommit=False, options="-c lock_timeout=1s") as connection:
                while not stop.is_set():
                    ids = [f"w{writer}-{number + n}" for n in range(3)]
                    number += 3
                    began = time.monotonic()
                    for one in ids:
                        connection.execute(
                            f"INSERT INTO {EMBEDDING} (id, collection_id, embedding, document)"
                            " VALUES (%s, %s, array_fill(0.5, ARRAY[8])::vector, 'x')",
                            [one, keys[name]],
                        )
                    connection.commit()
                    longest[0] = max(longest[0], time.monotonic() - began)
                    committed.update(ids)
                    time.sleep(0.002)
        except Exception as error:  # noqa: BLE001 - raised below, in the main thread
            failures.append(error)

    writers = [threading.Thread(target=write, args=(n,)) for n in range(3)]
    for thread in writers:
        thread.start()
    try:
        for _ in range(8):
            done = space.run("truncate", "--collection", "a", "--json")
            assert done.code == 0, done.stderr
    finally:
        stop.set()
        for thread in writers:
            thread.join()
    assert not failures
    saved = [one for path in space.backups.glob(f"{EMBEDDING}_*.csv") for one in ids_in(path)]
    left = [one for (one,) in database.fetch(f"SELECT id FROM {EMBEDDING}")]
    assert len(saved) + len(left) == len(set(saved) | set(left)), "a row is in two places"
    assert set(saved) | set(left) == committed
    assert not [one for one in saved if one.startswith(("b-", "w2-"))], "rows of the other collection were taken"
    assert len(committed) > 300, "the writers hardly wrote: the test proves nothing"
    assert longest[0] < 1


def test_two_collections_of_one_name_are_refused(space: Workspace):
    space.database.execute(f"ALTER TABLE {COLLECTION} DROP CONSTRAINT {COLLECTION}_name_key")
    space.database.execute(f"INSERT INTO {COLLECTION} (uuid, name) VALUES (gen_random_uuid(), 'a')")
    done = space.run("truncate", "--collection", "a")
    assert done.code == 4
    assert "2 collections" in done.stderr


def test_prune_keeps_the_only_copy_of_a_collection(space: Workspace):
    space.save(retention={"keep_last": 1, "keep_daily": 0, "keep_weekly": 0, "keep_monthly": 0})
    assert space.run("truncate", "--collection", "a").code == 0
    assert space.run("backup", "--collection", "b").code == 0
    done = space.run("prune", "--dry-run", "--json")
    assert [item["action"] for item in done.json["backups"]] == ["keep", "keep"], done.stdout


# --where


def test_where_exports_some_rows(space: Workspace):
    done = space.run("backup", "--where", "id IN ('a-1', 'b-2')", "--json")
    assert done.code == 0, done.stderr
    assert done.json["tables_backed_up"][EMBEDDING]["row_count"] == 2
    assert done.json["tables_backed_up"][COLLECTION]["row_count"] == 3
    assert space.run("backup", "--truncate", "--where", "true").code == 2
    assert space.run("backup", "--where", "true; DROP TABLE x").code == 2
    assert space.run("backup", "--where", "nonsense = 1").code == 4


# what a partial backup must never do


@pytest.mark.parametrize("scope", [("--collection", "a"), ("--where", "id = 'a-1'")])
@pytest.mark.parametrize("safety", [(), ("--no-safety-backup",)])
def test_no_restore_of_some_rows_ever_removes_the_others(space: Workspace, scope, safety):
    database = space.database
    others = rows_of(database, "b"), rows_of(database, "c")
    assert space.run("backup", *scope).code == 0
    for table in ((), ("--table", EMBEDDING)):
        for mode in ("error", "replace", "append", "skip-existing"):
            space.run("restore", "latest", "--mode", mode, *safety, *table, "--yes")
            assert (rows_of(database, "b"), rows_of(database, "c")) == others
            assert rows_of(database, "a")
