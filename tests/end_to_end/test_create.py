"""`restore --create`: what is made is as it was, never less protected, and what is not made is told."""

from __future__ import annotations

import pytest

from tests.support.server import Database, Server
from tests.support.workspace import Workspace

CATALOGS = (
    "SELECT schemaname, tablename, policyname, permissive, roles::text, cmd, qual, with_check FROM pg_policies ORDER BY 1, 2, 3",
    """SELECT c.oid::regclass::text, c.relpersistence::text, c.relrowsecurity, c.relforcerowsecurity, c.reloptions::text, pg_get_partkeydef(c.oid),
         pg_get_expr(c.relpartbound, c.oid), obj_description(c.oid) FROM pg_class c WHERE c.relkind IN ('r', 'p') AND c.oid > 16384
         AND c.relnamespace = 'public'::regnamespace ORDER BY 1""",
    """SELECT a.attrelid::regclass::text, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attstorage::text,
         col_description(a.attrelid, a.attnum) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid WHERE c.relkind IN ('r', 'p')
         AND c.oid > 16384 AND a.attnum > 0 AND c.relnamespace = 'public'::regnamespace ORDER BY 1, a.attnum""",
    "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1",
    "SELECT conname, conrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid <> 0 AND conrelid > 16384 ORDER BY 1, 2",
)
PROTECTED = """
CREATE TABLE kept (id int PRIMARY KEY, owner text, v vector(3)) WITH (fillfactor = 70, autovacuum_enabled = false);
COMMENT ON TABLE kept IS 'it''s kept'; COMMENT ON COLUMN kept.v IS 'three of them';
ALTER TABLE kept ALTER v SET STORAGE PLAIN; CREATE INDEX by_v ON kept USING hnsw (v vector_l2_ops);
INSERT INTO kept SELECT n, CASE WHEN n % 2 = 0 THEN '{reader}' ELSE 'other' END, '[1,2,3]' FROM generate_series(1, 20) n;
ALTER TABLE kept ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY "their ""own" ON kept FOR SELECT TO {reader} USING (owner = current_user);
CREATE POLICY writes ON kept FOR INSERT WITH CHECK (owner = current_user);
CREATE POLICY few ON kept AS RESTRICTIVE TO {reader}, {writer} USING (id < 11);
GRANT SELECT ON kept TO {reader};
CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER checks BEFORE INSERT ON kept FOR EACH ROW EXECUTE FUNCTION f();
CREATE UNLOGGED TABLE quick (id int); INSERT INTO quick VALUES (1), (2);
CREATE TABLE parts (id int, kind text, v vector(3), PRIMARY KEY (id, kind)) PARTITION BY LIST (kind);
CREATE TABLE parts_a PARTITION OF parts FOR VALUES IN ('a', 'it''s') PARTITION BY RANGE (id);
CREATE TABLE parts_a1 PARTITION OF parts_a FOR VALUES FROM (MINVALUE) TO (10) WITH (fillfactor = 50);
CREATE TABLE parts_a2 PARTITION OF parts_a DEFAULT; CREATE TABLE parts_rest PARTITION OF parts DEFAULT;
CREATE INDEX parts_v ON parts USING hnsw (v vector_l2_ops); CREATE INDEX own ON parts_rest USING ivfflat (v vector_l2_ops) WITH (lists = 3);
ALTER TABLE parts_rest ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON parts_rest TO {reader} USING (id < 5);
INSERT INTO parts SELECT n, (ARRAY['a', 'it''s', 'b', 'c'])[1 + n % 4], '[1,2,3]' FROM generate_series(1, 40) n;
"""
TABLES = ("kept", "quick", "parts")


def content(database: Database, *tables: str) -> list[list[str]]:
    return [sorted(row[0] for row in database.fetch(f"SELECT t::text FROM {table} t")) for table in tables]


def catalogs(database: Database) -> list[list[tuple[object, ...]]]:
    return [database.fetch(query) for query in CATALOGS]


def workspace(folder, database: Database, *tables: str) -> Workspace:
    space = Workspace(folder, database)
    space.save(vector_tables={"supported_tables": [*tables], "truncate_tables": [*tables]})
    return space


@pytest.fixture
def roles(database: Database):
    """Two roles that own nothing; gone at the end, where they still are there."""
    names = {name: f"{name}_{database.name}" for name in ("reader", "writer")}
    for name in names.values():
        database.execute(f"CREATE ROLE {name} LOGIN")
    yield names
    for name in names.values():
        if database.fetch("SELECT FROM pg_roles WHERE rolname = %s", [name]):
            database.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


@pytest.fixture
def protected(tmp_path, database: Database, roles) -> Workspace:
    database.execute(PROTECTED.format(**roles))
    return workspace(tmp_path, database, *TABLES)


