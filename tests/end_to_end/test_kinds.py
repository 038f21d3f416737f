"""Tables of every kind: round trip through truncate and restore, or a refusal that says why."""

from __future__ import annotations

import warnings

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
           INSERT INTO parts SELECT n, array_fill(n::real, ARRAY[4])::vector FROM generate_series(1, 50) n""",
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
    "django": (
        "docs_item",
        """CREATE TABLE docs_item (id bigserial PRIMARY KEY, title varchar(200) NOT NULL, embedding vector(3));
           CREATE INDEX ON docs_item USING ivfflat (embedding vector_l2_ops) WITH (lists = 2);
           INSERT INTO docs_item (title, embedding) SELECT 't' || n, array_fill(n::real, ARRAY[3])::vector FROM generate_series(1, 30) n""",
    ),
}  # fmt: skip


def content(database: Database, table: str) -> list[str]:
    return [row[0] for row in database.fetch(f"SELECT t::text FROM {table} t ORDER BY 1")]


def tables_of(*names: str) -> dict[str, object]:
    return {"supported_tables": list(names), "truncate_tables": list(names)}


@pytest.mark.parametrize("format", ["csv", "binary", "pg_dump"])
def test_every_kind_comes_back_as_it_was(tmp_path, database: Database, format):
    for _, statements in KINDS.values():
        database.execute(statements)
    names = [name for name, _ in KINDS.values() if format != "pg_dump" or name != "parts"]
    space = Workspace(tmp_path, database)
    space.save(vector_tables=tables_of(*names), backup={"format": format, "part_bytes": 1})
    before = {name: content(database, name) for name in names}
    assert all(before.values())
    done = space.run("truncate")
    assert done.code == 0, done.stderr
    assert not any(content(database, name) for name in names)
    restored = space.run("restore", "latest")
    assert restored.code == 0, restored.stderr
    assert {name: content(database, name) for name in names} == before


def test_pg_dump_refuses_a_partitioned_table(tmp_path, database18: Database):
    database18.execute(KINDS["partitioned"][1])
    space = Workspace(tmp_path, database18)
    space.save(vector_tables=tables_of("parts"), backup={"format": "pg_dump"})
    done = space.run("truncate")
    assert done.code == 4
    assert "csv or binary" in done.stderr
    assert database18.count("parts") == 50


def test_a_table_in_another_tablespace(tmp_path, database18: Database, server_folder):
    import os
    import shutil
    import uuid

    folder = server_folder / f"ts-{uuid.uuid4().hex[:6]}"
    folder.mkdir()
    if os.geteuid() == 0:
        shutil.chown(folder, SYSTEM_USER, SYSTEM_USER)
    name = folder.name.replace("-", "_")
    database18.execute(f"CREATE TABLESPACE {name} LOCATION '{folder}'")
    try:
        database18.execute(
            f"CREATE TABLE far (id int PRIMARY KEY, v vector(2)) TABLESPACE {name}; INSERT INTO far VALUES (1, '[1,2]')"
        )
        database18.execute(f"CREATE INDEX near ON far USING hnsw (v vector_l2_ops) TABLESPACE {name}")
        where = "SELECT c.relname, t.spcname FROM pg_class c JOIN pg_tablespace t ON t.oid = c.reltablespace WHERE t.spcname LIKE 'ts%' ORDER BY 1"
        before = database18.fetch(where), content(database18, "far")
        space = Workspace(tmp_path, database18)
        space.save(vector_tables=tables_of("far"))
        assert space.run("truncate").code == 0
        assert space.run("restore", "latest").code == 0
        assert (database18.fetch(where), content(database18, "far")) == before
    finally:
        database18.execute("DROP TABLE IF EXISTS far")
        database18.execute(f"DROP TABLESPACE {name}")


def test_langchains_one_table_a_collection(tmp_path, database18: Database):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from langchain_core.embeddings import DeterministicFakeEmbedding
        from langchain_postgres import Column, PGEngine, PGVectorStore

        database18.execute("CREATE SCHEMA kb")
        engine = PGEngine.from_connection_string(database18.sqlalchemy_url)
        engine.init_vectorstore_table(
            "docs", 8, schema_name="kb", content_column="body", metadata_columns=[Column("lang", "TEXT")]
        )
        store = PGVectorStore.create_sync(
            engine, DeterministicFakeEmbedding(size=8), "docs", schema_name="kb", content_column="body", metadata_columns=["lang"]
        )  # fmt: skip
        store.add_texts(
            [f"text {n}, 'ä'\n\\." for n in range(20)], metadatas=[{"lang": "de", "n": n} for n in range(20)]
        )
        engine._run_as_sync(engine.close())
    space = Workspace(tmp_path, database18)
    space.save(vector_tables=tables_of("kb.docs"))
    before = content(database18, "kb.docs")
    assert len(before) == 20
    assert space.run("truncate").code == 0
    assert space.run("restore", "latest").code == 0
    assert content(database18, "kb.docs") == before


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
def test_what_is_refused(tmp_path, database18: Database, statements, table, words):
    with database18.connect() as stays_open:  # a temporary table lives as long as its session
        stays_open.execute(statements)
        space = Workspace(tmp_path, database18)
        space.save(vector_tables=tables_of(table))
        done = space.run("truncate")
    assert done.code == 4
    assert words in done.stderr
    assert space.files() == []


def test_forced_row_security_refuses_even_the_owner(tmp_path, database18: Database):
    database18.execute(f"""
        CREATE ROLE "owner_{database18.name}" LOGIN;
        CREATE TABLE t (id int); INSERT INTO t VALUES (1), (2);
        ALTER TABLE t OWNER TO "owner_{database18.name}";
        ALTER TABLE t ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
        CREATE POLICY p ON t USING (id = 1)""")
    try:
        space = Workspace(tmp_path, database18)
        dsn = database18.socket_dsn.replace("postgres@", f"owner_{database18.name}@")
        space.save(vector_tables=tables_of("t"), connection={"dsn": dsn})
        done = space.run("truncate")
        assert done.code == 4
        assert "row-level security" in done.stderr
        assert database18.count("t") == 2
    finally:
        database18.execute(f'DROP TABLE t; DROP ROLE "owner_{database18.name}"')
