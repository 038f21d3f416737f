"""Several of LangChain's collections in its two tables."""

from __future__ import annotations

import warnings

from tests.support.langchain import open_store
from tests.support.server import Database
from vecbak.demo_tables import sample_metadata, sample_text

EMBEDDING, COLLECTION = "langchain_pg_embedding", "langchain_pg_collection"


def add(database: Database, name: str, rows: int, *, dimensions: int = 8, prefix: str | None = None) -> None:
    """A collection with documents, made by langchain-postgres."""
    store = open_store(database, dimensions, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if rows:
            store.add_texts(
                [sample_text(number) for number in range(rows)],
                metadatas=[sample_metadata(number) for number in range(rows)],
                ids=[f"{prefix or name}-{number}" for number in range(rows)],
            )
        store._engine.dispose()


def key(database: Database, name: str) -> str:
    """A collection's uuid."""
    return str(database.value(f"SELECT uuid FROM {COLLECTION} WHERE name = %s", [name]))


def rows_of(database: Database, name: str) -> list[str]:
    """A collection's embeddings as text, in a fixed order, without their collection's key."""
    return [
        row[0]
        for row in database.fetch(
            f"SELECT (to_jsonb(e) - 'collection_id')::text FROM {EMBEDDING} e JOIN {COLLECTION} c ON c.uuid = e.collection_id"
            " WHERE c.name = %s ORDER BY e.id",
            [name],
        )
    ]


def everything(database: Database) -> tuple[list[str], list[str]]:
    """Both tables, row by row."""
    return tuple(  # type: ignore[return-value]
        [row[0] for row in database.fetch(f"SELECT t::text FROM {table} t ORDER BY 1")]
        for table in (COLLECTION, EMBEDDING)
    )
