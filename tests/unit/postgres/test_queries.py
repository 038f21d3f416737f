import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.examples import column, table
from vecbak.postgres import queries, settings
from vecbak.postgres.names import TableName

ITEMS = table("items", 16384)
ODD = table('O"dd', 16390, schema="S", columns=(column("id"), column('a"b'), column("g", generated="s")))


def test_begin_pins_what_a_backup_depends_on():
    statements = queries.begin(
        130000, isolation="READ COMMITTED", access="READ WRITE", application="vecbak guard", lock_seconds=5
    ).splitlines()
    assert statements == [
        "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;",
        *(f"SET LOCAL {name} = '{value}';" for name, value in settings.pinned_settings(130000).items()),
        "SET LOCAL tcp_keepalives_idle = '20';",
        "SET LOCAL tcp_keepalives_interval = '10';",
        "SET LOCAL tcp_keepalives_count = '3';",
        "SET LOCAL tcp_user_timeout = '120000';",
        "SET LOCAL lock_timeout = '5000ms';",
        "SET LOCAL application_name = 'vecbak guard';",
        "SET LOCAL search_path = pg_catalog, pg_temp;",
    ]


def test_what_is_observed_is_told_before_it_is_pinned_and_nothing_is_a_query():
    lines = queries.begin(
        180000,
        isolation="REPEATABLE READ",
        access="READ ONLY",
        application="x",
        lock_seconds=1,
        observed=("bytea_output", "lc_monetary"),
    ).splitlines()
    assert lines[1:3] == ["SHOW bytea_output;", "SHOW lc_monetary;"]
    assert lines[-2:] == ["SHOW search_path;", "SET LOCAL search_path = pg_catalog, pg_temp;"]
    # a query would take the snapshot of a REPEATABLE READ before its locks
    assert {line.split()[0] for line in lines} == {"BEGIN", "SHOW", "SET"}


def test_pasted_commands_lock_by_name_before_the_path_is_pinned():
    told = queries.begin(180000, isolation="x", access="y", application="z", lock_seconds=1, own_path=True)
    assert "search_path" not in told


@pytest.mark.parametrize(
    ("version", "names"),
    [
        (139999, set()),
        (140000, {"client_connection_check_interval"}),
        (169999, {"client_connection_check_interval"}),
        (170000, {"client_connection_check_interval", "transaction_timeout"}),
        (180004, {"client_connection_check_interval", "transaction_timeout"}),
    ],
)
def test_newer_servers_have_more_to_pin(version, names):
    assert settings.pinned_settings(version).keys() - settings.pinned_settings(130000).keys() == names


def test_a_short_lock_timeout_is_not_none_at_all():
    statements = queries.begin(
        180000, isolation="READ COMMITTED", access="READ ONLY", application="x", lock_seconds=0.0004
    )
    assert "SET LOCAL lock_timeout = '1ms';" in statements


def test_copy_names_the_columns_and_leaves_out_generated_ones():
    assert (
        queries.copy_to_file(ODD, "", "x.csv.tmp", "format csv, header true")
        == """\\copy (SELECT "id", "a""b" FROM ONLY "S"."O""dd") to 'x.csv.tmp' with (format csv, header true)"""
    )


def test_rows_come_through_psqls_own_output_whatever_else_goes_elsewhere():
    request = queries.copy_out(ITEMS, " WHERE ctid >= '(7,0)'", "format binary")
    assert request == (
        """\\copy (SELECT "id", "text" FROM ONLY "public"."items" WHERE ctid >= '(7,0)') to pstdout with (format binary)"""
    )


def test_a_part_goes_through_a_compressor_whose_shell_opens_the_file():
    request = queries.copy_to_file(ITEMS, " WHERE ctid >= '(7,0)'", "x.bin.zst.tmp", "format binary", "zstd -q -1 -c")
    assert request == (
        """\\copy (SELECT "id", "text" FROM ONLY "public"."items" WHERE ctid >= '(7,0)')"""
        """ to program 'zstd -q -1 -c > x.bin.zst.tmp' with (format binary)"""
    )


def test_a_partitioned_tables_rows_are_its_partitions_rows():
    assert queries.count_rows(ITEMS) == 'SELECT pg_catalog.count(*) FROM ONLY "public"."items";'
    assert queries.count_rows(table("items", kind="p")) == 'SELECT pg_catalog.count(*) FROM "public"."items";'


