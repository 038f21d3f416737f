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
