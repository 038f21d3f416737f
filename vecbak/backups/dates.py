"""Dates in a manifest, whoever wrote it, made fit to be compared, shown and calculated with."""

from __future__ import annotations

from datetime import UTC, datetime

EARLIEST = datetime(1, 1, 2, tzinfo=UTC)
LATEST = datetime(9998, 12, 31, tzinfo=UTC)  # with room behind it: a new backup is dated after the newest in its folder
END = datetime(9999, 1, 1, tzinfo=UTC)


def in_utc(moment: datetime) -> datetime:
    """A date as UTC, one without a zone taken as such, within what can be calculated with."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(EARLIEST, moment if moment < END else LATEST).astimezone(UTC)
