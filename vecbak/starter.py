"""The commented starter config of `vecbak init`; `config/vecbak.yaml` is a copy that a test keeps current."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from vecbak.errors import UsageError

if TYPE_CHECKING:
    from vecbak.operations.discovery import DiscoveredTable


def starter_text() -> str:
    """The starter file's text."""
    return files("vecbak").joinpath("starter.yaml").read_text(encoding="utf-8")


def starter_for(tables: Sequence[DiscoveredTable], dsn: str | None) -> str:
    """The starter file for the tables of a database.

    Args:
        dsn: without a password; None: the connection comes from PG* variables.
    """
    text = starter_text()
    supported = _list("supported_tables", [(item.name, item.comment) for item in tables])
    truncated = _list("truncate_tables", [(item.name, "") for item in tables if item.has_vectors])
    text = _replace_line(text, "  supported_tables:", supported)
    text = _replace_line(text, "  truncate_tables:", truncated)
    return text if dsn is None else _replace_line(text, "  # dsn:", f"  dsn: {_quoted(dsn)}")


def _list(key: str, items: Sequence[tuple[str, str]]) -> str:
    lines = [f"    - {_quoted(name)}{f'  # {comment}' if comment else ''}" for name, comment in items]
    return "\n".join([f"  {key}:", *lines])


def _replace_line(text: str, beginning: str, by: str) -> str:
    return "\n".join(by if line.startswith(beginning) else line for line in text.split("\n"))


def _quoted(text: str) -> str:
    # ${…} would be read from the environment
    return "'" + text.replace("'", "''").replace("$", "$$") + "'" if not text.isidentifier() else text


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
