"""Tables of every kind: round trip through truncate and restore, or a refusal that says why."""

from __future__ import annotations

import json

import pytest

from tests.support.server import SYSTEM_USER, Database
from tests.support.workspace import Workspace

LONG = "ä" * 30 + 'x"y'  # 63 bytes

KINDS = {
    "types": (
        "types",
        """CREATE TABLE types (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, gone text, h halfvec(3), s sparsevec(9), b bit(16),
             v vector, n int GENERATED ALWAYS AS (1) STORED);
           ALTER TABLE types DROP COLUMN gone;
           CREATE INDEX ON types USING hnsw (h halfvec_l2_ops); CREATE INDEX ON types USING hnsw (b bit_hamming_ops);
           CREATE INDEX ON types USING hnsw ((v::vector(2)) vector_l2_ops) WHERE vector_dims(v) = 2;
           INSERT INTO types (h, s, b, v) SELECT array_fill(n / 7.0, ARRAY[3])::halfvec, ('{1:' || n || '}/9')::sparsevec,
             n::bit(16), CASE WHEN n % 2 = 0 THEN '[1,2]' ELSE '[1,2,3]' END::vector FROM generate_series(1, 50) n""",
    ),
    "partitioned": (
        "parts",
        """CREATE TABLE parts (id int, v vector(4), PRIMARY KEY (id)) PARTITION BY RANGE (id);
           CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (20);
           CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (20) TO (100);
           CREATE INDEX ON parts USING hnsw (v vector_l2_ops);
           INSERT INTO parts SELECT n, array_fill(n::real, ARRAY[4])::vector FROM generate_series(1, 50) n;
           CREATE FUNCTION veto() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
           CREATE TRIGGER veto BEFORE INSERT ON parts_1 FOR EACH ROW EXECUTE FUNCTION veto()""",
    ),
    "unlogged": (
        "quick",
        "CREATE UNLOGGED TABLE quick (id int PRIMARY KEY, v vector(2)); INSERT INTO quick VALUES (1, '[1,2]'), (2, NULL)",
    ),
    "63 bytes in quotes": (
        '"My Schema"."' + LONG.replace('"', '""') + '"',
        f"""CREATE SCHEMA "My Schema"; CREATE TABLE "My Schema"."{LONG.replace('"', '""')}" ("a ""b" int, v vector(2));
            INSERT INTO "My Schema"."{LONG.replace('"', '""')}" VALUES (1, '[1,2]'), (1, '[1,2]')""",
    ),
    "triggers and rules": (
        "busy",
        """CREATE TABLE busy (id int PRIMARY KEY, changed timestamptz DEFAULT now(), v vector(2)); CREATE TABLE noted (id int);
           INSERT INTO busy SELECT n, '2020-01-01', '[1,2]' FROM generate_series(1, 20) n;
           CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.changed = now(); RETURN NEW; END';
           CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.noted VALUES (NEW.id); RETURN NULL; END';
           CREATE TRIGGER touch BEFORE INSERT OR UPDATE ON busy FOR EACH ROW EXECUTE FUNCTION touch();
           CREATE TRIGGER always AFTER INSERT ON busy FOR EACH ROW EXECUTE FUNCTION note(); ALTER TABLE busy ENABLE ALWAYS TRIGGER always;
           CREATE TRIGGER off BEFORE INSERT ON busy FOR EACH ROW EXECUTE FUNCTION note(); ALTER TABLE busy DISABLE TRIGGER off;
           CREATE TRIGGER replica BEFORE INSERT ON busy FOR EACH ROW EXECUTE FUNCTION note(); ALTER TABLE busy ENABLE REPLICA TRIGGER replica;
           CREATE RULE also AS ON INSERT TO busy DO ALSO INSERT INTO noted VALUES (NEW.id)""",
    ),
    "an inheritance child": (
        "child",
        """CREATE TABLE ancestor (id int, v vector(2)); INSERT INTO ancestor VALUES (0, '[0,0]');
           CREATE TABLE child (extra text, PRIMARY KEY (id)) INHERITS (ancestor); INSERT INTO child VALUES (1, '[1,2]', 'x'), (2, '[3,4]', NULL)""",
    ),
    "types of its own": (
        "moody",
        """CREATE SCHEMA types; CREATE TYPE types."Mood" AS ENUM ('it''s ok', 'b\\d'); CREATE DOMAIN small AS varchar(9) DEFAULT 'x' CHECK (VALUE <> '');
           CREATE DOMAIN tiny AS small NOT NULL; CREATE DOMAIN unit AS vector(2) CHECK (vector_dims(VALUE) = 2);
           CREATE TYPE pair AS (first types."Mood", "sec ond" small[]);
           CREATE TABLE moody (id int PRIMARY KEY, mood types."Mood", moods types."Mood"[], s small, t tiny, v unit, p pair);
           INSERT INTO moody VALUES (1, 'b\\d', '{NULL,it''s ok}', 'a', 'b', '[1,2]', ROW('b\\d', '{q,NULL}')), (2, NULL, NULL, NULL, 'c', NULL, NULL)""",
    ),
}  # fmt: skip


