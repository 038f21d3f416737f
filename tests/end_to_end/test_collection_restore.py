"""`restore --collection`, and restores of collection backups: exactly these embeddings, whatever the others have become."""

from __future__ import annotations

import sys

import pytest

from tests.support.collections import COLLECTION, EMBEDDING, add, everything, key, rows_of
from tests.support.server import Database
from tests.support.workspace import Workspace


@pytest.fixture
def space(tmp_path, database18: Database) -> Workspace:
    """Collections a, b and c with 30, 20 and 10 embeddings, and a workspace on them."""
    for name, rows in (("a", 30), ("b", 20), ("c", 10)):
        add(database18, name, rows)
    return Workspace(tmp_path, database18)


def change_the_others(database: Database) -> None:
    """Rows of b changed, added and deleted."""
    database.execute(
        f"UPDATE {EMBEDDING} SET document = 'since' WHERE id = 'b-1'; DELETE FROM {EMBEDDING} WHERE id = 'b-2'"
    )
    database.execute(f"INSERT INTO {EMBEDDING} (id, collection_id) VALUES ('b-new', %s)", [key(database, "b")])


def make_anew(database: Database, name: str, rows: int) -> str:
    """As LangChain's pre_delete_collection does; its old key."""
    before = key(database, name)
    database.execute(f"DELETE FROM {EMBEDDING} WHERE collection_id = %s", [before])
    database.execute(f"DELETE FROM {COLLECTION} WHERE name = %s", [name])
    add(database, name, rows, prefix=f"{name}-anew")
    return before


@pytest.mark.parametrize("format", ["csv", "binary"])
@pytest.mark.parametrize("whole", [False, True], ids=["of its own backup", "of a backup of everything"])
def test_truncate_and_restore_of_a_collection(space: Workspace, format, whole):
    space.save(backup={"format": format})
    database = space.database
    before = rows_of(database, "a")
    if whole:
        assert space.run("backup").code == 0
        backup = space.run("list", "--json").json[0]["backup_id"]
    done = space.run("truncate", "--collection", "a", "--json")
    assert done.code == 0, done.stderr
    backup = backup if whole else done.json["backup_id"]
    change_the_others(database)
    others = rows_of(database, "b"), rows_of(database, "c")
    restored = space.run("restore", backup, *(("--collection", "a") if whole else ()), "--json")
    assert restored.code == 0, restored.stderr
    assert restored.json["tables_restored"][EMBEDDING]["row_count"] == 30
    assert restored.json["tables_restored"][EMBEDDING]["rows_before"] == 0
    assert restored.json["tables_restored"][EMBEDDING]["rows_after"] == 30
    assert restored.json["safety_backup"] is None
    assert rows_of(database, "a") == before
    assert (rows_of(database, "b"), rows_of(database, "c")) == others


def test_a_dump_of_everything_gives_back_one_collection(space: Workspace):
    space.save(backup={"format": "pg_dump"})
    before = everything(space.database)
    assert space.run("backup").code == 0
    space.database.execute(f"DELETE FROM {EMBEDDING} WHERE id LIKE 'a-%'")
    done = space.run("restore", "latest", "--collection", "a")
    assert done.code == 0, done.stderr
    assert everything(space.database) == before


def test_error_refuses_a_collection_that_holds_embeddings(space: Workspace):
    assert space.run("backup", "--collection", "a").code == 0
    before = everything(space.database)
    done = space.run("restore", "latest")
    assert done.code == 4
    assert "not empty" in done.stderr
    assert everything(space.database) == before


