"""`task_config.json` and `task_result.json`: what was asked of a task, and what came out."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


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
    """Read it back; None if there is none, or if it is none of ours."""
    try:
        document = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None
