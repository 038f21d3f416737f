import os
import signal

import pytest

from vecbak import interrupts
from vecbak.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def _handlers():
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_run(number):
    interrupts.install()
    with pytest.raises(Interrupted) as caught:
        send(number)
    assert caught.value.signum == number


def test_a_second_signal_does_not_break_the_cleaning_that_the_first_began():
    interrupts.install()
    with pytest.raises(Interrupted):
        send(signal.SIGINT)
    send(signal.SIGINT)
    send(signal.SIGTERM)


def test_signals_wait_once_they_are_held():
    interrupts.install()
    interrupts.hold()
    send(signal.SIGTERM)
    send(signal.SIGTERM)
    assert interrupts.pending() == signal.SIGTERM


def test_nohup_stays_nohup():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    interrupts.install()
    send(signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_nothing_is_pending_after_install():
    interrupts.install()
    interrupts.hold()
    send(signal.SIGINT)
    interrupts.install()
    assert interrupts.pending() is None
