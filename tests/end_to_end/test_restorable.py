"""Whatever can be truncated can be restored: tables of every kind × roles. A warning names the GRANT that is still needed."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator

import msgspec
import pytest

from tests.support.server import SUPERUSER, Database, Server
from tests.support.workspace import Workspace
from vecbak.backups import manifest as manifests


class Kind(msgspec.Struct, frozen=True):
    """Tables, and what a truncate of some of them ends with.

    Attributes:
        script: what makes and fills them.
        emptied, kept: names, as the config has them.
        code: of truncate: 0, or 4 with these words.
        since: the oldest version that has such a thing.
        only: the role that is meant, where others are of no interest.
    """

    script: str
    emptied: tuple[str, ...] = ("t",)
    kept: tuple[str, ...] = ()
    code: int = 0
    words: tuple[str, ...] = ()
    since: int = 13
    only: str = ""


ACTS = "CREATE FUNCTION acts() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
PARTS = """CREATE TABLE t (id int, n int) PARTITION BY RANGE (id); CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (10);
    CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (10) TO (20); INSERT INTO t VALUES (1, -1), (2, 2), (11, 3);"""

KINDS = {
    "a table without anything": Kind("CREATE TABLE t (id int PRIMARY KEY, x text); INSERT INTO t VALUES (1, 'a'), (2, NULL)"),
    "a kept table that holds the same rows": Kind(
        """CREATE TABLE k (id uuid PRIMARY KEY, name text, meta json); INSERT INTO k VALUES (gen_random_uuid(), 'a,"b', '{"x":  1}'), (gen_random_uuid(), '', NULL),
           (gen_random_uuid(), E'\\\\N line\\nend\\ttab', NULL); CREATE TABLE t (id int PRIMARY KEY, k uuid REFERENCES k); INSERT INTO t SELECT 1, id FROM k LIMIT 1""",
        kept=("k",),
    ),
    "a kept table without a key": Kind("CREATE TABLE t (id int); INSERT INTO t VALUES (1); CREATE TABLE k (x text); INSERT INTO k VALUES ('a'), ('a'), (NULL)", kept=("k",)),
    "a kept table whose key is generated": Kind(
        "CREATE TABLE t (id int); INSERT INTO t VALUES (1); CREATE TABLE k (x int, y int GENERATED ALWAYS AS (x * 2) STORED PRIMARY KEY); INSERT INTO k VALUES (1), (2)", kept=("k",)
    ),
    "CHECK with older rows": Kind("""CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2);
        ALTER TABLE t ADD CONSTRAINT c CHECK (id > 1) NOT VALID; COMMENT ON CONSTRAINT c ON t IS 'it''s old'"""),
    "CHECK that is not valid and holds": Kind("CREATE TABLE t (id int); INSERT INTO t VALUES (1); ALTER TABLE t ADD CONSTRAINT c CHECK (id > 0) NOT VALID"),
    "CHECK without children": Kind("CREATE TABLE t (id int); INSERT INTO t VALUES (1); ALTER TABLE t ADD CONSTRAINT c CHECK (id > 1) NO INHERIT NOT VALID"),
    "CHECK that calls a function, not valid": Kind("""CREATE FUNCTION ok(int) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT $1 > 1'; CREATE TABLE t (id int);
        INSERT INTO t VALUES (1), (2); ALTER TABLE t ADD CONSTRAINT c CHECK (ok(id)) NOT VALID"""),
    "CHECK whose function changed": Kind(
        """CREATE FUNCTION ok(int) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT true'; CREATE TABLE t (id int CHECK (ok(id))); INSERT INTO t VALUES (1), (2);
           CREATE OR REPLACE FUNCTION ok(int) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT $1 > 1'""",
        code=4, words=("1 rows of t break the constraint t_id_check", "NOT VALID"),
    ),
    "CHECK that time breaks": Kind(
        "CREATE TABLE t (id int, ends timestamptz CHECK (ends > now())); INSERT INTO t VALUES (1, clock_timestamp() + interval '50 ms'); SELECT pg_sleep(0.1)",
        code=4, words=("t_ends_check",),
    ),
    "a foreign key with older rows": Kind("""CREATE TABLE k (id int PRIMARY KEY); INSERT INTO k VALUES (1); CREATE TABLE t (id int, k int); INSERT INTO t VALUES (1, 1), (2, 7);
        ALTER TABLE t ADD CONSTRAINT f FOREIGN KEY (k) REFERENCES k ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED NOT VALID""", kept=("k",)),
    "a foreign key of two columns with older rows": Kind("""CREATE TABLE k (a int, b int, PRIMARY KEY (a, b)); INSERT INTO k VALUES (1, 1); CREATE TABLE t (a int, b int);
        INSERT INTO t VALUES (1, 1), (NULL, 3), (3, 3); ALTER TABLE t ADD CONSTRAINT f FOREIGN KEY (a, b) REFERENCES k MATCH FULL NOT VALID""", kept=("k",)),
    "a foreign key to what is not backed up": Kind("""CREATE TABLE k (id int PRIMARY KEY); INSERT INTO k VALUES (1); CREATE TABLE t (id int, k int REFERENCES k); INSERT INTO t VALUES (1, 1)"""),
    "a foreign key that rows break by another way": Kind(
        """CREATE TABLE k (id int PRIMARY KEY); CREATE TABLE t (id int, k int REFERENCES k); SET session_replication_role = replica; INSERT INTO t VALUES (1, 7);
           SET session_replication_role = origin""",
        kept=("k",), code=4, words=("break the foreign key t_k_fkey",),
    ),
    "foreign keys in a circle": Kind("""CREATE TABLE a (id int PRIMARY KEY, b int); CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a); INSERT INTO a VALUES (1, 1); INSERT INTO b VALUES (1, 1);
        ALTER TABLE a ADD CONSTRAINT f FOREIGN KEY (b) REFERENCES b""", emptied=("a", "b")),
    "a table that points at itself, in parts": Kind("""CREATE TABLE t (id int PRIMARY KEY, p int REFERENCES t, x text); INSERT INTO t
        SELECT n, CASE WHEN n < 300 THEN n + 1 END, repeat(md5(n::text), 30) FROM generate_series(1, 300) n"""),
    "a circle through a partition": Kind(f"""{PARTS} ALTER TABLE t1 ADD PRIMARY KEY (id); CREATE TABLE x (id int PRIMARY KEY, t int REFERENCES t1 (id)); INSERT INTO x VALUES (1, 1), (2, 2);
        UPDATE t SET n = 1 WHERE id > 10; ALTER TABLE t2 ADD CONSTRAINT f FOREIGN KEY (n) REFERENCES x""", emptied=("t", "x")),
    "a key onto a partition of what is named later": Kind(f"""{PARTS} ALTER TABLE t1 ADD PRIMARY KEY (id); CREATE TABLE a (id int REFERENCES t1 (id)); INSERT INTO a VALUES (1)""",
        emptied=("a", "t")),
    "a key of a partition onto what is named later": Kind(f"""{PARTS} CREATE TABLE z (id int PRIMARY KEY); INSERT INTO z VALUES (3); ALTER TABLE t2 ADD FOREIGN KEY (n) REFERENCES z""",
        emptied=("t", "z")),
    "NOT NULL with older rows": Kind("CREATE TABLE t (id int, x text); INSERT INTO t VALUES (1, NULL), (2, 'a'); ALTER TABLE t ADD CONSTRAINT c NOT NULL x NOT VALID", since=18),
    "NOT ENFORCED": Kind("CREATE TABLE t (id int, CONSTRAINT c CHECK (id > 1) NOT ENFORCED); INSERT INTO t VALUES (1)", since=18),
    "a domain with older rows": Kind("""CREATE DOMAIN d AS int; CREATE TABLE t (id int, a d, b d[]); INSERT INTO t VALUES (1, -1, '{1,-1}'), (2, 2, NULL);
        ALTER DOMAIN d ADD CONSTRAINT c CHECK (VALUE > 0) NOT VALID; COMMENT ON CONSTRAINT c ON DOMAIN d IS 'old'"""),
    "a domain whose function changed": Kind(
        """CREATE FUNCTION ok(int) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT true'; CREATE DOMAIN d AS int CONSTRAINT c CHECK (ok(VALUE)); CREATE TABLE t (id int, a d);
           INSERT INTO t VALUES (1, 1), (2, 2); CREATE OR REPLACE FUNCTION ok(int) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT $1 > 1'""",
        code=4, words=("domain",),
    ),
    "a partitioned table with older rows": Kind(f"""{PARTS} ALTER TABLE t ADD CONSTRAINT c CHECK (n > 0) NOT VALID; COMMENT ON CONSTRAINT c ON t IS 'all';
        COMMENT ON CONSTRAINT c ON t1 IS 'one'; ALTER TABLE t2 VALIDATE CONSTRAINT c"""),
    "a partition with older rows": Kind(f"{PARTS} ALTER TABLE t1 ADD CONSTRAINT c CHECK (n > 0) NOT VALID"),
    "a partition that has it from its parent": Kind(f"{PARTS} ALTER TABLE t ADD CONSTRAINT c CHECK (n > 0) NOT VALID", emptied=("t1",), code=4, words=("whole table",)),
    "a partitioned table whose key older rows break": Kind(f"""{PARTS} CREATE TABLE k (id int PRIMARY KEY); INSERT INTO k VALUES (2);
        ALTER TABLE t ADD CONSTRAINT f FOREIGN KEY (n) REFERENCES k NOT VALID""", kept=("k",), since=18),
    "an inheritance child with older rows": Kind("""CREATE TABLE p (id int); CREATE TABLE t (x int) INHERITS (p); INSERT INTO t VALUES (1, 1); ALTER TABLE p ADD CONSTRAINT c CHECK (id > 1) NOT VALID""",
        code=4, words=("part of",)),
    "a unique index that could not be built": Kind("CREATE TABLE t (id int); INSERT INTO t VALUES (1), (1)", code=4, words=("could not be built", "u")),
    "an index that rows do not fit in": Kind("CREATE TABLE t (id int, x text); INSERT INTO t SELECT 1, string_agg(md5(n::text), '') FROM generate_series(1, 900) n", code=4, words=("could not be built",)),
    "types that name objects": Kind("CREATE TABLE t (id int, c regclass); INSERT INTO t VALUES (1, 'pg_class')"),
    "types that name what is gone": Kind("CREATE TABLE t (id int, c regrole); CREATE ROLE \"{owner} gone\"; INSERT INTO t VALUES (1, '\"{owner} gone\"'); DROP ROLE \"{owner} gone\""),
    "a type that cannot be read": Kind("CREATE TABLE t AS SELECT 1 AS id, adbin FROM pg_attrdef LIMIT 0; INSERT INTO t VALUES (1, NULL)"),
    "identity, generated and defaults": Kind("""CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, g int GENERATED ALWAYS AS (1) STORED, s serial);
        INSERT INTO t DEFAULT VALUES; INSERT INTO t DEFAULT VALUES"""),
    "constraints of every kind": Kind("""CREATE TABLE t (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, r int4range, u int UNIQUE DEFERRABLE, EXCLUDE USING gist (r WITH &&));
        INSERT INTO t VALUES (1, '[1,2)', 1), (2, '[2,3)', NULL)"""),
    "NULLS NOT DISTINCT": Kind("CREATE TABLE t (id int, u int, UNIQUE NULLS NOT DISTINCT (u)); INSERT INTO t VALUES (1, NULL), (2, 1)", since=15),
    "triggers and rules": Kind(f"""{ACTS} CREATE TABLE t (id int); INSERT INTO t VALUES (1); CREATE TRIGGER a BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION acts();
        CREATE TRIGGER s AFTER INSERT ON t EXECUTE FUNCTION acts(); ALTER TABLE t ENABLE ALWAYS TRIGGER s; CREATE CONSTRAINT TRIGGER c AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
        EXECUTE FUNCTION acts(); CREATE TRIGGER off AFTER INSERT ON t EXECUTE FUNCTION acts(); ALTER TABLE t DISABLE TRIGGER off; CREATE RULE r AS ON INSERT TO t DO INSTEAD NOTHING"""),
    "triggers of a partition": Kind(f"""{ACTS} {PARTS} CREATE TRIGGER a BEFORE INSERT ON t1 FOR EACH ROW EXECUTE FUNCTION acts(); CREATE TRIGGER b AFTER INSERT ON t FOR EACH ROW
        EXECUTE FUNCTION acts(); ALTER TABLE t2 DISABLE TRIGGER b; CREATE CONSTRAINT TRIGGER c AFTER INSERT ON t DEFERRABLE FOR EACH ROW EXECUTE FUNCTION acts()"""),
    "vector indexes": Kind("""CREATE TABLE t (id int PRIMARY KEY, v vector(2), x text); INSERT INTO t VALUES (1, '[1,2]', 'a'), (2, '[3,4]', 'b');
        CREATE INDEX h ON t USING hnsw (v vector_l2_ops) WITH (m = 8); COMMENT ON INDEX h IS 'near'; CREATE INDEX g ON t USING gin (to_tsvector('simple', x))"""),
    "views on top": Kind("""CREATE TABLE t (id int PRIMARY KEY, x int); INSERT INTO t VALUES (1, -1); ALTER TABLE t ADD CONSTRAINT c CHECK (x > 0) NOT VALID;
        CREATE VIEW v AS SELECT id, x FROM t GROUP BY id; CREATE MATERIALIZED VIEW m AS SELECT * FROM t"""),
    "row-level security": Kind("CREATE TABLE t (id int, x int); INSERT INTO t VALUES (1, 1); ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON t USING (id > 5)", only="owner"),
    "row-level security for the owner too": Kind("CREATE TABLE t (id int); INSERT INTO t VALUES (1); ALTER TABLE t ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; CREATE POLICY p ON t USING (id > 5)",
        code=4, words=("row-level security",)),
    "a column that was dropped": Kind("CREATE TABLE t (a int, id int, b text); INSERT INTO t VALUES (1, 1, 'x'); ALTER TABLE t DROP a, ADD c int DEFAULT 7"),
}  # fmt: skip
AFTERWARDS = {
    "a unique index that could not be built": "CREATE UNIQUE INDEX CONCURRENTLY u ON t (id)",
    "an index that rows do not fit in": "CREATE INDEX CONCURRENTLY u ON t (x)",
}
STATE = """
    SELECT 'constraint', conrelid::regclass::text, contypid::regtype::text, conname, pg_get_constraintdef(oid), convalidated, conislocal, coninhcount,
      obj_description(oid, 'pg_constraint') FROM pg_constraint WHERE oid > 16384
    UNION ALL SELECT 'trigger', tgrelid::regclass::text, '', tgname, tgenabled::text, false, false, 0, '' FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL SELECT 'rule', ev_class::regclass::text, '', rulename, ev_enabled::text, false, false, 0, '' FROM pg_rewrite WHERE ev_class > 16384
    UNION ALL SELECT 'index', indrelid::regclass::text, '', indexrelid::regclass::text, pg_get_indexdef(indexrelid), indisvalid, indisready, 0,
      obj_description(indexrelid, 'pg_class') FROM pg_index WHERE indrelid > 16384
    ORDER BY 1, 2, 3, 4"""


