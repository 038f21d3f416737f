"""What can go wrong, as types; this module imports nothing of vecbak.

Exit codes are part of the command line's contract: shell scripts branch on them.
"""

from __future__ import annotations

import contextlib
import enum
import signal
from collections.abc import Callable, Iterator, Mapping


class ExitCode(enum.IntEnum):
    """What `vecbak` tells the shell."""

    DONE = 0
    DECLINED = 1
    USAGE = 2
    CONNECTION = 3
    REFUSED = 4
    BACKUP_FAILED = 5
    TRUNCATE_FAILED = 6
    BUSY = 7
    RESTORE_FAILED = 8
    BUG = 70


class VecbakError(Exception):
    """A failure that vecbak understands: what failed, what the program said, what to do now.

    Args:
        message: what failed, one sentence without a full stop.
        hint: what to do now.
        output: what the program printed (psql, pg_dump, the server); its last lines are shown.
        result: the operation's result so far, for `--json` (a `vecbak.results.Result`).
    """

    exit_code = ExitCode.BUG

    def __init__(self, message: str, hint: str = "", *, output: str = "", result: object = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.output = output
        self.result = result


class Declined(VecbakError):
    """The question was answered no; nothing was done."""

    exit_code = ExitCode.DECLINED


class UsageError(VecbakError):
    """The command line, the configuration, or an unknown BACKUP."""

    exit_code = ExitCode.USAGE


class ConnectionFailed(VecbakError):
    """No connection, or no login."""

    exit_code = ExitCode.CONNECTION


class Refused(VecbakError):
    """Preflight said no; nothing was done, and no byte was written."""

    exit_code = ExitCode.REFUSED


class BackupFailed(VecbakError):
    """The backup or its verification failed; nothing was truncated."""

    exit_code = ExitCode.BACKUP_FAILED


class BackupDamaged(BackupFailed):
    """A file of a backup is not what was written; nothing was restored from it."""


class TruncateFailed(VecbakError):
    """TRUNCATE failed after a good backup; the backup is kept and the rows are still there.

    Attributes:
        rows_after: by table oid, where they were counted on the server that answers now.
    """

    exit_code = ExitCode.TRUNCATE_FAILED
    rows_after: Mapping[int, int] = {}


class TruncateUnknown(TruncateFailed):
    """The connection broke during COMMIT and nobody answers: whether it happened is not known."""


class Busy(VecbakError):
    """Another run, or a lock, was in the way before anything was done."""

    exit_code = ExitCode.BUSY


class Contended(Busy):
    """Somebody else changed or holds rows that were backed up to be deleted: nothing was deleted, and it may be tried again."""


class RestoreFailed(VecbakError):
    """The restore failed; the target is as it was before."""

    exit_code = ExitCode.RESTORE_FAILED


class RestoreUnknown(RestoreFailed):
    """The connection broke during COMMIT and nobody answers: whether the rows were restored is not known."""


class Interrupted(BaseException):
    """SIGINT, SIGTERM or SIGHUP; a BaseException so that no `except Exception` swallows it.

    Args:
        signum: the signal's number; the exit code is 128 + signum.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum
        self.result: object = None


def reason_of(error: BaseException) -> str:
    """Why a run ended, in one line."""
    if isinstance(error, VecbakError):
        return error.message
    return f"interrupted by {error}" if isinstance(error, Interrupted) else f"a bug: {type(error).__name__}"


def exit_code_of(error: BaseException) -> int:
    """What a run that ended so tells the shell."""
    if isinstance(error, Interrupted):
        return 128 + error.signum
    return int(error.exit_code if isinstance(error, VecbakError) else ExitCode.BUG)


@contextlib.contextmanager
def telling(result: Callable[[str], object]) -> Iterator[None]:
    """Let what ends this context early carry how far it came.

    Args:
        result: makes it, given the reason.
    """
    try:
        yield
    except (VecbakError, Interrupted) as error:
        error.result = result(reason_of(error))
        raise
