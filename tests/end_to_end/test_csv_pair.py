"""`vecbak restore --csv-pair`: what hand-written exporters left comes back."""

from __future__ import annotations

import csv
import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.support import langchain
from tests.support.server import Database
from tests.support.workspace import Workspace

EMBEDDING, COLLECTION = "langchain_pg_embedding", "langchain_pg_collection"
STAMP = "20250101_000000"
COLLECTION_ID = str(uuid.uuid5(uuid.NAMESPACE_DNS, "pair"))

METADATA: list[dict[str, Any] | None] = [
    {"id": "a", "createdat": None},
    {"flag": True, "other": False, "n": 1.5, "deep": {"list": [1, None, "x"]}},
    {"quote": 'it\'s "both"', "unicode": "首次 🚿 é", "line": "a\nb", "backslash": "c:\\new"},
    {},
    None,
    {"None": "None", "True": "'True'"},
]
DOCUMENTS = ["plain", "two\nlines", 'say "hi", she said', "", "\\.", "ends with \\"]


@pytest.fixture
def workspace(tmp_path, database18: Database) -> Workspace:
    langchain.fill(database18, 0)
    database18.execute(f"DELETE FROM {COLLECTION}")
    return Workspace(tmp_path, database18)


def write_pair(folder: Path, rows: list[list[Any]], collection_metadata: str = "{'owner': None}") -> tuple[Path, Path]:
    """As csv.writer makes them of a cursor's rows."""
    one, two = folder / f"{COLLECTION}_{STAMP}.csv", folder / f"{EMBEDDING}_{STAMP}.csv"
    with one.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["uuid", "name", "cmetadata"], [COLLECTION_ID, "old", collection_metadata]])
    with two.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["id", "collection_id", "embedding", "document", "cmetadata"], *rows])
    return one, two


def good_rows() -> list[list[Any]]:
    return [
        [f"row-{number}", COLLECTION_ID, "[0.1,-2,3e-05]", document, None if metadata is None else str(metadata)]
        for number, (document, metadata) in enumerate(zip(DOCUMENTS, METADATA, strict=True))
    ]


def test_a_pair_comes_back(workspace: Workspace):
    pair = write_pair(workspace.folder, good_rows())
    done = workspace.run("restore", "--csv-pair", *pair, "--json")
    assert done.code == 0, done.stderr
    assert done.json["tables_restored"][EMBEDDING]["row_count"] == 6
    assert done.json["backup_id"] == STAMP
    found = workspace.database.fetch(f"SELECT document, cmetadata FROM {EMBEDDING} ORDER BY id")
    assert [row[1] for row in found] == METADATA
    assert [row[0] or "" for row in found] == DOCUMENTS
    assert workspace.database.value(f"SELECT cmetadata FROM {COLLECTION}") == {"owner": None}
    assert workspace.database.value(f"SELECT embedding::text FROM {EMBEDDING} WHERE id = 'row-0'") == "[0.1,-2,3e-05]"


def test_json_stays_as_it_is(workspace: Workspace):
    rows = [["a", COLLECTION_ID, "[1,2,3]", "d", '{"b": 1, "a": null}']]
    assert workspace.run("restore", "--csv-pair", *write_pair(workspace.folder, rows)).code == 0
    assert workspace.database.value(f"SELECT cmetadata FROM {EMBEDDING}") == {"a": None, "b": 1}


