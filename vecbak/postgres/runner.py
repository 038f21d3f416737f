"""Running other people's programs: to their end, in a pipe, or at the terminal."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import msgspec

from vecbak.errors import ExitCode, Interrupted, VecbakError
from vecbak.masking import mask_of
from vecbak.postgres.environment import Changes, applied
from vecbak.postgres.process import GRACE_SECONDS, Process

LONGEST_LINE = 1 << 16


class ProgramTimeout(VecbakError):
    """The program did not end in time and was stopped."""

    exit_code = ExitCode.BACKUP_FAILED


class Completed(msgspec.Struct, frozen=True):
    """A program that ended: its exit code (negative: the signal that ended it) and what it printed."""

    exit_code: int
    stdout: str
    stderr: str


class Runner(Protocol):
    """What operations need of the outside world to run programs."""

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        folder: Path | None = None,
        environment: Changes | None = None,
        consume: Callable[[bytes], None] | None = None,
        source: int | None = None,
        output: int | None = None,
    ) -> Completed:
        """Run a program to its end."""

    def start(
        self,
        argv: Sequence[str],
        *,
        folder: Path | None = None,
        environment: Changes | None = None,
        output: int | None = None,
    ) -> Process:
        """Start a program and leave its streams to the caller."""

    def pipe(
        self,
        first: Sequence[str],
        second: Sequence[str],
        *,
        timeout: float,
        folder: Path | None = None,
        environment: Changes | None = None,
        output: int | None = None,
        consume: Callable[[bytes], None] | None = None,
    ) -> tuple[Completed, Completed]:
        """Run two programs, the first one's output being the second one's input."""

    def attend(self, argv: Sequence[str], *, timeout: float | None, environment: Mapping[str, str]) -> int:
        """Run a program with our own streams."""

    def follow(
        self,
        argv: Sequence[str],
        *,
        timeout: float | None,
        environment: Mapping[str, str],
        on_line: Callable[[str], None],
    ) -> int:
        """Run a program and hand on what it prints, line by line."""

    def stop_all(self) -> None:
        """End every program that still runs."""

    def mask(self, text: str) -> str:
        """The text without secrets."""


class LocalRunner:
    """Runs programs on this machine.

    Args:
        secrets: texts that `mask` replaces.
    """

    def __init__(self, secrets: Sequence[str] = ()) -> None:
        self._mask = mask_of(secrets)
        self._processes: list[Process] = []
        self._lock = threading.Lock()

    def mask(self, text: str) -> str:
        """Replace every secret by ***."""
        return self._mask(text)

    def start(
        self,
        argv: Sequence[str],
        *,
        folder: Path | None = None,
        environment: Changes | None = None,
        output: int | None = None,
    ) -> Process:
        """Start a program.

        Args:
            output: a descriptor that its standard output goes to.

        Raises:
            ProgramMissing: it does not exist or cannot be executed.
        """
        return self._begin(argv, folder, environment, output=output)

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        folder: Path | None = None,
        environment: Changes | None = None,
        consume: Callable[[bytes], None] | None = None,
        source: int | None = None,
        output: int | None = None,
    ) -> Completed:
        """Run a program to its end, its output kept (of standard error the last MiB).

        Args:
            timeout: seconds; then SIGINT, and SIGKILL after the grace time.
            consume: is handed its standard output piece by piece, which then is not kept.
            source: a descriptor that its standard input comes from; else there is none.
            output: a descriptor that its standard output goes to.

        Raises:
            ProgramMissing: it does not exist or cannot be executed.
            ProgramTimeout: it was stopped; `output` holds what it had printed.
        """
        process = self._begin(argv, folder, environment, output=output, source=source)
        return self._complete(argv, process, time.monotonic() + timeout, consume)

    def pipe(
        self,
        first: Sequence[str],
        second: Sequence[str],
        *,
        timeout: float,
        folder: Path | None = None,
        environment: Changes | None = None,
        output: int | None = None,
        consume: Callable[[bytes], None] | None = None,
    ) -> tuple[Completed, Completed]:
        """Run two programs, the first one's output being the second one's input; both exit codes are told, unlike a shell's.

        Args:
            timeout: seconds, for both together.
            output: a descriptor that the second one's standard output goes to.
            consume: or else is handed it piece by piece.

        Raises:
            ProgramMissing: one of them cannot be run.
            ProgramTimeout: one of them was stopped.
        """
        deadline = time.monotonic() + timeout
        read_end, write_end = os.pipe()
        with contextlib.ExitStack() as ends:
            ends.callback(os.close, read_end)
            try:
                source = self._begin(first, folder, environment, output=write_end)
            finally:
                os.close(write_end)
            sink = self._begin(second, folder, environment, source=read_end, output=output)
        # both at once: one that nobody reads would stop the other
        with ThreadPoolExecutor(max_workers=1) as reader:
            feeding = reader.submit(self._complete, first, source, deadline, None)
            ended = self._complete(second, sink, deadline, consume)
            return feeding.result(), ended

    def attend(self, argv: Sequence[str], *, timeout: float | None, environment: Mapping[str, str]) -> int:
        """Run somebody's command with our own standard streams, to its end.

        Args:
            timeout: seconds; then SIGTERM, and SIGKILL after the grace time.
            environment: beyond our own.

        Returns:
            Its exit code; negative: the signal that ended it.

        Raises:
            ProgramMissing: it does not exist or cannot be executed.
            ProgramTimeout: it was stopped.
            Interrupted: so were we; it has ended.
        """
        process = Process(argv, {**os.environ, **environment}, None, attached=True, users_own=True)
        try:
            code = process.wait(float("inf") if timeout is None else timeout)
        except Interrupted as interrupt:
            # at a terminal Ctrl-C has reached it already, and a second SIGINT would break its own cleaning up
            told = interrupt.signum == signal.SIGINT and os.isatty(0)
            process.stop(number=0 if told else interrupt.signum)
            raise
        if code is None:
            process.stop(number=signal.SIGTERM)
            raise ProgramTimeout(f"{self._name_of(argv)} did not end within {timeout:g} s and was stopped")
        process.close()
        return code

    def follow(
        self,
        argv: Sequence[str],
        *,
        timeout: float | None,
        environment: Mapping[str, str],
        on_line: Callable[[str], None],
    ) -> int:
        """Run somebody's command, its standard input empty, and hand on what it prints while it prints it.

        Args:
            timeout: seconds; then SIGTERM, and SIGKILL after the grace time.
            environment: beyond our own.
            on_line: told each line of both its streams, without secrets.

        Returns:
            Its exit code; negative: the signal that ended it.

        Raises:
            ProgramMissing: it does not exist or cannot be executed.
            ProgramTimeout: it was stopped.
            Interrupted: so were we; it has ended.
        """
        deadline = float("inf") if timeout is None else time.monotonic() + timeout
        process = self._begin(argv, None, environment, users_own=True)
        process.close_descriptor(process.stdin)

        def tell(last: bool = False) -> bool:
            for stream in (process.output, process.errors):
                # a progress bar is one line that never ends
                end = len(stream) if last or len(stream) > LONGEST_LINE else stream.rfind(b"\n") + 1
                for line in stream[:end].decode("utf-8", "replace").splitlines():
                    on_line(self.mask(line))
                del stream[:end]
            return not process.is_alive()  # what it started may hold its streams open for ever

        try:
            while process.is_alive() and time.monotonic() < deadline:
                if process.exchange(b"", min(deadline, time.monotonic() + 0.2), tell):
                    process.wait(max(0.0, min(0.2, deadline - time.monotonic())))  # it closed its streams and lives on
            process.exchange(b"", time.monotonic() + 0.1)
            tell(last=True)
            code = process.wait(0.0)
        except Interrupted as interrupt:
            process.stop(number=interrupt.signum)
            raise
        if code is None:
            process.stop(number=signal.SIGTERM)
            raise ProgramTimeout(f"{self._name_of(argv)} did not end within {timeout:g} s and was stopped")
        process.close()
        return code

    def _name_of(self, argv: Sequence[str]) -> str:
        return Path(argv[0]).name

    def _make(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        folder: Path | None,
        *,
        output: int | None,
        source: int | None,
        users_own: bool,
    ) -> Process:
        return Process(argv, environment, folder, output=output, source=source, users_own=users_own)

    def _begin(
        self,
        argv: Sequence[str],
        folder: Path | None,
        environment: Changes | None,
        *,
        output: int | None = None,
        source: int | None = None,
        users_own: bool = False,
    ) -> Process:
        changes = {**({} if users_own else {"PG_COLOR": "never"}), **(environment or {})}
        process = self._make(argv, applied(changes), folder, output=output, source=source, users_own=users_own)
        with self._lock:
            self._processes = [item for item in self._processes if item.is_alive()]
            self._processes.append(process)
        return process

    def _complete(
        self, argv: Sequence[str], process: Process, deadline: float, consume: Callable[[bytes], None] | None
    ) -> Completed:
        process.close_descriptor(process.stdin)
        began = time.monotonic()

        def handed_over() -> bool:
            if consume and process.output:
                consume(bytes(process.output))
                process.output.clear()
            return False

        try:
            ended = process.exchange(b"", deadline, handed_over)
        except BaseException:  # of the consumer: nobody reads what it prints any more
            process.stop()
            raise
        code = process.wait(max(0.1, deadline - time.monotonic())) if ended else None
        in_time = code is not None
        code = process.stop() if code is None else code
        process.close()
        stdout, stderr = (self.mask(stream.decode("utf-8", "replace")) for stream in (process.output, process.errors))
        if not in_time:
            seconds = time.monotonic() - began
            raise ProgramTimeout(
                f"{self._name_of(argv)} did not end within {seconds:.0f} s and was stopped", output=stderr
            )
        return Completed(code, stdout, stderr)

    def stop_all(self) -> None:
        """End every program that still runs: SIGINT to all, then SIGKILL after the grace time."""
        with self._lock:
            alive = [process for process in self._processes if process.is_alive()]
        for process in alive:
            process.signal(signal.SIGINT)
            process.close_descriptor(process.stdin)  # an idle psql ends at the end of its input, not by SIGINT
        deadline = time.monotonic() + GRACE_SECONDS
        for process in alive:
            if process.wait(max(0.0, deadline - time.monotonic())) is None:
                process.signal(signal.SIGKILL)
