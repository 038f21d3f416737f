"""The outcome of a COMMIT that nobody answered: judged by the tables of whatever server answers afterwards."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import langchain
from tests.support.collections import COLLECTION, EMBEDDING, add, rows_of
from tests.support.command import environment
from tests.support.proxy import Proxy
from tests.support.server import SUPERUSER, SUPERUSER_PASSWORD, Database, Server
from tests.support.workspace import Workspace

pytestmark = pytest.mark.local

Forward = Callable[[], None]


@dataclass(frozen=True)
class Operation:
    """Something that ends in a COMMIT, and what it leaves.

    Attributes:
        sent: what its guard has sent before.
        before, after: embeddings of the collection in question.
        failed: the exit code where it was rolled back, or nobody knows.
    """

    arguments: tuple[str, ...]
    sent: bytes
    before: int
    after: int
    failed: int


OPERATIONS = {
    "truncate": Operation(("truncate", "--json"), b"TRUNCATE TABLE", 30, 0, 6),
    "collection": Operation(("truncate", "--collection", "a", "--json"), b"DELETE FROM", 30, 0, 6),
    "restore": Operation(("restore", "latest", "--json"), b"ANALYZE", 0, 30, 8),
    "replace": Operation(("restore", "latest", "--mode", "replace", "--yes", "--json"), b"ANALYZE", 10, 30, 8),
    "restore-collection": Operation(("restore", "latest", "--collection", "a", "--json"), b"ANALYZE", 0, 30, 8),
    "create": Operation(("restore", "latest", "--create", "--json"), b"ANALYZE", -1, 30, 8),
}
every_operation = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())


@pytest.fixture
def primary(server: Server) -> Server:
    """A server that may be cloned; each version in turn."""
    return server


@pytest.fixture
def database(primary: Server) -> Iterator[Database]:
    """Collections a and b with 30 and 5 embeddings."""
    with primary.new_database() as database:
        add(database, "a", 30)
        add(database, "b", 5)
        yield database


@pytest.fixture
def space(tmp_path: Path, database: Database) -> Workspace:
    workspace = Workspace(tmp_path, database)
    workspace.save(timeouts={"truncate_seconds": 5, "connect_seconds": 2})
    return workspace


def prepare(space: Workspace, operation: Operation) -> None:
    """Bring the tables into the state that the operation begins with."""
    database = space.database
    if operation.arguments[0] != "restore":
        return
    assert space.run("backup").code == 0
    of_a = f"collection_id = (SELECT uuid FROM {COLLECTION} WHERE name = 'a')"
    if operation.before < 0:
        database.execute(f"DROP TABLE {EMBEDDING}, {COLLECTION}")
    elif operation is OPERATIONS["restore"]:
        database.execute(f"DELETE FROM {EMBEDDING}")
    elif operation is OPERATIONS["restore-collection"]:
        database.execute(f"DELETE FROM {EMBEDDING} WHERE {of_a}")
    else:
        database.execute(f"DELETE FROM {EMBEDDING} WHERE {of_a} AND split_part(id, '-', 2)::int >= 10")


def of_a(database: Database) -> int:
    if database.value(f"SELECT to_regclass('{EMBEDDING}') IS NULL"):
        return -1
    return len(rows_of(database, "a"))


def burn_ids(database: Database, count: int = 300) -> None:
    """Let other transactions have the ids that come next, ours among them."""
    with database.connect() as connection:
        for _ in range(count):
            connection.execute("SELECT pg_current_xact_id()")


def cut_off(standby: Server) -> None:
    """It receives nothing any more."""
    admin = Database(standby, "postgres")
    admin.execute("ALTER SYSTEM SET primary_conninfo = ''")
    admin.execute("SELECT pg_reload_conf()")
    wait_until(lambda: not admin.value("SELECT count(*) FROM pg_stat_wal_receiver"))


def catch_up(standby: Server, primary: Server) -> None:
    position = Database(primary, "postgres").value("SELECT pg_current_wal_lsn()::text")
    wait_until(lambda: Database(standby, "postgres").value("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", [position]))


def promote(standby: Server) -> None:
    Database(standby, "postgres").execute("SELECT pg_promote()")


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def standby(primary: Server, database: Database, server_folder: Path) -> Iterator[Server]:
    standby = primary.clone_standby(server_folder / f"failover_{database.name[-6:]}")
    standby.start()
    catch_up(standby, primary)
    try:
        yield standby
    finally:
        standby.stop()


def run_through(space: Workspace, operation: Operation, on_cut: Callable[[Forward], int | None], **options: str):
    database = space.database
    with Proxy(database.server.port, cut_at=b"COMMIT", on_connection_with=operation.sent, on_cut=on_cut) as proxy:
        user = options.get("user", SUPERUSER)
        space.save(connection={"dsn": f"postgresql://{user}@127.0.0.1:{proxy.port}/{database.name}"})
        done = space.run(*operation.arguments, env=environment(PGPASSWORD=SUPERUSER_PASSWORD))
        assert proxy.cut.is_set(), done.stderr
    return done


@every_operation
def test_a_promoted_standby_without_the_commit_means_rolled_back(space: Workspace, standby: Server, operation):
    prepare(space, operation)
    catch_up(standby, space.database.server)
    cut_off(standby)  # before the transaction has an id: there another one gets the same

    def fail_over(forward: Forward) -> int:
        forward()
        promote(standby)
        burn_ids(Database(standby, space.database.name))
        return standby.port

    done = run_through(space, operation, fail_over)
    assert of_a(space.database) == operation.after  # on the old primary it had been committed
    assert of_a(Database(standby, space.database.name)) == operation.before
    assert done.code == operation.failed, done.stderr
    assert "rolled it back" in done.stderr
    assert "timeline is 00000002, and was 00000001" in done.stderr
    if operation.arguments[0] == "truncate":
        assert done.json["truncate_performed"] is False
        assert done.json["truncate_results"][EMBEDDING]["rows_after"] in {30, 35}
    else:
        assert done.json["restore_performed"] is False


@every_operation
def test_a_promoted_standby_that_received_the_commit_means_done(space: Workspace, standby: Server, operation):
    prepare(space, operation)

    def fail_over(forward: Forward) -> int:
        forward()
        catch_up(standby, space.database.server)
        promote(standby)
        return standby.port

    done = run_through(space, operation, fail_over)
    assert of_a(Database(standby, space.database.name)) == operation.after
    assert done.code == 0, done.stderr


def test_rows_that_the_promoted_standby_never_received_are_named(space: Workspace, standby: Server):
    cut_off(standby)
    add(space.database, "late", 7)

    def fail_over(forward: Forward) -> int:
        promote(standby)
        return standby.port

    done = run_through(space, OPERATIONS["truncate"], fail_over)
    assert done.code == 6, done.stderr
    assert f"{EMBEDDING} has 35 rows there, and had 42" in done.stderr
    assert done.json["truncate_results"][EMBEDDING]["rows_after"] == 35
    there = Database(standby, space.database.name)
    space.save(connection=standby.connection(there.name))
    assert "restore latest --mode skip-existing" in done.stderr
    assert space.run("restore", "latest", "--mode", "skip-existing").code == 0
    assert there.count(EMBEDDING) == 42


@pytest.mark.parametrize("received", [True, False])
def test_a_standby_that_is_not_promoted_knows_only_what_it_has(space: Workspace, standby: Server, received):
    def answer(forward: Forward) -> int:
        if not received:
            cut_off(standby)
        forward()
        if received:
            catch_up(standby, space.database.server)
        return standby.port

    done = run_through(space, OPERATIONS["truncate"], answer)
    assert done.code == (0 if received else 6), done.stderr
    assert ("UNKNOWN" in done.stderr) == (not received)
    assert ("a standby answers now" in done.stderr) is True


@every_operation
def test_another_cluster_on_that_address_tells_nothing(space: Workspace, request: pytest.FixtureRequest, operation):
    prepare(space, operation)
    other = request.getfixturevalue("server18" if space.database.server.major == 16 else "server16")
    Database(other, "postgres").execute(f"CREATE DATABASE {space.database.name}")
    try:
        burn_ids(Database(other, "postgres"), 2000)

        def answer(forward: Forward) -> int:
            forward()
            return other.port

        done = run_through(space, operation, answer)
    finally:
        Database(other, "postgres").execute(f"DROP DATABASE {space.database.name}")
    assert done.code == operation.failed, done.stderr
    assert "UNKNOWN" in done.stderr
    assert "another server answers now: its system identifier is" in done.stderr
    hint = next(line for line in done.stderr.splitlines() if line.startswith("Hint:"))
    for query in re.findall(r"SELECT count\(\*\) FROM [^;]+?(?= \(\d|;)|SELECT count\(\*\) FROM .*?(?= \(0:)", hint):
        assert space.database.value(query) in {0, 1, 2, 30, 35}


@pytest.fixture(scope="module", params=[16, 18], ids=["pg16", "pg18"])
def own_server(server_folder: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    """One that may crash, each version in turn."""
    mine = Server(server_folder / f"crash{request.param}", request.param, {"fsync": "on"})
    mine.create()
    mine.start()
    try:
        yield mine
    finally:
        mine.stop()


@every_operation
@pytest.mark.parametrize("arrived", [True, False], ids=["commit-arrived", "commit-lost"])
def test_a_server_that_crashed_and_recovered(tmp_path: Path, own_server: Server, operation, arrived):
    with own_server.new_database() as database:
        add(database, "a", 30)
        add(database, "b", 5)
        space = Workspace(tmp_path, database)
        prepare(space, operation)

        def crash(forward: Forward) -> None:
            if arrived:
                forward()
            own_server.stop("immediate")
            own_server.start()
            burn_ids(database)  # the id of a transaction whose WAL was never flushed is given away again

        done = run_through(space, operation, crash)
        assert of_a(database) == (operation.after if arrived else operation.before)
        assert done.code == (0 if arrived else operation.failed), done.stderr
        assert "the server was started again" in done.stderr


def test_a_server_that_is_still_down_when_the_time_is_up(tmp_path: Path, own_server: Server):
    with own_server.new_database() as database:
        langchain.fill(database, 20)
        space = Workspace(tmp_path, database)
        space.save(timeouts={"truncate_seconds": 1})
        try:

            def stop(forward: Forward) -> None:
                own_server.stop("immediate")

            done = run_through(space, OPERATIONS["truncate"], stop)
        finally:
            own_server.start()
        assert done.code == 6
        assert "UNKNOWN" in done.stderr
        assert done.json["truncate_results"][EMBEDDING]["rows_after"] is None
        assert database.count(EMBEDDING) == 20


def test_a_role_that_may_not_log_in_any_more(space: Workspace):
    database = space.database
    role = f"r_{database.name}"
    database.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{SUPERUSER_PASSWORD}' SUPERUSER")
    try:

        def shut_out(forward: Forward) -> None:
            forward()
            database.execute(f"ALTER ROLE {role} NOLOGIN")

        done = run_through(space, OPERATIONS["truncate"], shut_out, user=role)
    finally:
        database.execute(f"DROP ROLE {role}")
    assert done.code == 6
    assert "UNKNOWN" in done.stderr
    assert "not permitted to log in" in done.stderr
    assert database.count(EMBEDDING) == 0
    assert "SELECT count(*) FROM ONLY" in done.stderr or "SELECT count(*) FROM public" in done.stderr


def test_a_table_that_was_written_anew_since(space: Workspace):
    """Its files tell nothing any more; on the very same server the transaction's id does."""
    database = space.database

    def rewrite(forward: Forward) -> None:
        forward()
        database.execute(f"VACUUM FULL {EMBEDDING}")

    done = run_through(space, OPERATIONS["truncate"], rewrite)
    assert done.code == 0, done.stderr
    assert database.count(EMBEDDING) == 0


