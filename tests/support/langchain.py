"""LangChain's own tables, made and filled by langchain-postgres."""

from __future__ import annotations

import warnings
from typing import Any

from tests.support.server import Database
from vecbak.demo import sample_metadata, sample_text

COLLECTION = "knowledge"


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
