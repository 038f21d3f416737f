"""The fault matrix as data: every fault that can strike at every step, and what must come of it.

`tests/support/fault_cases.py` tries one case; `tests/end_to_end/test_faults.py` is generated from `MATRIX`, and
`scripts/faults` prints it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from tests.support import langchain
from tests.support.programs import psql_filter
from tests.support.proxy import Proxy
from tests.support.server import SUPERUSER, SUPERUSER_PASSWORD, Database, Server
from tests.support.workspace import Workspace
from vecbak.checkpoints import BACKUP_STEPS, RESTORE_STEPS, STOP_FILE, TRUNCATE_STEPS

EMBEDDING = "langchain_pg_embedding"
COLLECTION = "langchain_pg_collection"
ROWS = 30
AFTER_COMMIT = {"committed", "restored"}
COPIED = {"copying", "finishing", "copied", "published", "logged"}
READ_ONLY = ("setpriv", "--bounding-set=-dac_override") if os.geteuid() == 0 else ()


@dataclass
class Strike:
    """What a fault may touch: a run that is about to be started, then one that waits at a step.

    Attributes:
        cleanup: what must happen before the outcome is judged.
        before_it: words before the command `vecbak`.
        promises: looked at after the run has ended; each gives what was broken, or nothing.
    """

    workspace: Workspace
    server: Server
    cleanup: contextlib.ExitStack
    flag: Path
    before_it: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[str] | None = None
    promises: list[Callable[[], str | None]] = field(default_factory=list)

    @property
    def database(self) -> Database:
        """The run's."""
        return self.workspace.database

    def children(self) -> Iterator[tuple[int, str, str]]:
        """Every process that the run started and that lives: its id, its state, its command line."""
        mark = f"{STOP_FILE}={self.flag}\0".encode()
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                if mark in (path / "environ").read_bytes():
                    state = (path / "stat").read_text().rpartition(")")[2].split()[0]
                    line = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    if state != "Z":
                        yield int(path.name), state, line

    def psqls(self) -> dict[str, int]:
        """Process ids of the run's psql, by the role of its session."""
        order = sorted(pid for pid, _, line in self.children() if "-XAtqw" in line)
        return {"guard": order[0], **{f"worker{n}": pid for n, pid in enumerate(order[1:])}} if order else {}

    def backends(self, role: str) -> list[int]:
        """Server processes of the run's sessions."""
        query = "SELECT pid FROM pg_stat_activity WHERE application_name = %s AND datname = %s ORDER BY backend_start"
        return [row[0] for row in self.database.fetch(query, [f"vecbak {role}", self.database.name])]

    def log_in_as(self, role: str, attributes: str = "") -> None:
        """Let the run be this role, which may read everything, and empty the one table."""
        self.database.execute(f"""
            DO $$ BEGIN CREATE ROLE {role} LOGIN {attributes}; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
            GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}; GRANT TRUNCATE ON {EMBEDDING} TO {role}""")
        self.workspace.save(connection={"dsn": self.database.socket_dsn.replace(f"{SUPERUSER}@", f"{role}@")})

    def behind(self, statement: str) -> None:
        """Run a statement in a session of its own, which has to wait for the run; it must succeed in the end."""
        session = self.cleanup.enter_context(self.database.connect(autocommit=False, application_name="application"))
        self.in_the_way(session, statement)

    def in_the_way(self, session: psycopg.Connection, statement: str) -> None:
        """The same in a session that is in the way already."""
        failures: list[str] = []

        def run() -> None:
            try:
                session.execute(statement)  # type: ignore[arg-type]
                session.commit()
            except psycopg.Error as error:
                failures.append(f"another session was broken: {error}")

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        time.sleep(0.3)

        def promise() -> str | None:
            thread.join(10)
            return "another session waits for ever" if thread.is_alive() else next(iter(failures), None)

        self.promises.append(promise)


Act = Callable[[Strike], None]


def _nothing(strike: Strike) -> None:
    pass


# ways to strike


def _signal(number: int) -> Act:
    def act(strike: Strike) -> None:
        assert strike.process
        strike.process.send_signal(number)

    return act


def _signal_psql(role: str, number: int) -> Act:
    return lambda strike: os.kill(strike.psqls()[role], number)


def _terminate(role: str) -> Act:
    def act(strike: Strike) -> None:
        for pid in strike.backends(role)[:1]:
            strike.database.execute("SELECT pg_terminate_backend(%s)", [pid])
        time.sleep(0.1)

    return act


def _restart(strike: Strike) -> None:
    strike.server.stop("immediate")
    strike.server.start()


