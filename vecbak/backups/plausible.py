"""What a manifest says of dates, sizes and rows, made fit to be compared and shown, whoever wrote it; else it is damaged."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from vecbak.backups.formats import ENDINGS

EARLIEST = datetime(1, 1, 2, tzinfo=UTC)
LATEST = datetime(9998, 12, 31, tzinfo=UTC)  # with room behind it: a new backup is dated after the newest in its folder
END = datetime(9999, 1, 1, tzinfo=UTC)
LARGEST = 2**63


class Implausible(ValueError):
    """It says what cannot be; the message says what."""


def in_utc(moment: datetime) -> datetime:
    """A date as UTC, one without a zone taken as such, within what can be calculated with."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(EARLIEST, moment if moment < END else LATEST).astimezone(UTC)


def check_numbers(numbers: Iterator[tuple[str, int | float]]) -> None:
    """Refuse what is no size, no number of rows and no duration.

    Raises:
        Implausible: names it.
    """
    for name, number in numbers:
        if not 0 <= number < LARGEST:
            raise Implausible(f"{name} is {number:.6g}" if number < LARGEST else f"{name} is too large")


def check_format(name: str) -> None:
    """Refuse a format that no file can have.

    Raises:
        Implausible: it is unknown.
    """
    if name not in ENDINGS:
        raise Implausible(f"its format is {name!r}")
