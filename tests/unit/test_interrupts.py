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


# a run in a thread of its own


def test_a_run_that_was_asked_to_end_finds_out_once():
    scope = interrupts.Scope()
    with scope.entered():
        interrupts.check()
        assert scope.ask(signal.SIGTERM)
        with pytest.raises(Interrupted) as caught:
            interrupts.check()
        interrupts.check()
        assert not scope.ask(signal.SIGTERM)
        interrupts.check()
    assert caught.value.signum == signal.SIGTERM


def test_a_run_that_commits_is_left_alone_until_it_lets_go():
    scope = interrupts.Scope()
    with scope.entered():
        interrupts.hold()
        assert not scope.ask(signal.SIGTERM)
        interrupts.check()
        with pytest.raises(Interrupted):
            interrupts.release()


def test_a_run_that_was_asked_to_end_does_not_begin_to_commit():
    scope = interrupts.Scope()
    with scope.entered():
        scope.ask(signal.SIGINT)
        with pytest.raises(Interrupted):
            interrupts.hold()


def test_one_runs_end_is_no_other_ones():
    interrupts.install()
    scope = interrupts.Scope()
    scope.ask(signal.SIGTERM)
    interrupts.check()
    assert interrupts.pending() is None


def test_nothing_is_pending_after_install():
    interrupts.install()
    interrupts.hold()
    send(signal.SIGINT)
    interrupts.install()
    assert interrupts.pending() is None
