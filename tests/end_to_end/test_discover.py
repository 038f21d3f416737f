"""`vecbak init --discover`: a config for the tables that are there."""

from __future__ import annotations

import yaml

from tests.support.collections import add
from tests.support.command import vecbak
from tests.support.server import Database


def test_every_table_with_vectors_is_named(tmp_path, database18: Database):
    add(database18, "a", 5, dimensions=8)
    database18.execute("""
        CREATE SCHEMA "My Schema";
        CREATE TABLE "My Schema"."It's $odd" (id int PRIMARY KEY, h halfvec(3), s sparsevec(9));
        CREATE TABLE bits (id int PRIMARY KEY, b bit(16)); CREATE INDEX ON bits USING hnsw (b bit_hamming_ops);
        CREATE TABLE plain (id int PRIMARY KEY, b bit(16));
        CREATE TABLE parts (id int, v vector(4)) PARTITION BY RANGE (id);
        CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
        INSERT INTO parts VALUES (1, '[1,2,3,4]');
        CREATE VIEW shown AS SELECT * FROM bits""")
    done = vecbak("init", "--discover", "--dsn", database18.socket_dsn, cwd=tmp_path)
    assert done.code == 0, done.stderr
    text = (tmp_path / "vecbak.yaml").read_text()
    tables = yaml.safe_load(text)["vector_tables"]
    odd = '"My Schema"."It\'s $$odd"'
    vectors = [odd, "public.bits", "public.langchain_pg_embedding", "public.parts"]
    assert tables["truncate_tables"] == vectors
    assert tables["supported_tables"] == ["public.langchain_pg_collection", *vectors]
    assert "5 rows" in text
    assert "embedding: 8 dimensions" in text
    assert "1 rows, partitioned, v: 4 dimensions" in text
    backup = vecbak("truncate", "--json", "--output-dir", tmp_path / "out", cwd=tmp_path)
    assert backup.code == 0, backup.stderr
    assert len(backup.json["truncate_results"]) == 4


def test_what_cannot_be_discovered(tmp_path, database18: Database):
    done = vecbak("init", "--discover", "--dsn", database18.socket_dsn, cwd=tmp_path)
    assert done.code == 4
    assert not (tmp_path / "vecbak.yaml").exists()
    assert vecbak("init", "--discover", "--dsn", "postgresql://u:secret@h/d", cwd=tmp_path).code == 2
    assert vecbak("init", "--dsn", "postgresql://u@h/d", cwd=tmp_path).code == 2
    (tmp_path / "vecbak.yaml").write_text("")
    assert vecbak("init", "--discover", "--dsn", database18.socket_dsn, cwd=tmp_path).code == 2
