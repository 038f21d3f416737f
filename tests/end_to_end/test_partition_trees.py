"""What hangs on a table by way of what it is a partition of, or of its own partitions: looked at before a row goes."""

from __future__ import annotations

import contextlib
import threading

import psycopg
import pytest

from tests.support.collections import COLLECTION, EMBEDDING, add, everything
from tests.support.server import SUPERUSER, Database
from tests.support.stopped import Stopped
from tests.support.workspace import Workspace

ACTS = "CREATE FUNCTION acts() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN DELETE FROM precious; RETURN NULL; END';"
PRECIOUS = "CREATE TABLE precious (id text); INSERT INTO precious VALUES ('a'), ('b');"
# LangChain's embeddings as a partition, and as a table that is divided itself
PARTITION = f"""ALTER TABLE {EMBEDDING} DROP CONSTRAINT {EMBEDDING}_pkey; ALTER TABLE {EMBEDDING} ADD PRIMARY KEY (id, collection_id);
    CREATE TABLE whole (LIKE {EMBEDDING} INCLUDING DEFAULTS INCLUDING INDEXES) PARTITION BY LIST (collection_id);
    ALTER TABLE whole ATTACH PARTITION {EMBEDDING} DEFAULT;"""
DIVIDED = f"""ALTER TABLE {EMBEDDING} RENAME TO part; ALTER TABLE part DROP CONSTRAINT {EMBEDDING}_pkey; ALTER TABLE part ADD PRIMARY KEY (id, collection_id);
    CREATE TABLE {EMBEDDING} (LIKE part INCLUDING DEFAULTS INCLUDING INDEXES) PARTITION BY LIST (collection_id);
    ALTER TABLE {EMBEDDING} ATTACH PARTITION part DEFAULT;"""


@pytest.fixture
def space(tmp_path, database: Database) -> Workspace:
    add(database, "a", 3)
    add(database, "b", 2)
    return Workspace(tmp_path, database)


HANGING = {
    "a key onto the whole, cascading": (PARTITION, "CREATE TABLE notes (id text, c uuid, FOREIGN KEY (id, c) REFERENCES whole ON DELETE CASCADE)", "notes_id_c_fkey of public.notes"),
    "a key onto the whole, setting null": (PARTITION, "CREATE TABLE notes (id text, c uuid, FOREIGN KEY (id, c) REFERENCES whole ON DELETE SET NULL)", "notes_id_c_fkey of public.notes"),
    "a key onto a partition": (DIVIDED, "CREATE TABLE notes (id text, c uuid, FOREIGN KEY (id, c) REFERENCES part ON DELETE CASCADE)", "notes_id_c_fkey of public.notes"),
    "a key of a divided table": (DIVIDED, f"CREATE TABLE notes (id text, c uuid, FOREIGN KEY (id, c) REFERENCES {EMBEDDING} ON DELETE CASCADE) PARTITION BY LIST (id);"
        " CREATE TABLE notes1 PARTITION OF notes DEFAULT", "notes_id_c_fkey of public.notes"),
    "a key of the whole onto itself": (PARTITION, "ALTER TABLE whole ADD p text, ADD q uuid, ADD FOREIGN KEY (p, q) REFERENCES whole ON DELETE CASCADE", "of public.whole"),
    "a trigger of the whole": (PARTITION, f"{ACTS} CREATE TRIGGER t AFTER DELETE ON whole FOR EACH ROW EXECUTE FUNCTION acts()", "on DELETE (t)"),
    "a trigger of a partition": (DIVIDED, f"{ACTS} CREATE TRIGGER t AFTER DELETE ON part FOR EACH ROW EXECUTE FUNCTION acts()", "t on part"),
    "a trigger that always fires": ("", f"{ACTS} CREATE TRIGGER t AFTER DELETE ON {EMBEDDING} EXECUTE FUNCTION acts(); ALTER TABLE {EMBEDDING} ENABLE ALWAYS TRIGGER t", "ENABLE ALWAYS TRIGGER"),
    "a constraint trigger": (PARTITION, f"{ACTS} CREATE CONSTRAINT TRIGGER t AFTER DELETE ON whole DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION acts()", "on DELETE (t)"),
}  # fmt: skip