@pytest.mark.parametrize("safety", [True, False])
def test_replace_deletes_and_saves_exactly_this_collection(space: Workspace, safety):
    database = space.database
    before = rows_of(database, "a")
    assert space.run("backup", "--collection", "a").code == 0
    database.execute(
        f"UPDATE {EMBEDDING} SET document = 'wrong' WHERE id = 'a-1'; DELETE FROM {EMBEDDING} WHERE id = 'a-2'"
    )
    database.execute(f"UPDATE {COLLECTION} SET cmetadata = '{{\"wrong\": 1}}' WHERE name = 'a'")
    wrong = rows_of(database, "a")
    change_the_others(database)
    others = rows_of(database, "b"), rows_of(database, "c")
    options = () if safety else ("--no-safety-backup",)
    done = space.run("restore", "latest", "--mode", "replace", *options, "--json")
    assert done.code == 0, done.stderr
    assert rows_of(database, "a") == before
    assert (rows_of(database, "b"), rows_of(database, "c")) == others
    assert database.value(f"SELECT cmetadata FROM {COLLECTION} WHERE name = 'a'") is None
    assert (done.json["safety_backup"] is not None) is safety
    if safety:
        shown = space.run("show", done.json["safety_backup"], "--json").json
        assert (shown["scope"], shown["collections"]["a"]["rows"]) == ("collections", 29)
        assert space.run("restore", done.json["safety_backup"], "--mode", "replace").code == 0
        assert rows_of(database, "a") == wrong
        assert (rows_of(database, "b"), rows_of(database, "c")) == others


def test_skip_existing_adds_what_is_missing(space: Workspace):
    database = space.database
    assert space.run("backup").code == 0
    database.execute(
        f"UPDATE {EMBEDDING} SET document = 'kept' WHERE id = 'a-1'; DELETE FROM {EMBEDDING} WHERE id IN ('a-2', 'b-2')"
    )
    done = space.run("restore", "latest", "--collection", "a", "--mode", "skip-existing", "--json")
    assert done.code == 0, done.stderr
    table = done.json["tables_restored"][EMBEDDING]
    assert (table["row_count"], table["rows_skipped"], table["rows_after"]) == (1, 29, 30)
    assert database.value(f"SELECT document FROM {EMBEDDING} WHERE id = 'a-1'") == "kept"
    assert len(rows_of(database, "b")) == 19


def test_append_adds_beside_what_stands_there(space: Workspace):
    database = space.database
    assert space.run("backup", "--collection", "a").code == 0
    before = rows_of(database, "a")
    done = space.run("restore", "latest", "--mode", "append")
    assert done.code == 8  # the same keys
    assert rows_of(database, "a") == before
    database.execute(f"UPDATE {EMBEDDING} SET id = 'x' || id WHERE id LIKE 'a-%'")
    assert space.run("restore", "latest", "--mode", "append").code == 0
    assert len(rows_of(database, "a")) == 60


def test_a_collection_made_anew_is_told_and_replaced_by_name(space: Workspace):
    database = space.database
    before = rows_of(database, "a")
    assert space.run("backup", "--collection", "a").code == 0
    old = make_anew(database, "a", 3)
    others = rows_of(database, "b"), rows_of(database, "c")
    for mode in ("append", "skip-existing"):
        refused = space.run("restore", "latest", "--mode", mode)
        assert refused.code == 4
        assert "made anew" in refused.stderr
        assert len(rows_of(database, "a")) == 3
    done = space.run("restore", "latest", "--mode", "replace", "--json")
    assert done.code == 0, done.stderr
    assert old in done.json["warnings"][-1]
    assert key(database, "a") != old
    assert rows_of(database, "a") == before
    assert (rows_of(database, "b"), rows_of(database, "c")) == others


def test_a_collection_that_is_gone_comes_back_with_its_key(space: Workspace):
    before = everything(space.database)
    assert space.run("backup", "--collection", "a", "--collection", "c").code == 0
    space.database.execute(f"DELETE FROM {EMBEDDING} WHERE id LIKE 'a-%'; DELETE FROM {COLLECTION} WHERE name = 'a'")
    space.database.execute(f"DELETE FROM {EMBEDDING} WHERE id LIKE 'c-%'")
    done = space.run("restore", "latest")
    assert done.code == 0, done.stderr
    assert everything(space.database) == before


def test_keys_that_stand_in_another_collection_refuse(space: Workspace):
    database = space.database
    assert space.run("truncate", "--collection", "a").code == 0
    database.execute(f"UPDATE {EMBEDDING} SET id = 'a-1' WHERE id = 'b-1'")
    before = everything(database)
    done = space.run("restore", "latest")
    assert done.code == 4
    assert "another collection" in done.stderr
    assert everything(database) == before
    skipped = space.run("restore", "latest", "--mode", "skip-existing", "--json")
    assert skipped.code == 0
    assert skipped.json["tables_restored"][EMBEDDING]["rows_skipped"] == 1
    assert len(rows_of(database, "b")) == 20