SHAPE = """
    SELECT c.relname, c.relpersistence::text, c.relrowsecurity::text, NULL, NULL FROM pg_class c WHERE c.relnamespace::regnamespace::text <> ALL ('{pg_catalog,information_schema,pg_toast}')
    UNION ALL SELECT pg_get_indexdef(indexrelid), indisvalid::text, NULL, NULL, NULL FROM pg_index WHERE indrelid > 16384
    UNION ALL SELECT conname, pg_get_constraintdef(oid), convalidated::text, NULL, NULL FROM pg_constraint WHERE conrelid > 16384
    UNION ALL SELECT tgname, tgenabled::text, tgrelid::regclass::text, NULL, NULL FROM pg_trigger
    UNION ALL SELECT rulename, ev_enabled::text, ev_class::regclass::text, NULL, NULL FROM pg_rewrite WHERE ev_class > 16384
    ORDER BY 1, 2, 3"""


def content(database: Database, table: str) -> list[str]:
    return [row[0] for row in database.fetch(f"SELECT t::text FROM {table} t ORDER BY 1")]


def tables_of(*names: str) -> dict[str, object]:
    return {"supported_tables": list(names), "truncate_tables": list(names)}


@pytest.mark.parametrize("format", ["csv", "binary", "pg_dump"])
def test_every_kind_comes_back_as_it_was(tmp_path, database: Database, format):
    for _, statements in KINDS.values():
        database.execute(statements)
    fits = {"pg_dump": lambda name: name != "parts", "binary": lambda name: name != "moody", "csv": lambda name: True}[
        format
    ]
    names = [
        name for name, _ in KINDS.values() if fits(name)
    ]  # a dump has no partitioned table, binary no types of one's own in arrays
    space = Workspace(tmp_path, database)
    space.save(vector_tables=tables_of(*names), backup={"format": format, "part_bytes": 1})
    before, shape, noted = (
        {name: content(database, name) for name in names},
        database.fetch(SHAPE),
        content(database, "noted"),
    )
    assert all(before.values())
    done = space.run("truncate")
    assert done.code == 0, done.stderr
    assert not any(content(database, name) for name in names)
    restored = space.run("restore", "latest")
    assert restored.code == 0, restored.stderr
    assert {name: content(database, name) for name in names} == before
    assert database.fetch(SHAPE) == shape
    assert content(database, "noted") == noted  # no trigger and no rule acted: nothing was new
    proven = space.run("verify", "latest", "--restore")
    assert proven.code == 0, proven.stderr


DIVIDED = """
    CREATE TABLE parts (id int, kind text, v vector(8)) PARTITION BY LIST (kind);
    CREATE TABLE parts_a PARTITION OF parts FOR VALUES IN ('a') PARTITION BY RANGE (id);
    CREATE TABLE parts_a1 PARTITION OF parts_a FOR VALUES FROM (MINVALUE) TO (500);
    CREATE TABLE parts_a2 (v vector(8), gone int, kind text, id int); ALTER TABLE parts_a2 DROP gone;
    ALTER TABLE parts_a ATTACH PARTITION parts_a2 DEFAULT; CREATE TABLE parts_b PARTITION OF parts DEFAULT;
    CREATE TABLE parts_c PARTITION OF parts FOR VALUES IN ('c');
    INSERT INTO parts SELECT n, CASE WHEN n % 2 = 0 THEN 'a' ELSE 'b' END, array_fill(n::real, ARRAY[8])::vector FROM generate_series(1, 1000) n"""


def parts_of(space: Workspace) -> list[int]:
    """Rows of each file of the newest backup's only table."""
    (path,) = space.backups.glob("vector_backup_*.json")
    (entry,) = json.loads(path.read_text())["tables"].values()
    return [file["rows"] for file in entry["files"]]


@pytest.mark.parametrize("format", ["csv", "binary"])
def test_a_large_partitioned_table_is_copied_partition_by_partition(tmp_path, database: Database, format):
    database.execute(DIVIDED)
    space = Workspace(tmp_path, database)
    space.save(vector_tables=tables_of("parts"), backup={"format": format, "part_bytes": 1, "jobs": 2})
    before = content(database, "parts")
    done = space.run("truncate")
    assert done.code == 0, done.stderr
    rows = parts_of(space)
    assert len(rows) > 4  # 4 partitions, of which the larger ones are cut further
    assert sum(rows) == 1000
    assert database.count("parts") == 0
    assert space.run("restore", "latest").code == 0
    assert content(database, "parts") == before
    assert space.run("verify", "latest", "--restore").code == 0


def test_a_small_partitioned_table_is_one_file(tmp_path, database: Database):
    database.execute(DIVIDED)
    space = Workspace(tmp_path, database)
    space.save(vector_tables=tables_of("parts"))
    assert space.run("backup").code == 0
    assert parts_of(space) == [1000]


