"""The embedded server's start."""

from __future__ import annotations

import subprocess

import pytest

from vecbak.postgres import embedded


class SlowServer:
    """Gives up as pgserver does: pg_ctl after 10 s, or because the server is not ready yet."""

    def __init__(self, *failures: Exception) -> None:
        self._failures = list(failures)

    def start(self) -> None:
        if self._failures:
            raise self._failures.pop(0)


def test_a_server_that_recovers_slowly_is_waited_for(monkeypatch):
    monkeypatch.setattr(embedded.time, "sleep", lambda _: None)
    server = SlowServer(subprocess.TimeoutExpired("pg_ctl", 10), AssertionError())
    assert embedded._started(server) is server


def test_a_server_that_never_starts_is_given_up(monkeypatch):
    monkeypatch.setattr(embedded, "START_SECONDS", -1)
    with pytest.raises(subprocess.TimeoutExpired):
        embedded._started(SlowServer(subprocess.TimeoutExpired("pg_ctl", 10)))


def test_a_server_that_cannot_start_is_not_tried_again():
    with pytest.raises(subprocess.CalledProcessError):
        embedded._started(SlowServer(subprocess.CalledProcessError(1, "pg_ctl")))