def _kill_server(strike: Strike) -> None:
    strike.server.kill()
    deadline = time.monotonic() + 30
    while True:  # its children end by themselves, and only then may it be started again
        time.sleep(0.3)
        try:
            strike.server.start()
            return
        except subprocess.CalledProcessError:
            assert time.monotonic() < deadline


def _fill_disk(strike: Strike) -> None:
    filler = strike.workspace.out / "filler"
    strike.cleanup.callback(filler.unlink, missing_ok=True)
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        for size in (65536, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size):
                    pass


def _remove_folder(strike: Strike) -> None:
    shutil.rmtree(strike.workspace.backups, ignore_errors=True)


def _make_read_only(strike: Strike) -> None:
    strike.workspace.backups.chmod(0o500)
    strike.cleanup.callback(strike.workspace.backups.chmod, 0o700)


def _read_for_ever(strike: Strike) -> psycopg.Connection:
    reader = strike.cleanup.enter_context(strike.database.connect(autocommit=False, application_name="application"))
    reader.execute(f"SELECT 1 FROM {EMBEDDING} LIMIT 1")
    return reader


def _read_then_write(strike: Strike) -> None:
    session = _read_for_ever(strike)
    strike.in_the_way(session, f"INSERT INTO {EMBEDDING} (id, document) VALUES ('application', 'x')")


def _hold_exclusively(strike: Strike) -> None:
    other = strike.cleanup.enter_context(strike.database.connect(autocommit=False))
    other.execute(f"LOCK TABLE {EMBEDDING} IN ACCESS EXCLUSIVE MODE")


def _alter(strike: Strike) -> None:
    strike.behind(f"ALTER TABLE {EMBEDDING} ADD COLUMN added int")


def _drop(strike: Strike) -> None:
    # taken back afterwards, so that the rows can be counted
    strike.behind(f"DROP TABLE {EMBEDDING} CASCADE; ROLLBACK")


def _revoke(privilege: str) -> Act:
    return lambda strike: strike.database.execute(f"REVOKE {privilege} ON {EMBEDDING} FROM loser")


def _run_another(strike: Strike) -> None:
    done = strike.workspace.run("truncate", "--yes")
    strike.promises.append(lambda: None if done.code == 7 else f"the other run: {done.code} {done.stderr[-200:]}")


def _turn_clock_back(strike: Strike) -> None:
    (strike.workspace.folder / "clock").write_text(str(-400 * 86400))


def _kill_compressor(strike: Strike) -> None:
    strike.flag.unlink()  # it is started only when the run goes on; it waits for us then
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for pid, state, line in strike.children():
            if "zstd" in line and "psql" not in line and state == "T":
                os.kill(pid, signal.SIGKILL)
                return
        time.sleep(0.01)
    raise AssertionError("the compressor was never started")


# what must be so before the run begins


def _hurried(strike: Strike) -> None:
    strike.log_in_as("hurried", "SUPERUSER")
    strike.database.execute("""
        ALTER ROLE hurried SET statement_timeout = '50ms'; ALTER ROLE hurried SET idle_in_transaction_session_timeout = '100ms';
        ALTER ROLE hurried SET lock_timeout = '50ms'; ALTER ROLE hurried SET transaction_timeout = '200ms'""")


def _loser(strike: Strike) -> None:
    strike.log_in_as("loser")


def _restricted(strike: Strike) -> None:
    strike.log_in_as("restricted")
    strike.database.execute(
        f"ALTER TABLE {EMBEDDING} ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON {EMBEDDING} USING (id < 'doc-2')"
    )


def _odd_clock(strike: Strike) -> None:
    strike.before_it = [sys.executable, "-m", "tests.support.odd_clock"]
    strike.variables |= {"ODD_CLOCK": str(strike.workspace.folder / "clock"), "PYTHONPATH": str(Path.cwd())}


def _without_override(strike: Strike) -> None:
    strike.before_it = [*READ_ONLY]


def _stopping_compressor(strike: Strike) -> None:
    folder = strike.workspace.folder / "bin"
    folder.mkdir()
    program = folder / "zstd"
    program.write_text(
        f'#!/bin/sh\n[ -e {folder}/once ] || {{ touch {folder}/once; kill -STOP $$; }}\nexec {shutil.which("zstd")} "$@"\n'
    )
    program.chmod(0o755)
    strike.variables |= {"PATH": f"{folder}:{os.environ['PATH']}"}
    strike.workspace.save(backup={"compression": "zstd"})


