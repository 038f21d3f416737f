"""Which backups of a folder are kept: restic's rules, as a pure function.

A backup is kept if any rule keeps it (https://restic.readthedocs.io/en/stable/060_forget.html); the oldest one is not kept
beside those, as restic does since 0.17 while a rule has days to spare. Time is UTC, as in the manifest. Only good backups count. Two are kept whatever the rules say: the last good one, and one that a TRUNCATE made
the only copy of its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime

import msgspec

from vecbak.config import Retention

LAST_GOOD = "last good backup"
ONLY_COPY = "only copy of the rows truncated from"
PERHAPS_ONLY_COPY = "perhaps the only copy of the rows of"


class Moment(msgspec.Struct, frozen=True):
    """One good backup, as far as the rules look at it.

    Attributes:
        created_at: when its snapshot was taken.
        backup_id: decides a tie.
        holding: the tables of which it has rows.
        emptied: those of them that were truncated after it, or by a run of which is known only that it was about to.
        certain: whether they were.
    """

    created_at: datetime
    backup_id: str
    holding: frozenset[str] = frozenset()
    emptied: frozenset[str] = frozenset()
    certain: bool = True


def kept(backups: Iterable[Moment], rules: Retention) -> dict[Moment, tuple[str, ...]]:
    """Why each good backup is kept: `last`, `daily 2025-01-20`, `weekly 2025-W04`, `monthly 2025-01`, `last good backup`,
    or `only copy of the rows truncated from TABLE`: no backup since then has a row of it; `perhaps the only copy of the rows
    of TABLE` where nothing says what became of the TRUNCATE.

    Args:
        backups: the good ones of one folder; what is damaged must not keep others from being kept.

    Returns:
        The reasons by backup, newest first; no reason: it may go.
    """
    newest_first = sorted(backups, key=lambda item: (item.created_at, item.backup_id), reverse=True)
    reasons: dict[Moment, list[str]] = {item: [] for item in newest_first}
    for item in newest_first[: rules.keep_last]:
        reasons[item].append("last")
    for count, name in (
        (rules.keep_daily, _day),
        (rules.keep_weekly, _week),
        (rules.keep_monthly, _month),
    ):
        for bucket, item in _newest_of_each(newest_first, name)[:count]:
            reasons[item].append(bucket)
    for item, tables in _only_copies(newest_first):
        reasons[item].append(f"{ONLY_COPY if item.certain else PERHAPS_ONLY_COPY} {', '.join(sorted(tables))}")
    if newest_first and not reasons[newest_first[0]]:
        reasons[newest_first[0]].append(LAST_GOOD)
    return {item: tuple(found) for item, found in reasons.items()}


def _newest_of_each(newest_first: list[Moment], name: Callable[[datetime], str]) -> list[tuple[str, Moment]]:
    found: dict[str, Moment] = {}
    for item in newest_first:
        found.setdefault(name(item.created_at.astimezone(UTC)), item)
    return list(found.items())


def _only_copies(newest_first: list[Moment]) -> Iterator[tuple[Moment, frozenset[str]]]:
    since: frozenset[str] = frozenset()
    for item in newest_first:
        if alone := item.emptied - since:
            yield item, alone
        since |= item.holding


def _day(moment: datetime) -> str:
    return f"daily {moment:%Y-%m-%d}"


def _week(moment: datetime) -> str:
    return f"weekly {moment:%G-W%V}"  # an ISO week belongs to the year that has its Thursday


def _month(moment: datetime) -> str:
    return f"monthly {moment:%Y-%m}"
