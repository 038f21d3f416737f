"""Text from outside is shown, and never obeyed: no terminal or log gets an escape sequence, and no line is forged."""

from __future__ import annotations

import json
import os
import re
import subprocess

import msgspec
import pytest

from tests.end_to_end.test_terminal import on_terminal
from tests.support.command import VECBAK, environment
from tests.support.workspace import Workspace
from vecbak.backups import manifest as manifests

EMBEDDING, COLLECTION = "langchain_pg_embedding", "langchain_pg_collection"
EVIL = "x\x1b]0;owned\x07\x1b[2J\x9b31m\r\u202egnp.exe\u2066\u200b\x7f\nProven:    restorable\tyes [bold red]y[/] \U000e0041"
UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069\ud800-\udfff\U000e0000-\U000e007f]")


@pytest.fixture
def space(filled18, tmp_path) -> Workspace:
    return Workspace(tmp_path, filled18)


def assert_harmless(text: str) -> None:
    assert not (found := UNSEEN.search(text)), (found, text)
    assert "\nProven:    restorable" not in text, "a line was forged"


def poison(space: Workspace, *, refused: bool = False) -> None:
    """Another manifest that is intact and says hostile things wherever it may say anything.

    Args:
        refused: also where a manifest that does so is none.
    """
    path = next(space.backups.glob("vector_backup_*.json"))
    good = manifests.read(path)
    entry = good.tables[EMBEDDING]
    columns = tuple(msgspec.structs.replace(column, type=EVIL) for column in entry.table.columns)
    indexes = tuple(msgspec.structs.replace(index, definition=EVIL) for index in entry.table.indexes)
    table = msgspec.structs.replace(
        entry.table,
        columns=columns,
        indexes=indexes,
        name=EVIL if refused else entry.table.name,
        condition=EVIL,
        owner=EVIL,
    )
    collections = {EVIL: manifests.CollectionEntry(uuid=EVIL, rows=62)}
    bad = msgspec.structs.replace(
        good, task_id=EVIL, database=EVIL, host=EVIL, collections=collections, scope="collections",
        tables={**good.tables, EVIL if refused else EMBEDDING: msgspec.structs.replace(entry, table=table)},
        server=msgspec.structs.replace(good.server, version=EVIL if refused else good.server.version, extensions={"vector": EVIL}),
    )  # fmt: skip
    path.write_bytes(manifests.encode(bad))
    (space.backups / f"vector_backup_{'2' * 8}_{'1' * 6}.json").write_text(EVIL)
    with (space.backups / "vector_backup_log.txt").open("a") as log:
        log.write(EVIL.replace("\n", ""))


@pytest.mark.parametrize("refused", [False, True])
def test_a_manifest_that_holds_escape_sequences(space, refused):
    assert space.run("backup").code == 0
    poison(space, refused=refused)
    commands = (["list"], ["show", "latest"], ["verify", "latest"], ["verify", "latest", "--restore"], ["prune", "--dry-run"],
                ["restore", "latest"], ["restore", "latest", "--mode", "replace", "--yes"], ["restore", "latest", "--dry-run"],
                ["-v", "doctor"])  # fmt: skip
    backup = re.search(
        r"vector_backup_(\d{8}_\d{6})", " ".join(space.files("vector_backup_2025*") or space.files("vector_backup_20*"))
    )
    assert backup
    for words in commands:
        arguments = [backup.group(1) if word == "latest" else word for word in words]
        done = space.run(*arguments)
        assert done.code != 70
        assert_harmless(done.stdout + done.stderr)
        if "--dry-run" not in words and words[0] != "-v":
            as_json = space.run(*arguments, "--json")
            assert_harmless(as_json.stdout + as_json.stderr)
            json.loads(as_json.stdout)
    if refused:
        return
    shown = json.loads(space.run("show", backup.group(1), "--json").stdout)
    assert shown["database"] == EVIL  # JSON says the same
    code, text = on_terminal("show", backup.group(1), "--output-dir", space.out, folder=space.folder)
    assert code == 0
    assert not re.search(r"\x1b(?!\[[0-9;]*m)|\x9b|\u202e|\x07", text), repr(text)
    if (space.out / "data_pipeline.log").exists():
        assert_harmless((space.out / "data_pipeline.log").read_text())


def test_names_in_the_database(space):
    with space.database.connect() as connection:
        connection.execute(f"UPDATE {COLLECTION} SET name = %s", [EVIL])
        connection.commit()
    for words in (["backup"], ["list"], ["show", "latest"], ["truncate", "--collection", "none"], ["-v", "truncate", "--collection", EVIL, "--yes"],
                  ["restore", "latest", "--collection", EVIL], ["init", "--discover"]):  # fmt: skip
        done = space.run(*words) if words[0] != "init" else None
        if done:
            assert done.code in {0, 2}, done.stderr
            assert_harmless(done.stdout + done.stderr)
    assert space.database.count(EMBEDDING) == 62
    for path in (space.out / "data_pipeline.log", space.backups / "vector_backup_log.txt"):
        assert_harmless(path.read_text())


def test_what_programs_print(space):
    hook = f"import sys; sys.stdout.write({EVIL!r}); sys.stderr.write({EVIL!r}); sys.exit(3)"
    space.save(
        hooks={"before": [["python3", "-c", hook]], "on_error": [["sh", "-c", 'printf %s "$VECBAK_ERROR" >told']]}
    )
    done = space.run("backup", "--json")
    assert done.code == 4
    assert_harmless(done.stderr)
    assert_harmless((space.folder / "told").read_text())
    space.save(
        hooks={"before": [], "on_error": []},
        workflow={"steps": [{"name": "training_load", "command": ["python3", "-c", hook]}]},
    )
    done = space.run("workflow", "--backup-vector-tables")
    assert done.code == 3
    assert_harmless(done.stdout + done.stderr)
    assert_harmless((space.out / "data_pipeline.log").read_text())


def test_words_of_the_command_line_and_names_of_files(space):
    for words in (["show", EVIL], ["verify", f"/{EVIL}.json"], ["restore", "latest", "--table", EVIL], ["--nonsense" + EVIL],
                  ["backup", "--task-id", EVIL], ["list", "--config", EVIL], ["run", "--", EVIL], ["workflow", "--step", EVIL]):  # fmt: skip
        done = subprocess.run(
            [VECBAK, *map(os.fsencode, words)], cwd=space.folder, env=environment(), capture_output=True,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        assert done.returncode in {2, 5}, (words, done.stderr)
        assert_harmless((done.stdout + done.stderr).decode())


def test_bars_draw_names_and_obey_none(space):
    space.database.execute('CREATE TABLE "[red]t[/red]" (v vector(2)); INSERT INTO "[red]t[/red]" VALUES (\'[1,2]\')')
    space.save(vector_tables={"supported_tables": ['"[red]t[/red]"'], "truncate_tables": []})
    code, shown = on_terminal("backup", "--output-dir", space.out, folder=space.folder)
    assert code == 0
    assert shown.count("[red]t[/red]") >= 2
