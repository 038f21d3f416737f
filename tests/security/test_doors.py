"""Each door by itself: psql never reads a manifest's SQL, a proof's role can do little, and names stay names."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

import pytest

from tests.security.hostile import signed
from tests.support.server import Database, Server
from tests.support.workspace import Workspace
from vecbak.config_file import load_config
from vecbak.errors import RestoreFailed
from vecbak.operations.job import Job
from vecbak.operations.locking import begin
from vecbak.operations.opening import open_job
from vecbak.operations.proving_role import ROLE, in_ordinary_role
from vecbak.postgres.guard import Guard
from vecbak.postgres.session import SessionFailed


@pytest.fixture
def workspace(tmp_path, database: Database) -> Workspace:
    return Workspace(tmp_path, database)


@pytest.fixture
def job(workspace: Workspace) -> Iterator[Job]:
    with open_job(load_config(workspace.folder / "vecbak.yaml"), task_id="t", output_dir=workspace.out) as job:
        yield job


@pytest.fixture
def guard(job: Job) -> Iterator[Guard]:
    guard, _ = job.connect()
    begin(guard, job.config.timeouts, writes=True)
    yield guard
    guard.close()


# past psql


def test_psql_reads_nothing_of_a_definition(guard: Guard, database: Database):
    """To psql `:"DBNAME"` is a variable of its own."""
    text = '(a[1:"DBNAME"] IS NOT NULL)'
    guard.define([f'CREATE TABLE public.t (a int[], "DBNAME" int, CHECK {text});'], "making a table")
    found = guard.ask_json("SELECT to_json(pg_get_constraintdef(oid)) FROM pg_constraint WHERE conrelid = 'public.t'::regclass AND contype = 'c';", "looking")  # fmt: skip
    assert found == f"CHECK ({text})"
    assert guard.query("""SELECT to_json((ARRAY[1, 2])[1:"DBNAME"]) FROM (SELECT 1 AS "DBNAME") x;""", "asking") == [1]


def test_a_definition_that_fails_says_so(guard: Guard):
    with pytest.raises(SessionFailed) as error:
        guard.define(["CREATE TABLE t (a nothing);"], "making a table")
    assert error.value.sqlstate == "42704"
    assert 'type "nothing" does not exist' in error.value.output


def test_a_definition_that_may_fail(guard: Guard):
    from vecbak.postgres import queries, untrusted

    attempt = queries.attempt("s", untrusted.definition("CREATE INDEX i ON missing (a);"))
    answer = guard.ask(attempt, "trying")
    assert (answer.error, answer.sqlstate) == (True, "42P01")
    guard.ask("ROLLBACK TO SAVEPOINT s;", "undoing")
    answer = guard.ask(queries.attempt("s", untrusted.definition("CREATE SCHEMA fine;")), "trying")
    assert (answer.error, answer.sqlstate) == (False, "00000")


def test_rows_are_counted_by_the_server(guard: Guard):
    assert guard.change("CREATE TEMPORARY TABLE t AS SELECT 1 AS a WITH NO DATA;", "making") == 0
    assert guard.change("INSERT INTO t SELECT generate_series(1, 12345);", "inserting") == 12345
    assert guard.change("UPDATE t SET a = 0 WHERE a <= 10;", "updating") == 10
    assert guard.change("DELETE FROM t WHERE a = 0;", "deleting") == 10
    assert guard.ask("SELECT 1;", "asking").row_count == 1


def test_nothing_is_run_when_one_of_them_is_refused(guard: Guard):
    with pytest.raises(RestoreFailed):
        guard.define(["CREATE SCHEMA made;", "CREATE SCHEMA x; DROP SCHEMA made;"], "making")
    assert guard.ask_json("SELECT to_json(count(*)) FROM pg_namespace WHERE nspname = 'made';", "looking") == 0


def test_the_server_reads_backslashes_as_the_judge_does(workspace: Workspace, database: Database, job: Job):
    database.execute(f"ALTER DATABASE {database.name} SET standard_conforming_strings = off")
    guard, _ = job.connect()
    begin(guard, job.config.timeouts, writes=True)
    text = r"'\' || $q$; SELECT 1/0; --$q$"
    guard.define([f"CREATE TABLE public.t (a text DEFAULT {text});"], "making a table")
    guard.ask("INSERT INTO public.t DEFAULT VALUES;", "inserting")
    assert guard.ask_json("SELECT to_json(a) FROM public.t;", "looking") == "\\; SELECT 1/0; --"
    guard.close()


# the role of a proof


def test_the_role_of_a_proof_can_make_tables_and_nothing_else(job: Job, database: Database, server: Server):
    try:
        prover = in_ordinary_role(job, vector=True)
        for denied in (
            "COPY (SELECT 1) TO PROGRAM 'id'", "COPY t FROM '/etc/passwd'", "SELECT pg_read_file('/etc/passwd')", "CREATE ROLE x", "LOAD 'x'",
            "SELECT lo_import('/etc/passwd')", "ALTER SYSTEM SET work_mem = '1MB'", "CREATE TABLE public.x (a int)" if server.major > 14 else "CREATE ROLE y",
        ):  # fmt: skip
            guard, _ = prover.connect()
            with contextlib.closing(guard):
                begin(guard, job.config.timeouts, writes=True)
                guard.ask("CREATE SCHEMA mine; CREATE TABLE mine.t (v public.vector(3)); CREATE TEMPORARY TABLE t (a int);", "making tables")  # fmt: skip
                with pytest.raises(SessionFailed) as error:
                    guard.ask(f"{denied};", "trying")
                assert error.value.sqlstate in {"42501", "25001"}, denied
    finally:
        database.execute(f"DROP OWNED BY {ROLE}; DROP ROLE {ROLE}")


def test_a_proof_works_in_that_role(workspace: Workspace, database: Database):
    database.execute("CREATE TABLE t (id int, v vector(3)); INSERT INTO t VALUES (1, '[1,2,3]')")
    workspace.save(vector_tables={"supported_tables": ["t"], "truncate_tables": ["t"]})
    assert workspace.run("backup").code == 0
    done = workspace.run("verify", "latest", "--restore")
    assert done.code == 0, done.stderr
    assert f"in the role {ROLE}" in done.stderr
    other = workspace.run("verify", "latest", "--restore", "--on", database.socket_dsn)
    assert other.code == 0, other.stderr
    assert "is a superuser" in other.stderr
    assert "is a superuser" not in done.stderr


# a manifest from elsewhere, as the user meets it


@pytest.mark.parametrize(("way", "text", "what"), [
    (("columns", 0, "type"), "int; SELECT 1", "definition of id"),
    (("columns", 1, "default"), "$$'$$ || '\n\\! touch hacked\n' || $$'$$ \\! touch hacked", "definition of t"),
    (("columns", 1, "default"), "pg_read_file('/etc/passwd')", "calls pg_read_file"),
    (("indexes", 0, "definition"), "CREATE INDEX t_t_idx ON public.t USING btree (t); DROP TABLE x", "definition of t_t_idx"),
    (("indexes", 0, "statistics"), {"1 SET STATISTICS 1; DROP TABLE x; --": 1}, "statistics target"),
    (("name",), "t\n\\! touch hacked", "control character"),
    (("indexes", 0, "name"), "x" * 64, "63 bytes"),
])  # fmt: skip
def test_the_error_says_what_is_wrong(workspace: Workspace, database: Database, way, text, what):
    database.execute("CREATE TABLE t (id int, t text DEFAULT 'x'); CREATE INDEX ON t (t); INSERT INTO t VALUES (1)")
    workspace.save(vector_tables={"supported_tables": ["t"], "truncate_tables": ["t"]})
    assert workspace.run("backup").code == 0
    database.execute("DROP TABLE t")
    (path,) = workspace.backups.glob("vector_backup_*.json")
    document = json.loads(path.read_text())
    place = document["tables"]["t"]["table"]
    *steps, last = way
    for step in steps:
        place = place[step]
    place[last] = text
    path.write_bytes(signed(document))
    done = workspace.run("restore", "latest", "--create")
    assert done.code in {5, 8}, done.stderr
    assert what in done.stderr
    assert "Hint: " in done.stderr
    assert not list(workspace.folder.rglob("hacked*"))
    assert database.fetch("SELECT FROM pg_class WHERE relname = 't'") == []
