"""The terminal itself: plain lines, JSON, errors, columns."""

from __future__ import annotations

import codecs
import json
import os
import sys
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

from vecbak.errors import VecbakError

LAST_LINES = 12
_IN_ASCII = {"✓": "ok", "✗": "FAILED", "→": "->", "…": "...", "━": "-", "–": "-", "×": "x"}


def write_on_any_terminal() -> None:
    """From here on no text fails on a terminal, or in a file, whose encoding lacks some of its characters."""
    codecs.register_error("vecbak", _spelt_out)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="vecbak")


def _spelt_out(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)  # noqa: S101 - only encoding asks
    letters = error.object[error.start : error.end]
    text = "".join(_IN_ASCII.get(letter) or letter.encode("ascii", "backslashreplace").decode() for letter in letters)
    return text, error.end


def is_interactive() -> bool:
    """Whether somebody sits at a terminal who sees standard error and can answer."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def styled(text: str, code: str, stream: TextIO) -> str:
    plain = not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return text if plain else f"\x1b[{code}m{text}\x1b[0m"


def mark(success: bool) -> str:
    return styled("✓", "32", sys.stdout) if success else styled("✗", "31", sys.stdout)


def columns(lines: Sequence[Sequence[str]], *, right: Collection[int] = ()) -> list[str]:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return [
        "  ".join(
            text.rjust(width) if column in right else text.ljust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def short(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd())) or "."
    except ValueError:
        return str(path)


def age(moment: datetime) -> str:
    import humanize

    return humanize.naturaldelta(datetime.now(UTC) - moment)


def flush() -> None:
    """What was printed so far comes before what a command prints."""
    sys.stdout.flush()
    sys.stderr.flush()


def show_line(text: str) -> None:
    """A line on standard error."""
    print(text, file=sys.stderr)


def show_text(text: str) -> None:
    """Text on standard output."""
    print(text)


def show_document(document: Any) -> None:
    """The one JSON document of `--json`."""
    unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"  # another would not be JSON
    json.dump(document, sys.stdout, ensure_ascii=not unicode, indent=2, default=str)
    sys.stdout.write("\n")
    sys.stdout.flush()


def show_commands(commands: Sequence[str], *, as_json: bool) -> None:
    """`--dry-run`."""
    if as_json:
        show_document({"dry_run": True, "commands": list(commands)})
    else:
        show_text("\n\n".join(commands))


def show_error(error: VecbakError, mask: Any = lambda text: text) -> None:
    """Three things: what failed, the last lines that the program printed, what to do now."""
    print(styled("Error:", "1;31", sys.stderr), mask(error.message), file=sys.stderr)
    for line in mask(error.output).splitlines()[-LAST_LINES:]:
        print(f"  {line}", file=sys.stderr)
    if error.hint:
        print(styled("Hint:", "1;36", sys.stderr), mask(error.hint), file=sys.stderr)
