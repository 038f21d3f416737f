"""One case of the fault matrix: let it happen on a real server, then look at everything that is left."""

from __future__ import annotations

import contextlib
import csv
import os
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.support.command import VECBAK, Ended, environment
from tests.support.faults import AFTER_COMMIT, EMBEDDING, FAULTS, Case, Strike
from tests.support.server import Database, Server
from tests.support.workspace import Workspace
from vecbak.backups.inventory import FoundBackup
from vecbak.backups.manifest import read
from vecbak.checkpoints import STOP_AT, STOP_FILE
from vecbak.config_file import load_config
from vecbak.errors import VecbakError
from vecbak.operations.backup import back_up
from vecbak.operations.opening import open_job
from vecbak.operations.prove import file_reader
from vecbak.operations.verify import verify

LEFT_SECONDS = 10
RESTORED = {f"doc-{number}" for number in range(30)}


@dataclass(frozen=True)
class Outcome:
    """What came of a case.

    Attributes:
        rows: in the table before and after, and in verified backups.
        leftovers: unfinished files; the next run must remove them.
        left: sessions and locks on the server, processes and temporary files, ten seconds later.
        problems: promises that were broken.
    """

    case: Case
    code: int
    rows: tuple[int, int, int]
    leftovers: int
    left: int
    problems: tuple[str, ...]


def try_case(case: Case, server: Server, template: str, folder: Path) -> Outcome:
    """Let it happen, and look at what is left."""
    fault = FAULTS[case.fault]
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(server.new_database(template=template))
        workspace = Workspace(folder, database)
        workspace.save(timeouts={"truncate_seconds": 1, "lock_seconds": 1}, backup={"jobs": 1})
        workspace.out.mkdir()
        if fault.disk:
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=0700", "tmpfs", workspace.out], check=True)
            stack.callback(subprocess.run, ["umount", workspace.out], check=True)
        if case.operation == "restore":
            _back_up(workspace)
            database.execute(f"UPDATE {EMBEDDING} SET id = 'new-' || id")
        committed = _ids(database)
        with contextlib.ExitStack() as cleanup:
            strike = Strike(workspace, server, cleanup, folder / "reached")
            fault.prepare(strike)
            ended = _run(case, strike)
            left = _left(strike)
        broken = [problem for promise in strike.promises if (problem := promise())]
        return _judge(case, workspace, ended, committed, [*broken, *left], len(left))