@pytest.mark.parametrize("name", HANGING)
def test_what_a_delete_would_take_along_is_refused(space: Workspace, name: str):
    layout, script, words = HANGING[name]
    space.database.execute(PRECIOUS + layout + script)
    if "CREATE TABLE notes" in script:
        space.database.execute(f"INSERT INTO notes SELECT id, collection_id FROM {EMBEDDING}")
    before = everything(space.database)
    for command in (["truncate", "--collection", "a"], ["restore", "latest", "--collection", "a", "--mode", "replace"]):
        assert command[0] == "truncate" or space.run("backup").code == 0
        done = space.run(*command)
        assert done.code == 4, done.stderr
        assert words in done.stderr
        assert everything(space.database) == before
        assert space.database.count("precious") == 2
        if "CREATE TABLE notes" in script:
            assert space.database.value("SELECT count(id) FROM notes") == 5


@pytest.mark.parametrize("layout", [PARTITION, DIVIDED], ids=["a partition", "divided"])
def test_collections_in_a_partition_tree_go_and_come_back(space: Workspace, layout: str):
    space.database.execute(layout)
    before = everything(space.database)
    done = space.run("truncate", "--collection", "a", "--json")
    assert done.code == 0, done.stderr
    assert done.json["truncate_results"][EMBEDDING]["rows_before"] == 3
    assert space.database.count(EMBEDDING) == 2
    done = space.run("restore", "latest")
    assert done.code == 0, done.stderr
    assert everything(space.database) == before


TRUNCATES = {
    "on the table": ("", EMBEDDING),
    "on a partition": (DIVIDED, "part"),
    "on the table that is divided": (DIVIDED, EMBEDDING),
    "on a partition of the whole": (PARTITION, EMBEDDING),
}


@pytest.mark.parametrize("when", ["BEFORE", "AFTER"])
@pytest.mark.parametrize("where", TRUNCATES)
def test_a_trigger_on_truncate_refuses_and_the_hint_mends_it(space: Workspace, where: str, when: str):
    layout, table = TRUNCATES[where]
    space.database.execute(
        f'{PRECIOUS}{layout}{ACTS} CREATE TRIGGER "Wipe\'s" {when} TRUNCATE ON {table} EXECUTE FUNCTION acts()'
    )
    done = space.run("truncate")
    assert done.code == 4, done.stderr
    assert "on TRUNCATE (Wipe's" in done.stderr
    assert space.files() == []
    assert (space.database.count(EMBEDDING), space.database.count("precious")) == (5, 2)
    assert space.run("backup").code == 0
    assert space.run("restore", "latest", "--mode", "replace", "--table", EMBEDDING).code == 4
    off, on = done.stderr.split("while vecbak works: ")[1].split(" And on again: ")
    space.database.execute(off)
    assert space.run("truncate").code == 0
    space.database.execute(on.splitlines()[0])
    assert space.database.value("SELECT tgenabled::text FROM pg_trigger WHERE tgname LIKE 'Wipe%'") == "O"
    assert (space.database.count(EMBEDDING), space.database.count("precious")) == (0, 2)


@pytest.mark.parametrize(("state", "session", "code"), [
    ("ENABLE ALWAYS", "origin", 4), ("ENABLE REPLICA", "origin", 0), ("DISABLE", "origin", 0),
    ("ENABLE ALWAYS", "replica", 4), ("ENABLE REPLICA", "replica", 0), ("ENABLE", "replica", 4), ("ENABLE", "local", 4),
])  # fmt: skip
def test_only_a_trigger_that_would_fire_is_in_the_way(space: Workspace, state: str, session: str, code: int):
    database = space.database
    database.execute(f"""{PRECIOUS}{ACTS} CREATE TRIGGER wipe AFTER TRUNCATE ON {EMBEDDING} EXECUTE FUNCTION acts();
        ALTER TABLE {EMBEDDING} {state} TRIGGER wipe; ALTER DATABASE {database.name} SET session_replication_role = {session}""")
    done = space.run("truncate")
    assert done.code == code, done.stderr
    assert database.count("precious") == 2
    assert database.count(EMBEDDING) == (5 if code else 0)


