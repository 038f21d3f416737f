"""How long writers wait for us at the most: when the time is up the guard's session is ended, whatever we are doing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from vecbak.errors import BackupFailed, RestoreFailed, TruncateFailed, VecbakError
from vecbak.postgres.runner import Runner


class WriteBlock:
    """The time from the first lock to COMMIT.

    A step may wait for a program, for the server or for a disk, and none of them need look at a clock of ours: so a thread
    of its own ends every program of the run, and with the guard's session its locks are gone.

    Args:
        seconds: the most that writers may wait.
    """

    def __init__(self, runner: Runner, seconds: float) -> None:
        self._runner = runner
        self._seconds = seconds
        self._since = time.monotonic()
        self._timer: threading.Timer | None = None
        self._is_over = False
        self._is_up = False
        self._deciding = threading.Lock()
        self._told: VecbakError | None = None

    def begin(self) -> None:
        """Writers wait from here on."""
        self._since = time.monotonic()
        self._timer = threading.Timer(self._seconds, self._time_is_up)
        self._timer.daemon = True
        self._timer.start()

    def check(self) -> None:
        """Give up if the time is up.

        Raises:
            BackupFailed: it is.
        """
        self._is_up = self._is_up or (self._timer is not None and time.monotonic() - self._since > self._seconds)
        if self._is_up:
            raise self._too_long(BackupFailed)

    def end(self) -> None:
        """COMMIT comes now: nothing is ended from here on.

        Raises:
            BackupFailed: the time was up before.
        """
        self.stop()
        if self._is_up:
            raise self._too_long(BackupFailed)

    def stop(self) -> None:
        """Nothing is ended from here on."""
        with self._deciding:
            self._is_over = True
        if self._timer:
            self._timer.cancel()

    @contextmanager
    def explaining(self, kind: type[VecbakError] = BackupFailed) -> Iterator[None]:
        """While it lasts, whatever fails because the time is up says so.

        Args:
            kind: of the error.
        """
        try:
            yield
        except Exception as error:
            if not self._is_up or error is self._told:
                raise
            self._told = self._too_long(kind)
            raise self._told from None

    def _time_is_up(self) -> None:
        with self._deciding:
            if self._is_over:
                return
            self._is_up = True
        self._runner.stop_all()

    def _too_long(self, kind: type[VecbakError]) -> VecbakError:
        outcome = {
            TruncateFailed: "the backup is kept, and nothing was truncated",
            RestoreFailed: "the target is as it was before",
        }.get(kind, "the backup was given up, and nothing was truncated")
        return kind(
            f"writers have been waiting for {self._seconds:g} s; {outcome}",
            "Raise timeouts.write_block_seconds, or back up more tables at once with backup.jobs.",
        )
