"""`vecbak serve`."""

from __future__ import annotations

import os

import click

from vecbak.cli.boundary import Settings
from vecbak.cli.options import load, options
from vecbak.errors import UsageError
from vecbak.extras import install_hint


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Other than loopback: only with a token.")
@click.option("--port", default=8484, show_default=True, type=click.IntRange(0, 65535), help="0: any that is free.")
@click.option(
    "--allowed-host", multiple=True, metavar="NAME", help="Another name it is called by, as a proxy's; may be repeated."
)
@options("config")
@click.pass_obj
def serve(settings: Settings, host: str, port: int, allowed_host: tuple[str, ...], config: str | None) -> None:
    """Serve the HTTP API; /docs describes it (extra `api`).

    Every request needs the bearer token in $VECBAK_API_TOKEN. Without one the server binds to loopback only, and tells its
    health and its documentation alone. A signal ends what runs in order; every row stays in its table or is in a backup.

    \b
    Example:
      vecbak serve
      VECBAK_API_TOKEN=… vecbak serve --host 0.0.0.0
    """
    from vecbak import report
    from vecbak.operations.management import MARKER

    loaded = load(config)
    token = os.environ.pop("VECBAK_API_TOKEN", "")  # no step, hook or program is told
    os.environ.pop(MARKER, None)  # what a pipeline did that started us is not what the tasks do
    try:
        from vecbak.server.serving import serve as serve_until_signal
    except ModuleNotFoundError as error:
        raise UsageError(
            f"`vecbak serve` needs the extra `api`, which is not installed ({error.name} is missing)",
            install_hint("api"),
        ) from None
    settings.start_log(as_json=False).keep_nothing()

    def announce(url: str) -> None:
        report.show_line(f"vecbak listens on {url}; its API is at {url}/docs")
        if not token:
            report.show_line(_WHAT_IS_OPEN)

    signum = serve_until_signal(loaded, host, port, token, allowed_host, announce)
    click.get_current_context().exit(128 + signum if signum else 0)


_WHAT_IS_OPEN = (
    "VECBAK_API_TOKEN is not set: it answers /healthz and its documentation, and refuses everything else (401). For the rest"
    " end it, set a token, and start it again: export VECBAK_API_TOKEN=$(openssl rand -hex 32)"
)

COMMANDS = (serve,)
