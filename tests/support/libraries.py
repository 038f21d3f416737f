"""Tables as the libraries themselves make, fill and search them: `python -m tests.support.libraries fill|search NAME URL`.

Each runs in a process of its own: their warnings, drivers and SQLAlchemy registries are no business of the tests.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.support.server import Database

TEXTS = [f"text {n}, 'ä' \"q\"\n\\.\n{n}" for n in range(20)]
SIZE = 8


def vector(number: int) -> list[float]:
    """One vector, different for each number."""
    source = random.Random(number)
    return [round(source.uniform(-1, 1), 4) for _ in range(SIZE)]


def fake_embeddings() -> Any:
    """LangChain's embeddings, the same at every run."""
    from langchain_core.embeddings import DeterministicFakeEmbedding

    return DeterministicFakeEmbedding(size=SIZE)


# LangChain, the older generation


def community(action: str, url: str, *, jsonb: bool) -> list[str]:
    """langchain-community's PGVector: two collections in its two tables."""
    from langchain_community.vectorstores.pgvector import PGVector

    def store(name: str) -> Any:
        return PGVector(url, fake_embeddings(), collection_name=name, use_jsonb=jsonb, collection_metadata={"of": name})

    if action == "fill":
        for name in ("manuals", "faq"):
            store(name).add_texts(
                TEXTS, metadatas=[{"n": n, "of": name} for n in range(20)], ids=[f"{name}-{n}" for n in range(20)]
            )
        return []
    return [item.page_content for name in ("manuals", "faq") for item in store(name).similarity_search(TEXTS[3], k=5)]  # fmt: skip


# LangChain, today's two


def today(action: str, url: str) -> list[str]:
    """langchain-postgres' PGVector: two collections in its two tables."""
    from langchain_postgres import PGVector

    def store(name: str) -> Any:
        return PGVector(fake_embeddings(), connection=url, collection_name=name, collection_metadata={"of": name})

    if action == "fill":
        for name in ("manuals", "faq"):
            store(name).add_texts(
                TEXTS, metadatas=[{"n": n} for n in range(20)], ids=[f"{name}-{n}" for n in range(20)]
            )
        return []
    return [item.page_content for name in ("manuals", "faq") for item in store(name).similarity_search(TEXTS[3], k=5)]


def one_table(action: str, url: str) -> list[str]:
    """langchain-postgres' PGVectorStore: one table a collection, with a tsvector column for hybrid search."""
    from langchain_postgres import Column, PGEngine, PGVectorStore
    from langchain_postgres.v2.hybrid_search_config import HybridSearchConfig

    engine = PGEngine.from_connection_string(url)
    hybrid = HybridSearchConfig(tsv_column="words", tsv_lang="pg_catalog.english")
    if action == "fill":
        engine.init_vectorstore_table(
            "My Docs",
            SIZE,
            schema_name="kb",
            content_column="body",
            metadata_columns=[Column("lang", "TEXT")],
            hybrid_search_config=hybrid,
        )
    store = PGVectorStore.create_sync(
        engine,
        fake_embeddings(),
        "My Docs",
        schema_name="kb",
        content_column="body",
        metadata_columns=["lang"],
        hybrid_search_config=hybrid,
    )
    found = []
    if action == "fill":
        store.add_texts(TEXTS, metadatas=[{"lang": "de", "n": n} for n in range(20)])
    else:
        found = [item.page_content for item in store.similarity_search(TEXTS[3], k=5)]
    engine._run_as_sync(engine.close())
    return found


# LlamaIndex


def llama(action: str, url: str) -> list[str]:
    """llama-index-vector-stores-postgres: `data_*` tables, one with a tsvector column, one with halfvec and json."""
    from llama_index.core.schema import TextNode
    from llama_index.core.vector_stores.types import VectorStoreQuery
    from llama_index.vector_stores.postgres import PGVectorStore

    found = []
    for name, options in {
        "notes": {"hybrid_search": True, "text_search_config": "english", "use_jsonb": True, "hnsw_kwargs": {"hnsw_m": 8, "hnsw_ef_construction": 40, "hnsw_ef_search": 40}},
        "halves": {"use_halfvec": True},
    }.items():  # fmt: skip
        store = PGVectorStore.from_params(
            connection_string=url.replace("+psycopg", "+psycopg2"),
            async_connection_string=url.replace("+psycopg", "+asyncpg"),
            table_name=name,
            schema_name="llama",
            embed_dim=SIZE,
            **options,
        )
        if action == "fill":
            store.add([TextNode(text=text, embedding=vector(n), metadata={"n": n}) for n, text in enumerate(TEXTS)])
        else:
            result = store.query(VectorStoreQuery(query_embedding=vector(3), similarity_top_k=5))
            found += [node.get_content() for node in result.nodes or []]
    return found


# Django, and SQLAlchemy with pgvector's own types