@pytest.fixture
def other(server: Server):
    with server.new_database() as database:
        yield database


def seen_by(database: Database, role: str, table: str) -> int:
    with database.connect(autocommit=False) as connection:
        connection.execute(f"SET ROLE {role}")
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def test_what_was_dropped_comes_back_as_it_was(protected: Workspace, database: Database, roles):
    before, rows = catalogs(database), content(database, *TABLES)
    seen = seen_by(database, roles["reader"], "kept")
    assert seen == 5
    assert protected.run("backup").code == 0
    database.execute("DROP TABLE kept, quick, parts")
    done = protected.run("restore", "latest", "--create", "--json")
    assert done.code == 0, done.stderr
    assert catalogs(database) == before
    assert content(database, *TABLES) == rows
    told = " ".join(done.json["warnings"])
    assert roles["reader"] in told  # what was granted is not
    assert "trigger checks" in told
    database.execute(f"GRANT SELECT ON kept TO {roles['reader']}")
    assert seen_by(database, roles["reader"], "kept") == seen
    again = protected.run("restore", "latest", "--mode", "replace")  # and it is a table like any other
    assert again.code == 0, again.stderr
    assert content(database, *TABLES) == rows


def test_beside_it_in_another_schema(protected: Workspace, database: Database):
    before, rows = catalogs(database), content(database, *TABLES)
    assert protected.run("backup").code == 0
    done = protected.run("restore", "latest", "--create", "--into-schema", '"Dr ill"')
    assert done.code == 0, done.stderr
    there = tuple(f'"Dr ill".{table}' for table in TABLES)
    assert content(database, *there) == rows
    policies = "SELECT count(*) FROM pg_policies WHERE schemaname = 'Dr ill'"
    assert database.value(policies) == 4
    tree = "SELECT count(*) FROM pg_partition_tree('\"Dr ill\".parts') t JOIN pg_class c ON c.oid = t.relid WHERE c.relnamespace = '\"Dr ill\"'::regnamespace"
    assert database.value(tree) == 5
    database.execute('DROP SCHEMA "Dr ill" CASCADE')
    assert catalogs(database) == before


def test_roles_that_are_missing_refuse(protected: Workspace, database: Database, roles):
    assert protected.run("backup").code == 0
    database.execute(f"DROP TABLE kept, quick, parts; DROP OWNED BY {roles['writer']}; DROP ROLE {roles['writer']}")
    done = protected.run("restore", "latest", "--create")
    assert done.code == 4
    assert roles["writer"] in done.stderr
    assert "--no-policies" in done.stderr
    assert database.value("SELECT count(*) FROM pg_class WHERE relname IN ('kept', 'quick', 'parts')") == 0
    made = protected.run("restore", "latest", "--create", "--no-policies", "--json")
    assert made.code == 0, made.stderr
    assert "without its policies" in " ".join(made.json["warnings"])
    database.execute(f"GRANT SELECT ON kept, parts_rest TO {roles['reader']}")
    assert seen_by(database, roles["reader"], "kept") == 0  # closed, not open
    assert seen_by(database, roles["reader"], "parts_rest") == 0
    assert database.count("kept") == 20


def test_a_policy_that_cannot_be_made_refuses(tmp_path, database: Database, other: Database):
    database.execute("""
        CREATE TABLE kept (id int); INSERT INTO kept VALUES (1); ALTER TABLE kept ENABLE ROW LEVEL SECURITY;
        CREATE FUNCTION allowed(int) RETURNS boolean LANGUAGE sql AS 'SELECT $1 > 0'; CREATE POLICY p ON kept USING (allowed(id))""")
    space = workspace(tmp_path, database, "kept")
    assert space.run("backup").code == 0
    space.save(connection={"dsn": other.socket_dsn})
    done = space.run("restore", "latest", "--create")
    assert done.code == 8
    assert "allowed" in done.stderr
    assert "--no-policies" in done.stderr
    assert not other.fetch("SELECT FROM pg_class WHERE relname = 'kept'")


def test_an_owner_who_will_not_see_the_rows_afterwards(protected: Workspace, database: Database, roles):
    assert protected.run("backup").code == 0
    database.execute(f"CREATE SCHEMA mine AUTHORIZATION {roles['writer']}")
    protected.save(connection={"dsn": database.socket_dsn.replace("postgres@", f"{roles['writer']}@")})
    done = protected.run("restore", "latest", "--create", "--into-schema", "mine")
    assert done.code == 0, done.stderr
    assert content(database, "mine.kept") == content(database, "kept")


# types


TYPES = """
CREATE SCHEMA types; CREATE TYPE types.mood AS ENUM ('low', 'high'); CREATE DOMAIN types.score AS double precision CHECK (VALUE >= 0);
CREATE TYPE types.pair AS (a int, b types.mood);
CREATE TABLE t (id int PRIMARY KEY, m types.mood DEFAULT 'low', s types.score, p types.pair[]);
INSERT INTO t VALUES (1, 'low', 0.1, '{"(1,high)"}'), (2, 'high', 1.1, NULL);
"""


