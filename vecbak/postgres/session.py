"""One long-lived psql, driven through its standard input: requests go in, marked answers come out.

ON_ERROR_STOP is on, so that an error ends psql and with it the transaction; that holds for a failed \\copy too, which
leaves :ERROR false (https://www.postgresql.org/docs/current/app-psql.html#APP-PSQL-VARIABLES).
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
import uuid
from collections.abc import Callable
from typing import Any

import msgspec

from vecbak.errors import VecbakError
from vecbak.postgres.environment import Changes
from vecbak.postgres.process import PIPE_BYTES, Process, widen_pipe
from vecbak.postgres.runner import Runner

_PREFIX = re.compile(r"^psql(?:\.bin)?:<stdin>:\d+: ", re.MULTILINE)
_SQLSTATE = re.compile(r"^\S+?:  ([0-9A-Z]{5}): ", re.MULTILINE)
_LOCATION = re.compile(r"^[^\s:]+:  \w+, \w+\.c:\d+\n?", re.MULTILINE)


class SessionFailed(VecbakError):
    """psql ended before it answered: an SQL error, a lost connection, a signal.

    Args:
        message: what failed.
        output: what psql printed.
        sqlstate: PostgreSQL's error code, empty if the error was none of the server's
            (https://www.postgresql.org/docs/current/errcodes-appendix.html).
    """

    def __init__(self, message: str, *, output: str = "", sqlstate: str = "") -> None:
        super().__init__(message, output=output)
        self.sqlstate = sqlstate


class Answer(msgspec.Struct, frozen=True):
    """What psql answered to one request.

    Attributes:
        text: its standard output.
        error: whether the last statement failed (only with ON_ERROR_STOP off can that be seen).
        sqlstate: the last statement's, 00000 for success.
        row_count: rows of the last statement or \\copy.
        messages: its standard error, cleaned.
    """

    text: str
    error: bool
    sqlstate: str
    row_count: int
    messages: str


class Session:
    """A psql process and the protocol spoken with it.

    Args:
        process: a psql started with `psql_command`.
        runner: masks secrets in what psql prints.
    """

    def __init__(self, process: Process, runner: Runner) -> None:
        self._process = process
        self._runner = runner
        self._mark = uuid.uuid4().hex

    @property
    def pid(self) -> int:
        """psql's process id."""
        return self._process.pid

    def ask(self, request: str, *, timeout: float, step: str) -> Answer:
        """Send statements and psql commands, and wait for all of them.

        Args:
            request: complete statements and meta-commands.
            timeout: seconds; then the query is cancelled and psql ended.
            step: what is being done, for messages.

        Raises:
            SessionFailed: psql ended, or did not answer in time.
        """
        mark = f"'{self._mark}'"
        marked = f"{request}\n\\warn {mark}\n\\echo {mark} :ERROR :SQLSTATE :ROW_COUNT\n"
        end = re.compile(rf"^{self._mark} (\S+) (\S*) (\S+)\n".encode(), re.MULTILINE)
        output, errors = self._process.output, self._process.errors
        warning = f"{self._mark}\n".encode()
        searched, warned = 0, False

        def answered() -> bool:
            nonlocal searched, warned
            found = end.search(output, searched)
            searched = max(0, len(output) - 128) if not found else searched
            # what was said on one stream may arrive later than what was said after it on the other
            warned = warned or warning in errors
            return found is not None and warned

        data = marked.encode("utf-8", "surrogateescape")
        in_time = self._process.exchange(data, time.monotonic() + timeout, answered)
        match = end.search(output)
        if not match:
            raise self._failure(step, None if in_time else timeout)
        text = output[: match.start()].decode("utf-8", "surrogateescape")
        error, sqlstate, rows = (group.decode() for group in match.groups())
        del output[: match.end()]
        messages = self._take_messages()
        state = sqlstate or _state_in(messages)  # of what \gexec has sent psql 18 does not keep it
        return Answer(text.rstrip("\n"), error == "true", state, int(rows) if rows.isdigit() else 0, _clean(messages))

    def copy_out(self, request: str, take: Callable[[memoryview], None], *, timeout: float, step: str) -> int:
        r"""Run a `\copy … to pstdout` and hand on what it writes, piece by piece.

        Args:
            request: the `\copy`, on one line.
            take: called with each piece, which is valid until it returns; what it raises ends psql.
            timeout: seconds; then the query is cancelled and psql ended.
            step: what is being done, for messages.

        Returns:
            Rows, by psql's own count. It counts them only where they go elsewhere than its other results
            (PostgreSQL's src/bin/psql/common.c: "Suppress status printing if the report would go to the same place").

        Raises:
            SessionFailed: psql ended, or did not finish in time.
        """
        stream = _MarkedStream(self._mark, take)
        data = f"\\o /dev/null\n{request}\n\\o\n\\echo '{self._mark}' :ERROR :SQLSTATE :ROW_COUNT\n"
        widen_pipe(self._process.stdout)
        try:
            in_time = self._process.exchange(
                data.encode("utf-8", "surrogateescape"),
                time.monotonic() + timeout,
                lambda: stream.row_count is not None,
                stream.read,
            )
        except BaseException:
            self._process.close_descriptor(self._process.stdout)  # it may be waiting for us to read
            self._process.stop()
            raise
        if stream.row_count is None:
            raise self._failure(step, None if in_time else timeout)
        self._take_messages()
        return stream.row_count

    def ask_json(self, query: str, *, timeout: float, step: str) -> Any:
        """Run statements of which the last gives one JSON value, and decode it."""
        return json.loads(self.ask(query, timeout=timeout, step=step).text or "null")

    def interrupt(self) -> None:
        """Cancel what the server is doing for this session."""
        self._process.signal(signal.SIGINT)

    def close(self) -> None:
        """End psql by closing its input, so that the server ends the transaction without COMMIT; killed if it does not end."""
        self._process.close_descriptor(self._process.stdin)
        if self._process.wait(1) is None:
            self._process.stop()
        self._process.close()

    def kill(self) -> None:
        """End psql now, cancelling what the server is doing for it."""
        self._process.stop()

    def _take_messages(self) -> str:
        messages = self._runner.mask(self._process.errors.decode("utf-8", "replace")).replace(f"{self._mark}\n", "")
        self._process.errors.clear()
        return messages

    def _failure(self, step: str, timed_out_after: float | None) -> SessionFailed:
        code = self._process.stop() if timed_out_after is not None else self._process.wait(5)
        if code is None:
            code = self._process.stop()
        messages = self._take_messages()
        self._process.close()
        state = _state_in(messages)
        if timed_out_after is not None:
            message = f"{step} took longer than {timed_out_after:g} s and was cancelled"
        elif code < 0:
            message = f"{step} failed: psql was ended by {signal.Signals(-code).name}"
        else:
            message = f"{step} failed"
        return SessionFailed(message, output=_clean(messages), sqlstate=state)


class _MarkedStream:
    """What psql writes up to its answer's mark, which is the last that comes before the next request.

    Args:
        mark: random, so that no data holds it.
        take: is handed all that comes before the mark.

    Attributes:
        row_count: psql's, once the mark has come.
    """

    _LONGEST_ANSWER = 128

    def __init__(self, mark: str, take: Callable[[memoryview], None]) -> None:
        self.row_count: int | None = None
        self._end = re.compile(rf"{mark} \S+ \S+ (\d+)\n\Z".encode())
        self._take = take
        self._buffer = bytearray(PIPE_BYTES)
        self._view = memoryview(self._buffer)
        self._held = 0

    def read(self, descriptor: int) -> bool:
        """Read once; whether there may be more."""
        received = os.readv(descriptor, [self._view[self._held :]])
        filled = self._held + received
        kept = min(filled, self._LONGEST_ANSWER)
        tail = bytes(self._view[filled - kept : filled])
        if answer := self._end.search(tail):
            self.row_count = int(answer.group(1))
            self._take(self._view[: filled - kept + answer.start()])
        elif filled > kept:
            self._take(self._view[: filled - kept])
            self._buffer[:kept] = tail
        self._held = kept
        return received > 0


def open_session(runner: Runner, command: list[str], *, environment: Changes) -> Session:
    """Start psql; it connects on its own, and the first request tells whether it could.

    Args:
        command: from `vecbak.postgres.programs.psql_command`.
        environment: e.g. PGPASSWORD.

    Raises:
        ProgramMissing: psql cannot be run.
    """
    return Session(runner.start(command, environment=environment), runner)


def _state_in(messages: str) -> str:
    found = _SQLSTATE.search(_PREFIX.sub("", messages))
    return found.group(1) if found else ""


def _clean(messages: str) -> str:
    """psql's messages as a person wants them: without its line numbers, codes and source locations."""
    text = _LOCATION.sub("", _PREFIX.sub("", messages))
    return _SQLSTATE.sub(lambda match: match.group().replace(f" {match.group(1)}: ", " "), text).strip()
