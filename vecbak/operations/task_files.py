"""`task_config.json` and `task_result.json`: what was asked of a task, and what came out."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vecbak.errors import Busy, Refused
from vecbak.own_files import open_regular, replace_file
from vecbak.visible import visible_json

log = logging.getLogger(__name__)

CONFIG, RESULT = "task_config.json", "task_result.json"
_LOCK = ".task.lock"  # held as long as its run lives, flock(2): its end cannot be missed
_MAX_BYTES = 16 * 1024 * 1024


@contextlib.contextmanager
def claim_task(folder: Path, config: dict[str, Any]) -> Iterator[None]:
    """Write `task_config.json`; to the end of the context the task runs. What came out last time is removed.

    Raises:
        Busy: another run works in this folder.
        Refused: its lock cannot be had, or what came out last time stays.
    """
    with contextlib.ExitStack() as stack:
        try:
            descriptor = open_regular(folder / _LOCK, os.O_RDWR | os.O_CREAT)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (folder / RESULT).unlink(missing_ok=True)
        except BlockingIOError:
            raise Busy(f"another run works on the task in {folder}", "Wait for its end.") from None
        except OSError as error:
            raise Refused(
                f"the task in {folder} cannot be claimed: {error.filename or folder / _LOCK}: {error.strerror}",
                "Remove what stands in its place, or choose another --output-dir.",
            ) from None
        write_task_file(folder, CONFIG, config)
        yield


def is_claimed(folder: Path) -> bool:
    """Whether a run works there now."""
    try:
        descriptor = open_regular(folder / _LOCK, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # nobody can lock there
        return False
    finally:
        os.close(descriptor)
    return False


def write_task_file(folder: Path, name: str, document: dict[str, Any]) -> None:
    """Write it in one step; a failure to do so is told and changes nothing of the task."""
    path = folder / name
    try:
        replace_file(path, visible_json(document) + "\n")
    except OSError as error:
        log.warning("%s could not be written: %s", path, error.strerror)


def read_task_file(folder: Path, name: str) -> dict[str, Any] | None:
    """Read it back; None if there is none, or if it is none of ours: a link, a pipe, no JSON, too large."""
    try:
        with os.fdopen(open_regular(folder / name, os.O_RDONLY), "rb") as file:
            text = file.read(_MAX_BYTES + 1)
        document = json.loads(text) if len(text) <= _MAX_BYTES else None
    except (OSError, ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None
