"""`restore --migrate`: an older LangChain's rows into today's tables."""

from __future__ import annotations

import csv
import uuid

import pytest

from tests.support import langchain
from tests.support.server import Database
from tests.support.workspace import Workspace

EMBEDDING, COLLECTION = "langchain_pg_embedding", "langchain_pg_collection"
KEY = str(uuid.uuid5(uuid.NAMESPACE_DNS, "older"))
ROWS = [  # custom_id, document, metadata
    ("one", "first", '{"n": 1, "n": 2}'),
    ("shared", "second", '{"text": "ä\\n"}'),
    ("shared", "third", None),
    (None, "fourth", "{}"),
]


@pytest.fixture
def older(database18: Database) -> Database:
    """The tables as langchain-community made them, with four rows."""
    database18.execute(f"""
        CREATE TABLE {COLLECTION} (name varchar, cmetadata json, uuid uuid PRIMARY KEY);
        CREATE TABLE {EMBEDDING} (collection_id uuid REFERENCES {COLLECTION} ON DELETE CASCADE, embedding vector, document varchar,
          cmetadata json, custom_id varchar, uuid uuid PRIMARY KEY);
        INSERT INTO {COLLECTION} VALUES ('older', '{{"a":   1}}', '{KEY}')""")
    for number, (custom, document, metadata) in enumerate(ROWS):
        database18.execute(
            f"INSERT INTO {EMBEDDING} VALUES (%s, '[1,2,3]', %s, %s, %s, %s)",
            [KEY, document, metadata, custom, uuid.UUID(int=number)],
        )
    return database18


def to_today(database: Database) -> None:
    database.execute(f"DROP TABLE {EMBEDDING}; DROP TABLE {COLLECTION}")
    langchain.fill(database, 0)
    database.execute(f"DELETE FROM {COLLECTION}")


WANTED = [
    ("00000000-0000-0000-0000-000000000001", "second", '{"text": "ä\\n"}'),
    ("00000000-0000-0000-0000-000000000002", "third", None),
    ("00000000-0000-0000-0000-000000000003", "fourth", "{}"),
    ("one", "first", '{"n": 2}'),
]


def today(database: Database) -> list[tuple[str, str, str]]:
    return database.fetch(
        f"SELECT id, document, cmetadata::text FROM {EMBEDDING} WHERE collection_id = '{KEY}' ORDER BY id"
    )


@pytest.mark.parametrize("format", ["csv", "binary", "pg_dump"])
@pytest.mark.parametrize("options", [(), ("--collection", "older"), ("--mode", "replace")])
def test_a_backup_of_older_tables_into_todays(tmp_path, older: Database, format, options):
    space = Workspace(tmp_path, older)
    space.save(backup={"format": format})
    assert space.run("truncate").code == 0
    to_today(older)
    refused = space.run("restore", "latest", *options)
    assert refused.code == 8
    assert "--migrate" in refused.stderr
    done = space.run("restore", "latest", "--migrate", *options, "--json")
    assert done.code == 0, done.stderr
    assert today(older) == WANTED
    assert older.fetch(f"SELECT name, cmetadata::text FROM {COLLECTION}") == [("older", '{"a":   1}')]
    account = done.json["migrated"][EMBEDDING]
    assert (account["rows"], account["ids_from_custom_id"], account["ids_from_uuid"]) == (4, 1, 3)
    assert [item["custom_id"] for item in account["shared_custom_ids"]] == ["shared", "shared"]


def test_a_pair_of_files_of_older_tables(tmp_path, older: Database):
    to_today(older)
    one, two = tmp_path / f"{COLLECTION}_20240101_000000.csv", tmp_path / f"{EMBEDDING}_20240101_000000.csv"
    with one.open("w", newline="") as file:
        csv.writer(file).writerows([["name", "cmetadata", "uuid"], ["older", "{'a': 1}", KEY]])
    rows = [[KEY, "[1,2,3]", text, meta, custom, uuid.UUID(int=n)] for n, (custom, text, meta) in enumerate(ROWS)]
    with two.open("w", newline="") as file:
        columns = ["collection_id", "embedding", "document", "cmetadata", "custom_id", "uuid"]
        csv.writer(file).writerows([columns, *rows])
    space = Workspace(tmp_path, older)
    assert space.run("restore", "--csv-pair", one, two).code == 8
    done = space.run("restore", "--csv-pair", one, two, "--migrate", "--json")
    assert done.code == 0, done.stderr
    assert today(older) == WANTED


def test_there_must_be_something_to_migrate(tmp_path, filled18: Database):
    space = Workspace(tmp_path, filled18)
    assert space.run("truncate").code == 0
    assert space.run("restore", "latest", "--migrate").code == 2
    assert filled18.count(EMBEDDING) == 0
