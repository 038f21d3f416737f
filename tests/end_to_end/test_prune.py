"""`vecbak prune`, `backup --prune` and `truncate --prune` on backups that vecbak made."""

from __future__ import annotations

import time

import pytest

from tests.end_to_end.test_terminal import on_terminal
from tests.support import langchain
from tests.support.command import start_vecbak, vecbak
from tests.support.workspace import Workspace

EMBEDDING = "langchain_pg_embedding"
ONE = {"keep_last": 1, "keep_daily": 0, "keep_weekly": 0, "keep_monthly": 0}


@pytest.fixture
def space(filled18, tmp_path):
    space = Workspace(tmp_path, filled18)
    space.save(retention=ONE)
    return space


def backups(space, count: int) -> list[str]:
    return [space.run("backup", "--json").json["backup_id"] for _ in range(count)]


def ids(space) -> list[str]:
    return [name.removeprefix("vector_backup_").removesuffix(".json") for name in space.files("vector_backup_*.json")]


def test_dry_run_then_prune(space):
    old, middle, new = backups(space, 3)
    before = space.files()
    done = space.run("prune", "--dry-run", "--json")
    assert done.code == 0, done.stderr
    assert [(item["action"], item["backup_id"], item["reasons"]) for item in done.json["backups"]] == [
        ("keep", new, ["last"]), ("remove", middle, []), ("remove", old, []),
    ]  # fmt: skip
    assert done.json["dry_run"] is True
    assert space.files() == before
    done = space.run("prune")
    assert done.code == 0, done.stderr
    assert "2 backups removed" in done.stdout
    assert ids(space) == [new]
    assert [name for name in space.files() if old in name or middle in name] == []
    assert "vector_backup_log.txt" in space.files()
    assert space.run("show", "latest").code == 0


def test_backup_and_truncate_prune_after_success_alone(space):
    first, second = backups(space, 2)
    space.save(backup={"min_free_bytes": 1 << 60})
    assert space.run("backup", "--prune").code == 4
    assert ids(space) == [first, second]
    space.save(backup={"min_free_bytes": 0})
    done = space.run("truncate", "--prune", "--json")
    assert done.code == 0, done.stderr
    assert sorted(done.json["pruned"]) == [first, second]
    assert ids(space) == [done.json["backup_id"]]
    assert "pruned" not in space.run("backup", "--json").json


def test_backups_of_an_empty_table_do_not_drive_out_the_rows_that_were_truncated(space):
    full = space.run("truncate", "--json").json["backup_id"]
    for _ in range(2):
        assert space.run("backup", "--prune").code == 0
    assert full in ids(space)
    assert len(ids(space)) == 2
    done = space.run("prune", "--dry-run", "--json").json
    assert any("only copy of the rows truncated" in reason for item in done["backups"] for reason in item["reasons"])
    langchain.fill(space.database, 5)
    assert space.run("backup", "--prune").code == 0
    assert len(ids(space)) == 1


def test_a_truncate_that_waits_for_its_lock_keeps_its_backup(space):
    """Its manifest is published, and the rows are not gone yet: whoever prunes now must leave it alone."""
    backups(space, 1)
    with space.database.connect(autocommit=False) as reader:
        reader.execute(f"SELECT 1 FROM {EMBEDDING} LIMIT 1")
        running = start_vecbak("truncate", "--json", "--output-dir", space.out, cwd=space.folder)
        deadline = time.monotonic() + 30
        while len(ids(space)) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        waiting = ids(space)[-1]
        newer = space.backups / "vector_backup_20990101_000000.json"
        self_made = _copy_as_newer(space, newer)
        done = space.run("prune", "--json")
        reader.rollback()
    stdout, stderr = running.communicate(timeout=60)
    assert running.returncode == 0, stderr
    found = {item["manifest"]: item for item in done.json["backups"]}
    assert found[str(self_made)]["reasons"] == ["last"]
    assert found[str(space.backups / f"vector_backup_{waiting}.json")]["reasons"] == ["its run has not ended"]
    assert waiting in ids(space)
    assert space.database.count(EMBEDDING) == 0
    assert waiting in stdout


def _copy_as_newer(space, path):
    """The first backup once more, as if it had been made in the future."""
    from datetime import UTC, datetime

    import msgspec

    from vecbak.backups import manifest as manifests

    made = manifests.read(space.backups / f"vector_backup_{ids(space)[0]}.json")
    path.write_bytes(manifests.encode(msgspec.structs.replace(made, created_at=datetime(2099, 1, 1, tzinfo=UTC))))
    return path


def test_every_folder_on_its_own(filled18, tmp_path):
    space = Workspace(tmp_path, filled18)
    space.save(retention=ONE)
    for task in ("one", "two", "one", "two", "three"):
        assert vecbak("backup", "--task-id", task, cwd=tmp_path).code == 0
    done = vecbak("prune", "--json", cwd=tmp_path)
    assert done.code == 0, done.stderr
    assert [item["action"] for item in done.json["backups"]].count("removed") == 2
    left = vecbak("list", "--json", cwd=tmp_path).json
    assert sorted(item["task_id"] for item in left) == ["one", "three", "two"]


def test_on_a_terminal_it_asks(space):
    old, new = backups(space, 2)
    arguments = ("prune", "--output-dir", space.out)
    code, shown = on_terminal(*arguments, folder=space.folder, answers=[(b"[y/N]", b"n\n")])
    assert code == 1, shown
    assert old in shown
    assert ids(space) == [old, new]
    code, shown = on_terminal(*arguments, folder=space.folder, answers=[(b"[y/N]", b"y\n")])
    assert code == 0, shown
    assert ids(space) == [new]
    code, shown = on_terminal(*arguments, folder=space.folder)
    assert code == 0, shown
    assert "[y/N]" not in shown, "there is nothing to ask about"


def test_yes_skips_the_question(space):
    backups(space, 2)
    code, shown = on_terminal("prune", "--yes", "--output-dir", space.out, folder=space.folder)
    assert code == 0, shown
    assert "[y/N]" not in shown


def test_nothing_there(space):
    done = space.run("prune")
    assert (done.code, done.stdout) == (0, "No backups found.\n")