def _loud_psql(strike: Strike) -> None:
    wrapped = psql_filter(
        strike.workspace.folder,
        "if line.startswith(('BEGIN', '\\\\copy', 'TRUNCATE', 'COMMIT', 'ANALYZE')):\n"
        "    sys.stderr.write('NOTICE: ' + 'x' * 3_000_000 + chr(10)); sys.stderr.flush()",
    )
    strike.workspace.save(connection={"bin_dir": str(wrapped)})


def _cutting(forward: bool) -> Act:
    def act(strike: Strike) -> None:
        database = strike.database
        proxy = Proxy(database.server.port, cut_at=b"COMMIT", on_connection_with=b"pg_current_xact_id", forward=forward)
        strike.cleanup.enter_context(proxy)
        dsn = f"postgresql://{SUPERUSER}@127.0.0.1:{proxy.port}/{database.name}"
        strike.workspace.save(connection={"dsn": dsn, "sslmode": "disable"})
        strike.variables |= {"PGPASSWORD": SUPERUSER_PASSWORD}
        strike.promises.append(lambda: None if proxy.cut.is_set() else "nothing was cut")

    return act


@dataclass(frozen=True)
class Fault:
    """One way to break things.

    Attributes:
        codes: exit codes that may come of it before COMMIT; -9: the run itself was killed.
        late_codes: after COMMIT.
        steps: where it can strike, by operation.
        prepare: before the run begins.
        disk: whether it needs a small file system of its own (root alone can mount one).
        slow: too slow for every day.
    """

    strike: Act
    codes: frozenset[int]
    steps: dict[str, tuple[str, ...]]
    late_codes: frozenset[int] = frozenset({0})
    prepare: Act = _nothing
    disk: bool = False
    slow: bool = False


OPERATIONS = {"backup": BACKUP_STEPS, "truncate": TRUNCATE_STEPS, "restore": RESTORE_STEPS}


def _steps(start: str, end: str) -> tuple[str, ...]:
    """From one to the other, both included."""
    steps = next(steps for steps in OPERATIONS.values() if start in steps and end in steps)
    return steps[steps.index(start) : steps.index(end) + 1]


def _until(last_of_truncate: str, last_of_restore: str, *, backup: bool = True) -> dict[str, tuple[str, ...]]:
    found = {
        "truncate": _steps("connected", last_of_truncate),
        "restore": _steps("restore connected", last_of_restore),
    }
    return {"backup": BACKUP_STEPS, **found} if backup else found


_EVERYWHERE = _until("committed", "restored", backup=False)
_WITH_GUARD = _until("truncated", "built")
_COPYING = {"truncate": ("copying",)}
_LOST = frozenset({3, 4, 5, 6, 8})

