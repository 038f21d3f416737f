"""Nobody may do more with what `restore --create` makes than the backup records, whatever the target grants by default."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.end_to_end.test_create import workspace
from tests.end_to_end.test_sequences import forget
from tests.support.server import Database, Server
from tests.support.stopped import Stopped
from tests.support.workspace import Workspace

TABLES = ("app.docs", "app.parts")
SCRIPT = """
CREATE SCHEMA app; CREATE SCHEMA kinds; CREATE SCHEMA counts; CREATE SEQUENCE counts.shared;
CREATE TYPE kinds.mood AS ENUM ('low', 'high'); CREATE DOMAIN kinds.score AS int CHECK (VALUE >= 0); CREATE TYPE kinds.pair AS (a int, b kinds.mood);
CREATE TABLE app.docs (id serial PRIMARY KEY, other int GENERATED ALWAYS AS IDENTITY, n int DEFAULT nextval('counts.shared'), v vector(2),
  m kinds.mood, s kinds.score, p kinds.pair, secret text);
INSERT INTO app.docs (v, secret) SELECT '[1,2]', 'x' FROM generate_series(1, 5);
CREATE INDEX ON app.docs (n); ALTER TABLE app.docs ENABLE ROW LEVEL SECURITY; CREATE POLICY all_of_them ON app.docs USING (true);
CREATE TABLE app.parts (id int, v vector(2)) PARTITION BY LIST (id); CREATE SCHEMA deep;
CREATE TABLE app.parts_1 PARTITION OF app.parts FOR VALUES IN (1); CREATE TABLE deep.parts_rest PARTITION OF app.parts DEFAULT PARTITION BY LIST (id);
CREATE TABLE deep.parts_x PARTITION OF deep.parts_rest DEFAULT; INSERT INTO app.parts SELECT n, '[1,2]' FROM generate_series(1, 4) n;
GRANT SELECT, INSERT ON app.docs TO {known}; GRANT USAGE ON SEQUENCE app.docs_id_seq TO {known}; GRANT USAGE ON SCHEMA app TO {known};
GRANT UPDATE (v) ON app.docs TO {known}; GRANT SELECT ON deep.parts_x TO {known} WITH GRANT OPTION; REVOKE USAGE ON TYPE kinds.mood FROM PUBLIC;
"""
OBJECTS = """
SELECT 'table ' || n.nspname || '.' || c.relname AS object, x.grantee, x.privilege_type, x.is_grantable, c.relowner AS owner FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace, aclexplode(coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner))) x
  WHERE c.relkind IN ('r', 'p', 'S') AND n.nspname IN ({schemas})
UNION ALL SELECT 'column ' || n.nspname || '.' || c.relname || '.' || a.attname, x.grantee, x.privilege_type, x.is_grantable, c.relowner FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid, aclexplode(a.attacl) x WHERE n.nspname IN ({schemas})
UNION ALL SELECT 'type ' || n.nspname || '.' || t.typname, x.grantee, x.privilege_type, x.is_grantable, t.typowner FROM pg_type t
  JOIN pg_namespace n ON n.oid = t.typnamespace, aclexplode(coalesce(t.typacl, acldefault('T', t.typowner))) x
  WHERE n.nspname IN ({schemas}) AND t.typelem = 0 AND (t.typrelid = 0 OR (SELECT relkind = 'c' FROM pg_class WHERE oid = t.typrelid))
