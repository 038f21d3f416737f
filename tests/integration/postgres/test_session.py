"""The protocol spoken with a real psql."""

import errno
import os
import signal
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest

from tests.support.server import SUPERUSER_PASSWORD
from tests.unit.examples import column, table
from vecbak.errors import ConnectionFailed
from vecbak.postgres import queries, search_path
from vecbak.postgres.catalog import decode_facts
from vecbak.postgres.catalog_query import facts_query
from vecbak.postgres.connection import Endpoint
from vecbak.postgres.guard import open_guard
from vecbak.postgres.names import TableName
from vecbak.postgres.programs import find_installations, psql_command
from vecbak.postgres.runner import LocalRunner
from vecbak.postgres.session import Session, SessionFailed, open_session

PATIENCE = 30
ITEMS = table("items", columns=(column("id"), column("text")))


@pytest.fixture(scope="module")
def database(server18):
    """One database for all of these: what differs is the session."""
    with server18.new_database() as database:
        yield database


@pytest.fixture
def application():
    return f"session {uuid.uuid4().hex}"


@pytest.fixture
def endpoint(database, application):
    server = database.server
    return Endpoint(
        {
            "host": str(server.folder),
            "port": str(server.port),
            "dbname": database.name,
            "user": "postgres",
            "application_name": application,
        },
        bin_dir=server.bin,
    )


@pytest.fixture
def runner():
    runner = LocalRunner(["geheim"])
    yield runner
    runner.stop_all()


@pytest.fixture
def installation(runner, endpoint):
    return find_installations(runner, endpoint.bin_dir)[0]


@pytest.fixture
def session(runner, endpoint, installation):
    session = open_session(runner, psql_command(installation, endpoint.conninfo), environment={})
    yield session
    session.close()


@pytest.fixture
def items(database):
    """A table of 1,000 rows, in its database."""
    database.execute("CREATE TABLE items (id int, text text)")
    database.execute("INSERT INTO items SELECT n, 'text ' || n FROM generate_series(1, 1000) n")
    yield database
    others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    database.execute(f"SELECT pg_terminate_backend(pid) {others}")  # a failed test may have left its locks
    database.execute("DROP TABLE items")


def ask(session: Session, request: str, timeout: float = 30):
    return session.ask(request, timeout=timeout, step="asking")


def failure(session: Session, request: str, timeout: float = 30) -> SessionFailed:
    with pytest.raises(SessionFailed) as caught:
        ask(session, request, timeout)
    return caught.value


