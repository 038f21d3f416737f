"""The fault matrix: every fault that can strike at every step, what must come of it, and how one case is tried.

The matrix is data; `tests/end_to_end/test_faults.py` is generated from it, and `scripts/faults` prints it.
"""

from __future__ import annotations

import contextlib
import csv
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.support import langchain
from tests.support.command import Ended, start_vecbak
from tests.support.server import Database, Server
from tests.support.workspace import Workspace
from vecbak.checkpoints import BACKUP_STEPS, RESTORE_STEPS, STOP_AT, STOP_FILE, TRUNCATE_STEPS

EMBEDDING = "langchain_pg_embedding"
ROWS = 30
AFTER_COMMIT = {"committed", "restored"}
COPIED = {"copying", "finishing", "copied", "published", "logged"}


class Strike:
    """What a fault may touch: the run that waits at a step."""

    def __init__(self, workspace: Workspace, process: subprocess.Popen[str], server: Server) -> None:
        self.workspace = workspace
        self.process = process
        self.server = server

    def psqls(self) -> dict[str, int]:
        """Process ids of the run's psql, by the role of its session."""
        found = {}
        for path in Path("/proc").glob("[0-9]*/status"):
            with contextlib.suppress(OSError):
                text = path.read_text()
                is_session = b"-XAtqw" in path.with_name("cmdline").read_bytes()  # nothing there: it has ended
                if f"PPid:\t{self.process.pid}\n" in text and is_session:
                    found[path.parent.name] = int(path.parent.name)
        order = sorted(found.values())
        return {"guard": order[0], **{f"worker{n}": pid for n, pid in enumerate(order[1:])}} if order else {}

    def backends(self, role: str) -> list[int]:
        """Server processes of the run's sessions."""
        query = "SELECT pid FROM pg_stat_activity WHERE application_name = %s AND datname = %s ORDER BY backend_start"
        return [
            row[0] for row in self.workspace.database.fetch(query, [f"vecbak {role}", self.workspace.database.name])
        ]


def _signal(number: int) -> Callable[[Strike], None]:
    return lambda strike: strike.process.send_signal(number)


def _kill_psql(role: str) -> Callable[[Strike], None]:
    def strike_it(strike: Strike) -> None:
        os.kill(strike.psqls()[role], signal.SIGKILL)

    return strike_it


def _terminate(role: str) -> Callable[[Strike], None]:
    def strike_it(strike: Strike) -> None:
        for pid in strike.backends(role)[:1]:
            strike.workspace.database.execute("SELECT pg_terminate_backend(%s)", [pid])
        time.sleep(0.1)

    return strike_it


def _restart(strike: Strike) -> None:
    strike.server.stop("immediate")
    strike.server.start()


def _fill_disk(strike: Strike) -> None:
    with contextlib.suppress(OSError), (strike.workspace.out / "filler").open("wb") as file:
        while True:
            file.write(b"x" * 65536)
            file.flush()


def _remove_folder(strike: Strike) -> None:
    shutil.rmtree(strike.workspace.backups, ignore_errors=True)


@dataclass(frozen=True)
class Fault:
    """One way to break things.

    Attributes:
        codes: exit codes that may come of it before COMMIT; -9: the run itself was killed.
        late_codes: after COMMIT.
        steps: where it can strike; None: everywhere.
        disk: whether it needs a small file system of its own (root alone can mount one).
    """

    strike: Callable[[Strike], None]
    codes: frozenset[int]
    late_codes: frozenset[int]
    steps: frozenset[str] | None = None
    disk: bool = False


_WITH_GUARD = frozenset({*TRUNCATE_STEPS, *RESTORE_STEPS}) - AFTER_COMMIT
_WITH_WORKERS = frozenset({"copying"})  # at another step it may have ended already
_WRITING = frozenset({"drafted", "workers open", "copying", "finishing", "copied"})

FAULTS: dict[str, Fault] = {
    "SIGKILL": Fault(_signal(signal.SIGKILL), frozenset({-9}), frozenset({-9})),
    "SIGTERM": Fault(_signal(signal.SIGTERM), frozenset({143}), frozenset({143})),
    "SIGINT": Fault(_signal(signal.SIGINT), frozenset({130}), frozenset({130})),
    "guard's psql killed": Fault(_kill_psql("guard"), frozenset({3, 4, 5, 6, 8}), frozenset({0}), _WITH_GUARD),
    "guard's backend terminated": Fault(_terminate("guard"), frozenset({3, 4, 5, 6, 8}), frozenset({0}), _WITH_GUARD - {"connected", "restore connected"}),
    "worker's psql killed": Fault(_kill_psql("worker0"), frozenset({5}), frozenset(), _WITH_WORKERS),
    "worker's backend terminated": Fault(_terminate("worker"), frozenset({5}), frozenset(), _WITH_WORKERS),
    "server restarted": Fault(_restart, frozenset({3, 4, 5, 6, 8}), frozenset({0})),
    "disk full": Fault(_fill_disk, frozenset({5}), frozenset(), _WRITING, disk=True),
    "backup folder removed": Fault(_remove_folder, frozenset({4, 5, 6}), frozenset({0}), _WRITING | {"published", "logged", "truncated"}),
}  # fmt: skip

OPERATIONS = {"backup": BACKUP_STEPS, "truncate": TRUNCATE_STEPS, "restore": RESTORE_STEPS}


@dataclass(frozen=True)
class Case:
    """One cell of the matrix."""

    operation: str
    step: str
    fault: str

    def __str__(self) -> str:
        return f"{self.operation}: {self.fault} at {self.step}"