def _run(case: Case, strike: Strike) -> Ended:
    arguments = {
        "backup": ["backup"],
        "truncate": ["truncate", "--yes"],
        "restore": ["restore", "latest", "--mode", "replace", "--yes"],
    }[case.operation]
    workspace, flag = strike.workspace, strike.flag
    temporary = workspace.folder / "tmp"
    temporary.mkdir()
    variables = {STOP_AT: case.step, STOP_FILE: str(flag), "TMPDIR": str(temporary)} | strike.variables
    command = [*strike.before_it, *([] if "-m" in strike.before_it else [str(VECBAK)])]
    process = strike.process = subprocess.Popen(
        [*command, *arguments, "--output-dir", workspace.out], cwd=workspace.folder, env=environment(**variables),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not flag.exists() or not flag.read_text():
        if process.poll() is not None and FAULTS[case.fault].codes == {4}:
            break  # refused before it came here
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise AssertionError(f"{case}: the step was never reached: {process.communicate()[1]}")
        time.sleep(0.005)
    FAULTS[case.fault].strike(strike)
    flag.unlink(missing_ok=True)
    out, err = process.communicate(timeout=150)
    return Ended(process.returncode, out, err)


def _left(strike: Strike) -> list[str]:
    """What must be gone within ten seconds: sessions, locks, processes, temporary files."""
    deadline = time.monotonic() + LEFT_SECONDS
    while left := list(_still_there(strike)):
        if time.monotonic() > deadline:
            return left
        time.sleep(0.05)
    return []


def _still_there(strike: Strike) -> Iterable[str]:
    database = strike.database
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'vecbak%%' AND datname = %s"
    if database.value(sessions, [database.name]):
        yield "a session was left on the server"
    locks = """SELECT count(*) FROM pg_locks l WHERE l.locktype IN ('advisory', 'relation') AND l.pid <> pg_backend_pid()
        AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = l.pid AND a.application_name = 'application')
        AND (l.locktype = 'advisory' OR l.mode NOT IN ('AccessShareLock')) AND NOT EXISTS (
          SELECT FROM pg_stat_activity a WHERE a.pid = l.pid AND (a.backend_type <> 'client backend' OR a.application_name = ''))"""
    if database.value(locks):
        yield "a lock was left on the server"
    for pid, _, line in strike.children():
        yield f"a process was left: {pid} {line}"
    if names := [path.name for path in (strike.workspace.folder / "tmp").iterdir()]:
        yield f"{names[0]} was left in the temporary folder"


def _judge(
    case: Case, workspace: Workspace, ended: Ended, committed: set[str], problems: list[str], left: int
) -> Outcome:
    after = _ids(workspace.database) - {"application"}
    saved, bad = _ids_in_backups(workspace)
    problems += bad
    if ended.code not in case.codes:
        problems.append(f"exit code {ended.code}: {ended.stderr[-400:]}")
    if 2 < ended.code < 128 and "Hint:" not in ended.stderr:
        problems.append("no hint")
    if "Traceback" in ended.stderr or "Logging error" in ended.stderr:
        problems.append("a traceback")
    removed_by_us = case.fault == "backup folder removed" and case.step in AFTER_COMMIT
    if (lost := committed - after - saved) and not removed_by_us:
        problems.append(f"{len(lost)} rows lost")
    done = ended.code == 0 or case.step in AFTER_COMMIT
    expected = {"truncate": set(), "restore": RESTORED}.get(case.operation, committed) if done else committed
    if after != expected:
        problems.append(f"the table holds {len(after)} rows, and not the {len(expected)} that it should")
    leftovers = len(list(workspace.backups.glob("*.tmp"))) if workspace.backups.exists() else 0
    problems += _next_run(workspace)
    return Outcome(case, ended.code, (len(committed), len(after), len(saved)), leftovers, left, tuple(problems))


def _next_run(workspace: Workspace) -> list[str]:
    workspace.config = {**workspace.config, "connection": {"dsn": workspace.database.socket_dsn}}
    workspace.save(backup={"compression": "none"})
    try:
        _back_up(workspace)
    except VecbakError as error:
        return [f"the next run failed: {error.message} {error.output}"]
    if left := list(workspace.backups.glob("*.tmp")):
        return [f"the next run left {left[0].name}"]
    manifests = {path.stem.removeprefix("vector_backup_") for path in workspace.backups.glob("vector_backup_*.json")}
    orphans = [
        path.name
        for path in workspace.backups.iterdir()
        if path.name != "vector_backup_log.txt" and not any(one in path.name for one in manifests)
    ]
    return [f"the next run left {orphans[0]}"] if orphans else []


def _back_up(workspace: Workspace) -> None:
    loaded = load_config(workspace.folder / "vecbak.yaml")
    with open_job(loaded, task_id="next", output_dir=workspace.out) as job:
        back_up(job, truncate=False)


def _ids(database: Database) -> set[str]:
    return {row[0] for row in database.fetch(f"SELECT id FROM {EMBEDDING}")}


def _ids_in_backups(workspace: Workspace) -> tuple[set[str], list[str]]:
    """The rows of the backups that `verify` finds good; every backup that there is must be."""
    saved: set[str] = set()
    problems = []
    loaded = load_config(workspace.folder / "vecbak.yaml")
    for path in sorted(workspace.backups.glob("vector_backup_*.json")) if workspace.backups.exists() else []:
        with open_job(loaded, task_id="look", output_dir=workspace.out) as job:
            try:
                manifest = read(path)
                reader = file_reader(job, manifest, path.parent)
                verify(FoundBackup(path, manifest), reader, jobs=1, progress=job.progress)
            except VecbakError as error:
                problems.append(f"{path.name} is no good backup: {error.message}")
                continue
        for file in manifest.tables[EMBEDDING].files:
            with (path.parent / file.name).open(newline="", encoding="utf-8") as text:
                saved |= {row["id"] for row in csv.DictReader(text)}
    return saved, problems


def needs_root(case: Case) -> bool:
    """Whether a small file system must be mounted for it."""
    return FAULTS[case.fault].disk and os.geteuid() != 0
