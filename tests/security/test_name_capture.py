"""No statement of ours calls what somebody put into a schema of the role's search_path (the pattern of CVE-2018-1058)."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tests.security import evil
from tests.support import langchain
from tests.support.command import vecbak
from tests.support.server import Database, Server
from tests.support.workspace import Workspace

COLLECTION, EMBEDDING = "langchain_pg_collection", "langchain_pg_embedding"


@pytest.fixture(scope="module", params=[16, 18], ids=["pg16", "pg18"])
def hostile_template(request: pytest.FixtureRequest) -> Iterator[Database]:
    """LangChain's tables beside the schema `evil`."""
    server = request.getfixturevalue(f"server{request.param}")
    assert isinstance(server, Server)
    with server.new_database(template=langchain.template(server)) as database:
        evil.fill(database)
        made = dict(
            database.fetch(
                "SELECT prokind::text, count(*) FROM pg_proc WHERE pronamespace = 'evil'::regnamespace GROUP BY 1"
            )
        )
        assert made["f"] > 2500
        assert made["a"] > 100
        assert database.value("SELECT count(*) FROM pg_operator WHERE oprnamespace = 'evil'::regnamespace") > 700
        assert database.value("SELECT count(*) FROM pg_class WHERE relnamespace = 'evil'::regnamespace") > 100
        yield database


@pytest.fixture
def hostile(hostile_template: Database) -> Iterator[Database]:
    """One of one's own."""
    with hostile_template.server.new_database(template=hostile_template.name) as database:
        yield database


def asked_safely(database: Database, query: str) -> object:
    """The only value of a query of the test's own, which is not to be captured either."""
    with database.connect(options="-c search_path=pg_catalog") as connection:
        return connection.execute(query).fetchone()[0]  # type: ignore[index]


@pytest.mark.parametrize(
    ("path", "statement"),
    [
        ("evil, public", "SELECT json_build_object('a', 1::bigint, 'b', true)"),
        ("evil, pg_catalog", "SELECT json_agg(x) FROM (VALUES (1)) AS v(x)"),
        ("evil, pg_catalog", "SELECT count(*) FROM public.langchain_pg_embedding"),
        ("evil, pg_catalog", "SELECT relname FROM pg_class"),
        ("evil, pg_catalog", "SELECT FROM pg_catalog.pg_class WHERE relname = 'pg_class'"),
        ("evil, pg_catalog", "SELECT 'x'::text"),
        ("evil, pg_catalog", "SELECT to_regclass('x')"),
    ],
)
def test_the_trap_works(hostile, path, statement):
    """Such statements, as vecbak said them before it pinned its path, are captured and noticed."""
    since = len(evil.log_of(hostile))
    hostile.execute(f"ALTER DATABASE {hostile.name} SET search_path = {path}")
    with pytest.raises(psycopg.Error, match=f"{evil.TRACE}|step"):
        hostile.execute(statement)
    assert evil.traces(hostile, since)


@pytest.mark.parametrize("path", ["evil, public", "evil, pg_catalog, public"])
def test_no_command_is_captured(hostile, tmp_path, path):
    hostile.execute(f"ALTER DATABASE {hostile.name} SET search_path = {path}")
    space = Workspace(tmp_path, hostile)
    since = len(evil.log_of(hostile))

    def ends(*arguments: object, code: int = 0) -> None:
        done = space.run(*arguments)
        assert (done.code, evil.traces(hostile, since)) == (code, ""), (arguments, done.stderr)

    def rows() -> int:
        return int(asked_safely(hostile, "SELECT count(*) FROM public.langchain_pg_embedding"))

    ends("doctor")
    for format in ("csv", "binary", "pg_dump"):
        space.save(backup={"format": format})
        ends("backup")
    space.save(backup={"format": "csv", "part_bytes": 8192})
    collection = asked_safely(hostile, "SELECT name FROM public.langchain_pg_collection LIMIT 1")
    ends("backup", "--where", "true")
    ends("backup", "--collection", collection)
    ends("truncate", "--dry-run")
    ends("truncate", "--collection", collection)
    ends("restore", "latest", "--dry-run")
    ends("restore", "latest")
    ends("restore", "latest", "--mode", "replace")
    ends("truncate")
    assert rows() == 0
    ends("restore", "latest")
    ends("restore", "latest", code=4)
    ends("restore", "latest", "--mode", "skip-existing")
    ends("restore", "latest", "--mode", "replace", "--dry-run")
    ends("restore", "latest", "--mode", "replace")
    ends("restore", "latest", "--mode", "replace", "--collection", collection)
    ends("truncate")
    ends("restore", "latest", "--mode", "append")
    ends("restore", "latest", "--into-schema", "copied", "--create")
    ends("verify", "latest", "--restore", "--on", hostile.socket_dsn)
    ends("run", "--backup-vector-tables", "--truncate-vector-tables", "--on-failure", "restore", "--", "false", code=1)
    assert rows() == 62
    ends("list")
    ends("show", "latest")
    found = vecbak("init", "--discover", "--dsn", hostile.socket_dsn, "-c", tmp_path / "new.yaml", cwd=tmp_path)
    assert (found.code, evil.traces(hostile, since)) == (0, ""), found.stderr


