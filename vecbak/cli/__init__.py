"""The command line: options → configuration → one operation → report. The only composition root.

What a command needs is imported inside it, so that `vecbak --help` answers at once.
"""

from __future__ import annotations

from typing import NoReturn

import click

from vecbak import __version__, cores, interrupts, report, streams
from vecbak.cli import backup, completion, demo, doctor, looking, pipeline, prune, restore, serve, verify
from vecbak.cli.boundary import Boundary, Settings
from vecbak.own_files import keep_our_own_rights


@click.group(cls=Boundary, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="vecbak")
@click.option("-v", "--verbose", count=True, help="Tell every step.")
@click.option("-q", "--quiet", is_flag=True, help="Tell errors only.")
@click.pass_context
def cli(ctx: click.Context, verbose: int, quiet: bool) -> None:
    """Back up, prove, truncate and restore the vector tables of PostgreSQL + pgvector.

    Embeddings cost days and money to make again: nothing is truncated before its backup is proved.

    \b
    Example:
      vecbak init                     write a config
      vecbak backup                   save the tables
      vecbak truncate --task-id nightly
    """
    interrupts.install()
    cores.forbid()
    ctx.ensure_object(Settings).verbosity = -1 if quiet else min(verbose, 1)


for _module in (looking, doctor, backup, verify, restore, prune, pipeline, serve, demo, completion):
    for _command in _module.COMMANDS:
        cli.add_command(_command)


def main() -> NoReturn:
    """The `vecbak` command."""
    streams.prepare()
    keep_our_own_rights()
    try:
        cli(prog_name="vecbak")
    finally:
        if missing := streams.what_is_missing():
            report.show_line(missing)
    raise SystemExit(0)