UNION ALL SELECT 'schema ' || n.nspname, x.grantee, x.privilege_type, x.is_grantable, n.nspowner FROM pg_namespace n,
  aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) x WHERE n.nspname IN ({schemas})"""
EVERYTHING = ("TABLES", "SEQUENCES", "TYPES", "SCHEMAS")
SCHEMAS = ("app", "kinds", "counts", "deep")


def granted(database: Database, *schemas: str) -> set[tuple[str, str, str, bool]]:
    """Who other than the owner may do what."""
    names = ", ".join(f"'{name}'" for name in schemas)
    query = f"""SELECT g.object, CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(g.grantee)::text END, g.privilege_type, g.is_grantable
        FROM ({OBJECTS.format(schemas=names)}) g WHERE g.grantee <> g.owner"""
    return set(database.fetch(query))


@pytest.fixture
def roles(database: Database) -> Iterator[dict[str, str]]:
    names = {name: f'{name} "{database.name}' for name in ("anon", "known")}
    quoted = {name: '"' + text.replace('"', '""') + '"' for name, text in names.items()}
    for name in quoted.values():
        database.execute(f"CREATE ROLE {name} LOGIN")
    yield quoted
    for name, text in quoted.items():
        if database.fetch("SELECT FROM pg_roles WHERE rolname = %s", [names[name]]):
            database.execute(f"DROP OWNED BY {text}; DROP ROLE {text}")


@pytest.fixture
def other(server: Server, roles) -> Iterator[Database]:
    with server.new_database() as database:
        yield database
        for name in roles.values():
            database.execute(f"DROP OWNED BY {name}")


@pytest.fixture
def backed_up(tmp_path, database: Database, roles) -> Workspace:
    database.execute(SCRIPT.format(**roles))
    space = workspace(tmp_path, database, *TABLES)
    assert space.run("backup").code == 0
    return space


def open_by_default(database: Database, *grantees: str) -> None:
    for kind in EVERYTHING:
        for name in grantees:
            database.execute(
                f"ALTER DEFAULT PRIVILEGES GRANT ALL ON {kind} TO {name}"
                + (" WITH GRANT OPTION" if name != "PUBLIC" else "")
            )


def in_force(database: Database, roles: dict[str, str]) -> None:
    assert database.value(f"SELECT has_table_privilege('{plain(roles['anon'])}', 'app.docs', 'SELECT')") is False


def plain(name: str) -> str:
    return name[1:-1].replace('""', '"')


def test_defaults_of_the_target_open_nothing(backed_up: Workspace, database: Database, other: Database, roles):
    before = granted(database, *SCHEMAS)
    open_by_default(other, "PUBLIC", *roles.values())
    backed_up.save(connection={"dsn": other.socket_dsn})
    done = backed_up.run("restore", "latest", "--create", "--json")
    assert done.code == 0, done.stderr
    after = granted(other, *SCHEMAS)
    assert after - before == set()
    # what the target grants by itself and the backup records stays; a column's own is not made, and told
    assert {item for item in before - after if not item[0].startswith("column ")} == set()
    assert any(plain(roles["known"]) in warning for warning in done.json["warnings"])
    assert not any(plain(roles["anon"]) in warning for warning in done.json["warnings"])
    assert other.value("SELECT relrowsecurity FROM pg_class WHERE oid = 'app.docs'::regclass")
    in_force(other, roles)


@pytest.mark.parametrize("where", ["", "IN SCHEMA app", "IN SCHEMA drill"])
def test_defaults_of_one_schema(backed_up: Workspace, database: Database, roles, where):
    before = granted(database, "app")
    database.execute("CREATE SCHEMA drill; DROP TABLE app.docs, app.parts")
    for kind in EVERYTHING[:2]:
        database.execute(f"ALTER DEFAULT PRIVILEGES {where} GRANT ALL ON {kind} TO {roles['anon']}, PUBLIC")
    schema = "drill" if "drill" in where else "app"
    into = ("--into-schema", "drill") if schema == "drill" else ()
    done = backed_up.run("restore", "latest", "--create", *into)
    assert done.code == 0, done.stderr
    after = granted(database, schema)
    assert {(name.replace(f" {schema}.", " app."), *rest) for name, *rest in after} <= before
    assert done.stderr.count("made without privileges for others") == 2


def test_another_schema_is_closed_too(backed_up: Workspace, database: Database, roles):
    open_by_default(database, "PUBLIC", *roles.values())
    done = backed_up.run("restore", "latest", "--create", "--into-schema", "drill")
    assert done.code == 0, done.stderr
    after = granted(database, "drill")
    assert {name for _, name, *_ in after} == {plain(roles["known"])}
    assert not [item for item in after if item[0] == "schema drill"]
    docs = {privilege for name, _, privilege, _ in after if name == "table drill.docs"}
    assert docs == {"SELECT", "INSERT"}


def test_an_older_manifest_leaves_all_to_the_owner(backed_up: Workspace, database: Database, other: Database, roles):
    forget(backed_up)
    open_by_default(other, "PUBLIC", *roles.values())
    other.execute("CREATE SCHEMA counts; CREATE SEQUENCE counts.shared")  # which an older one does not know
    backed_up.save(connection={"dsn": other.socket_dsn})
    done = backed_up.run("restore", "latest", "--create", "--json")
    assert done.code == 0, done.stderr
    assert granted(other, "app", "kinds", "deep") == set()
    assert any(plain(roles["known"]) in warning for warning in done.json["warnings"])


def test_a_lesser_role_closes_what_it_makes(
    backed_up: Workspace, database: Database, other: Database, roles, server: Server
):
    name = f"maker_{database.name}"
    other.execute(f"CREATE ROLE {name} LOGIN; GRANT CREATE ON DATABASE {other.name} TO {name}")
    try:
        for kind in EVERYTHING:
            other.execute(f"ALTER DEFAULT PRIVILEGES FOR ROLE {name} GRANT ALL ON {kind} TO {roles['anon']}, PUBLIC")
        backed_up.save(connection={"dsn": other.socket_dsn.replace("postgres@", f"{name}@")})
        done = backed_up.run("restore", "latest", "--create")
        assert done.code == 0, done.stderr
        after = granted(other, *SCHEMAS)
        assert plain(roles["anon"]) not in {item[1] for item in after}
        assert {item[:3] for item in after if item[1] == "PUBLIC"} == {
            ("type kinds.pair", "PUBLIC", "USAGE"),
            ("type kinds.score", "PUBLIC", "USAGE"),
        }
        other.execute(f"SET ROLE {name}; INSERT INTO app.docs (v) VALUES ('[1,2]')")
    finally:
        other.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


def test_roles_that_the_target_does_not_have_are_told(backed_up: Workspace, database: Database, roles):
    database.execute(
        f"DROP SCHEMA app, kinds, counts, deep CASCADE; DROP OWNED BY {roles['known']}; DROP ROLE {roles['known']}"
    )
    done = backed_up.run("restore", "latest", "--create", "--json")
    assert done.code == 0, done.stderr
    told = [warning for warning in done.json["warnings"] if plain(roles["known"]) in warning]
    assert [warning.split(" was made")[0] for warning in told] == ["app.docs", "app.parts", 'the schema "app"']


def test_there_is_no_moment_when_it_is_open(backed_up: Workspace, database: Database, other: Database, roles):
    """Closed before a row is loaded, and seen by nobody else until COMMIT."""
    open_by_default(other, "PUBLIC", roles["anon"])
    backed_up.save(connection={"dsn": other.socket_dsn})
    run = Stopped(backed_up, "loading", "restore", "latest", "--create", "--yes")
    assert granted(other, *SCHEMAS) == set()
    assert not other.fetch("SELECT FROM pg_class WHERE relname = 'docs'")
    code, errors = run.go()
    assert code == 0, errors
    assert plain(roles["anon"]) not in {item[1] for item in granted(other, *SCHEMAS)}


@pytest.mark.parametrize("tag", ["CREATE INDEX", "REVOKE"])
def test_an_event_trigger_that_opens_it_again(backed_up: Workspace, database: Database, other: Database, roles, tag):
    open_by_default(other, roles["anon"])
    other.execute(f"""
        CREATE FUNCTION opens() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
          IF to_regclass('app.docs') IS NOT NULL THEN GRANT SELECT ON app.docs TO {roles["anon"]}; END IF; END $$;
        CREATE EVENT TRIGGER opens ON ddl_command_end WHEN TAG IN ('{tag}') EXECUTE FUNCTION opens()""")
    backed_up.save(connection={"dsn": other.socket_dsn})
    done = backed_up.run("restore", "latest", "--create")
    assert done.code == 8
    assert plain(roles["anon"]) in done.stderr
    assert "EVENT TRIGGER" in done.stderr
    assert not other.fetch("SELECT FROM pg_class WHERE relname = 'docs'")
    other.execute("ALTER EVENT TRIGGER opens DISABLE")
    done = backed_up.run("restore", "latest", "--create")
    assert done.code == 0, done.stderr
    in_force(other, roles)


def test_a_scratch_schema_is_seen_by_nobody(backed_up: Workspace, other: Database, roles):
    open_by_default(other, "PUBLIC", roles["anon"])
    done = backed_up.run("verify", "latest", "--restore", "--on", other.socket_dsn)
    assert done.code == 0, done.stderr
    assert not other.fetch("SELECT FROM pg_namespace WHERE nspname LIKE 'vecbak%'")
