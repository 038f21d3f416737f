"""A worker: a psql session that sees the guard's snapshot and copies tables into files."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from vecbak.errors import Busy
from vecbak.postgres import queries, search_path
from vecbak.postgres.catalog import Table
from vecbak.postgres.connection import Endpoint
from vecbak.postgres.guard import ANSWER_SECONDS
from vecbak.postgres.programs import Installation, exporting_psql_command
from vecbak.postgres.runner import Runner
from vecbak.postgres.session import Session, SessionFailed, open_session


class Worker:
    """One session inside the guard's snapshot; made by `open_worker`, in the thread that goes on to use it."""

    def __init__(self, session: Session, backend_pid: int, path: str) -> None:
        self._session = session
        self._path = path
        self.backend_pid = backend_pid

    def count(self, table: Table, *, timeout: float) -> int:
        """The table's rows under the snapshot."""
        return int(self.ask_json(queries.count_rows(table), [table], step=f"counting {table.name}", timeout=timeout))

    def ask_json(self, query: str, tables: Sequence[Table], *, step: str, timeout: float) -> Any:
        """One JSON value, read from these tables under the snapshot."""
        with self._planning(tables):
            return self._session.ask_json(query, timeout=timeout, step=step)

    @contextlib.contextmanager
    def _planning(self, tables: Sequence[Table]) -> Iterator[None]:
        """As `Guard.planning`."""
        if not any(table.needs_path for table in tables):
            yield
            return
        self._session.ask(
            search_path.follow(self._path), timeout=ANSWER_SECONDS, step="following the role's search_path"
        )
        yield
        self._session.ask(search_path.PIN, timeout=ANSWER_SECONDS, step="pinning the search_path")

    def copy(self, request: str, table: Table, take: Callable[[memoryview], None], *, step: str, timeout: float) -> int:
        r"""Run a `\copy` and hand on what it writes; the rows that psql says it copied.

        Args:
            request: from `vecbak.postgres.queries.copy_out`.
            table: that it reads.
            take: called with each piece; what it raises ends the session.
            step: what is being done, for messages.

        Raises:
            SessionFailed: the copy failed (the server, a signal) or took longer than `timeout` seconds.
        """
        with self._planning([table]):
            return self._session.copy_out(request, take, timeout=timeout, step=step)

    def close(self) -> None:
        """End the session and with it its locks."""
        self._session.close()

    def kill(self) -> None:
        """End the session at once."""
        self._session.kill()


def open_worker(
    runner: Runner,
    endpoint: Endpoint,
    installation: Installation,
    *,
    snapshot: str,
    server_version: int,
    settings: Mapping[str, str],
    path: str,
    tables: Sequence[Table],
    connect_seconds: float,
    lock_seconds: float,
) -> Worker:
    r"""Connect, import the snapshot, and lock every table at once or not at all.

    Args:
        snapshot: from the guard.
        server_version: the guard's server_version_num.
        settings: the guard's.
        path: the role's own search_path.
        tables: all tables of the run.

    Raises:
        Busy: something queued between guard and worker (a migration's ALTER TABLE).
        SessionFailed: no connection, or the snapshot is gone because the guard is.
    """
    command = exporting_psql_command(installation, endpoint.conninfo)
    session = open_session(runner, command, environment=endpoint.environment)
    request = "\n".join(
        [
            queries.begin(
                server_version,
                isolation="REPEATABLE READ",
                access="READ ONLY",
                application="vecbak worker",
                lock_seconds=lock_seconds,
                settings=settings,
            ),
            queries.import_snapshot(snapshot),
            queries.lock_nowait(list(tables)),
            queries.identify(list(tables)),
        ]
    )
    try:
        if endpoint.instance:
            endpoint.instance.check(session)
        identity = session.ask_json(request, timeout=connect_seconds + ANSWER_SECONDS, step="opening a worker")
    except SessionFailed as error:
        if error.sqlstate == "55P03":
            raise Busy(
                "something that needs the tables for itself (a migration's ALTER TABLE?) came between",
                "Let it finish, then run vecbak again.",
                output=error.output,
            ) from None
        raise
    if identity["oids"] != list(queries.copied_relations(list(tables)).values()):
        session.kill()
        raise Busy("a table was replaced while the backup began", "Run vecbak again.")
    return Worker(session, int(identity["pid"]), path)
