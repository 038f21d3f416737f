"""The guard: one psql session that owns one transaction from the first lock to COMMIT.

READ COMMITTED on purpose: each of its statements sees what is true now, also what was committed while it waited
for its locks. (One that deletes some rows alone is REPEATABLE READ instead: see `vecbak.operations.collections`.) If anything dies, the transaction ends without COMMIT and the rows are still there.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import msgspec

from vecbak.errors import Busy, ConnectionFailed, Refused, TruncateFailed
from vecbak.postgres import queries, restore_queries, search_path, settings, untrusted
from vecbak.postgres.catalog import Facts, Position, Table, decode_facts
from vecbak.postgres.catalog_query import CONTROL_DATA, facts_query
from vecbak.postgres.commit_mark import Before, CommitMark, mark_before, mark_commit
from vecbak.postgres.connection import Endpoint
from vecbak.postgres.diagnosis import LOCK_STATES, Blocker, busy, connection_hint, lock_refused, truncate_hint
from vecbak.postgres.fifos import Fifo
from vecbak.postgres.names import TableName
from vecbak.postgres.programs import Installation, psql_command
from vecbak.postgres.runner import Runner
from vecbak.postgres.session import Answer, Session, SessionFailed, open_session

OLDEST_SERVER = 13  # pg_current_xact_id(), pg_xact_status() on xid8
ANSWER_SECONDS = 60.0  # for statements that read catalogs: they wait for nothing

_FIRST_ATTEMPT_SECONDS = 0.1  # while we wait for TRUNCATE's lock the whole application queues behind us
_LONGEST_ATTEMPT_SECONDS = 0.5  # shorter than deadlock_timeout, so that we end no reader by a deadlock


class Truncated(msgspec.Struct, frozen=True):
    """What TRUNCATE did, before COMMIT: rows left in each table, and what tells later whether it was committed."""

    rows_left: dict[int, int]
    mark: CommitMark


class Guard:
    """The session and its transaction; made by `open_guard`."""

    def __init__(self, session: Session, server_version: int, fifo: Callable[[], AbstractContextManager[Fifo]]) -> None:
        self._session = session
        self.server_version = server_version
        self.fifo = fifo  # a new named pipe that this psql can read and we can fill
        self.settings: dict[str, str] = {}  # pinned in this transaction
        self.own: dict[str, str] = {}  # as the session was before: what `settings.read_own` tells

    @property
    def server_major(self) -> int:
        """PostgreSQL's major version."""
        return self.server_version // 10000

    def begin(
        self,
        *,
        writes: bool,
        lock_seconds: float,
        isolation: str = "READ COMMITTED",
        recorded: Mapping[str, str] | None = None,
    ) -> None:
        """Open the transaction, and pin its settings and its search_path.

        Args:
            writes: whether it is to TRUNCATE or DELETE; otherwise it is READ ONLY.
            isolation: REPEATABLE READ for one that DELETEs what its own snapshot shows.
            lock_seconds: how long each lock may be waited for.
            recorded: the settings that the files to be read were written with; None: those of today.

        Raises:
            SessionFailed: the server refused, a statement-pooling pooler for instance.
            Refused: something is set that loses rows, and the role may not set it otherwise.
        """
        self.settings = settings.pinned_settings(self.server_version)
        if recorded is not None:
            self.settings = settings.as_recorded(self.settings, recorded)
        statements = queries.begin(
            self.server_version,
            isolation=isolation,
            access="READ WRITE" if writes else "READ ONLY",
            application="vecbak guard",
            lock_seconds=lock_seconds,
            settings=self.settings,
            observed=settings.OBSERVED,
        )
        answer = self._session.ask(statements, timeout=ANSWER_SECONDS, step="opening the transaction")
        self.own = settings.read_own(answer.text)
        self._correct(settings.corrections(self.own, writes=writes))

    def _correct(self, wanted: Mapping[str, str]) -> None:
        for name, value in wanted.items():
            try:
                self.ask(f"SET LOCAL {name} = '{value}';", f"setting {name}")
            except SessionFailed as error:
                raise Refused(
                    f"{name} is {self.own[name]} for this role, database or server, which can lose rows, and the role may"
                    " not set it otherwise; nothing was done",
                    f"Let a superuser run ALTER ROLE … RESET {name} (or ALTER DATABASE … RESET {name}, or ALTER SYSTEM RESET"
                    f" {name}), or use another role.",
                    output=error.output,
                ) from None
        self.settings = {**self.settings, **wanted}

    @contextlib.contextmanager
    def own_path(self, *, behind_postgresqls: bool = False) -> Iterator[None]:
        """While this lasts, names are found along the role's own search_path; after an error the session is over anyway.

        What is asked meanwhile must name no function, operator or type without its schema.

        Args:
            behind_postgresqls: PostgreSQL's own names come first all the same, for a definition that PostgreSQL wrote.
        """
        path = search_path.follow(self.own["search_path"], behind_postgresqls=behind_postgresqls)
        self.ask(path, "following the role's search_path")
        yield
        self.ask(search_path.PIN, "pinning the search_path")

    def planning(self, *tables: Table) -> contextlib.AbstractContextManager[None]:
        """The path along which a query of these tables can be planned; its own names must all have their schemas."""
        return self.own_path() if any(table.needs_path for table in tables) else contextlib.nullcontext()

    def lock(self, table: TableName, mode: str, *, timeout: float) -> None:
        """Lock one table.

        Args:
            mode: SHARE ROW EXCLUSIVE, ROW EXCLUSIVE or ACCESS SHARE.
            timeout: lock_timeout in seconds, with time for the answer on top.

        Raises:
            Busy: not granted in time; names who holds it.
            Refused: no such table, or no privilege.
        """
        with self.own_path():
            answer = self._session.ask(
                queries.lock_table(table.sql, mode), timeout=timeout + ANSWER_SECONDS, step=f"locking {table}"
            )
            # before the path is pinned: rolling back would take the pin along
            undo = queries.ROLLBACK_LOCK if answer.error else queries.RELEASE_LOCK
            self._session.ask(undo, timeout=ANSWER_SECONDS, step=f"locking {table}")
        if not answer.error:
            return
        if answer.sqlstate in LOCK_STATES:
            raise busy(table, timeout, self.blockers(table, mode), answer)
        raise lock_refused(table, mode, answer)

    def resolve(self, tables: Sequence[TableName]) -> list[int]:
        """The oids of tables that are locked already.

        Raises:
            Busy: a name meant another table when it was locked.
        """
        found = self.find(tables)
        held = self.ask_json(queries.locked([oid for oid in found if oid is not None] or [0]), "looking at our locks")
        oids = []
        for table, oid in zip(tables, found, strict=True):
            if oid is None or oid not in held:
                raise Busy(f"the table {table} was replaced while it was being locked", "Run vecbak again.")
            oids.append(oid)
        for position, oid in enumerate(oids):
            if oid in oids[:position]:
                raise same_table(tables[oids.index(oid)], tables[position])
        return oids

    def find(self, tables: Sequence[TableName]) -> list[int | None]:
        """The oids of tables that need not be locked, None for those that do not exist."""
        with self.own_path():
            found = self.ask_json(queries.look_up(tables), "finding the tables")
        return [None if oid is None else int(oid) for oid in found]

    def claim(self, oids: Sequence[int]) -> None:
        """Take vecbak's advisory locks.

        Raises:
            Busy: another vecbak run has one of them.
        """
        held = self.ask_json(queries.advisory_locks(list(oids)), "taking the advisory locks")
        if held:
            pids = self.ask_json(queries.advisory_holders(held), "looking for the other run")
            raise Busy(
                f"another vecbak run is working on {'this table' if len(oids) == 1 else 'these tables'}"
                + (f" (server process {', '.join(str(pid) for pid in pids)})" if pids else ""),
                "Wait until it has ended, then run vecbak again.",
            )

    def facts(self, oids: Sequence[int]) -> Facts:
        """Everything that preflight and manifest want to know."""
        found = self.ask_json(facts_query(list(oids)), "reading the catalogs")
        control = queries.if_possible("vecbak_server", CONTROL_DATA)
        found["server"] |= self.ask_json(control, "asking which server this is") or {}
        facts = decode_facts(found)
        return msgspec.structs.replace(facts, tables=tuple(map(self.with_positions, facts.tables)))

    def with_positions(self, table: Table) -> Table:
        """The same table, with where its sequences stand now; they are in no transaction, and so in no snapshot."""
        readable = [item for item in table.sequences if item.can_enter and item.can_read]
        if not readable:
            return table
        found = self.ask_json(queries.sequence_positions(readable), f"reading the sequences of {table.name}")
        return table.with_positions({int(oid): msgspec.convert(item, Position) for oid, item in found.items()})

    def count(self, table: Table, *, timeout: float) -> int:
        """The table's rows now."""
        with self.planning(table):
            return int(self.ask_json(queries.count_rows(table), f"counting {table.name}", timeout=timeout))

    def row_bytes(self, table: Table, rows: int, *, binary: bool, timeout: float) -> float:
        """The mean width of a row as COPY writes it, in bytes, estimated from a sample.

        0 where there are no rows, or where some cannot be read: to say so is the copy's part, which does not stop the others.
        """
        for query in (
            queries.sample_row_bytes(table, rows, binary=binary),
            queries.first_row_bytes(table, binary=binary),
        ):
            with self.planning(table):
                sample = self.ask_json(
                    queries.if_possible("vecbak_sample", query), f"sampling {table.name}", timeout=timeout
                )
            if sample is None or sample["rows"]:
                return float(sample["bytes"]) if sample else 0.0
        return 0.0

    def export_snapshot(self) -> str:
        """A snapshot for workers and pg_dump; valid while this transaction lasts."""
        return str(self.ask_json("SELECT to_json(pg_export_snapshot());", "exporting the snapshot"))

    def copy_progress(self, pids: Sequence[int], oids: Sequence[int]) -> list[tuple[int, int, int]]:
        """Process, table (0 for a query) and rows so far of each COPY; the question also keeps the connection from being dropped."""
        if self.server_version < 140000:
            self.ask_json("SELECT 1;", "keeping the connection alive")
            return []
        found = self.ask_json(queries.copy_progress(list(pids), list(oids)), "asking for progress")
        return [(int(pid), int(oid), int(rows)) for pid, oid, rows in found]

    def truncate(
        self, tables: Sequence[Table], *, seconds: float, on_wait: Callable[[], None] = lambda: None
    ) -> Truncated:
        """TRUNCATE the tables together; not committed yet.

        The lock is asked for in short attempts, so that the application does not queue behind us for long.

        Args:
            seconds: how long to go on trying.
            on_wait: called after each attempt that did not get the lock.

        Raises:
            TruncateFailed: the lock was not granted in time (names the blockers), or the server refused; or only some
                rows of a table are meant, which TRUNCATE cannot tell from the others.
        """
        if partly := [table.name for table in tables if table.condition]:
            raise TruncateFailed(
                f"only some rows of {', '.join(partly)} are meant, and TRUNCATE would take all of them; nothing was truncated",
                "This is a bug in vecbak; every row is still there.",
            )
        before = mark_before(self.ask_json, [table.oid for table in tables], "looking at the tables before TRUNCATE")
        if not self._in_short_attempts(lambda attempt: self._try_truncate(tables, attempt), seconds, on_wait):
            raise self._lock_not_granted(tables, seconds)
        return self._after_truncate(tables, before)

    def lock_exclusively(
        self, tables: Sequence[Table], *, seconds: float, on_wait: Callable[[], None] = lambda: None
    ) -> None:
        """ACCESS EXCLUSIVE on the tables, asked for as `truncate` does it.

        Raises:
            Busy: not granted in time; names who holds it.
            SessionFailed: the server refused.
        """
        if not self._in_short_attempts(lambda attempt: self._try_lock(tables, attempt), seconds, on_wait):
            raise Busy(
                f"the tables are in use, and were not free within {seconds:g} s; nothing was changed",
                "End the sessions named above (SELECT pg_terminate_backend(PID)) or wait for them, then run vecbak again;"
                " timeouts.truncate_seconds says how long vecbak tries.",
                output=self._named_blockers(tables),
            )

    def ask(self, request: str, step: str, *, timeout: float = ANSWER_SECONDS) -> Answer:
        """Run statements inside the transaction.

        Args:
            timeout: seconds.

        Raises:
            SessionFailed: one of them failed, and with it the transaction.
        """
        return self._session.ask(request, timeout=timeout, step=step)

    def ask_json(self, query: str, step: str, *, timeout: float = ANSWER_SECONDS) -> Any:
        """Run statements of which the last gives one JSON value.

        Raises:
            SessionFailed: one of them failed, and with it the transaction.
        """
        return self._session.ask_json(query, timeout=timeout, step=step)

    def define(self, statements: Iterable[str], step: str, *, timeout: float = ANSWER_SECONDS) -> Answer:
        """Run statements that hold text of a manifest, past psql's parser.

        Args:
            statements: each that defines one thing.
            timeout: seconds.

        Raises:
            RestoreFailed: one of them is something else; none was run.
            SessionFailed: one of them failed, and with it the transaction.
        """
        requests = [untrusted.definition(statement) for statement in statements]
        return self.ask("\n".join([untrusted.AS_JUDGED, *requests]), step, timeout=timeout)

    def query(self, statement: str, step: str, *, timeout: float = ANSWER_SECONDS) -> Any:
        """Run a query of ours in which names or values of a manifest stand in quotes, and decode its JSON value.

        Raises:
            RestoreFailed: it is something else; it was not run.
            SessionFailed: it failed, and with it the transaction.
        """
        return self.ask_json(f"{untrusted.AS_JUDGED}\n{untrusted.query(statement)}", step, timeout=timeout)

    def change(self, statement: str, step: str, *, timeout: float = ANSWER_SECONDS) -> int:
        """Run an INSERT, UPDATE, DELETE or CREATE TABLE AS of ours in which names or values of a manifest stand in quotes.

        Returns:
            Rows, by the server's own count.

        Raises:
            RestoreFailed: it is something else; it was not run.
            SessionFailed: it failed, and with it the transaction.
        """
        request = f"{untrusted.AS_JUDGED}\n{untrusted.telling(untrusted.query(statement))}"
        return untrusted.rows_told(self.ask(request, step, timeout=timeout).text)

    def copy_out(self, request: str, take: Callable[[memoryview], None], step: str, *, timeout: float) -> int:
        r"""Run a `\copy … to pstdout` and hand on what it writes; its rows.

        Raises:
            SessionFailed: it failed, and with it the transaction.
        """
        return self._session.copy_out(request, take, timeout=timeout, step=step)

    def commit(self) -> None:
        """COMMIT.

        Raises:
            SessionFailed: no answer, or one that is not COMMIT; `vecbak.operations.committing` then finds out what happened.
        """
        answer = self.ask(queries.COMMIT, "COMMIT")
        if answer.text.strip() != "COMMIT":
            raise SessionFailed(f"COMMIT was answered by {answer.text.strip() or 'nothing'}", output=answer.messages)

    def blockers(self, table: TableName, mode: str) -> list[Blocker]:
        """Who holds, or waits for, what conflicts with a lock on a table."""
        oid = self.find([table])[0]
        return [] if oid is None else self._blockers(oid, mode)

    def close(self) -> None:
        """End the session; what was not committed is rolled back."""
        self._session.close()

    def kill(self) -> None:
        """End the session at once."""
        self._session.kill()

    def _in_short_attempts(self, attempt: Callable[[float], bool], seconds: float, on_wait: Callable[[], None]) -> bool:
        deadline = time.monotonic() + seconds
        pause = _FIRST_ATTEMPT_SECONDS
        while not attempt(pause):
            on_wait()
            if time.monotonic() + pause >= deadline:
                return False
            time.sleep(pause)  # readers that queued behind us go first
            pause = min(pause * 1.5, _LONGEST_ATTEMPT_SECONDS)
        return True

    def _try_lock(self, tables: Sequence[Table], lock_seconds: float) -> bool:
        names = ", ".join(table.name for table in tables)
        step = f"locking {names}"
        if self.ask_json(queries.waiting_for_us([table.oid for table in tables]), step):
            return False
        answer = self.ask(restore_queries.lock_exclusively(tables, lock_seconds), step)
        if not answer.error:
            return True
        self.ask(restore_queries.ROLLBACK_EXCLUSIVE, step)
        if answer.sqlstate in LOCK_STATES:
            return False
        raise SessionFailed(f"{step} failed", output=answer.messages, sqlstate=answer.sqlstate)

    def _try_truncate(self, tables: Sequence[Table], lock_seconds: float) -> bool:
        names = ", ".join(table.name for table in tables)
        if self.ask_json(queries.waiting_for_us([table.oid for table in tables]), f"truncating {names}"):
            # once deadlock_timeout is over, the server would end their transaction as the deadlock's victim
            return False
        with self.planning(*tables):
            answer = self.ask(queries.truncate(list(tables), lock_seconds), f"truncating {names}")
            if answer.error:  # before the path is pinned: rolling back would take the pin along
                self.ask(queries.ROLLBACK_TRUNCATE, f"truncating {names}")
        if not answer.error:
            return True
        if answer.sqlstate in LOCK_STATES:
            return False
        raise TruncateFailed(
            f"TRUNCATE {names} failed; the backup is kept, and every row is still there",
            truncate_hint(answer.sqlstate),
            output=answer.messages,
        )

    def _after_truncate(self, tables: Sequence[Table], before: Before) -> Truncated:
        with self.planning(*tables):
            state = self.ask_json(queries.after_truncate(list(tables)), "checking the TRUNCATE")
        left = {table.oid: int(rows) for table, rows in zip(tables, state["rows"], strict=True)}
        if any(left.values()) or state["locked"] != len(tables):
            self.ask(queries.ROLLBACK_TRUNCATE, "undoing the TRUNCATE")
            raise TruncateFailed(
                "after TRUNCATE the tables were not empty, or not the ones that were backed up; it was undone",
                "A trigger on TRUNCATE, or a renamed schema, can do this. The backup is kept, and every row is still there.",
            )
        return Truncated(left, mark_commit(self.ask_json, before, "checking the TRUNCATE"))

    def _lock_not_granted(self, tables: Sequence[Table], seconds: float) -> TruncateFailed:
        return TruncateFailed(
            f"TRUNCATE was not granted its lock within {seconds:g} s; the backup is kept, and every row is still there",
            "End the sessions named above (SELECT pg_terminate_backend(PID)) or wait for them, then run vecbak again;"
            " timeouts.truncate_seconds says how long vecbak tries.",
            output=self._named_blockers(tables),
        )

    def _named_blockers(self, tables: Sequence[Table]) -> str:
        return "\n".join(
            f"{table.name}: {blocker}"
            for table in tables
            for blocker in self._blockers(table.oid, "ACCESS EXCLUSIVE")
            if blocker.granted
        )

    def _blockers(self, oid: int, mode: str) -> list[Blocker]:
        return [
            Blocker(**item) for item in self.ask_json(queries.blockers(oid, mode), "looking for who holds the lock")
        ]


