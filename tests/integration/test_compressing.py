"""Rows on their way through a compressor that works, fails, dies or hangs."""

import os
import signal
import subprocess
import threading
import time

import pytest

from vecbak.backups.draft_file import DraftFile
from vecbak.backups.formats import COMPRESSORS, Compressor
from vecbak.errors import BackupFailed
from vecbak.operations.exporting import compressing
from vecbak.postgres.runner import LocalRunner

PATIENCE = 30
DATA = os.urandom(100_000) * 30


@pytest.fixture
def runner():
    runner = LocalRunner()
    yield runner
    runner.stop_all()


@pytest.fixture
def file(tmp_path):
    descriptor = os.open(tmp_path / "rows.tmp", os.O_RDWR | os.O_CREAT)
    yield DraftFile(tmp_path / "rows.tmp", descriptor)
    os.close(descriptor)


def shell(script: str) -> Compressor:
    return Compressor("sh", ".x", ("-c", script), (), (), 1.0, b"")


def compress(runner, file, compressor, *, seconds=PATIENCE):
    with compressing(runner, compressor, file, seconds=seconds) as take:
        for start in range(0, len(DATA), 700_000):
            take(memoryview(DATA)[start : start + 700_000])


@pytest.mark.parametrize("name", COMPRESSORS)
def test_what_goes_in_comes_out_again(runner, file, name):
    compress(runner, file, COMPRESSORS[name])
    program = COMPRESSORS[name].program
    assert file.path.read_bytes().startswith(COMPRESSORS[name].magic)
    with file.path.open("rb") as source:
        assert subprocess.run([program, "-d", "-c"], stdin=source, capture_output=True, check=True).stdout == DATA


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("cat; echo broken >&2; exit 3", r"sh failed \(exit code 3\)"),
        ("head -c 1000; echo broken >&2", "sh ended before it had read every row"),
        ("echo broken >&2; exec 0<&-; exit 1", "sh ended before it had read every row"),
    ],
)
def test_one_that_fails_is_told_with_what_it_said(runner, file, script, message):
    with pytest.raises(BackupFailed, match=message) as caught:
        compress(runner, file, shell(script))
    assert caught.value.output == "broken"


def test_one_that_is_killed(runner, file, monkeypatch):
    started, start = [], runner.start
    monkeypatch.setattr(runner, "start", lambda *a, **k: started.append(start(*a, **k)) or started[-1])
    threading.Timer(0.3, lambda: os.kill(started[0].pid, signal.SIGKILL)).start()
    with pytest.raises(BackupFailed, match=r"ended before|failed"):
        compress(runner, file, shell("exec sleep 600"))


@pytest.mark.parametrize("script", ["exec sleep 600", "cat >/dev/null; exec sleep 600"])
def test_one_that_hangs_is_ended(runner, file, script):
    began = time.monotonic()
    with pytest.raises(BackupFailed, match="sh took too long"):
        compress(runner, file, shell(script), seconds=1)
    assert time.monotonic() - began < PATIENCE


def test_one_that_says_more_than_a_pipe_holds(runner, file):
    compress(runner, file, shell("head -c 1000000 /dev/zero >&2; exec cat"))
    assert file.path.read_bytes() == DATA


def test_it_is_ended_when_psql_fails(runner, file):
    def failing():
        with compressing(runner, shell("exec cat"), file, seconds=PATIENCE) as take:
            take(memoryview(b"x"))
            raise OSError("psql")

    with pytest.raises(OSError, match="psql"):
        failing()
    assert not [process for process in runner._processes if process.is_alive()]
