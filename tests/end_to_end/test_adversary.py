"""Backup, truncate, restore and proof walked through as an adversary would: what could still lose a row, or tell an untruth?"""

from __future__ import annotations

import json
import resource
import signal
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from tests.support.command import vecbak
from tests.support.server import Database
from tests.support.stopped import Stopped
from tests.support.workspace import Workspace
from vecbak.backups import manifest as manifests
from vecbak.config_file import load_config
from vecbak.operations.backup import back_up
from vecbak.operations.opening import open_job

EMBEDDING = "langchain_pg_embedding"
KEEP_ONE = {"keep_last": 1, "keep_daily": 0, "keep_weekly": 0, "keep_monthly": 0}


@pytest.fixture
def workspace(tmp_path, filled18: Database) -> Workspace:
    workspace = Workspace(tmp_path, filled18)
    workspace.save(retention=KEEP_ONE)
    return workspace


def ids(workspace: Workspace) -> list[str]:
    return [Path(name).stem.removeprefix("vector_backup_") for name in workspace.files("vector_backup_*.json")]


def newest(workspace: Workspace) -> Path:
    return max(workspace.backups.glob("vector_backup_*.json"), key=lambda path: manifests.read(path).created_at)


# retention


def test_a_run_that_was_killed_right_after_commit_leaves_the_only_copy_and_prune_knows_it(workspace: Workspace):
    run = Stopped(workspace, "committed", "truncate", "--yes")
    run.process.kill()
    run.process.communicate()
    assert workspace.database.count(EMBEDDING) == 0
    (full,) = ids(workspace)
    assert json.loads(newest(workspace).read_text())["truncated"] is None
    for _ in range(2):
        assert workspace.run("backup", "--prune").code == 0
    assert full in ids(workspace)
    done = workspace.run("prune", "--dry-run", "--json").json
    assert any("perhaps the only copy" in reason for item in done["backups"] for reason in item["reasons"])
    assert workspace.run("restore", full).code == 0
    assert workspace.database.count(EMBEDDING) == 62
    assert workspace.run("backup", "--prune").code == 0
    assert len(ids(workspace)) == 1


def test_a_clock_that_jumps_back_makes_the_newest_rows_not_the_oldest(workspace: Workspace):
    now = datetime.now(UTC)
    made = []
    for number, moment in enumerate((now, now - timedelta(days=400), now - timedelta(days=399))):
        workspace.database.execute(f"UPDATE {EMBEDDING} SET document = %s", [f"generation {number}"])
        with open_job(load_config(workspace.folder / "vecbak.yaml"), task_id="t", output_dir=workspace.out) as job:
            there = msgspec.structs.replace(job, clock=lambda moment=moment: moment)
            made.append(back_up(there, truncate=number == 2, prune=True).backup_id)
    assert ids(workspace) == [made[2]]  # by the clock it would be the older one
    done = workspace.run("restore", "latest")
    assert done.code == 0, done.stderr
    assert workspace.database.fetch(f"SELECT DISTINCT document FROM {EMBEDDING}") == [("generation 2",)]


def a_newer_backup(workspace: Workspace) -> None:
    """So that retention would let go of every other one."""
    first = newest(workspace)
    document = manifests.read(first)
    later = msgspec.structs.replace(document, backup_id="20990101_000000", created_at=datetime(2099, 1, 1, tzinfo=UTC))
    (workspace.backups / "vector_backup_20990101_000000.json").write_bytes(manifests.encode(later))


def test_no_prune_takes_a_proven_backup_before_its_rows_are_gone(workspace: Workspace):
    """Its manifest was replaced by one with the proof, and with it went the claim of its run."""
    workspace.save(backup={"verify_before_truncate": "restore"})
    run = Stopped(workspace, "truncated", "truncate", "--yes")
    (ours,) = ids(workspace)
    a_newer_backup(workspace)
    done = workspace.run("prune", "--json").json
    assert ["its run has not ended"] in [item["reasons"] for item in done["backups"]]
    code, errors = run.go()
    assert code == 0, errors
    assert workspace.database.count(EMBEDDING) == 0
    assert ours in ids(workspace)