@pytest.fixture
def backends(database, application):
    """How many backends serve the session under test."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
    return lambda: database.value(query, [application])


@pytest.fixture
def until_no_backend(backends):
    """Waits until the server has ended the session, and with it what it was doing."""

    def wait():
        deadline = time.monotonic() + 30
        while backends():
            assert time.monotonic() < deadline, "a backend is left"
            time.sleep(0.02)

    return wait


# answers


def test_json_answers(session):
    text = 'é "quoted" \\ \n new line 🛠️'
    query = f"SELECT json_build_object('n', 1, 't', {queries.quote_literal(text)}::text, 'none', NULL);"
    assert session.ask_json(query, timeout=30, step="x") == {"n": 1, "t": text, "none": None}
    assert session.ask_json("SELECT 2;", timeout=30, step="x") == 2


def test_no_row_is_none(session):
    assert session.ask_json("SELECT 1 WHERE false;", timeout=30, step="x") is None


def test_an_answer_says_what_happened(session):
    answer = ask(session, "CREATE TEMP TABLE t (n int);\nINSERT INTO t SELECT generate_series(1, 7);")
    assert (answer.error, answer.sqlstate, answer.row_count, answer.text) == (False, "00000", 7, "")


def test_many_answers_keep_their_order(session):
    assert [session.ask_json(f"SELECT {n};", timeout=30, step="x") for n in range(50)] == list(range(50))


def test_large_requests_and_large_answers(session):
    text = "x" * 300_000
    assert ask(session, f"SELECT '{text}';\nSELECT repeat('y', 3000000);").text == f"{text}\n{'y' * 3_000_000}"


def test_what_looks_like_a_mark_is_none(session):
    mark = session._mark
    answer = ask(session, f"SELECT '{mark}';\nSELECT ' {mark} false 00000 1';\nSELECT 'x{mark} false 00000 1';")
    assert answer.text.count(mark) == 3


def test_a_mark_may_come_in_pieces(runner, tmp_path):
    psql = tmp_path / "psql"
    psql.write_text(
        f"#!{sys.executable}\nimport sys, time\n"
        "for line in sys.stdin:\n"
        "    if line.startswith('\\\\warn'):\n"
        '        print(line.split("\'")[1], file=sys.stderr, flush=True)\n'
        "    if line.startswith('\\\\echo'):\n"
        "        for letter in 'answer\\n' + line.split(\"'\")[1] + ' false 00000 7\\n':\n"
        "            print(letter, end='', flush=True)\n"
        "            time.sleep(0.003)\n"
    )
    psql.chmod(0o755)
    session = open_session(runner, [str(psql)], environment={})
    answers = [ask(session, "SELECT 1;") for _ in range(2)]
    assert [(answer.text, answer.row_count) for answer in answers] == [("answer", 7)] * 2
    session.close()


def test_notices_are_messages_and_not_answers(session):
    answer = ask(session, "DO $$BEGIN RAISE NOTICE 'look'; END$$;\nSELECT 1;")
    assert (answer.text, answer.error) == ("1", False)
    assert "NOTICE:" in answer.messages
    assert "look" in answer.messages
    assert ask(session, "SELECT 1;").messages == ""


# errors


def test_an_sql_error_ends_psql_and_carries_its_sqlstate(session, items, until_no_backend):
    ask(session, "BEGIN;\nDELETE FROM items;")
    error = failure(session, "SELECT 1/0;\nCOMMIT;")
    assert error.sqlstate == "22012"
    assert error.message == "asking failed"
    assert error.output == "ERROR:  division by zero"
    until_no_backend()
    assert items.count("items") == 1000


def test_an_error_is_seen_and_survived_with_on_error_stop_off(session):
    ask(session, "BEGIN;\nSAVEPOINT s;")
    answer = ask(session, "\\set ON_ERROR_STOP off\nSELECT * FROM none;\n\\set ON_ERROR_STOP on")
    assert (answer.error, answer.sqlstate) == (True, "42P01")
    assert answer.messages.startswith('ERROR:  relation "none" does not exist')
    assert "psql:" not in answer.messages
    ask(session, "ROLLBACK TO s;")
    assert ask(session, "SELECT 3;").text == "3"


def test_a_syntax_error_shows_its_place(session):
    error = failure(session, "SELEC 1;")
    assert error.sqlstate == "42601"
    assert error.output.splitlines()[0] == 'ERROR:  syntax error at or near "SELEC"'
    assert "LINE 1: SELEC 1;" in error.output


def test_secrets_in_errors_are_masked(session):
    assert "geheim" not in failure(session, "DO $$BEGIN RAISE EXCEPTION 'geheim'; END$$;").output


def test_the_commit_of_an_aborted_transaction_says_rollback(session):
    ask(session, "BEGIN;\n\\set ON_ERROR_STOP off\nSELECT 1/0;\n\\set ON_ERROR_STOP on")
    answer = ask(session, queries.COMMIT)
    assert (answer.text, answer.error) == ("ROLLBACK", False)


def test_a_commit_says_commit(session):
    ask(session, "BEGIN;\nSELECT 1;")
    assert ask(session, queries.COMMIT).text == "COMMIT"


def test_a_session_that_the_server_ended(session, database):
    pid = session.ask_json("SELECT pg_backend_pid();", timeout=30, step="x")
    database.execute("SELECT pg_terminate_backend(%s)", [pid])
    error = failure(session, "SELECT 1;")
    assert error.sqlstate in {"57P01", ""}
    assert "terminat" in error.output
    assert "asking failed" in error.message


def test_a_psql_that_was_killed(session):
    ask(session, "SELECT 1;")
    os.kill(session.pid, signal.SIGKILL)
    assert failure(session, "SELECT 1;").message == "asking failed: psql was ended by SIGKILL"


def test_a_session_that_failed_goes_on_failing(session):
    failure(session, "SELECT 1/0;")
    failure(session, "SELECT 1;")


# \copy


CSV = queries.copy_out(ITEMS, "", "format csv, header true")


def copied(session, request=CSV, timeout=PATIENCE):
    data = bytearray()
    return session.copy_out(request, data.extend, timeout=timeout, step="copying"), bytes(data)


def test_copy_counts_its_rows_and_hands_them_on(session, items):
    rows, data = copied(session)
    lines = data.decode().splitlines()
    assert (rows, len(lines), lines[:2], lines[-1]) == (1000, 1001, ["id,text", "1,text 1"], "1000,text 1000")


@pytest.mark.parametrize("options", ["format csv", "format binary"])
def test_one_session_copies_again_and_again(session, items, options):
    request = queries.copy_out(ITEMS, "", options)
    once = copied(session, request)
    assert once[0] == 1000
    assert copied(session, request) == once
    assert ask(session, "SELECT 1;").text == "1"
    assert copied(session, request) == once


def test_an_empty_copy(session, items):
    assert copied(session, queries.copy_out(ITEMS, " WHERE false", "format csv")) == (0, b"")
    rows, data = copied(session, queries.copy_out(ITEMS, " WHERE false", "format binary"))
    assert (rows, data[:11], data[-2:]) == (0, b"PGCOPY\n\xff\r\n\0", b"\xff\xff")


@pytest.fixture
def big(database):
    """A table that the test makes."""
    yield table("big", columns=(column("id"), column("text")))
    database.execute("DROP TABLE big")


@pytest.mark.parametrize("size", [0, 1, 100, 127, 128, 129, 4096, 1 << 20, (1 << 20) + 77, 3_000_000])
def test_rows_of_any_size_come_whole(session, database, big, size):
    database.execute(f"CREATE TABLE big AS SELECT 1 AS id, repeat('é', {size}) AS text")
    rows, data = copied(session, queries.copy_out(big, "", "format csv"))
    assert (rows, data) == (1, f"1,{'é' * size if size else chr(34) * 2}\n".encode())


def test_a_copy_that_the_server_refuses_ends_psql(session, database):
    with pytest.raises(SessionFailed) as caught:
        copied(session)
    assert caught.value.sqlstate == "42P01"


def test_a_copy_that_fails_in_its_middle_ends_psql(session, items, until_no_backend):
    request = CSV.replace('"text"', '1 / (900 - "id") AS "text"', 1)
    with pytest.raises(SessionFailed) as caught:
        copied(session, request)
    assert "division by zero" in caught.value.output
    until_no_backend()


def test_what_the_taker_raises_ends_psql(session, database, big, until_no_backend):
    database.execute("CREATE TABLE big AS SELECT n AS id, repeat('x', 10000) AS text FROM generate_series(1, 2000) n")

    def full(chunk):
        raise OSError(errno.ENOSPC, "No space left on device")

    began = time.monotonic()
    with pytest.raises(OSError, match="No space left"):
        session.copy_out(queries.copy_out(big, "", "format csv"), full, timeout=PATIENCE, step="copying")
    assert time.monotonic() - began < 4  # psql does not wait for somebody to read
    until_no_backend()


def test_a_copy_that_takes_too_long_is_ended(session, items, until_no_backend):
    request = CSV.replace('"text"', 'pg_sleep(1) AS "text"', 1)
    with pytest.raises(SessionFailed, match="longer than 1 s"):
        copied(session, request, timeout=1)
    until_no_backend()


# timeouts and ends


def test_a_timeout_cancels_the_query_on_the_server(session, backends, until_no_backend):
    ask(session, "SELECT 1;")
    assert backends() == 1
    error = failure(session, "SELECT pg_sleep(600);", timeout=1)
    assert error.message == "asking took longer than 1 s and was cancelled"
    until_no_backend()


def test_a_timed_out_transaction_leaves_no_trace(session, items, until_no_backend):
    ask(session, "BEGIN;\nTRUNCATE items;")
    failure(session, "SELECT pg_sleep(600);", timeout=1)
    until_no_backend()
    assert items.count("items") == 1000


@pytest.mark.parametrize("end", [Session.close, Session.kill])
def test_an_ended_session_is_rolled_back(session, items, end, until_no_backend):
    ask(session, "BEGIN;\nTRUNCATE items;")
    end(session)
    until_no_backend()
    assert items.count("items") == 1000
    end(session)


def test_a_cancelled_query_ends_the_session(session, until_no_backend):
    ask(session, "SELECT 1;")
    timer = threading.Timer(1, session.interrupt)
    timer.start()
    assert failure(session, "SELECT pg_sleep(600);").sqlstate == "57014"
    timer.join()
    until_no_backend()


# connecting


@pytest.mark.parametrize(
    ("changes", "hint"),
    [({"dbname": "none"}, "connection.dbname"), ({"user": "nobody"}, "connection.user"), ({"port": "1"}, "No server listens")],
)  # fmt: skip
def test_no_connection_says_what_to_check(runner, endpoint, installation, changes, hint):
    with pytest.raises(ConnectionFailed, match="cannot connect to the database") as caught:
        open_guard(runner, Endpoint({**endpoint.parameters, **changes}), installation, connect_seconds=10)
    assert hint in caught.value.hint


def test_a_password_reaches_psql_and_only_through_its_environment(runner, endpoint, installation, database):
    tcp = {**endpoint.parameters, "host": "127.0.0.1"}
    guard = open_guard(runner, Endpoint(tcp, SUPERUSER_PASSWORD), installation, connect_seconds=10)
    assert SUPERUSER_PASSWORD not in Path(f"/proc/{guard._session.pid}/cmdline").read_text()
    guard.close()
    with pytest.raises(ConnectionFailed) as caught:
        open_guard(runner, Endpoint(tcp, "geheim"), installation, connect_seconds=10)
    assert "password authentication failed" in caught.value.output
    assert "Check user and password" in caught.value.hint
    with pytest.raises(ConnectionFailed) as caught:
        open_guard(runner, Endpoint({**tcp, "passfile": "/dev/null"}), installation, connect_seconds=10)
    assert "Give a password" in caught.value.hint


def test_every_query_of_vecbak_is_understood(session, items):
    """Each is run once, so that a typo does not wait for the day when it is needed."""
    begin = queries.begin(
        180000, isolation="READ COMMITTED", access="READ WRITE", application="vecbak", lock_seconds=5, own_path=True
    )
    ask(session, begin)
    name = TableName(None, "items")
    ask(session, queries.lock_table(name.sql, "SHARE ROW EXCLUSIVE"))
    ask(session, queries.RELEASE_LOCK)
    found, none = session.ask_json(queries.look_up([name, TableName(None, "none")]), timeout=30, step="x")
    ask(session, search_path.PIN)
    oid = int(found)
    assert none is None
    assert session.ask_json(queries.locked([oid]), timeout=30, step="x") == [oid]
    assert session.ask_json(queries.advisory_locks([oid, 2**32 - 1]), timeout=30, step="x") == []
    assert session.ask_json(queries.advisory_holders([oid]), timeout=30, step="x")
    item = decode_facts(session.ask_json(facts_query([oid]), timeout=30, step="x")).tables[0]
    assert (item.name, item.copied_columns) == ("items", ("id", "text"))
    for mode in queries.CONFLICTING_MODES:
        assert session.ask_json(queries.blockers(oid, mode), timeout=30, step="x") == []
    assert session.ask_json(queries.count_rows(item), timeout=30, step="x") == 1000
    assert session.ask_json(queries.sample_row_bytes(item, 100, binary=False), timeout=30, step="x")["bytes"] > 0
    assert session.ask_json(queries.sample_row_bytes(item, 100, binary=True), timeout=30, step="x")["bytes"] > 0
    assert session.ask_json(queries.first_row_bytes(item, binary=False), timeout=30, step="x")["rows"] == 100
    assert session.ask(queries.copy_progress([1], [oid]), timeout=30, step="x").text.endswith("[]")
    ask(session, queries.truncate([item], 1))
    state = session.ask_json(queries.after_truncate([item]), timeout=30, step="x")
    assert (state["rows"], state["locked"]) == ([0], 1)
    ask(session, queries.ROLLBACK_TRUNCATE)
    assert ask(session, queries.COMMIT).text == "COMMIT"
    assert items.count("items") == 1000
