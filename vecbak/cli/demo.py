"""`vecbak demo`."""

from __future__ import annotations

from pathlib import Path

import click

from vecbak.cli.boundary import Settings


@click.command(short_help="Show the main job on an embedded PostgreSQL.")
@click.option("--directory", metavar="DIR", help="Where to work [default: a temporary folder, removed at the end].")
@click.option(
    "--documents", default=3000, show_default=True, type=click.IntRange(10, 1_000_000), help="Sample documents."
)
@click.pass_obj
def demo(settings: Settings, directory: str | None, documents: int) -> None:
    """Show the main job on an embedded PostgreSQL with sample vectors (extra `embedded`).

    \b
    Example:
      vecbak demo --documents 500
    """
    from vecbak.demo import run_demo

    settings.start_log(as_json=False)
    run_demo(Path(directory) if directory else None, documents)


COMMANDS = (demo,)