def schema_of(database: Database) -> list[str]:
    """What pg_dump says of everything but privileges."""
    server = database.server
    assert isinstance(server, Server)
    done = subprocess.run(
        [server.bin / "pg_dump", "--schema-only", "--no-privileges", "-d", database.socket_dsn],
        capture_output=True, text=True, check=True, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    return [line for line in done.stdout.splitlines() if "restrict " not in line]


def everything(database: Database, kind: Kind) -> tuple[object, ...]:
    rows = {
        table: sorted(row[0] for row in database.fetch(f"SELECT t::text FROM ONLY {table} t UNION ALL SELECT t::text FROM {table} t"))
        for table in (*kind.emptied, *kind.kept)
    }  # fmt: skip
    return rows, database.fetch(STATE), schema_of(database)


@pytest.fixture
def role(database: Database) -> Iterator[str]:
    """A role of which a test makes what it wants."""
    name = f"role {database.name}"
    database.execute(
        f'CREATE ROLE "{name}" LOGIN; CREATE ROLE "{name} owner"; REVOKE TEMPORARY ON DATABASE {database.name} FROM PUBLIC'
    )
    database.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    yield name
    for made in (name, f"{name} owner"):
        database.execute(f'REASSIGN OWNED BY "{made}" TO postgres; DROP OWNED BY "{made}"')
    database.execute(f'DROP ROLE "{name}"; DROP ROLE "{name} owner"')


def own(database: Database, owner: str) -> None:
    """Everything in public belongs to a role now."""
    database.execute(f"""DO $$ DECLARE item text; BEGIN
        FOR item IN SELECT format('ALTER TABLE %s OWNER TO %I', c.oid::regclass, '{owner}') FROM pg_class c
            WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace
          UNION ALL SELECT format('ALTER %s %s OWNER TO %I', CASE relkind WHEN 'v' THEN 'VIEW' ELSE 'MATERIALIZED VIEW' END, c.oid::regclass, '{owner}')
            FROM pg_class c WHERE relkind IN ('v', 'm') AND relnamespace = 'public'::regnamespace
          UNION ALL SELECT format('ALTER DOMAIN %s OWNER TO %I', t.oid::regtype, '{owner}') FROM pg_type t
            WHERE typtype = 'd' AND typnamespace = 'public'::regnamespace
        LOOP EXECUTE item; END LOOP; END $$""")


def space_of(folder, database: Database, kind: Kind, user: str) -> Workspace:
    space = Workspace(folder, database)
    space.save(
        connection={"dsn": database.socket_dsn.replace(f"{SUPERUSER}@", f"{user.replace(' ', '%20')}@")},
        vector_tables={"supported_tables": [*kind.emptied, *kind.kept], "truncate_tables": [*kind.emptied]},
        backup={"part_bytes": 4096},
    )
    return space


# an owner who may make neither temporary tables nor indexes; and the README's role, which may read and truncate
@pytest.mark.parametrize("who", ["owner", "reader"])
@pytest.mark.parametrize("name", KINDS)
def test_what_can_be_truncated_can_be_restored(tmp_path, database: Database, role: str, name: str, who: str):
    kind = KINDS[name]
    if (
        kind.since > database.server.major
        or kind.only not in {"", who}
        or (who == "reader" and database.server.major < 18)
    ):
        return
    with database.connect() as connection:
        connection.execute(kind.script.replace("{owner}", role))
    if name in AFTERWARDS:
        with database.connect() as connection, pytest.raises(Exception, match=r"duplicated|exceeds|exceeded|requires"):
            connection.execute(AFTERWARDS[name])
    own(database, role if who == "owner" else f"{role} owner")
    for table in (*kind.emptied, *kind.kept):
        database.execute(f'GRANT SELECT ON {table} TO "{role}"')
    for table in kind.emptied:
        database.execute(f'GRANT TRUNCATE ON {table} TO "{role}"')
    space = space_of(tmp_path, database, kind, role)
    before = everything(database, kind)
    done = space.run("truncate")
    assert done.code == kind.code, done.stderr
    if done.code:
        assert all(word in done.stderr for word in kind.words), done.stderr
        assert space.files("*.json") == []
        assert everything(database, kind) == before
        return
    assert [database.count(table) for table in kind.emptied] == [0] * len(kind.emptied)
    for grant in re.findall(r'GRANT [^;]*? TO "[^"]*"', done.stderr):
        database.execute(grant)
    assert who == "reader" or "GRANT" not in done.stderr, done.stderr
    done = space.run("restore", "latest")
    assert done.code == 0, done.stderr
    after = everything(database, kind)
    for expected, found in zip(before, after, strict=True):
        assert found == expected


OLDER_ROWS = """CREATE DOMAIN d AS int; CREATE TABLE t (id int PRIMARY KEY, a d, x text); CREATE TABLE u (a d); INSERT INTO t VALUES (1, -1, NULL), (2, 2, 'x'); INSERT INTO u VALUES (-2);
    ALTER DOMAIN d ADD CONSTRAINT c CHECK (VALUE > 0) NOT VALID; ALTER TABLE t ADD CONSTRAINT k CHECK (id > 1) NOT VALID"""
NO_NULLS = "; ALTER TABLE t ADD CONSTRAINT n NOT NULL x NOT VALID"


def test_older_rows_go_into_new_tables_and_are_proved(tmp_path, database: Database, server16: Server):
    kind = Kind(OLDER_ROWS + (NO_NULLS if database.server.major >= 18 else ""), emptied=("t", "u"))
    database.execute(kind.script)
    space = space_of(tmp_path, database, kind, SUPERUSER)
    rows = [database.fetch(f"SELECT * FROM {table} ORDER BY 1") for table in kind.emptied]
    assert space.run("backup").code == 0
    done = space.run("verify", "latest", "--restore")
    assert done.code == 0, done.stderr
    done = space.run("restore", "latest", "--into-schema", "beside", "--create")
    assert done.code == 0, done.stderr
    assert [database.fetch(f"SELECT * FROM beside.{table} ORDER BY 1") for table in kind.emptied] == rows
    asked = "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE NOT convalidated AND (contypid = 'd'::regtype OR conrelid = '{}'::regclass) ORDER BY 1"
    assert database.fetch(asked.format("beside.t")) == database.fetch(asked.format("t"))
    with server16.new_database() as other:  # has no NOT NULL that is not valid
        space.save(connection={"dsn": other.socket_dsn})
        done = space.run("restore", "latest", "--create")
        assert done.code == 0, done.stderr
        assert [other.fetch(f"SELECT * FROM {table} ORDER BY 1") for table in kind.emptied] == rows
        assert [name for name, _ in other.fetch(asked.format("t"))] == ["c", "k"]


def test_no_more_rows_break_a_key_than_did_when_they_were_backed_up(tmp_path, database18: Database):
    kind = Kind("""CREATE TABLE k (id int PRIMARY KEY); INSERT INTO k VALUES (1), (2); CREATE TABLE t (id int, k int); INSERT INTO t VALUES (1, 1), (2, 2), (3, 7);
        ALTER TABLE t ADD CONSTRAINT f FOREIGN KEY (k) REFERENCES k NOT VALID""", kept=("k",))  # fmt: skip
    database18.execute(kind.script)
    space = space_of(tmp_path, database18, kind, SUPERUSER)
    before = everything(database18, kind)
    assert space.run("truncate").code == 0
    database18.execute("DELETE FROM k WHERE id = 2")
    done = space.run("restore", "latest", "--table", "t")
    assert done.code == 8, done.stderr
    assert "2 rows of t would break the constraint f" in done.stderr
    assert database18.count("t") == 0
    assert space.run("restore", "latest").code == 0
    assert everything(database18, kind) == before


@pytest.mark.parametrize("format", ["csv", "binary", "pg_dump"])
@pytest.mark.parametrize("mode", ["error", "skip-existing"])
def test_a_merge_without_a_table_beside_it(tmp_path, database: Database, role: str, format: str, mode: str):
    kind = Kind("""CREATE TABLE t (id int); INSERT INTO t VALUES (1); CREATE TABLE k (id int, l text, x text, PRIMARY KEY (l, id)); CREATE TABLE n (x text, y int);
        INSERT INTO k SELECT n, CASE n % 3 WHEN 0 THEN '' ELSE E'a,"b\\\\\\n\\t' || n END, nullif(repeat('é"', n % 9), '') FROM generate_series(1, 2000) n;
        INSERT INTO n SELECT nullif('x' || n % 5, 'x0'), nullif(n % 3, 0) FROM generate_series(1, 100) n""", kept=("k", "n"))  # fmt: skip
    database.execute(kind.script)
    own(database, role)
    space = space_of(tmp_path, database, kind, role)
    space.save(backup={"format": format})
    before = everything(database, kind)
    assert space.run("truncate").code == 0
    database.execute("DELETE FROM k WHERE id % 7 = 0; DELETE FROM n WHERE ctid IN (SELECT ctid FROM n LIMIT 37)")
    done = space.run("restore", "latest", "--mode", mode, "--json")
    assert done.code == 0, done.stderr
    assert everything(database, kind) == before
    assert done.json["tables_restored"]["k"]["row_count"] == 285
    assert done.json["tables_restored"]["n"]["rows_skipped"] == 63
    database.execute("UPDATE k SET x = 'other' WHERE id = 5; TRUNCATE t")
    done = space.run("restore", "latest", "--mode", mode)
    assert done.code == (4 if mode == "error" else 0), done.stderr
    assert mode != "error" or "k holds 1 rows with the key of a row in the backup and another content" in done.stderr
    assert database.value("SELECT x FROM k WHERE id = 5") == "other"


def test_collections_need_temporary_tables_and_the_grant_is_named(tmp_path, filled18: Database):
    name = f"role_{filled18.name}"
    filled18.execute(f"""CREATE ROLE {name} LOGIN; REVOKE TEMPORARY ON DATABASE {filled18.name} FROM PUBLIC;
        ALTER TABLE langchain_pg_collection OWNER TO {name}; ALTER TABLE langchain_pg_embedding OWNER TO {name}""")
    try:
        space = Workspace(tmp_path, filled18)
        space.save(connection={"dsn": filled18.socket_dsn.replace(f"{SUPERUSER}@", f"{name}@")})
        collection = filled18.value("SELECT name FROM langchain_pg_collection")
        done = space.run("truncate", "--collection", collection)
        assert done.code == 0, done.stderr
        (grant,) = re.findall(r'GRANT TEMPORARY [^;]*? TO "[^"]*"', done.stderr)
        refused = space.run("restore", "latest")
        assert refused.code == 4
        assert grant in refused.stderr
        filled18.execute(grant)
        assert space.run("restore", "latest").code == 0
        assert filled18.count("langchain_pg_embedding") == 62
    finally:
        filled18.execute(f"REASSIGN OWNED BY {name} TO postgres; DROP OWNED BY {name}; DROP ROLE {name}")


def test_an_index_that_may_not_be_built_again_stays(tmp_path, database: Database, role: str):
    """Whatever forbids it: here an event trigger. The rows come back all the same."""
    kind = Kind(
        "CREATE TABLE t (id int PRIMARY KEY, v vector(2)); INSERT INTO t VALUES (1, '[1,2]'), (2, '[3,4]'); CREATE INDEX h ON t USING hnsw (v vector_l2_ops)"
    )
    database.execute(f"""{kind.script}; CREATE FUNCTION forbid() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''no''; END';
        CREATE EVENT TRIGGER watch ON ddl_command_start WHEN TAG IN ('CREATE INDEX') EXECUTE FUNCTION forbid()""")
    space = space_of(tmp_path, database, kind, SUPERUSER)
    before = everything(database, kind)
    assert space.run("truncate").code == 0
    done = space.run("restore", "latest")
    assert done.code == 0, done.stderr
    assert "h could not be built again" in done.stderr
    assert everything(database, kind) == before


def test_a_role_that_may_insert_and_nothing_else(tmp_path, database: Database, role: str):
    """As the README has it: of the kept table SELECT and INSERT; with these one may not lock it against writers."""
    kind = Kind(
        "CREATE TABLE k (id int PRIMARY KEY); INSERT INTO k VALUES (1), (2); CREATE TABLE t (id int); INSERT INTO t VALUES (1)",
        kept=("k",),
    )
    database.execute(f'{kind.script}; GRANT SELECT, INSERT ON k, t TO "{role}"; GRANT TRUNCATE ON t TO "{role}"')
    space = space_of(tmp_path, database, kind, role)
    before = everything(database, kind)
    assert space.run("truncate").code == 0
    database.execute("DELETE FROM k WHERE id = 2")
    done = space.run("restore", "latest")
    assert done.code == 0, done.stderr
    assert everything(database, kind) == before


def test_a_backup_of_an_older_vecbak_and_a_constraint_that_came_later(tmp_path, database18: Database):
    """An older manifest tells of what was not valid then, and not how many rows broke it; what came since is asked of all rows."""
    kind = Kind(
        "CREATE TABLE t (id int); INSERT INTO t VALUES (1), (2); ALTER TABLE t ADD CONSTRAINT c CHECK (id > 1) NOT VALID"
    )
    database18.execute(kind.script)
    space = space_of(tmp_path, database18, kind, SUPERUSER)
    before = everything(database18, kind)
    assert space.run("truncate").code == 0
    (path,) = space.backups.glob("vector_backup_*.json")
    manifest = manifests.read(path)
    entry = manifest.tables["t"]
    old = msgspec.structs.replace(entry, table=msgspec.structs.replace(entry.table, demands=()))
    path.write_bytes(manifests.encode(msgspec.structs.replace(manifest, tables={"t": old})))
    database18.execute("ALTER TABLE t ADD CONSTRAINT later CHECK (id < 2) NOT VALID")
    assert space.run("restore", "latest").code == 8
    assert database18.count("t") == 0
    database18.execute("ALTER TABLE t DROP CONSTRAINT later")
    done = space.run("restore", "latest")
    assert done.code == 0, done.stderr
    assert everything(database18, kind) == before