KEYS = {
    "onto the whole": (PARTITION, EMBEDDING, "whole"),
    "onto a partition": (DIVIDED, EMBEDDING, "part"),
}


@pytest.mark.parametrize("where", KEYS)
def test_a_key_in_the_tree_refuses_a_truncate_before_anything_is_written(space: Workspace, where: str):
    layout, _, target = KEYS[where]
    space.database.execute(
        f"{layout} CREATE TABLE notes (id text, c uuid, FOREIGN KEY (id, c) REFERENCES {target}) PARTITION BY LIST (id); CREATE TABLE notes1 PARTITION OF notes DEFAULT"
    )
    done = space.run("truncate")
    assert done.code == 4, done.stderr
    assert "notes_id_c_fkey of public.notes)" in done.stderr
    assert space.files() == []
    # as the hint says, both together
    space.save(
        vector_tables={"supported_tables": [COLLECTION, EMBEDDING, "notes"], "truncate_tables": [EMBEDDING, "notes"]}
    )
    space.database.execute(f"INSERT INTO notes SELECT id, collection_id FROM {EMBEDDING}")
    before = everything(space.database)
    done = space.run("truncate")
    assert done.code == 0, done.stderr
    done = space.run("restore", "latest")
    assert done.code == 0, done.stderr
    assert everything(space.database) == before
    assert space.database.count("notes") == 5


def test_a_key_of_the_whole_onto_itself(space: Workspace):
    space.database.execute(
        f"{PARTITION} ALTER TABLE whole ADD p text, ADD q uuid, ADD FOREIGN KEY (p, q) REFERENCES whole"
    )
    done = space.run("truncate")
    assert done.code == 4, done.stderr
    assert "Name public.whole in vector_tables instead of its partition" in done.stderr
    space.save(vector_tables={"supported_tables": [COLLECTION, "whole"], "truncate_tables": ["whole"]})
    before = everything(space.database)
    assert space.run("truncate").code == 0
    assert space.run("restore", "latest").code == 0
    assert everything(space.database) == before


def test_a_table_and_its_partition_are_not_both_backed_up(space: Workspace):
    space.database.execute(PARTITION)
    space.save(vector_tables={"supported_tables": [COLLECTION, "whole", EMBEDDING], "truncate_tables": ["whole"]})
    for command in ("backup", "truncate", "doctor"):
        done = space.run(command)
        assert done.code == 4, done.stderr
        assert f"{EMBEDDING} is a partition of whole" in done.stdout + done.stderr
    assert space.files() == []
    assert space.database.count(EMBEDDING) == 5


@pytest.mark.parametrize("publication", ["FOR ALL TABLES", "FOR TABLES IN SCHEMA public", "FOR TABLE whole", "FOR TABLE whole WITH (publish_via_partition_root)",
    f"FOR TABLE {EMBEDDING} WHERE (id <> 'x')"])  # fmt: skip
def test_every_way_to_publish_a_partition(space: Workspace, publication: str):
    name = f"pub_{space.database.name}"
    space.database.execute(f"{PARTITION} CREATE PUBLICATION {name} {publication}")
    done = space.run("truncate")
    assert done.code == 4, done.stderr
    assert name in done.stderr
    assert space.database.count(EMBEDDING) == 5


def test_a_role_with_privileges_on_the_whole_alone(space: Workspace):
    """PostgreSQL asks for none on partitions, neither for TRUNCATE nor for DELETE."""
    database, role = space.database, f"whole_{space.database.name}"
    database.execute(
        f"{DIVIDED} CREATE ROLE {role} LOGIN; GRANT SELECT, INSERT, TRUNCATE, DELETE ON {EMBEDDING}, {COLLECTION} TO {role}"
    )
    try:
        space.save(connection={"dsn": database.socket_dsn.replace(f"{SUPERUSER}@", f"{role}@")})
        before = everything(database)
        for command in (["truncate", "--collection", "a"], ["truncate"]):
            done = space.run(*command)
            assert done.code == 0, done.stderr
            done = space.run("restore", "latest")
            assert done.code == 0, done.stderr
            assert everything(database) == before
    finally:
        database.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


