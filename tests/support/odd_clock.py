"""`python -m tests.support.odd_clock …`: vecbak, with a clock that jumps as soon as a file says by how many seconds."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

FILE = Path(os.environ["ODD_CLOCK"])
_time, _time_ns = time.time, time.time_ns


def jump() -> int:
    """Seconds."""
    return int(FILE.read_text()) if FILE.exists() else 0


class OddDatetime(datetime):
    """Its `now` jumps."""

    @classmethod
    def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
        """As the clock says."""
        return datetime.now(UTC) + timedelta(seconds=jump())


time.time = lambda: _time() + jump()
time.time_ns = lambda: _time_ns() + jump() * 10**9

import vecbak.operations.job  # noqa: E402 - after the clock

vecbak.operations.job.datetime = OddDatetime  # type: ignore[attr-defined]

from vecbak.cli import main  # noqa: E402

main()
