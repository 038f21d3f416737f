"""`vecbak restore`: restored, or as before."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import langchain
from tests.support.server import Database
from tests.support.workspace import Workspace

EMBEDDING, COLLECTION = "langchain_pg_embedding", "langchain_pg_collection"


def content(database: Database, table: str) -> list[str]:
    """Every row as text, in a fixed order."""
    return [row[0] for row in database.fetch(f"SELECT t::text FROM {table} t ORDER BY 1")]


def both(database: Database) -> tuple[list[str], list[str]]:
    return content(database, COLLECTION), content(database, EMBEDDING)


@pytest.mark.parametrize("format", ["csv", "binary", "pg_dump"])
@pytest.mark.parametrize("compression", ["none", "zstd", "lz4", "gzip"])
def test_truncate_and_a_bare_restore_latest(tmp_path, filled: Database, format, compression):
    workspace = Workspace(tmp_path, filled)
    workspace.save(backup={"format": format, "compression": compression})
    before = both(filled)
    assert workspace.run("truncate").code == 0
    assert filled.count(EMBEDDING) == 0
    done = workspace.run("restore", "latest", "--json")
    assert done.code == 0, done.stderr
    assert done.json["restore_performed"] is True
    assert done.json["tables_restored"][EMBEDDING]["row_count"] == 62
    assert done.json["tables_restored"][COLLECTION]["rows_skipped"] == 1
    assert both(filled) == before
