"""`vecbak demo`: the main job as a user would do it, on an embedded PostgreSQL with sample documents and vectors."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import random
import shlex
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vecbak import report
from vecbak.errors import Refused, VecbakError
from vecbak.extras import install_hint
from vecbak.paths import absolute
from vecbak.postgres.connection import Endpoint
from vecbak.postgres.embedded import embedded_server
from vecbak.postgres.runner import LocalRunner
from vecbak.postgres.throw_away import SERVER_FOLDER, throw_away_folder

DIMENSIONS = 256
COLLECTION = "product_manual"

_TEXTS = [
    "How to reset the pump after a power cut: press and hold for 5 s.",
    "The label says \"do not open\", and the customer said: 'why?'",
    "Первый запуск: проверьте давление, затем откройте кран.",
    "首次启动前请检查水压，然后缓慢打开阀门。",
    "起動する前に水圧を確認してください。",
    "قبل التشغيل الأول، تحقق من ضغط الماء.",
    "Avant la première mise en service : vérifiez l'étanchéité.",
    "Emoji in tickets: 🛠️🚿👩🏽‍🔧 — all of them must survive.",
    "Two lines\nand a third after an empty one:\n\nthe end.",
    "Tabs\tand backslashes \\ and \\. and commas, and; semicolons",
    "",
]

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
        directory: where to work; it is kept. None: a temporary folder, removed at the end.
        documents: how many sample documents.

    Raises:
        Refused: the extra `embedded` is not installed.
        VecbakError: one of the commands failed.
    """
    with contextlib.ExitStack() as stack:
        if directory is None:
            directory = stack.enter_context(throw_away_folder("demo"))
        directory.mkdir(parents=True, exist_ok=True)
        data = absolute(directory) / SERVER_FOLDER
        (directory / "vecbak.yaml").write_text(_CONFIG.format(data=data), encoding="utf-8")
        _say("Starting PostgreSQL 18 with pgvector from PyPI …")
        endpoint = stack.enter_context(embedded_server(data, dbname=None, user=None, connect_seconds=10))
        _say(f"Filling LangChain's tables with {documents:,} documents of {DIMENSIONS} dimensions …")
        fill_langchain_tables(endpoint, documents)
        _say("A similarity search, before anything is done:")
        before = search(endpoint)
        report.show_text("\n".join(before))
        shell = _Shell(directory)
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
        after = search(endpoint)
        if after != before:
            raise VecbakError("the search answers differ before and after", "This should not happen: please report it.")
        _say("The same similarity search gives the same answers, in the same order:")
        report.show_text("\n".join(after))
        shell.run("vecbak", "prune", "--dry-run")


class _Shell:
    """Shows a command, runs it in the demo's folder, and shows what it printed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._runner = LocalRunner()

    def run(self, *command: str) -> None:
        report.show_text(f"\n$ {shlex.join(command)}")
        sys.stdout.flush()
        argv = (
            [sys.executable, "-m", "vecbak", *command[1:]]
            if command[0] == "vecbak"
            else [f"/usr/bin/{command[0]}", *command[1:]]
        )
        done = self._runner.run(
            argv, timeout=600, folder=self._directory, environment={"VECBAK_CONFIG": "vecbak.yaml", "LC_ALL": "C.UTF-8"}
        )
        report.show_text((done.stderr + done.stdout).rstrip())
        if done.exit_code != 0:
            raise VecbakError(f"`{shlex.join(command)}` ended with exit code {done.exit_code}", "See its output above.")


def fill_langchain_tables(endpoint: Endpoint, documents: int) -> None:
    """Create and fill `langchain_pg_collection` and `langchain_pg_embedding` through langchain-postgres itself.

    Raises:
        Refused: langchain-postgres is not installed.
    """
    try:
        with _quiet():
            from langchain_postgres import PGVector
    except ImportError:
        raise Refused(
            "`vecbak demo` needs the extra `embedded`, which is not installed", install_hint("embedded")
        ) from None
    with _quiet():
        store = PGVector(
            _no_embeddings(),
            collection_name=COLLECTION,
            connection=_sqlalchemy_url(endpoint),
            use_jsonb=True,
            pre_delete_collection=True,
        )
        for start in range(0, documents, 500):
            batch = range(start, min(start + 500, documents))
            store.add_embeddings(
                texts=[sample_text(n) for n in batch],
                embeddings=[sample_vector(n) for n in batch],
                metadatas=[sample_metadata(n) for n in batch],
                ids=[f"doc-{n}" for n in batch],
            )


def search(endpoint: Endpoint) -> list[str]:
    """The five documents most similar to a fixed vector, as LangChain finds them, with their distances."""
    with _quiet():
        from langchain_postgres import PGVector

        store = PGVector(
            _no_embeddings(), collection_name=COLLECTION, connection=_sqlalchemy_url(endpoint), use_jsonb=True
        )
        found = store.similarity_search_with_score_by_vector(sample_vector(1_000_003), k=5)
    return [f"  {score:.6f}  {document.metadata['id']}" for document, score in found]


def sample_vector(number: int) -> list[float]:
    """A unit vector that depends on the number alone."""
    source = random.Random(number)
    values = [source.gauss(0, 1) for _ in range(DIMENSIONS)]
    length = math.sqrt(sum(value * value for value in values))
    return [value / length for value in values]


def sample_text(number: int) -> str:
    """A document in one of several languages, with quotes, line ends, emoji; sometimes empty."""
    text = _TEXTS[number % len(_TEXTS)]
    return f"{text} (#{number})" if text else ""


def sample_metadata(number: int) -> dict[str, Any]:
    """Nested metadata with a null in it."""
    return {
        "id": f"doc-{number}",
        "page": number % 40,
        "author": None,
        "tags": ['a "b"', "c,d", "é"],
        "nested": {"deep": [1, 2.5, True]},
    }


def _sqlalchemy_url(endpoint: Endpoint) -> str:
    parameters = endpoint.parameters
    return (
        f"postgresql+psycopg://{parameters['user']}@/{parameters['dbname']}"
        f"?host={parameters['host']}&port={parameters['port']}"
    )


def _no_embeddings() -> Any:
    from langchain_core.embeddings import DeterministicFakeEmbedding

    return DeterministicFakeEmbedding(size=DIMENSIONS)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    os.environ.setdefault("LANGSMITH_TRACING", "false")
    logging.getLogger("langchain_postgres").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _say(text: str) -> None:
    report.show_text(f"\n# {text}")
