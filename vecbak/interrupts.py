"""Signals as exceptions: SIGINT, SIGTERM and SIGHUP end a run in order, except while COMMIT is on its way.

A run in the main thread is interrupted by the signal itself. A run in another thread (of a server) has a `Scope` of its
own: whoever wants it to end asks the scope and ends the run's programs, and the run then finds out by `check`.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from vecbak.errors import Interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_ASK_EVERY_SECONDS = 0.1


class Scope:
    """What may be interrupted as one: the process, or one run in a thread of its own.

    Attributes:
        stop: ends the run's programs; whoever starts it sets this.
    """

    def __init__(self) -> None:
        self.stop: Callable[[], None] = lambda: None
        self.shielded = False
        self.pending: int | None = None
        self.asked: int | None = None
        self._lock = threading.RLock()

    def ask(self, signum: int) -> bool:
        """Ask a run in another thread to end; may be asked again and again until it has.

        Returns:
            Whether its programs may be ended now; not while it commits, records or cleans up.
        """
        with self._lock:
            self.asked = self.pending = signum
            return not self.shielded

    def end(self, thread: threading.Thread, signum: int) -> None:
        """End a run in order, and return when its thread has ended."""
        while thread.is_alive():
            if self.ask(signum):
                self.stop()  # again and again, as it may start some meanwhile
            thread.join(_ASK_EVERY_SECONDS)

    def check(self) -> None:
        """Raise what was asked for, once.

        Raises:
            Interrupted: this run is to end.
        """
        with self._lock:
            if self.shielded or self.pending is None:
                return
            number, self.pending = self.pending, None
            self.shielded = True  # while it is cleaned up, nothing must break the cleaning
        raise Interrupted(number)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """What this thread does meanwhile is this scope's."""
        _own.scope = self
        try:
            yield
        finally:
            del _own.scope


_process = Scope()
_own = threading.local()


def _current() -> Scope:
    scope: Scope = getattr(_own, "scope", _process)
    return scope


def _handle(signum: int, frame: FrameType | None) -> None:
    if _process.shielded:
        _process.pending = signum
        return
    # while what this one starts is cleaned up, a second one must not break the cleaning
    _process.shielded = True
    raise Interrupted(signum)


def install() -> None:
    """Turn the signals into `Interrupted`, raised once, in the main thread; a SIGHUP that is ignored (nohup) stays so.

    Whoever started us may have blocked them, or may ignore SIGCHLD: then no program's exit code could be told (wait(2)).
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {*_SIGNALS, signal.SIGCHLD})
    _process.shielded, _process.pending = False, None
    for number in _SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)


def check() -> None:
    """Where a run in a thread of its own finds out that it is to end; in the main thread the signal itself has told.

    Raises:
        Interrupted: it is.
    """
    _current().check()


def hold() -> None:
    """From here to the end of the command let signals wait: what is done must be recorded and reported as done.

    Lifting it again after COMMIT would let a signal in between turn a truncate that happened into one that "failed".

    Raises:
        Interrupted: this run was asked to end before.
    """
    scope = _current()
    with scope._lock:
        scope.check()
        scope.shielded = True


def release() -> None:
    """End `hold`, where a run goes on with something that may be interrupted; what came meanwhile is raised now.

    Raises:
        Interrupted: a signal came while they were held.
    """
    scope = _current()
    scope.shielded = False
    scope.check()


def pending() -> int | None:
    """The signal that came while they were held, if one did."""
    return _current().pending