def test_a_table_that_was_written_anew_on_a_promoted_standby(space: Workspace, standby: Server):
    def fail_over(forward: Forward) -> int:
        cut_off(standby)
        forward()
        promote(standby)
        there = Database(standby, space.database.name)
        burn_ids(there)
        there.execute(f"VACUUM FULL {EMBEDDING}")
        return standby.port

    done = run_through(space, OPERATIONS["truncate"], fail_over)
    assert done.code == 6, done.stderr
    assert "UNKNOWN" in done.stderr


def test_a_commit_that_waits_for_a_synchronous_standby_is_not_judged_before(tmp_path: Path, own_server: Server):
    """The transaction still runs, and its table has its old file in everybody else's eyes: that is no answer yet."""
    with own_server.new_database() as database:
        langchain.fill(database, 20)
        space = Workspace(tmp_path, database)
        space.save(timeouts={"truncate_seconds": 30})

        def wait(forward: Forward) -> None:
            database.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
            database.execute("SELECT pg_reload_conf()")
            wait_until(lambda: database.value("SHOW synchronous_standby_names") == "nobody")
            forward()  # it waits two seconds for the answer, which does not come
            threading.Timer(3, let_go).start()

        def let_go() -> None:
            database.execute("ALTER SYSTEM RESET synchronous_standby_names")
            database.execute("SELECT pg_reload_conf()")

        done = run_through(space, OPERATIONS["truncate"], wait)
        assert done.code == 0, done.stderr
        assert database.count(EMBEDDING) == 0


