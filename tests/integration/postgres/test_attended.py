"""Programs in a real container: what is asked of them is done inside, also when the attendant is gone."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from tests.support.container import ContainerServer, docker
from vecbak.postgres.attended import ContainerRunner, container_runner
from vecbak.postgres.container import Container, find_container
from vecbak.postgres.process import Process

_KILL_ATTENDANTS = "for path in $(grep -ls 'VECBAK_PROGRAM=[$]2' /proc/[0-9]*/cmdline); do pid=${path#/proc/}; kill -9 ${pid%/cmdline}; done"


@pytest.fixture(scope="module")
def found(container18: ContainerServer) -> Container:
    return find_container(container18.name, seconds=10)


@pytest.fixture
def runner(found: Container) -> Iterator[ContainerRunner]:
    with container_runner(found, []) as runner:
        yield runner


def started(runner: ContainerRunner, found: Container) -> Process:
    """A program that waits; it has begun."""
    process = runner.start([*found.exec_command(), "sh", "-c", "echo begun; exec sleep 77"])
    process.exchange(b"", time.monotonic() + 20, lambda: b"begun" in process.output)
    assert process.is_alive()
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_the_program_inside(runner: ContainerRunner, found: Container, container18, number):
    process, other = started(runner, found), started(runner, found)
    process.signal(number)
    assert process.wait(10) == -number
    assert other.is_alive()
    assert container18.processes().count("sleep 77") == 1


def test_it_does_without_an_attendant(runner: ContainerRunner, found: Container, container18):
    process = started(runner, found)
    docker("exec", found.name, "sh", "-c", _KILL_ATTENDANTS)
    assert runner._attendant.wait(10)
    process.signal(signal.SIGTERM)
    assert process.wait(10) == -signal.SIGTERM
    assert "sleep 77" not in container18.processes()


def test_what_is_left_is_removed_at_the_end(found: Container):
    with container_runner(found, []) as runner:
        name = f"/tmp/vecbak-{runner.mark()}"
        others = "/tmp/vecbak-of-another-run"
        docker("exec", found.name, "touch", name, others)
    there = docker("exec", found.name, "sh", "-c", "ls -d /tmp/vecbak-*").splitlines()
    assert others in there
    assert name not in there
    docker("exec", found.name, "rm", others)
