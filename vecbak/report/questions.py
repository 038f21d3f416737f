"""Questions before something that cannot be taken back."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TextIO, cast

from vecbak.errors import UsageError
from vecbak.report.outcomes import say_pruned
from vecbak.report.terminal import say, styled
from vecbak.streams import Stream

if TYPE_CHECKING:
    from vecbak.operations.preview import Preview
    from vecbak.results import PruneResult


def is_interactive() -> bool:
    """Whether somebody sits at a terminal who can answer; wherever standard error goes, they are asked there."""
    return sys.stdin.isatty()


def ask_to_truncate(preview: Preview) -> bool:
    """Ask on the terminal whether these tables may be emptied."""
    if preview.collections:
        return _ask(
            f"About to back up, verify, and then DELETE the embeddings of {', '.join(preview.collections)}:",
            preview,
            "back up and DELETE",
            "Nobody waits for that, and all other collections stay as they are.",
        )
    return _ask(
        "About to back up, verify, and then TRUNCATE:",
        preview,
        "back up and EMPTY",
        f"Writers to the tables to be emptied wait meanwhile, about {preview.seconds:.0f} s; readers wait a moment at the end.",
    )


def ask_to_replace(preview: Preview, backup_id: str, *, safety_backup: bool) -> bool:
    """Ask on the terminal whether what stands in these tables may be replaced."""
    what = f"the embeddings of {', '.join(preview.collections)}" if preview.collections else "what these tables hold"
    return _ask(
        f"About to REPLACE {what} by the backup {backup_id}:",
        preview,
        "back up and REPLACE" if safety_backup else "REPLACE without a safety backup",
        "Writers and, from the moment that the tables are emptied, readers wait until it is done, indexes included.",
    )


def ask_to_prune(result: PruneResult) -> bool:
    """Ask on the terminal whether these backups may be removed."""

    def tell(stream: TextIO) -> None:
        say("About to remove backups:", stream)
        say_pruned(result, stream)

    return _answered_yes(tell)


def _ask(title: str, preview: Preview, action: str, consequence: str) -> bool:
    from vecbak.results import human_size

    def tell(stream: TextIO) -> None:
        say(title, stream)
        say(f"  host      {preview.host}", stream)
        say(f"  server    {preview.server}", stream)
        say(f"  database  {preview.database} (as {preview.user})", stream)
        for table in preview.tables:
            what = styled(action, "1;31", stream) if table.truncate else "back up"
            about = "about " if table.estimated else ""
            say(f"  {table.name}: {about}{table.rows:,} rows, {human_size(table.bytes)}: {what}", stream)
        say(consequence, stream)

    return _answered_yes(tell)


def _answered_yes(tell: Callable[[TextIO], None]) -> bool:
    with _terminal() as (shown, typed):
        tell(shown)
        print("Go on? [y/N] ", end="", file=shown, flush=True)
        try:
            answer = typed.readline()
        except OSError:  # a run in the background may not read there
            answer = ""
        if not answer.endswith("\n"):  # Ctrl-D: what is told next begins a line of its own
            say("", shown)
        was_seen = getattr(shown, "problem", None) is None
        return was_seen and answer.strip().lower() in {"y", "yes"}


@contextlib.contextmanager
def _terminal() -> Iterator[tuple[TextIO, TextIO]]:
    """Where a person sees the question, and where the answer is typed: where standard error is redirected, the terminal itself.

    Raises:
        UsageError: nobody would see it.
    """
    if sys.stderr.isatty():
        yield sys.stderr, sys.stdin
        return
    try:
        descriptor = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        raise UsageError(
            "standard error is redirected, and nobody would see the question on this terminal",
            "Use --yes, or leave standard error where it is.",
        ) from None
    with os.fdopen(descriptor, encoding="utf-8", errors="replace") as typed:
        yield cast(TextIO, Stream(descriptor, "utf-8")), typed
