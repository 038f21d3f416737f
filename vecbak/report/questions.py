"""Questions before something that cannot be taken back."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from vecbak.report.outcomes import print_pruned
from vecbak.report.terminal import styled

if TYPE_CHECKING:
    from vecbak.operations.preview import Preview
    from vecbak.results import PruneResult


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
    print("About to remove backups:", file=sys.stderr)
    print_pruned(result, sys.stderr)
    return _answered_yes()


def _ask(title: str, preview: Preview, action: str, consequence: str) -> bool:
    from vecbak.results import human_size

    print(title, file=sys.stderr)
    print(f"  host      {preview.host}\n  server    {preview.server}", file=sys.stderr)
    print(f"  database  {preview.database} (as {preview.user})", file=sys.stderr)
    for table in preview.tables:
        what = styled(action, "1;31", sys.stderr) if table.truncate else "back up"
        print(
            f"  {table.name}: {'about ' if table.estimated else ''}{table.rows:,} rows, {human_size(table.bytes)}: {what}",
            file=sys.stderr,
        )
    print(consequence, file=sys.stderr)
    return _answered_yes()


def _answered_yes() -> bool:
    print("Go on? [y/N] ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):  # Ctrl-D: what is told next begins a line of its own
        print(file=sys.stderr)
    return answer.strip().lower() in {"y", "yes"}