def test_types_that_are_missing_are_made(tmp_path, database: Database, other: Database):
    database.execute(TYPES)
    rows = content(database, "t")
    space = workspace(tmp_path, database, "t")
    space.save(backup={"verify_before_truncate": "restore"})
    done = space.run("truncate")
    assert done.code == 0, done.stderr
    assert space.run("show", "latest", "--json").json["proven_restorable"]
    space.save(connection={"dsn": other.socket_dsn})
    made = space.run("restore", "latest", "--create")
    assert made.code == 0, made.stderr
    assert content(other, "t") == rows
    with pytest.raises(Exception, match="violates check constraint"):
        other.execute("INSERT INTO t VALUES (3, 'low', -1, NULL)")
    assert other.value("INSERT INTO t (id) VALUES (4) RETURNING m::text") == "low"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("ALTER DOMAIN types.score DROP CONSTRAINT score_check", None),  # it still holds every value
        ("ALTER TYPE types.mood ADD VALUE 'middle' BEFORE 'high'", None),
        ("ALTER TYPE types.mood RENAME VALUE 'high' TO 'top'", "no label 'high'"),
        ("ALTER TABLE t ALTER s TYPE double precision; DROP DOMAIN types.score; CREATE DOMAIN types.score AS real; ALTER TABLE t ALTER s TYPE types.score", "a domain over real"),
        ("ALTER TYPE types.mood RENAME TO old; CREATE DOMAIN types.mood AS text; ALTER TABLE t ALTER m DROP DEFAULT, ALTER m TYPE types.mood USING 'x'", "another kind"),
        ("ALTER TABLE t DROP p; DROP TYPE types.pair; CREATE TYPE types.pair AS (a int, b text); ALTER TABLE t ADD p types.pair[]", "other fields"),
    ],
)  # fmt: skip
def test_a_type_that_is_only_named_so(tmp_path, database: Database, change, words):
    database.execute(TYPES)
    rows = content(database, "t")
    space = workspace(tmp_path, database, "t")
    assert space.run("truncate").code == 0
    database.execute(change)
    done = space.run("restore", "latest")
    assert done.code == (8 if words else 0), done.stderr
    if words:
        assert words in done.stderr
        assert database.count("t") == 0
    else:
        assert content(database, "t") == rows


def test_a_type_that_nothing_can_make_is_refused_before_a_byte_is_written(tmp_path, database: Database):
    database.execute(
        "CREATE TYPE span AS RANGE (subtype = int); CREATE TABLE t (r span); INSERT INTO t VALUES ('[1,3)')"
    )
    space = workspace(tmp_path, database, "t")
    space.save(backup={"verify_before_truncate": "restore"})
    examined = space.run("doctor", "--json")
    assert examined.code == 4
    assert "span" in examined.stdout
    done = space.run("truncate")
    assert done.code == 4
    assert "span" in done.stderr
    assert space.files() == []
    assert database.count("t") == 1
    assert space.run("backup").code == 0  # which needs no proof
    assert space.run("verify", "latest", "--restore").code == 4
    space.save(backup={"verify_before_truncate": "checksum"})
    assert space.run("truncate").code == 0
    assert space.run("restore", "latest").code == 0
    assert database.value("SELECT r::text FROM t") == "[1,3)"


# triggers that may not be kept still


@pytest.mark.parametrize("reaction", [
    "CREATE TRIGGER acts BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()",
    "CREATE RULE acts AS ON INSERT TO t DO ALSO SELECT 1",
])  # fmt: skip
def test_a_role_that_may_not_keep_triggers_still(tmp_path, database: Database, roles, reaction):
    role = roles["writer"]
    database.execute(f"""
        CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.n = 7; RETURN NEW; END';
        CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t VALUES (1, 1), (2, 2); {reaction};
        GRANT SELECT, INSERT, TRUNCATE ON t TO {role}""")
    rows = content(database, "t")
    space = workspace(tmp_path, database, "t")
    space.save(connection={"dsn": database.socket_dsn.replace("postgres@", f"{role}@")})
    found = [item for item in space.run("doctor", "--json").json["checks"] if item["name"] == "restore t"]
    assert found[0]["status"] == "warning"
    assert "acts" in found[0]["message"]
    assert space.run("truncate").code == 0
    done = space.run("restore", "latest")
    assert done.code == 4
    assert "acts" in done.stderr
    assert database.count("t") == 0
    space.save(connection={"dsn": database.socket_dsn})
    assert space.run("restore", "latest").code == 0
    assert content(database, "t") == rows