# what comes in mid-run

CHANGES = {
    "a key onto the whole": (PARTITION, "ALTER TABLE notes ADD FOREIGN KEY (id, c) REFERENCES whole ON DELETE CASCADE"),
    "a key onto a partition": (DIVIDED, "ALTER TABLE notes ADD FOREIGN KEY (id, c) REFERENCES part ON DELETE CASCADE"),
    "a trigger of the whole": (
        PARTITION,
        "CREATE TRIGGER t AFTER DELETE ON whole FOR EACH ROW EXECUTE FUNCTION acts()",
    ),
    "a trigger on truncate of a partition": (
        DIVIDED,
        "CREATE TRIGGER t AFTER TRUNCATE ON part EXECUTE FUNCTION acts()",
    ),
    "a rule of the partition": (PARTITION, f"CREATE RULE r AS ON DELETE TO {EMBEDDING} DO ALSO DELETE FROM precious"),
    "the table is divided no more": (DIVIDED, f"ALTER TABLE {EMBEDDING} DETACH PARTITION part"),
}


@pytest.mark.parametrize("arguments", [["truncate"], ["truncate", "--collection", "a"]], ids=["all", "a collection"])
@pytest.mark.parametrize("name", CHANGES)
def test_what_hangs_itself_on_in_mid_run_waits_until_the_rows_are_gone(
    space: Workspace, name: str, arguments: list[str]
):
    layout, change = CHANGES[name]
    space.database.execute(
        f"{PRECIOUS}{ACTS}{layout} CREATE TABLE notes (id text, c uuid); INSERT INTO notes SELECT 'b-0', collection_id FROM {EMBEDDING} WHERE id = 'b-0'"
    )
    run = Stopped(space, "logged", *arguments, "--yes")
    done = threading.Event()

    def hang() -> None:
        with contextlib.suppress(psycopg.Error):  # what it points at is gone
            space.database.execute(change)
        done.set()

    thread = threading.Thread(target=hang, daemon=True)
    thread.start()
    assert not done.wait(0.5)
    code, errors = run.go()
    assert code in {0, 6}, errors
    thread.join(30)
    assert (space.database.count("precious"), space.database.count("notes")) == (2, 1)


@pytest.mark.parametrize(("step", "expected"), [("locked", 4), ("checked", 7), ("logged", 7)])
def test_a_partition_that_comes_in_mid_run_with_a_key_of_its_own(space: Workspace, step: str, expected: int):
    """The lock of a DELETE lets it in; nobody has looked at what hangs on it."""
    database = space.database
    a, b = (database.value(f"SELECT uuid FROM {COLLECTION} WHERE name = '{name}'") for name in "ab")
    database.execute(f"""{DIVIDED} ALTER TABLE {EMBEDDING} DETACH PARTITION part; CREATE TABLE late (LIKE part INCLUDING ALL);
        CREATE TABLE rest PARTITION OF {EMBEDDING} FOR VALUES IN ('{b}'); INSERT INTO rest SELECT * FROM part WHERE collection_id = '{b}';
        INSERT INTO late SELECT * FROM part WHERE collection_id = '{a}'; CREATE TABLE notes (id text, c uuid, FOREIGN KEY (id, c) REFERENCES late ON DELETE CASCADE);
        INSERT INTO notes SELECT id, collection_id FROM late""")
    run = Stopped(space, step, "truncate", "--collection", "a", "--yes")
    database.execute(f"ALTER TABLE {EMBEDDING} ATTACH PARTITION late FOR VALUES IN ('{a}')")
    code, errors = run.go()
    assert (database.count("late"), database.count("notes"), database.count(EMBEDDING)) == (3, 3, 5)
    assert code in {expected, 4}, errors
