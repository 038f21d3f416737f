"""The demo's tables, filled and searched through langchain-postgres: a program of its own, with an environment of its own.

The database driver of that one, in our own process, would go by our PG* variables.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import random
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vecbak import report
from vecbak.postgres import instance

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


def main(action: str, folder: str, parameters: str, documents: str) -> None:
    """Do one of both with the server of a data folder, and print a JSON document.

    Args:
        action: `fill` or `search`.
        folder: the data folder.
        parameters: libpq's keywords and values, as JSON.
        documents: how many.
    """
    with _quiet():
        engine = _engine(Path(folder), json.loads(parameters))
        report.show_document(fill(engine, int(documents)) if action == "fill" else search(engine))


def fill(engine: Any, documents: int) -> dict[str, Any]:
    """Create and fill `langchain_pg_collection` and `langchain_pg_embedding`."""
    store = _store(engine)
    for start in range(0, documents, 500):
        batch = range(start, min(start + 500, documents))
        store.add_embeddings(
            texts=[sample_text(n) for n in batch],
            embeddings=[sample_vector(n) for n in batch],
            metadatas=[sample_metadata(n) for n in batch],
            ids=[f"doc-{n}" for n in batch],
        )
    return {"documents": documents}


def search(engine: Any) -> dict[str, Any]:
    """The five documents most similar to a fixed vector, as LangChain finds them, with their distances."""
    found = _store(engine).similarity_search_with_score_by_vector(sample_vector(1_000_003), k=5)
    return {"found": [f"  {score:.6f}  {document.metadata['id']}" for document, score in found]}


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


def _engine(folder: Path, parameters: dict[str, str]) -> Any:
    """A way to the server of a data folder, which has proved to be that.

    Raises:
        SystemExit: another server answered.
    """
    from sqlalchemy import URL, create_engine

    keywords = {name: value for name, value in parameters.items() if name not in {"user", "dbname"}}
    url = URL.create("postgresql+psycopg", parameters["user"], database=parameters["dbname"], query=keywords)
    engine = create_engine(url)
    with engine.connect() as connection:
        told = connection.exec_driver_sql(f"SELECT pg_catalog.current_setting('{instance.SETTING}', true)").scalar()
    if told is None or told != instance.known(folder):
        sys.exit(f"the server that answered is not the one of {folder}")
    return engine


def _store(engine: Any) -> Any:
    from langchain_core.embeddings import DeterministicFakeEmbedding
    from langchain_postgres import PGVector

    return PGVector(
        DeterministicFakeEmbedding(size=DIMENSIONS), collection_name=COLLECTION, connection=engine, use_jsonb=True
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    os.environ.setdefault("LANGSMITH_TRACING", "false")
    logging.getLogger("langchain_postgres").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


if __name__ == "__main__":
    main(*sys.argv[1:])
