"""The pipe between a file and psql: whatever end fails, nothing hangs and nothing is left over."""

from __future__ import annotations

import os
import re
import tempfile
import threading
import time
from pathlib import Path

import pytest

from vecbak.backups.files import FileDamaged
from vecbak.errors import Interrupted
from vecbak.operations.loading import Different, SourceFile, compare, load
from vecbak.postgres.fifos import local_pipe
from vecbak.postgres.session import Answer, SessionFailed

PIECE = b"x" * 65536
PIECES = 200  # more than any pipe holds


class Psql:
    """A guard whose psql does with the pipe what a test says."""

    def __init__(self, work):
        self.work = work
        self.killed = False

    def ask(self, request, step, *, timeout):
        path = Path(re.search(r"(?:from|to) '([^']+)'", request).group(1))
        assert path.is_fifo()
        assert re.fullmatch(rf"/proc/{os.getpid()}/fd/\d+", str(path))
        return Answer("", False, "00000", self.work(path) or 0, "")

    def kill(self):
        self.killed = True

    def fifo(self):
        return local_pipe("wb")


class Reader:
    """Decodes to the bytes that a test says."""

    format = "csv"

    def __init__(self, **files):
        self.files = files

    def decode(self, name, consume):
        for chunk in self.files[name]:
            consume(chunk)


@pytest.fixture(autouse=True)
def left_over(tmp_path, monkeypatch):
    """Nothing stays: no thread, no file, no descriptor."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    descriptors = sorted(Path("/proc/self/fd").iterdir())
    before, began = threading.active_count(), time.monotonic()
    yield
    assert time.monotonic() - began < 10
    assert threading.active_count() == before
    assert list(tmp_path.iterdir()) == []
    assert sorted(Path("/proc/self/fd").iterdir()) == descriptors


def a_file(feed) -> SourceFile:
    return SourceFile("items.csv", 3, 100, "format csv", feed)


def large(consume) -> None:
    for _ in range(PIECES):
        consume(PIECE)


def read_all(path: Path) -> int:
    return len(path.read_bytes()) // len(PIECE)


def test_everything_is_handed_over():
    told: list[int] = []
    assert load(Psql(read_all), "t", ["id"], a_file(large), seconds=1, on_bytes=told.append) == PIECES
    assert sum(told) == PIECES * len(PIECE)


def test_an_empty_file():
    assert load(Psql(read_all), "t", ["id"], a_file(lambda _: None), seconds=1) == 0


@pytest.mark.parametrize("feed", [lambda consume: consume(PIECE), lambda _: None])
def test_psql_comes_late(feed):
    """All was written, and our end closed, before it opens its own."""

    def late(path: Path) -> int:
        time.sleep(0.2)
        return read_all(path)

    assert load(Psql(late), "t", ["id"], a_file(feed), seconds=1) in (0, 1)


def fail_before_opening(path: Path) -> None:
    raise SessionFailed("no such table", sqlstate="42P01")


def fail_half_way(path: Path) -> None:
    with path.open("rb") as file:
        file.read(100_000)
    raise SessionFailed("a row was refused", sqlstate="23505")


@pytest.mark.parametrize("work", [fail_before_opening, fail_half_way])
@pytest.mark.parametrize("feed", [large, lambda consume: consume(b"x"), lambda _: None])
def test_psql_fails(work, feed):
    psql = Psql(work)
    with pytest.raises(SessionFailed):
        load(psql, "t", ["id"], a_file(feed), seconds=1)
    assert psql.killed


def test_psql_stops_to_read_without_an_error():
    """As old versions do at an end mark: the row count tells."""

    def stop(path: Path) -> int:
        with path.open("rb") as file:
            file.read(10)
        return 2

    assert load(Psql(stop), "t", ["id"], a_file(large), seconds=1) == 2


def test_an_interrupt_does_not_wait_until_everything_is_loaded():
    """psql would go on to read: it is ended."""
    killed = threading.Event()
    readers = []

    class Slow(Psql):
        def kill(self):
            killed.set()
            readers[0].join()

    def interrupt(path: Path) -> None:
        def go_on() -> None:
            with path.open("rb") as file:
                while not killed.is_set():
                    file.read(1000)
                    time.sleep(0.01)

        readers.append(threading.Thread(target=go_on))
        readers[0].start()
        raise Interrupted(2)

    with pytest.raises(Interrupted):
        load(Slow(interrupt), "t", ["id"], a_file(large), seconds=1)


def damaged(consume) -> None:
    consume(b"1,a\n")
    raise FileDamaged("items.csv ends too early")


def test_the_file_fails_and_psql_is_content():
    with pytest.raises(FileDamaged):
        load(Psql(read_all), "t", ["id"], a_file(damaged), seconds=1)


def test_the_file_fails_and_psql_complains_of_its_end():
    def complain(path: Path) -> None:
        path.read_bytes()
        raise SessionFailed("unterminated CSV quoted field", sqlstate="22P04")

    with pytest.raises(FileDamaged):
        load(Psql(complain), "t", ["id"], a_file(damaged), seconds=1)


def test_a_bug_in_the_feeder_is_raised():
    def broken(consume) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        load(Psql(read_all), "t", ["id"], a_file(broken), seconds=1)


# the way back


HEADER = b"id,text\n"


def export(*pieces: bytes):
    def work(path: Path) -> None:
        with path.open("wb") as file:
            for piece in pieces:
                file.write(piece)
                file.flush()

    return Psql(work)


def check(psql, *files: list[bytes]) -> None:
    names = [f"file{number}" for number in range(len(files))]
    compare(psql, "t", ["id"], names, Reader(**dict(zip(names, files, strict=True))), seconds=1)


def test_the_same():
    check(export(b"1,a\n2,b\n"), [HEADER + b"1,a\n"], [HEADER, b"2,", b"b\n"])
    check(export(b"1,", b"a\n2,b\n"), [HEADER, b"1,a\n2,b\n"])
    check(export(), [HEADER], [HEADER])
    check(export(*[PIECE] * PIECES, b"\n"), [HEADER, *[PIECE] * PIECES, b"\n"])


@pytest.mark.parametrize(
    ("exported", "words"),
    [
        (b"1,a\n2,c\n", "file1: .* differs at byte 6 of the rows"),
        (b"1,a\n", "file1: .* differs at byte 4"),
        (b"", "file0: .* differs at byte 0"),
        (b"1,a\n2,b", "file1: .* differs at byte 7"),
        (b"1,a\n2,b\n3,c\n", "file1: more was exported again than the files hold, from byte 8"),
        (b"1,a\n2,c\n" + PIECE * PIECES, "file1: .* differs at byte 6"),
    ],
)
def test_a_difference_is_told_with_its_place(exported, words):
    with pytest.raises(Different, match=words):
        check(export(exported), [HEADER + b"1,a\n"], [HEADER + b"2,b\n"])


@pytest.mark.parametrize("work", [fail_before_opening, lambda path: fail_after_writing(path)])
def test_a_failed_export_is_no_difference(work):
    psql = Psql(work)
    with pytest.raises(SessionFailed):
        check(psql, [HEADER + b"1,a\n"])
    assert psql.killed


def fail_after_writing(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b"1,")
    raise SessionFailed("the server went away")