def test_workers_take_their_locks_at_once_or_not_at_all():
    assert queries.lock_nowait([ITEMS, ODD]) == (
        'LOCK TABLE ONLY "public"."items", ONLY "S"."O""dd" IN ACCESS SHARE MODE NOWAIT;'
    )


def test_a_lock_that_is_not_granted_does_not_end_psql():
    assert queries.lock_table('"items"', "SHARE ROW EXCLUSIVE").splitlines() == [
        "SAVEPOINT vecbak_lock;",
        "\\set ON_ERROR_STOP off",
        'LOCK TABLE "items" IN SHARE ROW EXCLUSIVE MODE;',
        "\\set ON_ERROR_STOP on",
    ]


def test_truncate_is_one_statement_and_never_cascades():
    statements = queries.truncate([ITEMS, ODD], 0.1).splitlines()
    assert statements == [
        "SET LOCAL lock_timeout = '100ms';",
        "SET LOCAL max_parallel_maintenance_workers = 0;",
        "SAVEPOINT vecbak_truncate;",
        "\\set ON_ERROR_STOP off",
        'TRUNCATE TABLE "public"."items", "S"."O""dd" CONTINUE IDENTITY RESTRICT;',
        "\\set ON_ERROR_STOP on",
    ]


def test_after_truncate_counts_what_truncate_emptied():
    query = queries.after_truncate([ITEMS, ODD])
    assert '(SELECT pg_catalog.count(*) FROM "public"."items"), (SELECT pg_catalog.count(*) FROM "S"."O""dd")' in query
    assert "ARRAY[16384, 16390]" in query
    assert "ONLY" not in query


def test_a_worker_sees_the_snapshot():
    assert queries.import_snapshot("00000003-1-1") == "SET TRANSACTION SNAPSHOT '00000003-1-1';"


def test_commit_lets_psql_say_what_it_was_told():
    assert queries.COMMIT.splitlines() == ["\\set QUIET off", "COMMIT;", "\\set QUIET on"]


@given(st.lists(st.integers(1, 2**32 - 1), min_size=1, unique=True))
def test_advisory_keys_are_distinct_and_fit_a_signed_bigint(oids):
    query = queries.advisory_locks(oids)
    keys = [int(key) for key in re.findall(r"pg_try_advisory_xact_lock\((-?\d+)\)", query)]
    assert len(set(keys)) == len(oids)
    assert all(-(2**63) <= key < 2**63 for key in keys)
    assert [key & 0xFFFFFFFF for key in keys] == sorted(oids)
    assert {key >> 32 for key in keys} == {queries.ADVISORY_CLASS}


def test_names_are_resolved_quoted():
    query = queries.look_up([TableName(None, "it's"), TableName("s", 'a"b')])
    assert """pg_catalog.to_regclass('"it''s"')::pg_catalog.oid, pg_catalog.to_regclass('"s"."a""b"')::""" in query


@pytest.mark.parametrize("rows", [0, 1, 200, 201, 10**6, 10**12])
def test_a_sample_is_a_percentage(rows):
    percent = float(re.search(r"system \(([\d.]+)\)", queries.sample_row_bytes(ITEMS, rows, binary=False)).group(1))
    assert 0 < percent <= 100


def test_every_mode_that_vecbak_locks_in_conflicts_with_access_exclusive():
    assert all("AccessExclusiveLock" in modes for modes in queries.CONFLICTING_MODES.values())


@pytest.mark.parametrize(
    "query",
    [
        queries.look_up([TableName(None, "a")]),
        queries.locked([1]),
        queries.advisory_locks([1]),
        queries.blockers(1, "ACCESS SHARE"),
        queries.advisory_holders([1]),
        queries.count_rows(ITEMS),
        queries.sample_row_bytes(ITEMS, 5, binary=False),
        queries.sample_row_bytes(ITEMS, 5, binary=True),
        queries.first_row_bytes(ITEMS, binary=False),
        queries.identify([ITEMS]),
        queries.copy_progress([1], [2]),
        queries.copy_progress([], []),
        queries.after_truncate([ITEMS]),
    ],
)
def test_every_query_ends_and_has_no_empty_line(query):
    assert query.rstrip().endswith(";")
    assert "\n\n" not in query.strip()