def test_partitions_are_looked_at(tmp_path: Path, primary: Server, server_folder: Path):
    """The parent has no file of its own."""
    with primary.new_database() as database:
        database.execute("CREATE TABLE docs (id int, e vector(3)) PARTITION BY RANGE (id)")
        database.execute("CREATE TABLE docs_1 PARTITION OF docs FOR VALUES FROM (0) TO (10)")
        database.execute("CREATE TABLE docs_2 PARTITION OF docs FOR VALUES FROM (10) TO (20)")
        database.execute("INSERT INTO docs SELECT g, '[1,2,3]' FROM generate_series(0, 19) g")
        space = Workspace(tmp_path, database)
        space.save(vector_tables={"supported_tables": ["docs"], "truncate_tables": ["docs"]})
        standby = primary.clone_standby(server_folder / f"parts_{database.name[-6:]}")
        standby.start()
        try:
            catch_up(standby, primary)

            def fail_over(forward: Forward) -> int:
                cut_off(standby)
                forward()
                promote(standby)
                burn_ids(Database(standby, database.name))
                return standby.port

            done = run_through(space, OPERATIONS["truncate"], fail_over)
        finally:
            standby.stop()
        assert done.code == 6, done.stderr
        assert "every row is still there" in done.stderr
        assert database.count("docs") == 0
