"""Paths as people write them."""

from __future__ import annotations

from pathlib import Path

from vecbak.errors import UsageError


def path_of(text: str | Path) -> Path:
    """A path with `~` and `~user` filled in.

    Raises:
        UsageError: it can be none.
    """
    try:
        path = Path(text).expanduser()
    except (RuntimeError, ValueError):
        raise UsageError(f"{str(text)[:80]!r} is no path: there is no such user", "Write the path in full.") from None
    if "\0" in str(text):
        raise UsageError(f"{str(text)[:80]!r} is no path", "Write one without a NUL.")
    return path


def here() -> Path:
    """The current folder.

    Raises:
        UsageError: it was removed, or cannot be reached.
    """
    try:
        return Path.cwd()
    except OSError as error:
        raise UsageError(
            f"the current folder cannot be used: {error.strerror}",
            "Change to a folder that exists (cd), or give --config and --output-dir as absolute paths.",
        ) from None


def absolute(path: Path) -> Path:
    """The same, starting from the current folder if it is relative.

    Raises:
        UsageError: it is, and there is no current folder.
    """
    return path if path.is_absolute() else here() / path
