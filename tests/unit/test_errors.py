import signal

import pytest

from vecbak.errors import (
    BackupFailed,
    Busy,
    ConnectionFailed,
    Declined,
    ExitCode,
    Interrupted,
    Refused,
    TruncateFailed,
    UsageError,
    VecbakError,
)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Declined, 1),
        (UsageError, 2),
        (ConnectionFailed, 3),
        (Refused, 4),
        (BackupFailed, 5),
        (TruncateFailed, 6),
        (Busy, 7),
        (VecbakError, 70),
    ],
)
def test_exit_codes_are_a_contract_with_shell_scripts(error, code):
    assert int(error("x").exit_code) == code


def test_the_codes_that_no_error_has_yet():
    assert (ExitCode.DONE, ExitCode.RESTORE_FAILED) == (0, 8)


def test_an_error_is_three_things():
    error = Refused("no room", "Free some.", output="df says", result={"a": 1})
    assert (error.message, error.hint, error.output, error.result) == ("no room", "Free some.", "df says", {"a": 1})
    assert str(error) == "no room"


def test_no_except_exception_swallows_an_interrupt():
    assert not issubclass(Interrupted, Exception)
    assert (str(Interrupted(signal.SIGTERM)), Interrupted(2).signum) == ("SIGTERM", 2)
