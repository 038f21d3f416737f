"""`timeouts.write_block_seconds`: when the time is up the locks are gone, at whatever step, and nothing was truncated."""

from __future__ import annotations

import time

import pytest

from tests.support.collections import EMBEDDING
from tests.support.stopped import Stopped
from tests.support.workspace import Workspace
from vecbak.checkpoints import TRUNCATE_STEPS

pytestmark = pytest.mark.local

COMPLETE = {"published", "logged", "truncated"}  # the backup is valid by then, and stays
STEPS = [step for step in TRUNCATE_STEPS if step not in {"connected", "committed"}]


@pytest.fixture
def space(tmp_path, filled18) -> Workspace:
    space = Workspace(tmp_path, filled18)
    space.save(timeouts={"write_block_seconds": 2})
    return space


def lock_is_gone(space: Workspace) -> bool:
    """Whether a writer gets through."""
    with space.database.connect(options="-c lock_timeout=100ms") as writer:
        try:
            writer.execute(f"UPDATE {EMBEDDING} SET document = document WHERE false")
        except Exception:  # noqa: BLE001 - any reason not to
            return False
        return True


def wait_for_writers(space: Workspace) -> None:
    deadline = time.monotonic() + 12
    while not lock_is_gone(space):
        assert time.monotonic() < deadline, "writers still wait"
        time.sleep(0.1)


@pytest.mark.parametrize("format", ["csv", "pg_dump"])
@pytest.mark.parametrize("step", STEPS)
def test_at_each_step_of_a_truncate(space: Workspace, step, format):
    space.save(backup={"format": format})
    run = Stopped(space, step, "truncate", "--json")
    wait_for_writers(space)
    time.sleep(0.5)
    code, errors = run.go()
    assert code == (6 if step in COMPLETE else 5), errors
    assert "writers have been waiting for 2 s" in errors
    assert space.database.count(EMBEDDING) == 62
    kept = [name for name in space.files() if name != "vector_backup_log.txt"]
    if step in COMPLETE:
        assert "the backup is kept" in errors
        assert space.run("verify", "latest").code == 0
    else:
        assert kept == []


def test_while_the_backup_is_proven(space: Workspace):
    space.save(backup={"verify_before_truncate": "restore"})
    run = Stopped(space, "proving", "truncate")
    wait_for_writers(space)
    time.sleep(0.5)
    code, errors = run.go()
    assert code == 5, errors
    assert "writers have been waiting for 2 s" in errors
    assert space.database.count(EMBEDDING) == 62
    assert space.files() == ["vector_backup_log.txt"]


def test_while_truncate_waits_for_its_lock(space: Workspace):
    with space.database.connect(autocommit=False) as reader:
        reader.execute(f"SELECT count(*) FROM {EMBEDDING}")
        done = space.run("truncate")
        reader.rollback()
    assert done.code == 6, done.stderr
    assert "writers have been waiting for 2 s" in done.stderr
    assert space.database.count(EMBEDDING) == 62
    assert space.run("verify", "latest").code == 0


@pytest.mark.parametrize("step", ["restore locked", "drafted", "copying", "published", "saved"])
def test_at_each_step_of_a_restore_up_to_loading(space: Workspace, step):
    assert space.run("backup").code == 0
    before = space.files()
    space.database.execute(f"UPDATE {EMBEDDING} SET document = 'now: ' || document")
    run = Stopped(space, step, "restore", "latest", "--mode", "replace", "--yes")
    wait_for_writers(space)
    time.sleep(0.5)
    code, errors = run.go()
    assert code in {5, 8}, errors
    assert "writers have been waiting for 2 s" in errors
    assert space.database.value(f"SELECT count(*) FROM {EMBEDDING} WHERE document LIKE 'now: %'") == 62
    if step not in {"published", "saved"}:  # a safety backup that was finished is kept
        assert [name for name in space.files() if name != "vector_backup_log.txt"] == [
            name for name in before if name != "vector_backup_log.txt"
        ]


def test_with_no_time_at_all(space: Workspace):
    space.save(timeouts={"write_block_seconds": 0.001})
    done = space.run("truncate")
    assert done.code == 5, done.stderr
    assert space.database.count(EMBEDDING) == 62
    assert [name for name in space.files() if name != "vector_backup_log.txt"] == []
