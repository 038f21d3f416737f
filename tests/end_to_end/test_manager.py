"""The Python API, in a running event loop, against a real server."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import threading
from pathlib import Path

import pytest

from tests.support.server import Database
from tests.support.workspace import Workspace
from vecbak import VectorTableManager, checkpoints
from vecbak.config import Config, Connection
from vecbak.config_file import load_config
from vecbak.errors import ConnectionFailed, Refused, UsageError, VecbakError
from vecbak.operations.management import MARKER

EMBEDDING = "langchain_pg_embedding"


@pytest.fixture
def workspace(tmp_path, filled18: Database) -> Workspace:
    return Workspace(tmp_path, filled18)


def manager(workspace: Workspace) -> VectorTableManager:
    return VectorTableManager(workspace.out, config=workspace.folder / "vecbak.yaml")


def children() -> list[str]:
    return [
        path.parent.name
        for path in Path("/proc").glob("[0-9]*/status")
        if f"PPid:\t{os.getpid()}\n" in _text(path) and "Name:\tpsql" in _text(path)
    ]


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


@pytest.mark.parametrize("backup", [False, True])
@pytest.mark.parametrize("truncate", [False, True])
def test_what_the_flags_ask_for(workspace: Workspace, backup, truncate):
    result = asyncio.run(manager(workspace).execute_vector_management(backup, truncate))
    assert result["backup_performed"] == (backup or truncate)
    assert result["truncate_performed"] == truncate
    assert workspace.database.count(EMBEDDING) == (0 if truncate else 62)
    assert len(workspace.files("*.json")) == (1 if backup or truncate else 0)
    if not backup and not truncate:
        assert result["note"] == "not performed (no option given)"
    else:
        assert result["tables_backed_up"][EMBEDDING]["row_count"] == 62
        assert "vector tables: backup performed" in (workspace.out / "data_pipeline.log").read_text()


def test_truncate_alone_backs_up_first(workspace: Workspace):
    result = asyncio.run(manager(workspace).truncate_vector_tables())
    assert (result["backup_performed"], result["truncate_performed"]) == (True, True)
    assert workspace.run("restore", "latest").code == 0
    assert workspace.database.count(EMBEDDING) == 62


def test_the_task_is_named_by_its_folder(workspace: Workspace):
    result = asyncio.run(manager(workspace).backup_vector_tables())
    assert result["task_id"] == "out"
    named = VectorTableManager(workspace.out, task_id="other", config=workspace.folder / "vecbak.yaml")
    assert asyncio.run(named.backup_vector_tables())["task_id"] == "other"


def test_the_loop_goes_on_meanwhile_and_nothing_is_left_behind(workspace: Workspace):
    before = threading.active_count()
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.005)

    async def main() -> None:
        ticker = asyncio.create_task(tick())
        await manager(workspace).backup_vector_tables()
        ticker.cancel()
        for _ in range(20):  # what watched the programs notices their end a moment later
            if threading.active_count() > before:
                await asyncio.sleep(0.05)
        assert threading.active_count() == before, threading.enumerate()

    asyncio.run(main())
    assert ticks > 10
    assert threading.active_count() == before
    assert children() == []


def test_two_managers_at_once_in_one_loop(workspace: Workspace):
    async def main() -> list[object]:
        return await asyncio.gather(
            *(manager(workspace).truncate_vector_tables() for _ in range(2)), return_exceptions=True
        )

    results = asyncio.run(main())
    assert any(isinstance(result, dict) for result in results)
    assert all(isinstance(result, dict | VecbakError) for result in results), results
    assert workspace.database.count(EMBEDDING) == 0
    assert workspace.run("verify", "latest").code == 0


def test_a_failure_is_raised_with_its_result(workspace: Workspace):
    workspace.database.execute("CREATE TABLE child () INHERITS (langchain_pg_embedding)")
    with pytest.raises(Refused, match="inheritance children") as caught:
        asyncio.run(manager(workspace).execute_vector_management(True, True))
    assert caught.value.exit_code == 4
    assert caught.value.result.backup_performed is False
    assert threading.active_count() == 1 or children() == []


def test_a_cancelled_call_rolls_back(workspace: Workspace, caplog):
    workspace.save(timeouts={"lock_seconds": 60})

    async def main() -> None:
        with workspace.database.connect(autocommit=False) as other:
            other.execute(f"INSERT INTO {EMBEDDING} (id) VALUES ('in the way')")
            task = asyncio.create_task(manager(workspace).truncate_vector_tables())
            await asyncio.sleep(1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            other.rollback()

    before = threading.active_count()
    asyncio.run(main())
    gc.collect()
    assert "never retrieved" not in caplog.text
    assert threading.active_count() == before
    assert children() == []
    assert workspace.database.count(EMBEDDING) == 62


def test_a_call_that_is_cancelled_after_commit_still_records_it(workspace: Workspace, monkeypatch):
    reached = workspace.folder / "reached"
    monkeypatch.setattr(checkpoints, "_stop_at", "committed")
    monkeypatch.setenv(checkpoints.STOP_FILE, str(reached))

    async def main() -> None:
        task = asyncio.create_task(manager(workspace).truncate_vector_tables())
        while not reached.exists():
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.sleep(0.5)
        assert not task.done()
        reached.unlink()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    manifest = json.loads(next(workspace.backups.glob("vector_backup_*.json")).read_text())
    assert manifest["truncated"]["rows_removed"] == {EMBEDDING: 62}
    assert "truncated" in (workspace.out / "data_pipeline.log").read_text()


def test_a_parent_has_done_it(workspace: Workspace, monkeypatch):
    first = manager(workspace)
    asyncio.run(first.execute_vector_management(True, True))
    monkeypatch.setenv(MARKER, first.environment[MARKER])
    result = asyncio.run(manager(workspace).execute_vector_management(True, True))
    assert result["backup_performed"] is False
    assert "not performed again" in result["note"]
    assert asyncio.run(manager(workspace).backup_vector_tables())["backup_performed"] is True


def test_the_next_task_of_the_same_process_is_managed_too(workspace: Workspace):
    for expected in (1, 2):
        asyncio.run(manager(workspace).execute_vector_management(True, False))
        assert len(workspace.files("vector_backup_*.json")) == expected


def test_where_the_config_comes_from(workspace: Workspace, monkeypatch, tmp_path):
    monkeypatch.chdir(workspace.folder)
    assert asyncio.run(VectorTableManager("out").backup_vector_tables())["backup_performed"]
    monkeypatch.chdir("/")
    with pytest.raises(UsageError):
        VectorTableManager(workspace.out)
    monkeypatch.setenv("VECBAK_CONFIG", str(workspace.folder / "vecbak.yaml"))
    assert asyncio.run(VectorTableManager(workspace.out).backup_vector_tables())["backup_performed"]
    loaded = load_config(workspace.folder / "vecbak.yaml").config
    assert asyncio.run(VectorTableManager(workspace.out, config=loaded).backup_vector_tables())["backup_performed"]
    away = Config(connection=Connection(host="127.0.0.1", port=1))
    with pytest.raises(ConnectionFailed):
        asyncio.run(VectorTableManager(workspace.out, config=away).backup_vector_tables())
