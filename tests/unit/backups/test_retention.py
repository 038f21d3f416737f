from datetime import UTC, date, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from vecbak.backups.retention import LAST_GOOD, ONLY_COPY, PERHAPS_ONLY_COPY, Moment, kept
from vecbak.config import Retention

NONE = Retention(keep_last=0, keep_daily=0, keep_weekly=0, keep_monthly=0)
NOON = datetime(2025, 1, 20, 12, tzinfo=UTC)  # a Monday

COUNTS = st.integers(0, 5)
RULES = st.builds(Retention, keep_last=COUNTS, keep_daily=COUNTS, keep_weekly=COUNTS, keep_monthly=COUNTS)
ZONES = st.integers(-12, 14).map(lambda hours: timezone(timedelta(hours=hours)))
MOMENTS = st.builds(
    Moment,
    st.datetimes(datetime(2024, 11, 1), datetime(2025, 3, 1), timezones=ZONES),  # noqa: DTZ001
    st.sampled_from("abc"),
)
TABLES = st.frozensets(st.sampled_from("tu"))
TRUNCATED = st.builds(
    lambda moment, holding, emptied: Moment(moment.created_at, moment.backup_id, holding, holding & emptied),
    MOMENTS, TABLES, TABLES,
)  # fmt: skip
BACKUPS = st.lists(MOMENTS, unique=True, max_size=40)


def backup(days_ago: float, backup_id: str = "x") -> Moment:
    return Moment(NOON - timedelta(days=days_ago), backup_id)


def rules(**changes: int) -> Retention:
    return Retention(**{"keep_last": 0, "keep_daily": 0, "keep_weekly": 0, "keep_monthly": 0, **changes})


def survivors(backups, retention) -> set[Moment]:
    return {item for item, reasons in kept(backups, retention).items() if reasons}


def newest_first(backups) -> list[Moment]:
    return sorted(backups, key=lambda item: (item.created_at, item.backup_id), reverse=True)


def test_nothing_is_nothing():
    assert kept([], Retention()) == {}


def test_zeros_keep_the_last_good_one_alone():
    backups = [backup(0), backup(1), backup(2)]
    assert kept(backups, NONE) == {backup(0): (LAST_GOOD,), backup(1): (), backup(2): ()}


def test_last():
    backups = [backup(n) for n in range(4)]
    assert kept(backups, rules(keep_last=2)) == {
        backup(0): ("last",), backup(1): ("last",), backup(2): (), backup(3): (),
    }  # fmt: skip


def test_the_newest_of_each_day_that_has_backups():
    backups = [backup(0), backup(0.1), backup(3), backup(3.1), backup(30), backup(60)]
    assert kept(backups, rules(keep_daily=3)) == {
        backup(0): ("daily 2025-01-20",), backup(0.1): (), backup(3): ("daily 2025-01-17",), backup(3.1): (),
        backup(30): ("daily 2024-12-21",), backup(60): (),
    }  # fmt: skip


def test_weeks_are_iso_weeks_and_belong_to_the_year_of_their_thursday():
    backups = [backup(0), backup(1), backup(21)]  # 2024-12-30 is in the first week of 2025
    assert kept(backups, rules(keep_weekly=9)) == {
        backup(0): ("weekly 2025-W04",), backup(1): ("weekly 2025-W03",), backup(21): ("weekly 2025-W01",),
    }  # fmt: skip


def test_months_and_several_reasons():
    backups = [backup(0), backup(20), backup(19)]
    assert kept(backups, rules(keep_last=1, keep_daily=1, keep_weekly=1, keep_monthly=2)) == {
        backup(0): ("last", "daily 2025-01-20", "weekly 2025-W04", "monthly 2025-01"), backup(19): (),
        backup(20): ("monthly 2024-12",),
    }  # fmt: skip


def test_days_are_utc_days():
    tokyo = timezone(timedelta(hours=9))
    early, late = (Moment(datetime(2025, 1, 20, hour, tzinfo=tokyo), "x") for hour in (8, 10))
    assert kept([early, late], rules(keep_daily=5)) == {late: ("daily 2025-01-20",), early: ("daily 2025-01-19",)}


T = frozenset("t")


def test_the_only_copy_of_truncated_rows_stays_until_there_are_rows_again():
    full = Moment(backup(3).created_at, "full", T, T)
    empty = [backup(2), backup(1)]
    assert kept([full, *empty], rules(keep_last=1))[full] == (f"{ONLY_COPY} t",)
    reloaded = Moment(NOON, "reloaded", T)
    assert kept([full, *empty, reloaded], rules(keep_last=1))[full] == ()


@given(st.lists(TRUNCATED, unique_by=lambda item: (item.created_at, item.backup_id), max_size=12), RULES)
def test_every_table_that_was_emptied_last_has_a_backup_with_rows(backups, retention):
    left = survivors(backups, retention)
    for table in "tu":
        with_rows = [item for item in newest_first(backups) if table in item.holding]
        if with_rows and table in with_rows[0].emptied:
            assert with_rows[0] in left


@given(BACKUPS, RULES)
def test_every_backup_is_judged_once_newest_first(backups, retention):
    assert list(kept(backups, retention)) == newest_first(backups)


@given(BACKUPS, RULES)
def test_the_newest_is_always_kept(backups, retention):
    assert newest_first(backups)[:1] == [item for item in newest_first(backups)[:1] if item in survivors(backups, retention)]  # fmt: skip


@given(BACKUPS, RULES)
def test_never_below_a_rule(backups, retention):
    left = survivors(backups, retention)
    assert set(newest_first(backups)[: retention.keep_last]) <= left
    for count, name in (
        (retention.keep_daily, lambda day: day),
        (retention.keep_weekly, lambda day: day - timedelta(days=day.weekday())),
        (retention.keep_monthly, lambda day: day.replace(day=1)),
    ):
        buckets: dict[date, Moment] = {}
        for item in newest_first(backups):
            buckets.setdefault(name(item.created_at.astimezone(UTC).date()), item)
        assert set([buckets[key] for key in sorted(buckets, reverse=True)][:count]) <= left


@given(BACKUPS, RULES)
def test_never_more_than_the_rules_ask_for(backups, retention):
    asked = retention.keep_last + retention.keep_daily + retention.keep_weekly + retention.keep_monthly
    assert len(survivors(backups, retention)) <= max(1, asked)


@given(BACKUPS, RULES)
def test_pruning_again_removes_nothing_more(backups, retention):
    once = survivors(backups, retention)
    assert survivors(once, retention) == once


@given(BACKUPS, RULES, MOMENTS)
def test_a_newer_backup_never_brings_an_older_one_back(backups, retention, newer):
    later = Moment(newer.created_at + timedelta(days=365), newer.backup_id)
    before = survivors(backups, retention) - set(
        newest_first(backups)[:1]
    )  # the newest may be kept as the last good one
    assert survivors([*backups, later], retention) - {later} - set(newest_first(backups)[:1]) <= before


def test_what_a_run_may_have_emptied_before_it_was_killed_is_kept_until_its_table_is_saved_again():
    perhaps = Moment(NOON - timedelta(days=3), "p", frozenset("t"), frozenset("t"), certain=False)
    empty = Moment(NOON - timedelta(days=2), "e")
    again = Moment(NOON - timedelta(days=1), "a", frozenset("t"))
    assert kept([perhaps, empty], rules(keep_last=1))[perhaps] == (f"{PERHAPS_ONLY_COPY} t",)
    assert kept([perhaps, empty, again], rules(keep_last=1))[perhaps] == ()