def test_bad_rows_are_told_with_their_lines_and_nothing_is_loaded(workspace: Workspace):
    rows = good_rows()
    bad = [
        ["bad-1", COLLECTION_ID, "[1,2,3]", "d", "{'a': __import__('os').system('touch harmed')}"],
        ["bad-2", "no uuid", "[1,2,3]", "d", "{}"],
        ["bad-3", COLLECTION_ID, "no vector", "d", "{}"],
        ["bad-4", COLLECTION_ID, "[1,2,3]", "d", "{'a': nan}"],
        ["bad-5", COLLECTION_ID],
    ]
    pair = write_pair(workspace.folder, [rows[0], *bad, *rows[1:]])
    done = workspace.run("restore", "--csv-pair", *pair)
    assert done.code == 5
    assert "5 rows cannot be read" in done.stderr
    for line in (3, 4, 5, 6, 7):
        assert f"line {line}:" in done.stderr
    assert not (workspace.folder / "harmed").exists()
    assert workspace.database.count(EMBEDDING) == workspace.database.count(COLLECTION) == 0

    left_out = workspace.folder / "bad.csv"
    done = workspace.run("restore", "--csv-pair", *pair, "--skip-bad-rows", left_out, "--json")
    assert done.code == 0, done.stderr
    assert done.json["skipped_bad_rows"] == 5
    assert workspace.database.count(EMBEDDING) == 6
    with left_out.open(newline="", encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    assert [row["line"] for row in written] == ["3", "4", "5", "6", "7"]
    assert written[0]["row"].startswith("bad-1,")
    again = workspace.run("restore", "--csv-pair", *pair, "--skip-bad-rows", left_out)
    assert again.code == 2  # never overwritten


def test_a_dry_run_writes_no_bad_rows(workspace: Workspace):
    pair = write_pair(workspace.folder, [*good_rows(), ["bad", "no uuid", "[1,2,3]", "d", "{}"]])
    left_out = workspace.folder / "bad.csv"
    assert workspace.run("restore", "--csv-pair", *pair, "--skip-bad-rows", left_out, "--dry-run").code == 0
    assert not left_out.exists()


def test_a_refused_pair_leaves_no_file_in_the_way(workspace: Workspace):
    pair = write_pair(workspace.folder, good_rows())
    left_out = workspace.folder / "bad.csv"
    assert workspace.run("restore", "--csv-pair", pair[0], "nope.csv", "--skip-bad-rows", left_out).code == 2
    done = workspace.run("restore", "--csv-pair", *pair, "--skip-bad-rows", left_out)
    assert done.code == 0, done.stderr


def test_dimensions_are_checked(workspace: Workspace):
    workspace.database.execute(f"ALTER TABLE {EMBEDDING} ALTER COLUMN embedding TYPE vector(4)")
    done = workspace.run("restore", "--csv-pair", *write_pair(workspace.folder, good_rows()))
    assert done.code == 5
    assert "a vector of 3 dimensions instead of 4" in done.stderr


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "no header"),
        ("id,id\n", "no header"),
        ('id,document\na,"never closed\n', "never closed"),
    ],
)
def test_files_that_are_no_csv(workspace: Workspace, content, words):
    pair = write_pair(workspace.folder, good_rows())
    pair[1].write_text(content)
    done = workspace.run("restore", "--csv-pair", *pair)
    assert done.code == 5
    assert words in done.stderr


def test_columns_of_another_generation(workspace: Workspace):
    pair = write_pair(workspace.folder, good_rows())
    pair[1].write_text(pair[1].read_text().replace("id,collection_id", "custom_id,collection_id", 1))
    done = workspace.run("restore", "--csv-pair", *pair)
    assert done.code == 8
    assert "custom_id" in done.stderr


def test_missing_files(workspace: Workspace):
    assert workspace.run("restore", "--csv-pair", "no.csv", "nope.csv").code == 2


def test_a_pair_is_listed(workspace: Workspace):
    workspace.backups.mkdir(parents=True)
    write_pair(workspace.backups, good_rows())
    listed = workspace.run("list", "--json").json
    assert [(item["status"], item["backup_id"]) for item in listed] == [("no_manifest", STAMP)]


def test_memory_does_not_grow(workspace: Workspace):
    rows = [
        [f"r{number}", COLLECTION_ID, json.dumps([number / 7] * 3), "text " * 40, str({"n": number, "none": None})]
        for number in range(20_000)
    ]
    done = workspace.run("restore", "--csv-pair", *write_pair(workspace.folder, rows), "--json")
    assert done.code == 0, done.stderr
    assert workspace.database.count(EMBEDDING) == 20_000
