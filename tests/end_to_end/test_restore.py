"""`vecbak restore`: restored, or as before."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.command import environment
from tests.support.places import server, server18  # noqa: F401 - fixtures
from tests.support.server import Database
from tests.support.workspace import Workspace

EMBEDDING, COLLECTION = "langchain_pg_embedding", "langchain_pg_collection"


def content(database: Database, table: str) -> list[str]:
    """Every row as text, in a fixed order."""
    return [row[0] for row in database.fetch(f"SELECT t::text FROM {table} t ORDER BY 1")]


def both(database: Database) -> tuple[list[str], list[str]]:
    return content(database, COLLECTION), content(database, EMBEDDING)


@pytest.mark.parametrize("format", ["csv", "binary", "pg_dump"])
@pytest.mark.parametrize(
    "compression",
    ["none", "zstd", pytest.param("lz4", marks=pytest.mark.local), pytest.param("gzip", marks=pytest.mark.local)],
)
def test_truncate_and_a_bare_restore_latest(tmp_path, filled: Database, format, compression):
    workspace = Workspace(tmp_path, filled)
    workspace.save(backup={"format": format, "compression": compression})
    before = both(filled)
    assert workspace.run("truncate").code == 0
    assert filled.count(EMBEDDING) == 0
    done = workspace.run("restore", "latest", "--json")
    assert done.code == 0, done.stderr
    assert done.json["restore_performed"] is True
    assert done.json["tables_restored"][EMBEDDING]["row_count"] == 62
    assert done.json["tables_restored"][COLLECTION]["rows_skipped"] == 1
    assert both(filled) == before


@pytest.fixture
def truncated(tmp_path, filled18: Database) -> Workspace:
    """62 documents backed up and truncated."""
    workspace = Workspace(tmp_path, filled18)
    assert workspace.run("truncate").code == 0
    return workspace


@pytest.fixture
def backed_up(tmp_path, filled18: Database) -> Workspace:
    """62 documents backed up, and still there."""
    workspace = Workspace(tmp_path, filled18)
    assert workspace.run("backup").code == 0
    return workspace


def first_backup(workspace: Workspace) -> Path:
    return sorted(workspace.backups.glob("vector_backup_*.json"))[0]


# modes


def test_error_refuses_a_table_that_is_not_empty(backed_up: Workspace):
    before = both(backed_up.database)
    done = backed_up.run("restore", "latest", "--json")
    assert done.code == 4
    assert "not empty" in done.stderr
    assert done.json["restore_performed"] is False
    assert both(backed_up.database) == before


def test_error_inserts_a_collection_that_is_missing(truncated: Workspace):
    database = truncated.database
    before = content(database, COLLECTION)
    database.execute(f"DELETE FROM {COLLECTION}")
    assert truncated.run("restore", "latest").code == 0
    assert content(database, COLLECTION) == before
    assert database.count(EMBEDDING) == 62


def test_error_keeps_other_collections(truncated: Workspace):
    database = truncated.database
    database.execute(f"INSERT INTO {COLLECTION} (uuid, name) VALUES (gen_random_uuid(), 'other')")
    assert truncated.run("restore", "latest").code == 0
    assert database.count(COLLECTION) == 2


def test_error_refuses_a_collection_that_differs(truncated: Workspace):
    database = truncated.database
    database.execute(f"UPDATE {COLLECTION} SET cmetadata = '{{\"changed\": 1}}'")
    done = truncated.run("restore", "latest")
    assert done.code == 4
    assert "another content" in done.stderr
    assert database.count(EMBEDDING) == 0


def test_replace_backs_up_what_it_replaces(backed_up: Workspace):
    database = backed_up.database
    before = both(database)
    database.execute(f"DELETE FROM {EMBEDDING} WHERE id LIKE 'doc-1%'")
    database.execute(f"UPDATE {EMBEDDING} SET document = 'wrong'")
    wrong = both(database)
    done = backed_up.run("restore", "latest", "--mode", "replace", "--json")
    assert done.code == 0, done.stderr
    assert both(database) == before
    safety = done.json["safety_manifest"]
    assert safety
    assert Path(safety).parent == backed_up.backups
    assert "TRUNCATED (51 rows removed)" in (backed_up.backups / "vector_backup_log.txt").read_text()
    assert backed_up.run("restore", safety, "--mode", "replace", "--no-safety-backup").code == 0
    assert both(database) == wrong


def test_no_safety_backup_makes_none(backed_up: Workspace):
    done = backed_up.run("restore", "latest", "--mode", "replace", "--no-safety-backup", "--json")
    assert done.code == 0, done.stderr
    assert done.json["safety_backup"] is None
    assert len(backed_up.files("vector_backup_*.json")) == 1


def test_append_adds(backed_up: Workspace):
    database = backed_up.database
    database.execute(f"UPDATE {EMBEDDING} SET id = 'new-' || id")
    assert backed_up.run("restore", "latest", "--mode", "append").code == 0
    assert database.count(EMBEDDING) == 124


def test_append_of_the_same_keys_fails_and_changes_nothing(backed_up: Workspace):
    database = backed_up.database
    before = both(database)
    done = backed_up.run("restore", "latest", "--mode", "append")
    assert done.code == 8
    assert "skip-existing" in done.stderr
    assert both(database) == before


def test_skip_existing_adds_what_is_missing(backed_up: Workspace):
    database = backed_up.database
    database.execute(f"DELETE FROM {EMBEDDING} WHERE id LIKE 'doc-1%'")
    database.execute(f"UPDATE {EMBEDDING} SET document = 'kept' WHERE id = 'doc-2'")
    done = backed_up.run("restore", "latest", "--mode", "skip-existing", "--json")
    assert done.code == 0, done.stderr
    assert done.json["tables_restored"][EMBEDDING]["row_count"] == 11
    assert done.json["tables_restored"][EMBEDDING]["rows_skipped"] == 51
    assert database.count(EMBEDDING) == 62
    assert database.value(f"SELECT document FROM {EMBEDDING} WHERE id = 'doc-2'") == "kept"


def test_one_table_alone(truncated: Workspace):
    done = truncated.run("restore", "latest", "--table", EMBEDDING, "--json")
    assert done.code == 0, done.stderr
    assert list(done.json["tables_restored"]) == [EMBEDDING]


def test_an_unknown_table(truncated: Workspace):
    done = truncated.run("restore", "latest", "--table", "nothing")
    assert done.code == 2
    assert COLLECTION in done.stderr


def test_a_referenced_table_alone_cannot_be_replaced(backed_up: Workspace):
    done = backed_up.run("restore", "latest", "--mode", "replace", "--table", COLLECTION)
    assert done.code == 4
    assert "foreign key" in done.stderr


def test_into_another_schema(backed_up: Workspace):
    database = backed_up.database
    before = both(database)
    refused = backed_up.run("restore", "latest", "--into-schema", "drill")
    assert refused.code == 4
    assert "--create" in refused.stderr
    assert backed_up.run("restore", "latest", "--into-schema", "drill", "--create").code == 0
    assert (content(database, f"drill.{COLLECTION}"), content(database, f"drill.{EMBEDDING}")) == before
    assert both(database) == before
    key = database.value(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'f' AND conrelid = %s::regclass",
        [f"drill.{EMBEDDING}"],
    )
    assert "REFERENCES drill.langchain_pg_collection(uuid) ON DELETE CASCADE" in key
    indexes = "SELECT count(*) FROM pg_indexes WHERE schemaname = %s"
    assert database.value(indexes, ["drill"]) == database.value(indexes, ["public"])


def test_into_an_empty_database(backed_up: Workspace, server16):
    before = both(backed_up.database)
    with server16.new_database() as other:
        backed_up.config["connection"] = other.server.connection(other.name)
        backed_up.save()
        done = backed_up.run("restore", "latest", "--create", "--json")
        assert done.code == 0, done.stderr
        assert both(other) == before


# indexes, sequences, constraints, grants


INDEX_STATE = """
SELECT ic.relname, pg_get_indexdef(x.indexrelid), obj_description(x.indexrelid, 'pg_class'), x.indisvalid,
  (SELECT json_object_agg(attnum, attstattarget) FROM pg_attribute WHERE attrelid = x.indexrelid)::text
