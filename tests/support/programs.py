"""Folders of client programs that misbehave in one chosen way and are real otherwise."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support.server import bin_folder


def slow_pg_dump(folder: Path, *, seconds: float = 0.0, after: str = "true") -> Path:
    """The real psql, and a pg_dump that when it is done runs a shell command and takes its time to end."""
    wrapped = folder / "bin"
    wrapped.mkdir()
    real = bin_folder(18)
    (wrapped / "psql").symlink_to(real / "psql")
    _write(wrapped / "pg_dump", f'#!/bin/sh\n"{real}/pg_dump" "$@" || exit\n{after}\nexec sleep {seconds}\n')
    return wrapped


def psql_filter(folder: Path, body: str) -> Path:
    """The real pg_dump, and a psql whose requests and answers pass through a Python program.

    Args:
        body: lines of Python that may change `line`, a request's line (str); `os`, `re`, `glob` and `time` are there,
            and `after(function)` runs a function when the next answer's mark has come from psql, before it is passed on.
    """
    wrapped = folder / "bin"
    wrapped.mkdir()
    real = bin_folder(18)
    (wrapped / "pg_dump").symlink_to(real / "pg_dump")
    indented = "\n".join(f"    {line}" for line in body.splitlines())
    _write(
        wrapped / "psql",
        f"""#!{sys.executable}
import glob, os, re, subprocess, sys, threading, time
if "--version" in sys.argv:
    os.execv("{real}/psql", ["psql", "--version"])
child = subprocess.Popen(["{real}/psql", *sys.argv[1:]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
waiting = []
def after(function):
    waiting.append(function)
def answers():
    for answer in child.stdout:
        if len(answer.split()) == 4 and waiting:
            waiting.pop(0)()
        sys.stdout.buffer.write(answer)
        sys.stdout.buffer.flush()
    os._exit(child.wait() & 255)
reader = threading.Thread(target=answers)
reader.start()
for line in sys.stdin:
{indented}
    try:
        child.stdin.write(line.encode())
        child.stdin.flush()
    except BrokenPipeError:  # psql has ended: its exit code is ours
        break
try:
    child.stdin.close()
except BrokenPipeError:
    pass
reader.join()
""",
    )
    return wrapped


def _write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)