def django(action: str, url: str) -> list[str]:
    """A Django model with every type of pgvector."""
    from urllib.parse import parse_qs, urlsplit

    from django.conf import settings

    parts = urlsplit(url)
    where = {key: values[0] for key, values in parse_qs(parts.query).items()}
    database = {"ENGINE": "django.db.backends.postgresql", "NAME": parts.path[1:], "USER": parts.username}
    settings.configure(
        DATABASES={"default": {**database, "HOST": where["host"], "PORT": where["port"]}},
        INSTALLED_APPS=["django.contrib.postgres"],
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    )
    import django as library

    library.setup()
    from django.db import connection, models
    from pgvector.django import (
        BitField,
        HalfVectorField,
        HnswIndex,
        IvfflatIndex,
        L2Distance,
        SparseVectorField,
        VectorField,
    )
    from pgvector.utils import SparseVector

    class Item(models.Model):
        title = models.CharField(max_length=200)
        length = models.GeneratedField(
            expression=models.functions.Length("title"), output_field=models.IntegerField(), db_persist=True
        )
        extra = models.JSONField(default=dict)
        embedding = VectorField(dimensions=SIZE)
        half = HalfVectorField(dimensions=SIZE)
        sparse = SparseVectorField(dimensions=SIZE)
        bits = BitField(length=SIZE)

        class Meta:
            app_label = "docs"
            indexes = [  # noqa: RUF012 - Django's own way
                HnswIndex(name="by_half", fields=["half"], opclasses=["halfvec_l2_ops"]),
                IvfflatIndex(name="by_embedding", fields=["embedding"], lists=2, opclasses=["vector_l2_ops"]),
            ]

    if action == "fill":
        with connection.schema_editor() as editor:
            editor.create_model(Item)
        for n, text in enumerate(TEXTS):
            values = vector(n)
            Item.objects.create(
                title=text, extra={"n": n}, embedding=values, half=values, sparse=SparseVector(values), bits=f"{n:08b}"
            )
        return []
    return [item.title for item in Item.objects.order_by(L2Distance("half", vector(3)), "id")[:5]]  # fmt: skip


def plain(action: str, url: str) -> list[str]:
    """SQLAlchemy's tables with pgvector's own types, one of them an array."""
    from pgvector.sqlalchemy import BIT, HALFVEC, SPARSEVEC, VECTOR
    from sqlalchemy import ARRAY, BigInteger, Column, Identity, MetaData, String, Table, create_engine, insert, select

    table = Table(
        "items",
        MetaData(),
        Column("id", BigInteger, Identity(always=True), primary_key=True),
        Column("title", String),
        Column("v", VECTOR(SIZE)),
        Column("h", HALFVEC(SIZE)),
        Column("s", SPARSEVEC(SIZE)),
        Column("b", BIT(SIZE)),
        Column("many", ARRAY(VECTOR(SIZE), dimensions=1)),
    )
    with create_engine(url).begin() as connection:
        if action == "fill":
            table.create(connection)
            rows = [
                {"title": text, "v": vector(n), "h": vector(n), "s": vector(n), "b": f"{n:08b}", "many": [vector(n)] * 2}
                for n, text in enumerate(TEXTS)
            ]  # fmt: skip
            connection.execute(insert(table), rows)
            return []
        nearest = select(table.c.title).order_by(table.c.v.l2_distance(vector(3)), table.c.id).limit(5)
        return list(connection.scalars(nearest))


@dataclass(frozen=True)
class Library:
    """What one of them makes: its tables as the config names them, and what must be there before."""

    run: Callable[[str, str], list[str]]
    tables: tuple[str, ...]
    before: str = ""


PAIR = ("langchain_pg_collection", "langchain_pg_embedding")
LIBRARIES = {
    "langchain-community": Library(lambda action, url: community(action, url, jsonb=False), PAIR),
    "langchain-community-jsonb": Library(lambda action, url: community(action, url, jsonb=True), PAIR),
    "langchain-postgres": Library(today, PAIR),
    "langchain-postgres-one-table": Library(one_table, ('kb."My Docs"',), "CREATE SCHEMA kb"),
    "llama-index": Library(llama, ("llama.data_notes", "llama.data_halves")),
    "django": Library(django, ("docs_item",)),
    "sqlalchemy": Library(plain, ("items",)),
}


def fill(name: str, database: Database) -> None:
    """Let a library make its tables and fill them."""
    if LIBRARIES[name].before:
        database.execute(LIBRARIES[name].before)
    _run("fill", name, database)


def search(name: str, database: Database) -> list[str]:
    """What it finds in them."""
    return list(json.loads(_run("search", name, database).splitlines()[-1]))


def _run(action: str, name: str, database: Database) -> str:
    argv = [sys.executable, "-W", "ignore", "-m", "tests.support.libraries", action, name, database.sqlalchemy_url]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=200, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return done.stdout


if __name__ == "__main__":
    sys.stdout.write(json.dumps(LIBRARIES[sys.argv[2]].run(sys.argv[1], sys.argv[3])) + "\n")
