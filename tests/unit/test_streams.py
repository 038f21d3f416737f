"""Streams that never fail, and are always there."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import tempfile
import time
from pathlib import Path

import pytest

from vecbak.errors import Refused
from vecbak.own_files import open_regular, replace_file
from vecbak.postgres.throw_away import throw_away_folder
from vecbak.streams import Stream, fill_closed


def test_what_cannot_be_written_is_remembered_and_not_raised():
    with Path("/dev/full").open("wb", buffering=0) as full:
        stream = Stream(full.fileno(), "utf-8")
        assert stream.write("text\n") == 5
        assert stream.problem
        assert stream.problem.errno == errno.ENOSPC
    stream.write("its descriptor is closed by now")
    assert stream.problem.errno == errno.EBADF


def test_a_reader_that_went_away():
    reader, writer = os.pipe()
    os.close(reader)
    stream = Stream(writer, "utf-8")
    print("text", file=stream)
    os.close(writer)
    assert stream.problem
    assert stream.problem.errno == errno.EPIPE


def test_a_reader_that_takes_nothing_is_given_up_once_and_then_not_waited_for():
    reader, writer = os.pipe()
    stream = Stream(writer, "utf-8", patience=0.3)
    began = time.monotonic()
    for _ in range(50):
        stream.write("x" * 4096)
    assert 0.2 < time.monotonic() - began < 3
    assert stream.problem
    os.set_blocking(reader, False)
    with contextlib.suppress(BlockingIOError):
        while os.read(reader, 65536):
            pass
    stream.write("it reads again")
    assert os.read(reader, 100).endswith(b"it reads again")
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize(
    ("encoding", "text", "written"),
    [("ascii", "✓ é → \udcff", b"ok \\xe9 -> \\udcff"), ("utf-8", "✓ \ud800", "✓ \\ud800".encode()), ("latin-1", "é✗", b"\xe9FAILED")],
)  # fmt: skip
def test_letters_that_an_encoding_lacks(tmp_path, encoding, text, written):
    with (tmp_path / "file").open("wb", buffering=0) as file:
        Stream(file.fileno(), encoding).write(text)
    assert (tmp_path / "file").read_bytes() == written


def test_closed_streams_are_filled_so_that_no_file_gets_their_number():
    pid = os.fork()
    if pid == 0:
        for number in (0, 1, 2):
            os.close(number)
        fill_closed()
        names = {str(Path(f"/proc/self/fd/{number}").readlink()) for number in (0, 1, 2)}
        os._exit(0 if names == {os.devnull} else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert sys.stdout


@pytest.mark.parametrize(
    "make", [lambda path: os.mkfifo(path), lambda path: path.mkdir(), lambda path: path.symlink_to("/etc/passwd")]
)
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND | os.O_CREAT])
def test_what_is_no_regular_file_is_not_opened(tmp_path, make, flags):
    make(tmp_path / "x")
    with pytest.raises(OSError, match=r"regular|symbolic|directory"):
        open_regular(tmp_path / "x", flags)


def test_a_file_is_replaced_in_one_step_and_nothing_else_is_left(tmp_path):
    (tmp_path / "elsewhere").write_text("precious")
    (tmp_path / "x").symlink_to(tmp_path / "elsewhere")
    replace_file(tmp_path / "x", "new \udcff")
    assert (tmp_path / "x").read_text() == "new \\udcff"
    assert (tmp_path / "elsewhere").read_text() == "precious"
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="directory"):
        replace_file(tmp_path / "folder", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "folder", "x"]


def test_without_a_temporary_folder_there_is_no_throw_away_server(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/nonexistent/folder")
    with pytest.raises(Refused, match="no temporary folder") as caught, throw_away_folder("test"):
        pass
    assert "TMPDIR" in caught.value.hint
