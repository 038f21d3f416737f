"""The README's role, SELECT and TRUNCATE alone: what a doctor calls good is truncated, in every format."""

from __future__ import annotations

import pytest

from tests.support.server import Database
from tests.support.workspace import Workspace

pytestmark = pytest.mark.local


@pytest.fixture
def space(tmp_path, database: Database):
    database.execute("CREATE SCHEMA elsewhere; CREATE SEQUENCE elsewhere.counted; CREATE SEQUENCE free")
    database.execute("CREATE TYPE elsewhere.mood AS ENUM ('glad', 'sad')")
    database.execute(
        "CREATE FUNCTION elsewhere.good(text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT $1 <> ''x'''"
    )
    database.execute(
        """CREATE TABLE docs (id bigserial PRIMARY KEY, number int GENERATED ALWAYS AS IDENTITY,
          other bigint DEFAULT nextval('elsewhere.counted'), third bigint DEFAULT nextval('free'),
          mood elsewhere.mood DEFAULT 'glad', body text CHECK (elsewhere.good(body)), e vector(3));
        ALTER SEQUENCE elsewhere.counted OWNED BY NONE;
        CREATE INDEX ON docs USING hnsw (e vector_l2_ops);
        INSERT INTO docs (body, e) SELECT 'text ' || g, '[1,2,3]' FROM generate_series(1, 20) g"""
    )
    role = f"least_{database.name}"
    database.execute(f"CREATE ROLE {role} LOGIN; GRANT SELECT, TRUNCATE ON docs TO {role}")
    space = Workspace(tmp_path, database)
    space.save(
        connection=database.server.connection(database.name, role),
        vector_tables={"supported_tables": ["docs"], "truncate_tables": ["docs"]},
    )
    yield space
    database.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.mark.parametrize("format", ["csv", "binary", "pg_dump"])
def test_what_the_doctor_calls_good_is_truncated(space: Workspace, format):
    space.save(backup={"format": format})
    assert space.run("doctor").code == 0
    done = space.run("truncate", "--json")
    assert done.code == 0, done.stderr
    assert space.database.count("docs") == 0
    space.save(connection=space.database.server.connection(space.database.name))
    assert space.run("verify", "latest").code == 0
    restored = space.run("restore", "latest")
    assert restored.code == 0, restored.stderr
    assert space.database.count("docs") == 20
