"""`vecbak demo`: the main job as a user would do it, on an embedded PostgreSQL with sample documents and vectors."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from vecbak import report
from vecbak.demo_tables import DIMENSIONS
from vecbak.errors import Refused, VecbakError
from vecbak.extras import install_hint
from vecbak.paths import absolute
from vecbak.postgres.connection import Endpoint
from vecbak.postgres.embedded import embedded_server
from vecbak.postgres.runner import LocalRunner
from vecbak.postgres.throw_away import SERVER_FOLDER, throw_away_folder

_SECONDS = 600.0

_CONFIG = """\
connection:
  embedded: {data}
vector_tables:
  supported_tables: [langchain_pg_collection, langchain_pg_embedding]
  truncate_tables: [langchain_pg_embedding]
"""


def run_demo(directory: Path | None, documents: int) -> None:
    """Start a server, fill LangChain's tables, then run vecbak's own commands, each shown before its output.

    Args:
        directory: where to work, empty or not there yet; it is kept. None: a temporary folder, removed at the end.
        documents: how many sample documents.

    Raises:
        Refused: the extra `embedded` is not installed, or the directory holds something.
        VecbakError: one of the commands failed.
    """
    if importlib.util.find_spec("langchain_postgres") is None:
        raise Refused("`vecbak demo` needs the extra `embedded`, which is not installed", install_hint("embedded"))
    with contextlib.ExitStack() as stack:
        directory = _made(directory) if directory else stack.enter_context(throw_away_folder("demo"))
        data = absolute(directory) / SERVER_FOLDER
        (directory / "vecbak.yaml").write_text(_CONFIG.format(data=json.dumps(str(data))), encoding="utf-8")
        _say("Starting PostgreSQL 18 with pgvector from PyPI …")
        endpoint = stack.enter_context(embedded_server(data, dbname=None, user=None, connect_seconds=10))
        _say(f"Filling LangChain's tables with {documents:,} documents of {DIMENSIONS} dimensions …")
        shell = _Shell(directory, endpoint)
        shell.langchain("fill", documents)
        _say("A similarity search, before anything is done:")
        before = shell.langchain("search")["found"]
        report.show_text("\n".join(before))
        shell.run("vecbak", "doctor")
        shell.run("vecbak", "backup", "--task-id", "first_look")
        shell.run("vecbak", "truncate", "--task-id", "before_reload", "--yes")
        shell.run("vecbak", "list")
        folder = Path("data_pipeline/training_data/before_reload/vector_bak")
        shell.run("ls", "-l", str(folder))
        embedding = next((directory / folder).glob("langchain_pg_embedding_*.csv"))
        shell.run("sha256sum", str(folder / embedding.name))
        _say(f"The table is empty, and its {documents:,} rows are in {embedding.name}. Is that backup worth anything?")
        shell.run("vecbak", "verify", "latest", "--restore")
        _say("The new vectors turned out bad; the old ones come back:")
        shell.run("vecbak", "restore", "latest")
        after = shell.langchain("search")["found"]
        if after != before:
            raise VecbakError("the search answers differ before and after", "This should not happen: please report it.")
        _say("The same similarity search gives the same answers, in the same order:")
        report.show_text("\n".join(after))
        shell.run("vecbak", "prune", "--dry-run")


def _made(directory: Path) -> Path:
    """The folder, which holds nothing: nobody's files are to be written over, and nobody's vectors emptied.

    Raises:
        Refused: it holds something, or cannot be made.
    """
    hint = "Name a folder that does not exist yet, or an empty one."
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise Refused(f"the folder {directory} is not empty; nothing was done", hint)
    except OSError as error:
        raise Refused(f"the folder {directory} cannot be used: {error.strerror}", hint) from None
    return directory


class _Shell:
    """Runs the demo's programs in its folder, with nothing in their environment that leads to another server.

    Args:
        endpoint: the demo's server.
    """

    def __init__(self, directory: Path, endpoint: Endpoint) -> None:
        self._directory = directory
        self._endpoint = endpoint
        self._runner = LocalRunner()

    def run(self, *command: str) -> None:
        """Show a command, run it, and show what it printed."""
        report.show_text(f"\n$ {shlex.join(command)}")
        sys.stdout.flush()
        argv = (
            [sys.executable, "-m", "vecbak", *command[1:]]
            if command[0] == "vecbak"
            else [f"/usr/bin/{command[0]}", *command[1:]]
        )
        report.show_text(self._output(argv, shlex.join(command), with_errors=True).rstrip())

    def langchain(self, action: str, documents: int = 0) -> Any:
        """What `vecbak.demo_tables` tells."""
        endpoint = self._endpoint
        argv = [sys.executable, "-m", "vecbak.demo_tables", action, str(self._directory.absolute() / SERVER_FOLDER)]
        argv += [json.dumps(endpoint.parameters), str(documents)]
        return json.loads(self._output(argv, f"python -m vecbak.demo_tables {action}"))

    def _output(self, argv: list[str], name: str, *, with_errors: bool = False) -> str:
        environment = {**self._endpoint.environment, "VECBAK_CONFIG": "vecbak.yaml", "LC_ALL": "C.UTF-8"}
        done = self._runner.run(argv, timeout=_SECONDS, folder=self._directory, environment=environment)
        if done.exit_code != 0:
            raise VecbakError(
                f"`{name}` ended with exit code {done.exit_code}",
                "See its output above.",
                output=f"{done.stderr}{done.stdout}".rstrip(),
            )
        return f"{done.stderr}{done.stdout}" if with_errors else done.stdout


def _say(text: str) -> None:
    report.show_text(f"\n# {text}")
