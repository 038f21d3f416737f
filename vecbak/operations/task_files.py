"""`task_config.json` and `task_result.json`: what was asked of a task, and what came out."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vecbak.errors import Busy

log = logging.getLogger(__name__)

CONFIG, RESULT = "task_config.json", "task_result.json"
_LOCK = ".task.lock"  # held as long as its run lives, flock(2): its end cannot be missed
_MAX_BYTES = 16 * 1024 * 1024


@contextlib.contextmanager
def claim_task(folder: Path, config: dict[str, Any]) -> Iterator[None]:
    """Write `task_config.json`; to the end of the context the task runs. What came out last time is removed.

    Raises:
        Busy: another run works in this folder.
    """
    with contextlib.ExitStack() as stack:
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        stack.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(f"another run works on the task in {folder}", "Wait for its end.") from None
        with contextlib.suppress(FileNotFoundError):
            (folder / RESULT).unlink()
        write_task_file(folder, CONFIG, config)
        yield


def is_claimed(folder: Path) -> bool:
    """Whether a run works there now."""
    try:
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def write_task_file(folder: Path, name: str, document: dict[str, Any]) -> None:
    """Write it in one step; a failure to do so is told and changes nothing of the task."""
    path, temporary = folder / name, folder / f".{name}.{os.getpid()}.tmp"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(document, file, ensure_ascii=False, indent=2, default=str)
            file.write("\n")
        temporary.replace(path)
    except OSError as error:
        log.warning("%s could not be written: %s", path, error.strerror)


def read_task_file(folder: Path, name: str) -> dict[str, Any] | None:
    """Read it back; None if there is none, or if it is none of ours: a link, a pipe, no JSON, too large."""
    try:
        descriptor = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return None
            text = file.read(_MAX_BYTES + 1)
        document = json.loads(text) if len(text) <= _MAX_BYTES else None
    except (OSError, ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None