def test_no_prune_takes_a_safety_backup_before_its_rows_are_replaced(workspace: Workspace):
    assert workspace.run("backup").code == 0
    (first,) = ids(workspace)
    run = Stopped(workspace, "loaded", "restore", first, "--mode", "replace", "--yes")
    safety = next(one for one in ids(workspace) if one != first)
    a_newer_backup(workspace)
    assert workspace.run("prune").code == 0
    assert safety in ids(workspace)
    code, errors = run.go()
    assert code == 0, errors


# what is believed until COMMIT


def test_a_safety_backup_that_is_changed_while_rows_are_loaded(workspace: Workspace):
    assert workspace.run("backup").code == 0
    (first,) = ids(workspace)
    workspace.database.execute(f"UPDATE {EMBEDDING} SET document = 'today'")
    run = Stopped(workspace, "loaded", "restore", first, "--mode", "replace", "--yes")
    safety = next(one for one in ids(workspace) if one != first)
    next(workspace.backups.glob(f"{EMBEDDING}_{safety}*")).unlink()
    code, errors = run.go()
    assert code == 5, errors
    assert "safety backup" in errors
    assert "as it was before" in errors
    assert workspace.database.fetch(f"SELECT DISTINCT document FROM {EMBEDDING}") == [("today",)]


def test_a_file_that_is_changed_while_it_is_proven_is_not_proven(workspace: Workspace):
    assert workspace.run("backup").code == 0
    run = Stopped(workspace, "proving", "verify", "latest", "--restore")
    file = next(workspace.backups.glob(f"{EMBEDDING}_*.csv"))
    file.write_bytes(file.read_bytes().replace(b"doc-1,", b"doc-X,"))  # another row, which can be restored as well
    code, errors = run.go()
    assert code == 5, errors
    assert file.name in errors
    assert json.loads(newest(workspace).read_text())["proven_restorable"] is None


# what is left


def test_a_proof_that_is_killed_leaves_no_server_and_no_folder(workspace: Workspace):
    assert workspace.run("backup").code == 0
    with tempfile.TemporaryDirectory(prefix="vbk-") as temporary:
        Path(temporary).chmod(0o755)
        run = Stopped(workspace, "proving", "verify", "latest", "--restore", TMPDIR=temporary)
        assert list(Path(temporary).glob("vecbak-*"))
        assert processes_that_name(temporary)
        run.process.send_signal(signal.SIGKILL)
        run.process.communicate()
        deadline = time.monotonic() + 10
        while list(Path(temporary).glob("vecbak-*")) or processes_that_name(temporary):
            assert time.monotonic() < deadline, processes_that_name(temporary)
            time.sleep(0.1)
    assert workspace.run("verify", "latest", "--restore").code == 0


def processes_that_name(text: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in line:
            found.append(line)
    return found


# cores


def core_limit(pid: int | str) -> str:
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return next(line.split()[4] for line in lines if line.startswith("Max core file size"))


def test_nothing_that_knows_the_password_dumps_core(workspace: Workspace):
    if resource.getrlimit(resource.RLIMIT_CORE)[1] == 0:
        pytest.fail("the hard limit of cores is 0 here: nothing can be shown")
    run = Stopped(workspace, "locked", "backup")
    ours = [
        path.parent.name for path in Path("/proc").glob("[0-9]*/status") if f"PPid:\t{run.process.pid}\n" in _text(path)
    ]
    assert len(ours) >= 1
    assert {core_limit(pid) for pid in [run.process.pid, *ours]} == {"1"}
    assert run.go()[0] == 0


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def test_a_users_own_program_may_dump_core_as_before(workspace: Workspace):
    program = "import resource; print(resource.getrlimit(resource.RLIMIT_CORE)[0])"
    before = resource.getrlimit(resource.RLIMIT_CORE)[0]
    ended = vecbak("run", "--", sys.executable, "-c", program, cwd=workspace.folder)
    assert ended.code == 0, ended.stderr
    assert ended.stdout.split()[-1] == str(before)
