"""`vecbak completion`."""

from __future__ import annotations

import click


@click.command(short_help="Print what makes bash, zsh or fish complete commands.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print what makes a shell complete vecbak's commands and options.

    \b
    Example:
      eval "$(vecbak completion bash)"      in ~/.bashrc
      eval "$(vecbak completion zsh)"       in ~/.zshrc
      vecbak completion fish > ~/.config/fish/completions/vecbak.fish
    """
    from click.shell_completion import get_completion_class

    from vecbak import report

    completer = get_completion_class(shell)
    assert completer is not None  # noqa: S101 - click brings these three
    report.show_text(completer(ctx.find_root().command, {}, "vecbak", "_VECBAK_COMPLETE").source())


COMMANDS = (completion,)