# a backup alone is a truncate's first half: only what could differ is tried again
LIKE_NO_OTHER = {"SIGKILL", "guard's backend terminated"}

MATRIX = [
    Case(operation, step, name)
    for operation, steps in OPERATIONS.items()
    for step in steps
    for name, fault in FAULTS.items()
    if (fault.steps is None or step in fault.steps) and (operation != "backup" or name in LIKE_NO_OTHER)
]


@dataclass(frozen=True)
class Outcome:
    """What came of a case.

    Attributes:
        rows: in the table before and after, and in verified backups.
        leftovers: `.tmp` files; the next run must remove them.
        problems: promises that were broken.
    """

    case: Case
    code: int
    rows: tuple[int, int, int]
    leftovers: int
    problems: tuple[str, ...]


def try_case(case: Case, server: Server, folder: Path) -> Outcome:
    """Let it happen, and look at what is left."""
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(server.new_database())
        langchain.fill(database, ROWS)
        workspace = Workspace(folder, database)
        workspace.save(timeouts={"truncate_seconds": 10}, backup={"jobs": 1})
        workspace.out.mkdir()
        if FAULTS[case.fault].disk:
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=0700", "tmpfs", workspace.out], check=True)
            stack.callback(subprocess.run, ["umount", workspace.out], check=True)
        if case.operation == "restore":
            assert workspace.run("backup").code == 0
            database.execute(f"UPDATE {EMBEDDING} SET id = 'new-' || id")
        committed = _ids(database)
        ended = _run(case, workspace, server)
        return _judge(case, workspace, ended, committed)


def _run(case: Case, workspace: Workspace, server: Server) -> Ended:
    arguments = {
        "backup": ["backup"],
        "truncate": ["truncate", "--yes"],
        "restore": ["restore", "latest", "--mode", "replace", "--yes"],
    }[case.operation]
    flag = workspace.folder / "reached"
    env = {**os.environ, STOP_AT: case.step, STOP_FILE: str(flag)}
    process = start_vecbak(*arguments, "--output-dir", workspace.out, cwd=workspace.folder, env=env)
    deadline = time.monotonic() + 60
    while not flag.exists() or not flag.read_text():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise AssertionError(f"{case}: the step was never reached: {process.communicate()[1]}")
        time.sleep(0.005)
    FAULTS[case.fault].strike(Strike(workspace, process, server))
    flag.unlink()
    out, err = process.communicate(timeout=60)
    return Ended(process.returncode, out, err)


def _judge(case: Case, workspace: Workspace, ended: Ended, committed: set[str]) -> Outcome:
    database, fault, problems = workspace.database, FAULTS[case.fault], []
    problems += _left_on_server(database)
    after = _ids(database)
    (workspace.out / "filler").unlink(missing_ok=True)
    saved, bad = _ids_in_backups(workspace)
    problems += bad
    late = case.step in AFTER_COMMIT
    expected = fault.late_codes if late else fault.codes
    if case.operation == "backup" and case.step in COPIED:
        expected |= {0}  # every row is in a file already: the guard is not needed any more
    if ended.code not in expected:
        problems.append(f"exit code {ended.code}: {ended.stderr[-300:]}")
    if ended.code > 2 and ended.code < 128 and "Hint:" not in ended.stderr:
        problems.append("no hint")
    if "Traceback" in ended.stderr:
        problems.append("a traceback")
    if lost := committed - after - saved:
        problems.append(f"{len(lost)} rows lost")
    if not late and case.operation != "restore" and after != committed:
        problems.append("the table changed before COMMIT")
    if not late and case.operation == "restore" and after != committed:
        problems.append("the target is not as it was")
    if late and case.operation == "truncate" and after:
        problems.append("committed, and not empty")
    leftovers = len(list(workspace.backups.glob("*.tmp"))) if workspace.backups.exists() else 0
    problems += _next_run(workspace)
    return Outcome(case, ended.code, (len(committed), len(after), len(saved)), leftovers, tuple(problems))


def _left_on_server(database: Database) -> list[str]:
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'vecbak%%' AND datname = %s"
    deadline = time.monotonic() + 10
    while database.value(query, [database.name]):
        if time.monotonic() > deadline:
            return ["a session was left on the server"]
        time.sleep(0.05)
    return []


def _next_run(workspace: Workspace) -> list[str]:
    done = workspace.run("backup")
    if done.code != 0:
        return [f"the next run failed: {done.stderr[-300:]}"]
    if left := list(workspace.backups.glob("*.tmp")):
        return [f"the next run left {left[0].name}"]
    return []


def _ids(database: Database) -> set[str]:
    return {row[0] for row in database.fetch(f"SELECT id FROM {EMBEDDING}")}


def _ids_in_backups(workspace: Workspace) -> tuple[set[str], list[str]]:
    """The rows of the backups that `vecbak verify` finds good; every backup that there is must be."""
    saved: set[str] = set()
    problems = []
    for manifest in sorted(workspace.backups.glob("vector_backup_*.json")) if workspace.backups.exists() else []:
        done = workspace.run("verify", manifest)
        if done.code != 0:
            problems.append(f"{manifest.name} is no good backup: {done.stderr[-200:]}")
            continue
        name = f"{EMBEDDING}_{manifest.stem.removeprefix('vector_backup_')}.csv"
        with (workspace.backups / name).open(newline="", encoding="utf-8") as file:
            saved |= {row["id"] for row in csv.DictReader(file)}
    return saved, problems