def test_a_renamed_collection_refuses(space: Workspace):
    assert space.run("truncate", "--collection", "a").code == 0
    space.database.execute(f"UPDATE {COLLECTION} SET name = 'z' WHERE name = 'a'")
    done = space.run("restore", "latest")
    assert done.code == 4
    assert "'z'" in done.stderr


def test_an_unknown_collection_names_those_of_the_backup(space: Workspace):
    assert space.run("backup", "--collection", "a").code == 0
    done = space.run("restore", "latest", "--collection", "b")
    assert done.code == 2
    assert "There are: 'a'" in done.stderr


def test_rows_with_a_delete_trigger_are_not_replaced(space: Workspace):
    assert space.run("backup", "--collection", "a").code == 0
    space.database.execute(f"""
        CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
        CREATE TRIGGER gone BEFORE DELETE ON {EMBEDDING} FOR EACH ROW EXECUTE FUNCTION f()""")
    before = everything(space.database)
    assert space.run("restore", "latest", "--mode", "replace").code == 4
    assert everything(space.database) == before


def test_into_another_schema(space: Workspace):
    before = everything(space.database)
    assert space.run("backup").code == 0
    done = space.run("restore", "latest", "--collection", "a", "--into-schema", "drill", "--create")
    assert done.code == 0, done.stderr
    assert space.database.count(f"drill.{EMBEDDING}") == 30
    assert space.database.count(f"drill.{COLLECTION}") == 1
    assert everything(space.database) == before


def test_a_collection_backup_is_proven_restorable(space: Workspace):
    space.save(backup={"verify_before_truncate": "restore"})
    done = space.run("truncate", "--collection", "a")
    assert done.code == 0, done.stderr
    assert space.run("show", "latest", "--json").json["proven_restorable"]


def test_dry_run_of_a_replace_never_says_truncate(space: Workspace):
    assert space.run("backup", "--collection", "a").code == 0
    before = everything(space.database)
    done = space.run("restore", "latest", "--mode", "replace", "--dry-run")
    assert done.code == 0, done.stderr
    assert "TRUNCATE" not in done.stdout
    assert "DELETE FROM" in done.stdout
    assert everything(space.database) == before


# run


LOADS_AND_FAILS = f"""
import os, psycopg
with psycopg.connect(os.environ["DSN"], autocommit=True) as c:
    assert c.execute("SELECT count(*) FROM {EMBEDDING} WHERE id LIKE 'a-%'").fetchone()[0] == 0
    c.execute("DELETE FROM {COLLECTION} WHERE name = 'a'")
    c.execute("INSERT INTO {COLLECTION} (uuid, name) VALUES (gen_random_uuid(), 'a')")
    c.execute("INSERT INTO {EMBEDDING} (id, collection_id) SELECT 'half', uuid FROM {COLLECTION} WHERE name = 'a'")
raise SystemExit(3)
"""


def test_a_failed_load_of_one_collection_takes_itself_back(space: Workspace):
    database = space.database
    before = rows_of(database, "a"), rows_of(database, "b"), rows_of(database, "c")
    code = LOADS_AND_FAILS.replace('os.environ["DSN"]', repr(database.socket_dsn))
    done = run_command(space, code)
    assert done.code == 3, done.stderr
    assert "brought back" in done.stderr
    assert (rows_of(database, "a"), rows_of(database, "b"), rows_of(database, "c")) == before


def run_command(space: Workspace, code: str):
    from tests.support.command import vecbak

    return vecbak(
        "run", "--truncate-vector-tables", "--collection", "a", "--on-failure", "restore", "--output-dir", space.out,
        "--", sys.executable, "-c", code, cwd=space.folder,
    )  # fmt: skip


def test_a_load_that_leaves_the_collection_empty_takes_itself_back(space: Workspace):
    before = everything(space.database)
    done = run_command(space, "pass")
    assert done.code == 1, done.stderr
    assert everything(space.database) == before