def same_table(first: TableName, second: TableName) -> Refused:
    """One table under two names."""
    return Refused(f"{first} and {second} are the same table", "Name it once in vector_tables.supported_tables.")


def open_guard(runner: Runner, endpoint: Endpoint, installation: Installation, *, connect_seconds: float) -> Guard:
    """Connect.

    Raises:
        ConnectionFailed: no connection or no login.
        Refused: the server is older than PostgreSQL 13.
    """
    command = psql_command(installation, endpoint.conninfo)
    session = open_session(runner, command, environment=endpoint.environment)
    try:
        answer = session.ask(
            "\\echo :SERVER_VERSION_NUM",
            timeout=connect_seconds + ANSWER_SECONDS / 4,
            step="connecting to the database",
        )
        if endpoint.instance:
            endpoint.instance.check(session)
    except SessionFailed as error:
        raise ConnectionFailed(
            "cannot connect to the database", connection_hint(error.output), output=error.output
        ) from None
    version = int(answer.text) if answer.text.isdigit() else 0
    if version < OLDEST_SERVER * 10000:
        session.close()
        raise Refused(
            f"the server's version is too old ({answer.text})", f"vecbak needs PostgreSQL {OLDEST_SERVER} or newer."
        )
    return Guard(session, version, functools.partial(installation.fifo, runner))