FAULTS: dict[str, Fault] = {
    "SIGKILL": Fault(_signal(signal.SIGKILL), frozenset({-9}), {"backup": BACKUP_STEPS, **_EVERYWHERE}, frozenset({-9})),
    "SIGTERM": Fault(_signal(signal.SIGTERM), frozenset({143}), _EVERYWHERE, frozenset({143})),
    "SIGINT": Fault(_signal(signal.SIGINT), frozenset({130}), _EVERYWHERE, frozenset({130})),
    "guard's psql killed": Fault(_signal_psql("guard", signal.SIGKILL), _LOST, _until("truncated", "built", backup=False)),
    "guard's backend terminated": Fault(_terminate("guard"), _LOST, {
        operation: steps[1:] for operation, steps in _WITH_GUARD.items()
    }),
    "guard's psql hangs": Fault(_signal_psql("guard", signal.SIGSTOP), frozenset({6, 8}), {
        "truncate": ("truncated",), "restore": ("built",)}, slow=True),
    "worker's psql killed": Fault(_signal_psql("worker0", signal.SIGKILL), frozenset({5}), _COPYING),
    "worker's backend terminated": Fault(_terminate("worker"), frozenset({5}), _COPYING),
    "worker's psql hangs": Fault(_signal_psql("worker0", signal.SIGSTOP), frozenset({5}), _COPYING,
        prepare=lambda strike: strike.workspace.save(timeouts={"copy_seconds": 1})),
    "compressor killed": Fault(_kill_compressor, frozenset({5}), _COPYING, prepare=_stopping_compressor),
    "psql prints megabytes": Fault(_nothing, frozenset({0}), {"truncate": ("copied",), "restore": ("loaded",)}, prepare=_loud_psql),
    "server restarted": Fault(_restart, _LOST, _EVERYWHERE),
    "server killed": Fault(_kill_server, _LOST, {"truncate": ("copying", "truncated"), "restore": ("loading", "loaded", "built")}),
    "disk full": Fault(_fill_disk, frozenset({5}), {
        "truncate": _steps("drafted", "published"), "restore": ("drafted", "copying", "copied")}, disk=True),
    "disk full, all is written": Fault(_fill_disk, frozenset({0}), {
        "truncate": ("logged", "truncated", "committed"), "restore": ("saved", "loaded", "restored")}, disk=True),
    "backup folder removed": Fault(_remove_folder, frozenset({4, 5, 6}), {
        "truncate": _steps("drafted", "committed"), "restore": ("saved", "emptied", "loading", "loaded")}),
    "backup folder read-only": Fault(_make_read_only, frozenset({5}), {
        "truncate": _steps("drafted", "published"), "restore": ("drafted", "copying", "copied")}, prepare=_without_override),
    "backup folder read-only, all is written": Fault(_make_read_only, frozenset({0}), {
        "truncate": ("logged", "truncated", "committed"), "restore": ("saved", "loaded", "restored")}, prepare=_without_override),
    "clock jumps back": Fault(_turn_clock_back, frozenset({0}), {
        "truncate": ("connected", "drafted", "copying", "published", "truncated", "committed"),
        "restore": ("restore connected", "copied", "loaded")}, prepare=_odd_clock),
    "a reader stays": Fault(_read_for_ever, frozenset({6, 7}), {
        "truncate": _steps("locked", "logged"), "restore": ("restore connected", "restore locked", "copied")}),
    "a reader then writes": Fault(_read_then_write, frozenset({6, 7}), {
        "truncate": _steps("locked", "logged"), "restore": ("restore locked", "copied")}),
    "an ALTER queues": Fault(_alter, frozenset({5, 7}), {
        "backup": _steps("locked", "workers open"), "truncate": _steps("locked", "workers open"), "restore": ("restore locked",)}),
    "a DROP queues": Fault(_drop, frozenset({5, 7}), {
        "backup": ("locked", "workers open"), "truncate": ("checked", "workers open"), "restore": ("restore locked",)}),
    "a DROP queues behind us": Fault(_drop, frozenset({0}), {"truncate": ("copied", "truncated"), "restore": ("saved", "built")}),
    "an ALTER queues in mid-copy": Fault(_alter, frozenset({0, 5}), {"truncate": ("copying", "finishing"), "restore": ("copying",)}),
    "an ALTER queues behind us": Fault(_alter, frozenset({0}), {
        "truncate": _steps("copied", "truncated"), "restore": ("copied", *_steps("saved", "built"))}),
    "a migration holds the table": Fault(_hold_exclusively, frozenset({7}), {
        "backup": ("connected",), "truncate": ("connected",), "restore": ("restore connected",)}),
    "COMMIT's answer cut off": Fault(_nothing, frozenset({0}), {"truncate": ("truncated",), "restore": ("built",)}, prepare=_cutting(True)),
    "COMMIT cut off": Fault(_nothing, frozenset({6, 8}), {"truncate": ("truncated",), "restore": ("built",)}, prepare=_cutting(False)),
    "the role's timeouts": Fault(lambda strike: time.sleep(0.5), frozenset({0}), _until("truncated", "built", backup=False), prepare=_hurried),
    "row-level security": Fault(_nothing, frozenset({4}), {"backup": ("locked",), "truncate": ("locked",)}, prepare=_restricted),
    "TRUNCATE revoked": Fault(_revoke("TRUNCATE"), frozenset({4, 6}), {"truncate": _steps("locked", "logged")}, prepare=_loser),
    "SELECT revoked": Fault(_revoke("SELECT"), frozenset({4, 5, 6}), {"truncate": _steps("locked", "logged")}, prepare=_loser),
    "another run": Fault(_run_another, frozenset({0}), {
        "backup": ("checked", "copying", "logged"), "truncate": _steps("locked", "truncated"),
        "restore": _steps("restore locked", "built")}),
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One cell of the matrix."""

    operation: str
    step: str
    fault: str

    def __str__(self) -> str:
        return f"{self.operation}: {self.fault} at {self.step}"

    @property
    def codes(self) -> frozenset[int]:
        """Exit codes that may come of it."""
        fault = FAULTS[self.fault]
        if self.step in AFTER_COMMIT:
            return fault.late_codes
        # every row is in a file already, and a backup alone needs its guard no more
        saved = self.operation == "backup" and self.step in COPIED and "guard" in self.fault
        return fault.codes | ({0} if saved else set())


MATRIX = [
    Case(operation, step, name)
    for name, fault in FAULTS.items()
    for operation, steps in fault.steps.items()
    for step in steps
]


@contextlib.contextmanager
def template(server: Server) -> Iterator[str]:
    """The name of a filled database, for copies."""
    with server.new_database() as database:
        langchain.fill(database, ROWS)
        yield database.name