FROM pg_index x JOIN pg_class ic ON ic.oid = x.indexrelid WHERE x.indrelid = 'langchain_pg_embedding'::regclass ORDER BY 1"""


def test_indexes_constraints_and_grants_are_as_before(truncated: Workspace):
    database = truncated.database
    database.execute(f"""
        ALTER TABLE {EMBEDDING} ALTER COLUMN embedding TYPE vector(32);
        CREATE INDEX h ON {EMBEDDING} USING hnsw (embedding vector_cosine_ops) WITH (m = 8);
        CREATE INDEX i ON {EMBEDDING} USING ivfflat (embedding vector_l2_ops) WITH (lists = 2);
        CREATE INDEX e ON {EMBEDDING} USING gin (to_tsvector('simple', document));
        COMMENT ON INDEX h IS 'it''s mine';
        ALTER INDEX e ALTER COLUMN 1 SET STATISTICS 321;
        GRANT SELECT ON {EMBEDDING} TO PUBLIC""")
    state, grants = (
        database.fetch(INDEX_STATE),
        database.value(f"SELECT relacl::text FROM pg_class WHERE relname = '{EMBEDDING}'"),
    )
    assert truncated.run("restore", "latest").code == 8  # the column has dimensions now
    database.execute(f"DROP INDEX h; DROP INDEX i; ALTER TABLE {EMBEDDING} ALTER COLUMN embedding TYPE vector")
    langchain_rows = truncated.run("restore", "latest")
    assert langchain_rows.code == 0
    database.execute(f"""
        ALTER TABLE {EMBEDDING} ALTER COLUMN embedding TYPE vector(32);
        CREATE INDEX h ON {EMBEDDING} USING hnsw (embedding vector_cosine_ops) WITH (m = 8);
        CREATE INDEX i ON {EMBEDDING} USING ivfflat (embedding vector_l2_ops) WITH (lists = 2);
        COMMENT ON INDEX h IS 'it''s mine'""")
    rows = both(database)
    assert truncated.run("truncate").code == 0
    done = truncated.run("restore", "latest", "--json")
    assert done.code == 0, done.stderr
    assert sorted(done.json["indexes_rebuilt"])[0] == "e"
    assert {"h", "i", "e"} <= set(done.json["indexes_rebuilt"])
    assert database.fetch(INDEX_STATE) == state
    assert database.value(f"SELECT relacl::text FROM pg_class WHERE relname = '{EMBEDDING}'") == grants
    assert both(database) == rows


def test_an_index_that_cannot_be_built_again_leaves_everything_as_before(tmp_path, database18: Database):
    # the index holds for the rows that are there, and not for those of the backup
    database18.execute("""
        CREATE TABLE t (id int PRIMARY KEY, x text, a int[]);
        INSERT INTO t VALUES (1, 'no number', '{1}');
        CREATE FUNCTION number(text) RETURNS int[] IMMUTABLE LANGUAGE sql SET search_path = pg_catalog
              AS 'SELECT ARRAY[$1::int]'""")
    workspace = Workspace(tmp_path, database18)
    workspace.save(vector_tables={"supported_tables": ["t"], "truncate_tables": ["t"]})
    assert workspace.run("backup").code == 0
    database18.execute("UPDATE t SET x = '7'; CREATE INDEX g ON t USING gin (public.number(x))")
    before = database18.fetch("SELECT t::text FROM t")
    done = workspace.run("restore", "latest", "--mode", "replace")
    assert done.code == 8
    assert "building the index g" in done.stderr
    assert "one process" not in done.stderr  # only what ran out of room is tried again
    assert database18.fetch("SELECT t::text FROM t") == before
    assert database18.value("SELECT indisvalid FROM pg_index WHERE indexrelid = 'g'::regclass")


def test_a_live_index_is_kept_where_less_is_loaded_than_stands_there(backed_up: Workspace):
    database = backed_up.database
    for prefix in "ab":
        database.execute(f"UPDATE {EMBEDDING} SET id = '{prefix}-' || id WHERE id LIKE 'doc-%'")
        assert backed_up.run("restore", "latest", "--mode", "append").code == 0
    database.execute(f"DELETE FROM {EMBEDDING} WHERE id LIKE 'doc-1%'")
    done = backed_up.run("restore", "latest", "--mode", "skip-existing", "--json")
    assert done.code == 0, done.stderr
    assert done.json["tables_restored"][EMBEDDING]["row_count"] == 11
    assert done.json["indexes_rebuilt"] == []
    assert any("ix_cmetadata_gin" in warning for warning in done.json["warnings"])


def test_sequences_go_past_the_restored_values_and_never_back(tmp_path, database18: Database):
    database18.execute("""
        CREATE TABLE t (s bigserial PRIMARY KEY, i int GENERATED ALWAYS AS IDENTITY, g int GENERATED ALWAYS AS (1) STORED, x text);
        INSERT INTO t (x) SELECT n::text FROM generate_series(1, 50) n""")
    workspace = Workspace(tmp_path, database18)
    workspace.save(vector_tables={"supported_tables": ["t"], "truncate_tables": ["t"]})
    before = database18.fetch("SELECT t::text FROM t ORDER BY s")
    assert workspace.run("truncate").code == 0
    database18.execute("ALTER SEQUENCE t_s_seq RESTART WITH 1; ALTER SEQUENCE t_i_seq RESTART WITH 1000")
    assert database18.value("SELECT nextval('t_i_seq')") == 1000
    assert workspace.run("restore", "latest").code == 0
    assert database18.fetch("SELECT t::text FROM t ORDER BY s") == before
    assert database18.fetch("INSERT INTO t (x) VALUES ('new') RETURNING s, i") == [(51, 1001)]
    assert workspace.run("restore", "latest", "--into-schema", "n", "--create").code == 0
    assert database18.fetch("INSERT INTO n.t (x) VALUES ('new') RETURNING s, i, g") == [(51, 51, 1)]


# what refuses


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("ALTER TABLE langchain_pg_embedding ALTER COLUMN embedding TYPE vector(64)", "vector(64)"),
        ("ALTER TABLE langchain_pg_embedding DROP COLUMN document", "document"),
        ("ALTER TABLE langchain_pg_embedding RENAME COLUMN document TO body", "document"),
        ("ALTER TABLE langchain_pg_embedding ADD COLUMN extra int NOT NULL", "extra"),
        ("ALTER TABLE langchain_pg_embedding ALTER COLUMN id TYPE text", "text"),
        ("DROP EXTENSION vector CASCADE", "CREATE EXTENSION vector"),
    ],
)
def test_a_target_that_does_not_fit(truncated: Workspace, change, words):
    truncated.database.execute(change)
    done = truncated.run("restore", "latest")
    assert done.code == 8
    assert words in done.stderr
    assert truncated.database.count(EMBEDDING) == 0


def test_new_columns_get_their_defaults_and_a_warning(truncated: Workspace):
    truncated.database.execute(f"ALTER TABLE {EMBEDDING} ADD COLUMN extra int NOT NULL DEFAULT 7")
    done = truncated.run("restore", "latest", "--json")
    assert done.code == 0, done.stderr
    assert "extra" in done.json["warnings"][0]
    assert truncated.database.value(f"SELECT sum(extra) FROM {EMBEDDING}") == 62 * 7


def test_a_lock_in_the_way(truncated: Workspace):
    truncated.save(timeouts={"lock_seconds": 0.3})
    with truncated.database.connect(autocommit=False) as other:
        other.execute(f"INSERT INTO {COLLECTION} (uuid, name) VALUES (gen_random_uuid(), 'x')")
        done = truncated.run("restore", "latest")
    assert done.code == 7
    assert "pid" in done.stderr
    assert truncated.database.count(EMBEDDING) == 0


def test_readers_in_the_way(backed_up: Workspace):
    backed_up.save(timeouts={"truncate_seconds": 0.5})
    before = both(backed_up.database)
    with backed_up.database.connect(autocommit=False, application_name="a reader") as other:
        other.execute(f"SELECT count(*) FROM {EMBEDDING}")
        done = backed_up.run("restore", "latest", "--mode", "replace")
    assert done.code == 7
    assert "a reader" in done.stderr
    assert both(backed_up.database) == before


@pytest.mark.local  # what is done to triggers is SQL, and the same there
@pytest.mark.parametrize(
    "trigger",
    [
        "BEGIN RETURN NULL; END': BEFORE INSERT ON {} FOR EACH ROW",
        "BEGIN NEW.document = ''changed''; RETURN NEW; END': BEFORE INSERT OR UPDATE ON {} FOR EACH ROW",
        "BEGIN DELETE FROM public.{} WHERE id = ''doc-7''; RETURN NULL; END': AFTER INSERT ON {}",
        "BEGIN UPDATE public.{} SET document = ''changed'' WHERE id = ''doc-7''; RETURN NULL; END': AFTER INSERT ON {}",
    ],
)
@pytest.mark.parametrize("mode", ["error", "skip-existing", "replace"])
def test_triggers_keep_still_while_rows_are_loaded(backed_up: Workspace, trigger, mode):
    """TRUNCATE did not set them off either: rows, and what triggers derive from them, are as they were."""
    database = backed_up.database
    before = both(database)
    body, when = trigger.replace("{}", EMBEDDING).split("': ")
    database.execute(f"""
        CREATE FUNCTION acts() RETURNS trigger LANGUAGE plpgsql AS '{body}';
        CREATE TRIGGER acts {when} EXECUTE FUNCTION acts(); ALTER TABLE {EMBEDDING} ENABLE ALWAYS TRIGGER acts""")
    database.execute(f"TRUNCATE {EMBEDDING}" if mode == "error" else f"DELETE FROM {EMBEDDING} WHERE id < 'doc-3'")
    done = backed_up.run("restore", "latest", "--mode", mode)
    assert done.code == 0, done.stderr
    assert both(database) == before
    assert database.value("SELECT tgenabled::text FROM pg_trigger WHERE tgname = 'acts'") == "A"


def test_usage(truncated: Workspace):
    assert truncated.run("restore").code == 2
    assert truncated.run("restore", "latest", "--csv-pair", "a", "b").code == 2
    assert truncated.run("restore", "20010101_000000").code == 2
    assert truncated.run("restore", "latest", "--mode", "maybe").code == 2
    assert truncated.run("restore", "latest", "--skip-bad-rows", "x").code == 2


def test_dry_run_touches_nothing_and_names_every_file(truncated: Workspace):
    done = truncated.run("restore", "latest", "--dry-run")
    assert done.code == 0, done.stderr
    assert "sha256sum --check" in done.stdout
    assert all(name in done.stdout for name in truncated.files("*.csv"))
    assert truncated.database.count(EMBEDDING) == 0


@pytest.mark.parametrize("mode", ["error", "skip-existing"])
def test_the_commands_of_a_dry_run_restore_when_they_are_pasted(truncated: Workspace, mode):
    """With the collections still there, some embeddings too, and a text that only psql 18 reads."""
    database = truncated.database
    assert truncated.run("restore", "latest").code == 0
    database.execute(f"UPDATE {EMBEDDING} SET document = E'one\\n\\\\.\\nthree' WHERE id = 'doc-3'")
    before = both(database)
    assert truncated.run("truncate").code == 0
    if mode == "skip-existing":
        assert truncated.run("restore", "latest").code == 0
        database.execute(f"DELETE FROM {EMBEDDING} WHERE id IN ('doc-3', 'doc-7')")
    script = truncated.run("restore", "latest", "--mode", mode, "--dry-run").stdout
    assert script.count("\nROLLBACK;") == 1
    subprocess.run(["bash", "-c", script], check=True, cwd="/", env=environment(), capture_output=True)
    assert both(database) != before
    committed = script.replace("\nROLLBACK;", "\nCOMMIT;")
    subprocess.run(["bash", "-c", committed], check=True, cwd="/", env=environment(), capture_output=True)
    assert both(database) == before


def test_a_damaged_backup_is_told_in_the_shape_of_a_restore(truncated: Workspace):
    file = next(truncated.backups.glob(f"{EMBEDDING}_*.csv"))
    file.write_bytes(file.read_bytes()[:-5])
    done = truncated.run("restore", "latest", "--json")
    assert done.code == 5
    assert done.json["restore_performed"] is False
    assert done.json["backup_id"] in file.name
    assert file.name in done.json["errors"][0]
    assert truncated.database.count(EMBEDDING) == 0


def test_a_line_that_is_backslash_dot_comes_back(truncated: Workspace):
    database = truncated.database
    assert truncated.run("restore", "latest").code == 0
    database.execute(f"UPDATE {EMBEDDING} SET document = E'one\\n\\\\.\\nthree\\n\\\\.'")
    before = both(database)
    assert truncated.run("truncate").code == 0
    assert truncated.run("restore", "latest").code == 0
    assert both(database) == before
