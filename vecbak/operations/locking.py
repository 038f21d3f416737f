"""Steps 1 to 4 that every guarded operation shares: the transaction, and what its errors mean before anything was done."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from vecbak.config import Timeouts
from vecbak.errors import ConnectionFailed, Refused
from vecbak.postgres.guard import Guard
from vecbak.postgres.session import SessionFailed


@contextlib.contextmanager
def looking() -> Iterator[None]:
    """While nothing has been done yet: what ends the session is a lost connection, or a refusal.

    Raises:
        ConnectionFailed: the session was ended.
        Refused: the server answered with an error.
    """
    try:
        yield
    except SessionFailed as error:
        ended_by_the_server = not error.sqlstate or error.sqlstate.startswith("57P")
        kind = ConnectionFailed if ended_by_the_server else Refused
        raise kind(f"{error.message}; nothing was done", "See the message above.", output=error.output) from None


def begin(
    guard: Guard,
    timeouts: Timeouts,
    *,
    writes: bool,
    isolation: str = "READ COMMITTED",
    recorded: Mapping[str, str] | None = None,
) -> None:
    """Open the guard's transaction.

    Args:
        recorded: the settings that the files to be read were written with; None: those of today.

    Raises:
        Refused: a standby, a pooler that allows no transaction, or a setting that loses rows.
    """
    try:
        guard.begin(writes=writes, lock_seconds=timeouts.lock_seconds, isolation=isolation, recorded=recorded)
    except SessionFailed as error:
        if error.sqlstate == "0A000" and writes:
            raise Refused(
                "the server is a standby, which cannot be written",
                "Connect to the primary; `vecbak backup` without --truncate works on a standby too.",
                output=error.output,
            ) from None
        raise Refused(
            "a transaction could not be opened",
            "A pooler in statement mode does not allow transactions: connect to the server itself.",
            output=error.output,
        ) from None
