import pytest

from vecbak.errors import Busy, Refused
from vecbak.postgres.diagnosis import Blocker, busy, connection_hint, lock_refused, truncate_hint
from vecbak.postgres.names import TableName
from vecbak.postgres.session import Answer

ITEMS = TableName(None, "items")


def answer(sqlstate: str) -> Answer:
    return Answer("", True, sqlstate, 0, "ERROR:  something")


def blocker(**changes: object) -> Blocker:
    fields = {
        "pid": 7, "mode": "ExclusiveLock", "granted": True, "user": "anna", "application": "loader", "client": "10.0.0.1",
        "state": "idle in transaction", "seconds": 12.4, **changes,
    }  # fmt: skip
    return Blocker(**fields)


def test_a_blocker_is_named_with_all_that_is_known():
    assert str(blocker()) == (
        'pid 7 (application "loader", user anna, from 10.0.0.1, idle in transaction for 12 s, holds ExclusiveLock)'
    )
    assert str(blocker(application="", user=None, client=None, state=None, granted=False)) == (
        "pid 7 (waits for ExclusiveLock)"
    )
    assert "pg_prepared_xacts" in str(blocker(pid=None))


def test_busy_says_who_and_how_long():
    error = busy(ITEMS, 5, [blocker()], answer("55P03"))
    assert isinstance(error, Busy)
    assert error.message == "the table items is locked, and was not free within 5 s"
    assert "pid 7" in error.output


def test_busy_knows_another_vecbak():
    assert "by another vecbak run" in busy(ITEMS, 5, [blocker(application="vecbak guard")], answer("55P03")).message


def test_busy_without_blockers_shows_the_servers_words():
    assert busy(ITEMS, 5, [], answer("40P01")).output == "ERROR:  something"


@pytest.mark.parametrize(
    ("sqlstate", "message"),
    [
        ("42P01", "the table items does not exist"),
        ("3F000", "the table items does not exist"),
        ("42501", "no privilege to truncate the table items"),
        ("42809", "items is not a table"),
        ("25006", "the server is read-only, and items is to be truncated"),
        ("XX000", "the table items cannot be locked"),
    ],
)
def test_a_lock_refused_for_another_reason(sqlstate, message):
    error = lock_refused(ITEMS, "SHARE ROW EXCLUSIVE", answer(sqlstate))
    assert isinstance(error, Refused)
    assert error.message == message
    assert error.hint
    assert error.output == "ERROR:  something"


def test_reading_needs_less_than_truncating():
    error = lock_refused(ITEMS, "ACCESS SHARE", answer("42501"))
    assert error.message == "no privilege to read the table items"
    assert "GRANT SELECT ON items" in error.hint


def test_every_connection_error_has_a_hint():
    assert "password" in connection_hint('FATAL:  password authentication failed for user "x"').lower()
    assert "max_connections" in connection_hint("FATAL:  sorry, too many clients already")
    assert connection_hint("something else")


def test_truncate_hints():
    assert "TRUNCATE privilege" in truncate_hint("42501")
    assert truncate_hint("XX000")