def test_odd_paths_find_what_postgresql_finds(hostile, tmp_path):
    """$user, quotes, schemas that do not exist, of a role in one database alone; and no path at all."""
    with hostile.connect(options="-c search_path=pg_catalog") as connection:
        connection.execute('CREATE SCHEMA "odd "" Schema, x"')
        connection.execute('ALTER TABLE public.langchain_pg_embedding SET SCHEMA "odd "" Schema, x"')
    role = f"ALTER ROLE postgres IN DATABASE {hostile.name} SET search_path"
    space = Workspace(tmp_path, hostile)
    since = len(evil.log_of(hostile))
    hostile.execute(f"""{role} = "$user", nowhere, evil, 'odd " Schema, x', public, pg_catalog""")
    done = space.run("truncate", "--json")
    assert (done.code, evil.traces(hostile, since)) == (0, ""), done.stderr
    assert space.run("restore", "latest").code == 0
    hostile.execute(f"{role} = ''")
    done = space.run("backup")
    assert done.code == 4
    assert "does not exist" in done.stderr
    names = ["public.langchain_pg_collection", '"odd "" Schema, x".langchain_pg_embedding']
    space.save(vector_tables={"supported_tables": names, "truncate_tables": names[1:]})
    assert space.run("truncate").code == 0
    assert space.run("restore", "latest").code == 0
    assert evil.traces(hostile, since) == ""


def test_types_of_a_hostile_owner_are_never_cast(server, tmp_path):
    """Whoever owns a type decides what its casts call: tables of theirs are looked at by a superuser who casts nothing of them."""
    with server.new_database() as database:
        role = f"owner_{database.name}"
        database.execute(
            f"CREATE ROLE {role} LOGIN; GRANT CREATE ON SCHEMA public TO {role}; CREATE SCHEMA own AUTHORIZATION {role}"
        )
        trap = f"BEGIN RAISE EXCEPTION '{evil.TRACE} a cast'; END"
        casts = "".join(
            f"CREATE FUNCTION own.f_{n}(own.vector) RETURNS {type} LANGUAGE plpgsql IMMUTABLE AS $${trap}$$;"
            f" CREATE CAST (own.vector AS {type}) WITH FUNCTION own.f_{n}(own.vector) AS ASSIGNMENT;"
            for n, type in enumerate(("real[]", "json", "jsonb", "text", "numeric", "varchar", "bytea", "text[]"))
        )
        database.execute(f"""SET ROLE {role}; CREATE TYPE own.vector AS ENUM ('a', 'b'); {casts}
            CREATE TABLE public.langchain_pg_collection (uuid uuid PRIMARY KEY, name own.vector, cmetadata json);
            CREATE TABLE public.langchain_pg_embedding (id own.vector PRIMARY KEY, collection_id uuid, embedding own.vector, document own.vector);
            INSERT INTO langchain_pg_collection VALUES ('00000000-0000-0000-0000-000000000001', 'a', '{{}}');
            INSERT INTO langchain_pg_embedding VALUES ('a', '00000000-0000-0000-0000-000000000001', 'a', 'b')""")
        try:
            since = len(evil.log_of(database))
            space = Workspace(tmp_path, database)
            for command in (
                ["doctor"], ["backup"], ["backup", "--collection", "a"], ["truncate", "--collection", "a"], ["restore", "latest"],
                ["restore", "latest", "--mode", "replace"], ["truncate"], ["restore", "latest"], ["restore", "latest", "--mode", "skip-existing"],
            ):  # fmt: skip
                done = space.run(*command)
                assert (done.code, evil.traces(database, since)) == (0, ""), (command, done.stderr)
            found = vecbak(
                "init", "--discover", "--dsn", database.socket_dsn, "-c", tmp_path / "new.yaml", cwd=tmp_path
            )
            assert (found.code, evil.traces(database, since)) == (0, ""), found.stderr
        finally:
            database.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")