@pytest.mark.parametrize("hidden", ["nothing granted", "row-level security"])
def test_partitions_that_only_their_parent_shows(tmp_path, database: Database, hidden):
    database.execute(DIVIDED)
    role = f"reader_{database.name}"
    database.execute(f"CREATE ROLE {role} LOGIN; GRANT SELECT, TRUNCATE ON parts TO {role}")
    if hidden == "row-level security":
        database.execute(
            f"GRANT SELECT ON parts_a1, parts_a2, parts_b, parts_c TO {role}; ALTER TABLE parts_b ENABLE ROW LEVEL SECURITY"
        )
    try:
        space = Workspace(tmp_path, database)
        dsn = database.socket_dsn.replace("postgres@", f"{role}@")
        space.save(connection={"dsn": dsn}, vector_tables=tables_of("parts"), backup={"part_bytes": 1})
        before = content(database, "parts")
        done = space.run("truncate")
        assert done.code == 0, done.stderr
        assert parts_of(space) == [1000]
        space.save(connection={"dsn": database.socket_dsn})
        assert space.run("restore", "latest").code == 0
        assert content(database, "parts") == before
    finally:
        database.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_pg_dump_refuses_a_partitioned_table(tmp_path, database: Database):
    database.execute(KINDS["partitioned"][1])
    space = Workspace(tmp_path, database)
    space.save(vector_tables=tables_of("parts"), backup={"format": "pg_dump"})
    done = space.run("truncate")
    assert done.code == 4
    assert "csv or binary" in done.stderr
    assert database.count("parts") == 50


def test_a_table_in_another_tablespace(tmp_path, database: Database, server_folder):
    import os
    import shutil
    import uuid

    folder = server_folder / f"ts-{uuid.uuid4().hex[:6]}"
    folder.mkdir()
    if os.geteuid() == 0:
        shutil.chown(folder, SYSTEM_USER, SYSTEM_USER)
    name = folder.name.replace("-", "_")
    database.execute(f"CREATE TABLESPACE {name} LOCATION '{folder}'")
    try:
        database.execute(
            f"CREATE TABLE far (id int PRIMARY KEY, v vector(2)) TABLESPACE {name}; INSERT INTO far VALUES (1, '[1,2]')"
        )
        database.execute(f"CREATE INDEX near ON far USING hnsw (v vector_l2_ops) TABLESPACE {name}")
        where = "SELECT c.relname, t.spcname FROM pg_class c JOIN pg_tablespace t ON t.oid = c.reltablespace WHERE t.spcname LIKE 'ts%' ORDER BY 1"
        before = database.fetch(where), content(database, "far")
        space = Workspace(tmp_path, database)
        space.save(vector_tables=tables_of("far"))
        assert space.run("truncate").code == 0
        assert space.run("restore", "latest").code == 0
        assert (database.fetch(where), content(database, "far")) == before
    finally:
        database.execute("DROP TABLE IF EXISTS far")
        database.execute(f"DROP TABLESPACE {name}")


@pytest.mark.parametrize(
    ("statements", "table", "words"),
    [
        ("CREATE TABLE base (v vector(2)); CREATE TABLE t () INHERITS (base); INSERT INTO t VALUES ('[1,2]')", "base", "inheritance"),
        ("CREATE VIEW t AS SELECT 1 AS id", "t", "a view"),
        ("CREATE MATERIALIZED VIEW t AS SELECT 1 AS id", "t", "not a table"),
        ("CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w; CREATE FOREIGN TABLE t (id int) SERVER s", "t", "foreign table"),
        ("CREATE TEMP TABLE t (id int)", "t", "does not exist"),
    ],
)  # fmt: skip
def test_what_is_refused(tmp_path, database: Database, statements, table, words):
    with database.connect() as stays_open:  # a temporary table lives as long as its session
        stays_open.execute(statements)
        space = Workspace(tmp_path, database)
        space.save(vector_tables=tables_of(table))
        done = space.run("truncate")
    assert done.code == 4
    assert words in done.stderr
    assert space.files() == []


def test_forced_row_security_refuses_even_the_owner(tmp_path, database: Database):
    database.execute(f"""
        CREATE ROLE "owner_{database.name}" LOGIN;
        CREATE TABLE t (id int); INSERT INTO t VALUES (1), (2);
        ALTER TABLE t OWNER TO "owner_{database.name}";
        ALTER TABLE t ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
        CREATE POLICY p ON t USING (id = 1)""")
    try:
        space = Workspace(tmp_path, database)
        dsn = database.socket_dsn.replace("postgres@", f"owner_{database.name}@")
        space.save(vector_tables=tables_of("t"), connection={"dsn": dsn})
        done = space.run("truncate")
        assert done.code == 4
        assert "row-level security" in done.stderr
        assert database.count("t") == 2
    finally:
        database.execute(f'DROP TABLE t; DROP ROLE "owner_{database.name}"')
