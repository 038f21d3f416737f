"""The commented starter config of `vecbak init`; `config/vecbak.yaml` is a copy that a test keeps current."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

from vecbak.errors import UsageError


def starter_text() -> str:
    """The starter file's text."""
    return files("vecbak").joinpath("starter.yaml").read_text(encoding="utf-8")


def write_starter(path: Path, text: str) -> None:
    """Write a new file, readable by its owner alone, for it may come to hold a password.

    Raises:
        UsageError: it exists already, or cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise UsageError(
            f"{path} exists already; it was not touched", "Name another file with --config FILE."
        ) from None
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written: {error.strerror}", "Name another file with --config FILE."
        ) from None
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
