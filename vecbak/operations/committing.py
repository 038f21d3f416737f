"""COMMIT, and what became of it when the connection broke meanwhile: judged by the tables, not by the transaction's id alone."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import msgspec

from vecbak.errors import VecbakError
from vecbak.operations.job import Job
from vecbak.postgres import commit_mark, queries
from vecbak.postgres.catalog import Table
from vecbak.postgres.commit_mark import Answer, CommitMark, Outcome
from vecbak.postgres.guard import Guard
from vecbak.postgres.programs import Installation, psql_command
from vecbak.postgres.session import Session, SessionFailed, open_session

log = logging.getLogger(__name__)

OUTCOME_SECONDS = 5.0  # at least; a server that crashed needs time to recover
_ANSWER_SECONDS = 10.0
_LONGEST_PAUSE = 1.0
_STEP = "asking what became of COMMIT"


class Ending(msgspec.Struct, frozen=True):
    """How a transaction ended.

    Attributes:
        output: what psql said, if COMMIT was not answered.
        rows: in each table now, by oid, where the transaction was rolled back and they could be counted.
        server: what is worth knowing of the server that answered; empty if it is the one that was asked to COMMIT.
    """

    outcome: Literal["committed", "aborted", "unknown"]
    output: str = ""
    rows: Mapping[int, int] = {}
    server: str = ""


def commit(
    job: Job, guard: Guard, installation: Installation, mark: CommitMark, tables: Sequence[Table] = ()
) -> Ending:
    """COMMIT; if the connection breaks meanwhile, ask a new session.

    Args:
        mark: read just before.
        tables: to be counted if the transaction was rolled back.
    """
    try:
        guard.commit()
    except SessionFailed as error:
        log.warning("the connection was lost during COMMIT; asking a new session what became of it")
        guard.kill()
        ending = _Inquiry(job, installation, mark, tables).ask_until_known()
        if ending.server:
            log.warning("%s", ending.server)
        if ending.outcome == "committed":
            log.warning("COMMIT had succeeded")
        said = "\n".join(filter(None, (error.output, ending.output)))
        return msgspec.structs.replace(ending, output=said)
    return Ending("committed")


class _Inquiry:
    """Asks whatever server answers now, again and again while it cannot know yet."""

    def __init__(self, job: Job, installation: Installation, mark: CommitMark, tables: Sequence[Table]) -> None:
        self._job = job
        self._installation = installation
        self._mark = mark
        self._tables = tables
        self._server = ""
        self._said = ""

    def ask_until_known(self) -> Ending:
        """Its answer, or `unknown` when the time is up: a standby may be promoted, a server may recover."""
        deadline = time.monotonic() + max(OUTCOME_SECONDS, self._job.config.timeouts.truncate_seconds)
        pause = 0.2
        while True:
            if ending := self._try_once():
                return ending
            if time.monotonic() >= deadline:
                return Ending("unknown", self._said, server=self._server)
            time.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE)

    def _try_once(self) -> Ending | None:
        self._said = ""
        try:
            with self._session() as session:
                answer = self._look(session)
                self._server = describe(self._mark, answer)
                outcome = self._judge(session, answer)
                if outcome is None:
                    return None
                return Ending(outcome, rows=self._count(session) if outcome == "aborted" else {}, server=self._server)
        except VecbakError as error:
            self._said = error.output or error.message
            return None

    @contextlib.contextmanager
    def _session(self) -> Iterator[Session]:
        endpoint = self._job.endpoint
        command = psql_command(self._installation, endpoint.conninfo)
        session = open_session(self._job.runner, command, environment=endpoint.environment)
        try:
            if endpoint.instance:
                endpoint.instance.check(session)
            session.ask(commit_mark.begin_asking(), timeout=self._job.config.timeouts.connect_seconds + 5, step=_STEP)
            yield session
        finally:
            session.close()

    def _look(self, session: Session) -> Answer:
        running = bool(session.ask_json(commit_mark.running_query(self._mark), timeout=_ANSWER_SECONDS, step=_STEP))
        found = session.ask_json(commit_mark.answer_query(self._mark), timeout=_ANSWER_SECONDS, step=_STEP)
        return commit_mark.decode_answer(found, running=running)

    def _judge(self, session: Session, answer: Answer) -> Outcome | None:
        mark = self._mark
        if answer.running or not commit_mark.is_same_cluster(mark, answer):
            return None
        outcome = commit_mark.by_files(mark, answer)
        if outcome is None and (mark.removed or mark.added):
            seconds = self._job.config.timeouts.copy_seconds
            visible = {
                sample: tuple(session.ask_json(commit_mark.visible_query(sample), timeout=seconds, step=_STEP))
                for sample in (*mark.removed, *mark.added)
            }
            outcome = commit_mark.by_rows(mark, answer, visible)
        if outcome == "aborted" and answer.recovering:
            return None  # it may still come
        return outcome or commit_mark.by_status(mark, answer)

    def _count(self, session: Session) -> dict[int, int]:
        seconds = self._job.config.timeouts.copy_seconds
        try:
            return {
                table.oid: int(session.ask_json(queries.count_rows(table), timeout=seconds, step=_STEP))
                for table in self._tables
            }
        except SessionFailed:
            return {}  # what became of the transaction is known all the same


def describe(mark: CommitMark, answer: Answer) -> str:
    """How the server that answers differs from the one that was asked to COMMIT."""
    before, now = mark.before.server, answer.server
    if before is None or before == now:
        return ""
    if before.system != now.system:
        return f"another server answers now: its system identifier is {now.system}, and was {before.system}"
    if before.database != now.database:
        return f"another database of that name answers now: its oid is {now.database}, and was {before.database}"
    if answer.recovering:
        return "a standby answers now, which may still receive the transaction"
    if before.timeline != now.timeline:
        return f"another server was promoted: its timeline is {now.timeline}, and was {before.timeline}"
    return f"the server was started again at {now.started}"
