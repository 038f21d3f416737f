"""Signals as exceptions: SIGINT, SIGTERM and SIGHUP end a run in order, except while COMMIT is on its way."""

from __future__ import annotations

import signal
from types import FrameType

from vecbak.errors import Interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _State:
    shielded = False
    pending: int | None = None


_state = _State()


def _handle(signum: int, frame: FrameType | None) -> None:
    if _state.shielded:
        _state.pending = signum
        return
    # while what this one starts is cleaned up, a second one must not break the cleaning
    _state.shielded = True
    raise Interrupted(signum)


def install() -> None:
    """Turn the signals into `Interrupted`, raised once, in the main thread; a SIGHUP that is ignored (nohup) stays so."""
    _state.shielded, _state.pending = False, None
    for number in _SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)


def hold() -> None:
    """From here to the end of the command let signals wait: what is done must be recorded and reported as done.

    Lifting it again after COMMIT would let a signal in between turn a truncate that happened into one that "failed".
    """
    _state.shielded = True


def release() -> None:
    """End `hold`, where a run goes on with something that may be interrupted; what came meanwhile is raised now.

    Raises:
        Interrupted: a signal came while they were held.
    """
    _state.shielded = False
    if _state.pending is not None:
        number, _state.pending = _state.pending, None
        _handle(number, None)


def pending() -> int | None:
    """The signal that came while they were held, if one did."""
    return _state.pending
