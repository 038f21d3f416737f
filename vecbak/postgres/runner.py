"""Running other people's programs: the one importer of `sh`.

Children never see a terminal, never outlive us (PR_SET_PDEATHSIG, prctl(2)), and are told to stop by SIGINT
first (psql then cancels its query on the server) and by SIGKILL after a grace time.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import selectors
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import sh

from vecbak.errors import ExitCode, VecbakError

GRACE_SECONDS = 5.0
KEPT_OUTPUT_BYTES = 1 << 20

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class ProgramMissing(VecbakError):
    """The program to run does not exist or cannot be executed."""

    exit_code = ExitCode.REFUSED


class ProgramTimeout(VecbakError):
    """The program did not end in time and was stopped."""

    exit_code = ExitCode.BACKUP_FAILED


@dataclass(frozen=True)
class Completed:
    """A program that ended: its exit code (negative: the signal that ended it) and what it printed."""

    exit_code: int
    stdout: str
    stderr: str


class Process:
    """A running program with pipes to its standard streams; forked by, and dying with, the calling thread.

    Args:
        output: a descriptor that its standard output goes to, instead of a pipe to us.
        source: a descriptor that its standard input comes from, instead of a pipe from us.
    """

    def __init__(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        folder: Path | None,
        *,
        output: int | None = None,
        source: int | None = None,
    ) -> None:
        # Python's own pipes close on exec; sh hands the child's ends over as 0, 1 and 2
        child_stdin, self.stdin = os.pipe()
        self.stdout, child_stdout = os.pipe()
        self.stderr, child_stderr = os.pipe()
        self.output = bytearray()
        self.errors = bytearray()
        self._closing = threading.Lock()
        self._ending = threading.Lock()
        self._code: int | None = None
        self._open_descriptors = {self.stdin, self.stdout, self.stderr}
        parent = os.getpid()

        def die_with_parent() -> None:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:  # it died before prctl
                os.kill(os.getpid(), signal.SIGKILL)
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)

        options: dict[str, Any] = {
            "_in": child_stdin if source is None else source,
            "_out": child_stdout if output is None else output,
            "_err": child_stderr,
            "_bg": True,
            "_bg_exc": False,
            "_tty_in": False,
            "_tty_out": False,
            "_new_group": True,  # Ctrl-C at the terminal reaches us alone; we decide what the children are told
            "_preexec_fn": die_with_parent,
            "_env": dict(environment),
            "_return_cmd": True,
            "_encoding": "utf-8",
            "_log_msg": lambda ran, call_args, pid=None: "child",
        }
        if folder is not None:
            options["_cwd"] = str(folder)
        try:
            self._running = sh.Command(argv[0])(*argv[1:], **options)
        except (sh.CommandNotFound, sh.ForkException, OSError) as error:
            self.close()
            reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
            raise ProgramMissing(
                f"{argv[0]} cannot be run: {reason}", "Install it, or set connection.bin_dir."
            ) from None
        finally:
            for descriptor in (child_stdin, child_stdout, child_stderr):
                os.close(descriptor)

    @property
    def pid(self) -> int:
        """The process id; its own process group."""
        return int(self._running.pid)

    def is_alive(self) -> bool:
        """Whether it has not ended yet."""
        return bool(self._running.is_alive())

    def signal(self, number: int) -> None:
        """Send a signal to it and to what it started; no error if it has ended."""
        if self.is_alive():
            with contextlib.suppress(ProcessLookupError):
                self._running.signal_group(number)

    def wait(self, timeout: float | None = None) -> int | None:
        """Its exit code (negative: the signal that ended it), or None if it still runs after `timeout` seconds."""
        if timeout is not None:
            deadline = time.monotonic() + timeout
            pause = 0.001
            while self.is_alive():
                if time.monotonic() >= deadline:
                    return None
                time.sleep(pause)
                pause = min(pause * 2, 0.05)
        with self._ending:
            if self._code is None:
                try:
                    self._running.wait()
                    self._code = 0
                except sh.ErrorReturnCode as error:  # raised once only, so it is kept
                    self._code = int(error.exit_code)
            return self._code

    def stop(self, grace: float = GRACE_SECONDS) -> int:
        """End it: standard input closed and SIGINT, then SIGKILL after `grace` seconds. Returns its exit code."""
        self.signal(signal.SIGINT)
        self.close_descriptor(self.stdin)
        code = self.wait(grace)
        if code is None:
            self.signal(signal.SIGKILL)
            code = self.wait()
        self.close()
        assert code is not None  # noqa: S101 - wait() without a timeout returns a code
        return code

    def close(self) -> None:
        """Close our ends of its streams."""
        for descriptor in tuple(self._open_descriptors):
            self.close_descriptor(descriptor)

    def exchange(self, request: bytes, deadline: float, enough: Callable[[], bool] = lambda: False) -> bool:
        """Write to it while reading what it prints, until it closes its streams or until `enough()`.

        Args:
            request: for its standard input.
            deadline: on `time.monotonic()`'s clock.

        Returns:
            False if the deadline came first. `output` and `errors` (its last MiB) have grown.
        """
        buffers = {self.stdout: self.output, self.stderr: self.errors}
        with selectors.DefaultSelector() as selector:
            for descriptor in self._open_descriptors & buffers.keys():
                selector.register(descriptor, selectors.EVENT_READ)
            if request and self.stdin in self._open_descriptors:
                os.set_blocking(self.stdin, False)
                selector.register(self.stdin, selectors.EVENT_WRITE)
            while selector.get_map().keys() - {self.stdin}:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return False
                for key, _ in selector.select(remaining):
                    if key.fd == self.stdin:
                        request = self._write_some(request)
                        if not request:
                            selector.unregister(self.stdin)
                        continue
                    chunk = os.read(key.fd, 65536)
                    if chunk:
                        buffers[key.fd] += chunk
                    else:
                        selector.unregister(key.fd)
                if len(self.errors) > 2 * KEPT_OUTPUT_BYTES:
                    del self.errors[:-KEPT_OUTPUT_BYTES]
                if enough():
                    return True
        return True

    def _write_some(self, request: bytes) -> bytes:
        try:
            with self._closing:  # another thread may end us: the number could be another file's by now
                if self.stdin not in self._open_descriptors:
                    return b""
                return request[os.write(self.stdin, request) :]
        except BlockingIOError:
            return request
        except OSError:
            return b""  # it has ended; its streams tell why

    def close_descriptor(self, descriptor: int) -> None:
        """Close one of our ends, once."""
        with self._closing:
            if descriptor not in self._open_descriptors:
                return
            self._open_descriptors.remove(descriptor)
        os.close(descriptor)


class Runner(Protocol):
    """What operations need of the outside world to run programs."""

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
        consume: Callable[[bytes], None] | None = None,
    ) -> Completed:
        """Run a program to its end."""

    def start(
        self, argv: Sequence[str], *, folder: Path | None = None, environment: Mapping[str, str] | None = None
    ) -> Process:
        """Start a program and leave its streams to the caller."""

    def pipe(
        self,
        first: Sequence[str],
        second: Sequence[str],
        *,
        timeout: float,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
        output: int | None = None,
        consume: Callable[[bytes], None] | None = None,
    ) -> tuple[Completed, Completed]:
        """Run two programs, the first one's output being the second one's input."""

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
        self._secrets = sorted({secret for secret in secrets if secret}, key=len, reverse=True)
        self._processes: list[Process] = []
        self._lock = threading.Lock()

    def mask(self, text: str) -> str:
        """Replace every secret by ***."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def start(
        self, argv: Sequence[str], *, folder: Path | None = None, environment: Mapping[str, str] | None = None
    ) -> Process:
        """Start a program.

        Raises:
            ProgramMissing: it does not exist or cannot be executed.
        """
        return self._begin(argv, folder, environment)

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
        consume: Callable[[bytes], None] | None = None,
    ) -> Completed:
        """Run a program to its end, its output kept (of standard error the last MiB).

        Args:
            timeout: seconds; then SIGINT, and SIGKILL after the grace time.
            consume: is handed its standard output piece by piece, which then is not kept.

        Raises:
            ProgramMissing: it does not exist or cannot be executed.
            ProgramTimeout: it was stopped; `output` holds what it had printed.
        """
        process = self.start(argv, folder=folder, environment=environment)
        return self._complete(argv, process, time.monotonic() + timeout, consume)

    def pipe(
        self,
        first: Sequence[str],
        second: Sequence[str],
        *,
        timeout: float,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
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

    def _begin(
        self,
        argv: Sequence[str],
        folder: Path | None,
        environment: Mapping[str, str] | None,
        *,
        output: int | None = None,
        source: int | None = None,
    ) -> Process:
        inherited = {**os.environ, "PG_COLOR": "never", **(environment or {})}
        process = Process(argv, inherited, folder, output=output, source=source)
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
                f"{Path(argv[0]).name} did not end within {seconds:.0f} s and was stopped", output=stderr
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
