"""The tables that real libraries make: truncated, restored, made anew elsewhere; equal, and the library finds the same."""

from __future__ import annotations

import pytest

from tests.support import libraries
from tests.support.libraries import LIBRARIES, PAIR
from tests.support.server import Database, Server
from tests.support.workspace import Workspace

EMBEDDING, COLLECTION = "langchain_pg_embedding", "langchain_pg_collection"


def content(database: Database, tables: tuple[str, ...]) -> dict[str, list[str]]:
    return {table: sorted(row[0] for row in database.fetch(f"SELECT t::text FROM {table} AS t")) for table in tables}


@pytest.fixture
def other(server: Server):
    """A second database of the same server."""
    with server.new_database() as database:
        yield database


@pytest.fixture
def other18(server18: Server):
    """The same on PostgreSQL 18."""
    with server18.new_database() as database:
        yield database


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_librarys_tables_come_back(tmp_path, database18: Database, other18: Database, name):
    database, other = database18, other18
    library = LIBRARIES[name]
    libraries.fill(name, database)
    before, found = content(database, library.tables), libraries.search(name, database)
    assert all(before.values())
    assert found
    emptied = [table for table in library.tables if table != COLLECTION]
    space = Workspace(tmp_path, database)
    space.save(vector_tables={"supported_tables": list(library.tables), "truncate_tables": emptied})
    done = space.run("truncate")
    assert done.code == 0, done.stderr
    assert not any(content(database, tuple(emptied)).values())
    restored = space.run("restore", "latest")
    assert restored.code == 0, restored.stderr
    assert content(database, library.tables) == before
    assert libraries.search(name, database) == found
    proven = space.run("verify", "latest", "--restore")
    assert proven.code == 0, proven.stderr
    space.save(connection={"dsn": other.socket_dsn})
    made = space.run("restore", "latest", "--create")
    assert made.code == 0, made.stderr
    assert content(other, library.tables) == before
    assert libraries.search(name, other) == found


@pytest.mark.parametrize("name", ["langchain-community", "langchain-community-jsonb"])
def test_the_older_generation_goes_into_todays_tables(tmp_path, database: Database, other: Database, name):
    libraries.fill(name, database)
    found = libraries.search(name, database)
    space = Workspace(tmp_path, database)
    assert space.run("backup").code == 0
    libraries.fill("langchain-postgres", other)
    other.execute(f"DELETE FROM {COLLECTION}")
    space.save(connection={"dsn": other.socket_dsn})
    assert space.run("restore", "latest").code == 8
    done = space.run("restore", "latest", "--migrate", "--json")
    assert done.code == 0, done.stderr
    assert done.json["migrated"][EMBEDDING]["ids_from_custom_id"] == 40
    assert libraries.search("langchain-postgres", other) == found
    rows = "SELECT {}, document, embedding::text, cmetadata::jsonb::text FROM langchain_pg_embedding ORDER BY 1"
    assert other.fetch(rows.format("id")) == database.fetch(rows.format("custom_id"))


@pytest.mark.parametrize("name", ["langchain-community", "langchain-community-jsonb", "langchain-postgres"])
def test_one_collection_of_every_generation(tmp_path, database: Database, name):
    libraries.fill(name, database)
    before = content(database, PAIR)
    space = Workspace(tmp_path, database)
    assert space.run("truncate", "--collection", "manuals").code == 0
    assert database.count(EMBEDDING) == 20
    assert space.run("restore", "latest").code == 0
    assert content(database, PAIR) == before
