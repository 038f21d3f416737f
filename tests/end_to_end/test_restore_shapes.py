"""Tables of every shape come back: names, keys, sequences, foreign keys, roles."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from tests.support.server import Database
from tests.support.workspace import Workspace


def content(database: Database, *tables: str) -> list[list[str]]:
    """Every row of each table as text, in a fixed order."""
    return [sorted(row[0] for row in database.fetch(f"SELECT t::text FROM {table} t")) for table in tables]


def make(folder: Path, database: Database, script: str, *tables: str, **backup: object) -> Workspace:
    """Tables, and a config that truncates them all."""
    database.execute(script)
    workspace = Workspace(folder, database)
    workspace.save(vector_tables={"supported_tables": [*tables], "truncate_tables": [*tables]}, backup=backup)
    return workspace


FOREIGN_KEYS = """
    SELECT conname, pg_get_constraintdef(oid), condeferrable, condeferred, convalidated FROM pg_constraint
    WHERE contype = 'f' ORDER BY 1"""

SHAPES = {
    "a table that points at itself, in many files": (
        """CREATE TABLE t (id int PRIMARY KEY, parent int REFERENCES t, pad text);
           INSERT INTO t SELECT n, CASE WHEN n < 400 THEN n + 1 END, repeat(md5(n::text), 30) FROM generate_series(1, 400) n""",
        ["t"],
    ),
    "tables that point at each other": (
        """CREATE TABLE a (id int PRIMARY KEY, b int); CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a);
           INSERT INTO a SELECT n, n FROM generate_series(1, 5) n; INSERT INTO b SELECT n, n FROM generate_series(1, 5) n;
           ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES b""",
        ["a", "b"],
    ),
    "checks that wait for COMMIT, and an index to build before": (
        """CREATE TABLE a (id int PRIMARY KEY, b int, v vector(2)); CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a DEFERRABLE);
           INSERT INTO a SELECT n, n, '[1,2]' FROM generate_series(1, 5) n; INSERT INTO b SELECT n, n FROM generate_series(1, 5) n;
           ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES b DEFERRABLE INITIALLY DEFERRED;
           CREATE INDEX ON a USING hnsw (v vector_l2_ops)""",
        ["a", "b"],
    ),
    "a key that a sequence makes a text of": (
        """CREATE SEQUENCE docs; CREATE TABLE t (id text PRIMARY KEY DEFAULT 'doc-' || nextval('docs'), x int);
           ALTER SEQUENCE docs OWNED BY t.id; INSERT INTO t (x) SELECT 1 FROM generate_series(1, 5)""",
        ["t"],
    ),
    "partitions": (
        """CREATE TABLE t (id int PRIMARY KEY, x text) PARTITION BY RANGE (id);
           CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (10); CREATE TABLE t2 PARTITION OF t DEFAULT;
           INSERT INTO t SELECT n, 'x' FROM generate_series(1, 30) n; CREATE INDEX ON t USING gin (to_tsvector('simple', x))""",
        ["t"],
    ),
    "odd names": (
        """CREATE SCHEMA "My ""Sch.ema"; CREATE TABLE "My ""Sch.ema"."select ☃ '" ("a ""b"".c" int PRIMARY KEY, "it's" vector(2), "x:y" text DEFAULT 'a:b\\c');
           INSERT INTO "My ""Sch.ema"."select ☃ '" SELECT n, '[1,2]' FROM generate_series(1, 10) n;
           CREATE INDEX "odd ON a.b USING idx" ON "My ""Sch.ema"."select ☃ '" USING hnsw ("it's" vector_l2_ops)""",
        ['"My ""Sch.ema"."select ☃ \'"'],
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("format", ["csv", "binary"])
def test_a_shape_comes_back(tmp_path, database18: Database, shape, format):
    script, tables = SHAPES[shape]
    workspace = make(tmp_path, database18, script, *tables, format=format, part_bytes=1, jobs=1)
    before, keys = content(database18, *tables), database18.fetch(FOREIGN_KEYS)
    assert workspace.run("truncate").code == 0
    done = workspace.run("restore", "latest")
    assert done.code == 0, done.stderr
    assert content(database18, *tables) == before
    assert database18.fetch(FOREIGN_KEYS) == keys
    done = workspace.run("restore", "latest", "--into-schema", '"Dr ""ill"', "--create")
    assert done.code == 0, done.stderr
    if shape != "odd names":
        assert content(database18, *(f'"Dr ""ill".{table}' for table in tables)) == before


def test_a_row_that_points_at_nothing_is_noticed_before_commit(tmp_path, database18: Database):
    workspace = make(
        tmp_path,
        database18,
        "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (a int REFERENCES a DEFERRABLE INITIALLY DEFERRED);"
        " INSERT INTO a VALUES (1); INSERT INTO b VALUES (1)",
        "a",
        "b",
    )
    assert workspace.run("truncate").code == 0
    done = workspace.run("restore", "latest", "--table", "b")
    assert done.code == 8
    assert "checking deferred constraints" in done.stderr
    assert "restore the table that it points at too" in done.stderr
    assert database18.count("b") == 0


@pytest.mark.parametrize(("mode", "left"), [("error", ("'x', 1",)), ("skip-existing", ("'x', 1", "'y', 2"))])
def test_equal_rows_without_a_key_come_back_all(tmp_path, database18: Database, mode, left):
    workspace = make(
        tmp_path,
        database18,
        "CREATE TABLE t (a text, b int); INSERT INTO t VALUES ('x', 1), ('x', 1), ('x', 1), (NULL, NULL), (NULL, NULL), ('', NULL)",
        "t",
    )
    workspace.save(vector_tables={"supported_tables": ["t"], "truncate_tables": []})
    before = content(database18, "t")
    assert workspace.run("backup").code == 0
    database18.execute(f"TRUNCATE t; INSERT INTO t VALUES {', '.join(f'({row})' for row in left)}")
    done = workspace.run("restore", "latest", "--mode", mode, "--json")
    assert done.code == 0, done.stderr
    assert done.json["tables_restored"]["t"]["rows_skipped"] == 1
    assert [row for row in content(database18, "t")[0] if row != "(y,2)"] == before[0]


def test_sequences_count_on_in_their_own_direction_and_within_their_bounds(tmp_path, database18: Database):
    workspace = make(
        tmp_path,
        database18,
        """CREATE TABLE t (down bigint GENERATED BY DEFAULT AS IDENTITY (INCREMENT BY -2 START WITH -10) PRIMARY KEY, up serial, later int, small int);
           CREATE SEQUENCE s START WITH 100 OWNED BY t.later; CREATE SEQUENCE b MAXVALUE 5 OWNED BY t.small;
           INSERT INTO t (later, small) SELECT 7, 1000 FROM generate_series(1, 3)""",
        "t",
    )
    assert workspace.run("truncate").code == 0
    database18.execute("ALTER SEQUENCE t_down_seq RESTART; ALTER SEQUENCE t_up_seq RESTART")
    done = workspace.run("restore", "latest")
    assert done.code == 0, done.stderr
    assert database18.fetch("INSERT INTO t DEFAULT VALUES RETURNING down, up") == [(-16, 4)]
    assert database18.value("SELECT nextval('s')") == 100
    assert workspace.run("restore", "latest", "--into-schema", "n", "--create").code == 0
    assert database18.fetch("INSERT INTO n.t DEFAULT VALUES RETURNING down, up") == [(-16, 4)]
    assert database18.value("SELECT seqincrement FROM pg_sequence WHERE seqrelid = 'n.t_down_seq'::regclass") == -2


def test_a_default_moves_with_its_sequence(tmp_path, database18: Database):
    workspace = make(tmp_path, database18, *SHAPES["a key that a sequence makes a text of"][:1], "t")
    assert workspace.run("backup").code == 0
    assert workspace.run("restore", "latest", "--into-schema", "n", "--create").code == 0
    assert database18.value("INSERT INTO n.t DEFAULT VALUES RETURNING id") == "doc-6"
    assert database18.value("INSERT INTO t DEFAULT VALUES RETURNING id") == "doc-6"


def test_a_kept_table_and_an_emptied_one_of_the_same_name(tmp_path, database18: Database):
    workspace = make(
        tmp_path,
        database18,
        "CREATE SCHEMA a; CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE a.t (id int PRIMARY KEY);"
        " INSERT INTO t VALUES (1); INSERT INTO a.t VALUES (2)",
        "t",
        "a.t",
    )
    workspace.save(vector_tables={"supported_tables": ["t", "a.t"], "truncate_tables": ["a.t"]})
    assert workspace.run("backup").code == 0
    done = workspace.run("restore", "latest")
    assert done.code == 4
    assert "not empty" in done.stderr
    assert workspace.run("truncate").code == 0
    assert workspace.run("restore", "latest").code == 0
    assert content(database18, "t", "a.t") == [["(1)"], ["(2)"]]


@pytest.fixture
def role(database18: Database):
    """A role that may log in and owns nothing."""
    database18.execute("CREATE ROLE vecbak_guest LOGIN")
    yield "vecbak_guest"
    database18.execute("REASSIGN OWNED BY vecbak_guest TO postgres; DROP OWNED BY vecbak_guest; DROP ROLE vecbak_guest")


def test_a_role_that_owns_nothing(tmp_path, database18: Database, role):
    workspace = make(
        tmp_path,
        database18,
        f"""CREATE SCHEMA drill; CREATE TABLE t (id serial PRIMARY KEY, v vector(2)); CREATE INDEX h ON t USING hnsw (v vector_l2_ops);
            INSERT INTO t (v) SELECT '[1,2]' FROM generate_series(1, 5);
            GRANT SELECT, INSERT, TRUNCATE ON t TO {role}; GRANT ALL ON SCHEMA drill TO {role}""",
        "t",
    )
    workspace.save(connection={"dsn": database18.socket_dsn.replace("postgres@", f"{role}@")})
    before = content(database18, "t")
    assert workspace.run("truncate").code == 0
    done = workspace.run("restore", "latest", "--json")
    assert done.code == 0, done.stderr
    assert "live index h" in done.json["warnings"][0]
    # it may not make schemas, but may use the one that is there
    done = workspace.run("restore", "latest", "--into-schema", "drill", "--create")
    assert done.code == 0, done.stderr
    assert content(database18, "t", "drill.t") == before * 2


def test_an_owner_who_may_not_create_indexes_in_the_schema(tmp_path, database18: Database, role):
    workspace = make(
        tmp_path,
        database18,
        f"""CREATE SCHEMA s; CREATE TABLE s.t (id int PRIMARY KEY, v vector(2)); CREATE INDEX h ON s.t USING hnsw (v vector_l2_ops);
            INSERT INTO s.t SELECT n, '[1,2]' FROM generate_series(1, 5) n; GRANT USAGE ON SCHEMA s TO {role}; ALTER TABLE s.t OWNER TO {role}""",
        "s.t",
    )
    workspace.save(connection={"dsn": database18.socket_dsn.replace("postgres@", f"{role}@")})
    done = workspace.run("restore", "latest") if workspace.run("truncate").code == 0 else None
    assert done
    assert done.code == 0, done.stderr
    assert database18.count("s.t") == 5
    assert database18.value("SELECT indisvalid FROM pg_index WHERE indexrelid = 's.h'::regclass")


def test_pgvector_in_another_schema(tmp_path, database18: Database, server16):
    workspace = make(
        tmp_path,
        database18,
        """CREATE SCHEMA ext; ALTER EXTENSION vector SET SCHEMA ext; SET search_path = public, ext;
           CREATE TABLE vector_notes (id int PRIMARY KEY);
           CREATE TABLE t (id int PRIMARY KEY, v ext.vector(3), norm float8 GENERATED ALWAYS AS (vector_norm(v)) STORED, note int REFERENCES vector_notes);
           INSERT INTO t (id, v) SELECT n, ('[' || n || ',1,0]')::vector FROM generate_series(1, 9) n;
           CREATE INDEX h ON t USING hnsw ((binary_quantize(v)::bit(3)) bit_hamming_ops);
           ALTER TABLE t ADD CHECK (vector_dims(v) = 3), ADD CHECK ((v <-> '[0,0,0]') >= 0)""",
        "vector_notes",
        "t",
    )
    before = content(database18, "t")
    assert workspace.run("backup").code == 0
    done = workspace.run("verify", "latest", "--restore")
    assert done.code == 0, done.stderr
    with server16.new_database() as other:
        workspace.save(connection={"dsn": other.socket_dsn})
        done = workspace.run("restore", "latest", "--create")
        assert done.code == 0, done.stderr
        assert content(other, "t") == before


def test_a_proof_needs_no_function_of_the_source(tmp_path, database18: Database):
    workspace = make(
        tmp_path,
        database18,
        """CREATE FUNCTION new_id() RETURNS uuid LANGUAGE sql AS 'SELECT gen_random_uuid()';
           CREATE FUNCTION twice(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 * 2';
           CREATE TABLE t (id uuid PRIMARY KEY DEFAULT new_id(), n int, g int GENERATED ALWAYS AS (twice(n)) STORED);
           INSERT INTO t (n) SELECT n FROM generate_series(1, 5) n""",
        "t",
    )
    assert workspace.run("backup").code == 0
    done = workspace.run("verify", "latest", "--restore", "--json")
    assert done.code == 0, done.stderr
    assert done.json["proven_restorable"] is True


def test_a_table_named_with_its_schema_goes_into_another(tmp_path, database18: Database):
    workspace = make(tmp_path, database18, "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)", "t")
    assert workspace.run("backup").code == 0
    done = workspace.run("restore", "latest", "--table", "public.t", "--into-schema", "n", "--create")
    assert done.code == 0, done.stderr
    assert workspace.run("restore", "latest", "--table", "other.t", "--into-schema", "n").code == 2


def test_keys_that_are_checked_later(tmp_path, database18: Database):
    workspace = make(
        tmp_path,
        database18,
        "CREATE TABLE t (id int PRIMARY KEY, u int UNIQUE DEFERRABLE); INSERT INTO t SELECT n, n FROM generate_series(1, 9) n",
        "t",
    )
    before = content(database18, "t")
    assert workspace.run("backup").code == 0
    database18.execute("DELETE FROM t WHERE id > 5")
    done = workspace.run("restore", "latest", "--mode", "skip-existing")
    assert done.code == 0, done.stderr
    assert content(database18, "t") == before


def test_rows_that_were_there_before_a_constraint(tmp_path, database18: Database):
    workspace = make(
        tmp_path,
        database18,
        "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2); ALTER TABLE t ADD CONSTRAINT c CHECK (id > 1) NOT VALID",
        "t",
    )
    before = content(database18, "t")
    assert workspace.run("truncate").code == 0
    done = workspace.run("restore", "latest")
    assert done.code == 0, done.stderr
    done = workspace.run("restore", "latest", "--into-schema", "n", "--create")
    assert done.code == 0, done.stderr
    for table in ("t", "n.t"):
        assert content(database18, table) == before
        with pytest.raises(psycopg.errors.CheckViolation):
            database18.execute(f"INSERT INTO {table} VALUES (0)")
