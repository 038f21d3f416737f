"""The terminal itself: plain lines, JSON, errors, columns. Whatever goes to it goes through `say` or `show_text`."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from vecbak.errors import VecbakError
from vecbak.visible import visible, visible_json, visible_line

LAST_LINES = 12
_OURS = os.urandom(8).hex()  # nobody outside knows it: an escape sequence that holds it is one of ours


def say(line: str = "", stream: TextIO | None = None) -> None:
    """One line, on standard output unless told otherwise; what is not ours to style is spelt out."""
    print(_coloured(visible_line(line)), file=stream or sys.stdout)


def show_line(text: str) -> None:
    """A line on standard error."""
    say(text, sys.stderr)


def show_text(text: str, end: str = "\n") -> None:
    """Text of several lines on standard output."""
    print(visible(text), end=end)


def styled(text: str, code: str, stream: TextIO) -> str:
    plain = not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return text if plain else f"\x1b{_OURS}[{code}m{text}\x1b{_OURS}[0m"


def _coloured(line: str) -> str:
    return line.replace(f"\\x1b{_OURS}[", "\x1b[")


def mark(success: bool) -> str:
    return styled("✓", "32", sys.stdout) if success else styled("✗", "31", sys.stdout)


def columns(lines: Sequence[Sequence[str]], *, right: Collection[int] = ()) -> list[str]:
    shown = [[visible_line(text) for text in line] for line in lines]
    widths = [max(len(line[column]) for line in shown) for column in range(len(shown[0]))]
    return [
        "  ".join(
            text.rjust(width) if column in right else text.ljust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in shown
    ]


def short(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd())) or "."
    except (ValueError, OSError):
        return str(path)


def age(moment: datetime) -> str:
    import humanize

    return humanize.naturaldelta(datetime.now(UTC) - moment)


def show_document(document: Any) -> None:
    """The one JSON document of `--json`."""
    unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    print(visible_json(document, ascii_only=not unicode))


def show_commands(commands: Sequence[str], *, as_json: bool) -> None:
    """`--dry-run`."""
    if as_json:
        show_document({"dry_run": True, "commands": list(commands)})
    else:
        show_text("\n\n".join(commands))


def show_error(error: VecbakError, mask: Any = lambda text: text) -> None:
    """Three things: what failed, the last lines that the program printed, what to do now."""
    say(f"{styled('Error:', '1;31', sys.stderr)} {mask(error.message)}", sys.stderr)
    for line in mask(error.output).splitlines()[-LAST_LINES:]:
        say(f"  {line}", sys.stderr)
    if error.hint:
        say(f"{styled('Hint:', '1;36', sys.stderr)} {mask(error.hint)}", sys.stderr)
