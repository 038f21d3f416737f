"""LangChain's own tables, made and filled by langchain-postgres."""

from __future__ import annotations

import warnings
from typing import Any
from weakref import WeakKeyDictionary

from tests.support.server import Cluster, Database
from vecbak.demo_tables import sample_metadata, sample_text

COLLECTION = "knowledge"
_templates: WeakKeyDictionary[Cluster, str] = WeakKeyDictionary()


def open_store(database: Database, dimensions: int, collection: str = COLLECTION) -> Any:
    """A PGVector store on the database; its tables exist afterwards."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from langchain_core.embeddings import DeterministicFakeEmbedding
        from langchain_postgres import PGVector

        return PGVector(
            DeterministicFakeEmbedding(size=dimensions),
            collection_name=collection,
            connection=database.sqlalchemy_url,
            use_jsonb=True,
        )


def fill(database: Database, rows: int, dimensions: int = 32) -> None:
    """LangChain's two tables with awkward documents in many languages."""
    store = open_store(database, dimensions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if rows:
            store.add_texts(
                [sample_text(number) for number in range(rows)],
                metadatas=[sample_metadata(number) for number in range(rows)],
                ids=[f"doc-{number}" for number in range(rows)],
            )
        store._engine.dispose()


def template(server: Cluster) -> str:
    """The name of a database with LangChain's tables and 62 documents, made once a server: a copy costs less."""
    if server not in _templates:
        database = Database(server, "filled_template")
        Database(server, "postgres").execute(f"CREATE DATABASE {database.name}")
        database.execute("CREATE EXTENSION vector")
        fill(database, 62)
        _templates[server] = database.name
    return _templates[server]
