"""One running program: the one importer of `sh`.

Children never outlive us (PR_SET_PDEATHSIG, prctl(2)), and are told to stop by SIGINT first (psql then cancels its
query on the server) and by SIGKILL after a grace time.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import os
import selectors
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from signal import SIGINT
from typing import Any

import sh

from vecbak import cores, interrupts
from vecbak.errors import ExitCode, VecbakError

GRACE_SECONDS = 5.0
KEPT_OUTPUT_BYTES = 1 << 20
UNKNOWN_CODE = 255  # of a program whose end nobody could be told: it counts as failed
PIPE_BYTES = 1 << 20  # the most that an ordinary user may ask for (pipe(7))
_F_SETPIPE_SZ = 1031

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class ProgramMissing(VecbakError):
    """The program to run does not exist or cannot be executed."""

    exit_code = ExitCode.REFUSED


class OutOfResources(VecbakError):
    """No program can be run now: no descriptor, process or memory is left."""

    exit_code = ExitCode.REFUSED


def widen_pipe(descriptor: int) -> None:
    """Let a pipe hold up to `PIPE_BYTES`, where the kernel allows it: fewer turns for large data."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(descriptor, _F_SETPIPE_SZ, PIPE_BYTES)


class Process:
    """A running program; forked by, and dying with, the calling thread.

    Args:
        output: a descriptor that its standard output goes to, instead of a pipe to us.
        source: a descriptor that its standard input comes from, instead of a pipe from us.
        attached: it shares our own three streams; on a terminal our process group too, so that it can read there.
        users_own: it is the user's program, which may dump core as it could without us.
        outlives_us: it is to clean up when we are killed.
    """

    def __init__(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        folder: Path | None,
        *,
        output: int | None = None,
        source: int | None = None,
        attached: bool = False,
        users_own: bool = False,
        outlives_us: bool = False,
    ) -> None:
        interrupts.check()
        self._users_own = users_own
        self._outlives_us = outlives_us
        self.output = bytearray()
        self.errors = bytearray()
        self._closing = threading.Lock()
        self._ending = threading.Lock()
        self._code: int | None = None
        self._own_group = not (attached and os.isatty(0))
        # Python's own pipes close on exec; sh hands the child's ends over as 0, 1 and 2
        try:
            (child_stdin, self.stdin), (self.stdout, child_stdout), (self.stderr, child_stderr) = _three_pipes()
        except OSError as error:
            raise _not_started(argv[0], str(error.strerror)) from None
        self._open_descriptors = {self.stdin, self.stdout, self.stderr}
        childs = [child_stdin, child_stdout, child_stderr]
        streams = [os.dup(number) for number in (0, 1, 2)] if attached else childs[:]
        childs += streams if attached else []
        streams = [streams[0] if source is None else source, streams[1] if output is None else output, streams[2]]
        try:
            self._running = self._start(argv, environment, folder, streams)
        except (
            sh.CommandNotFound,
            sh.ForkException,
            OSError,
            RuntimeError,
        ) as error:  # RuntimeError: no thread is left
            self.close()
            reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
            raise _not_started(argv[0], reason) from None
        finally:
            for descriptor in childs:
                os.close(descriptor)

    def _start(
        self, argv: Sequence[str], environment: Mapping[str, str], folder: Path | None, streams: list[int]
    ) -> Any:
        parent = os.getpid()

        def die_with_parent() -> None:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:  # it died before prctl
                os.kill(os.getpid(), signal.SIGKILL)

        def prepare() -> None:
            if not self._outlives_us:
                die_with_parent()
            cores.allow() if self._users_own else cores.forbid()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())

        options: dict[str, Any] = {
            "_in": streams[0],
            "_out": streams[1],
            "_err": streams[2],
            "_bg": True,
            "_bg_exc": False,
            # Ctrl-C at the terminal reaches us alone; we decide what the children are told
            "_new_group": self._own_group,
            "_preexec_fn": prepare,
            "_env": dict(environment),
            "_return_cmd": True,
            "_encoding": "utf-8",
            "_log_msg": lambda ran, call_args, pid=None: "child",
        }
        # never a terminal of sh's making; it refuses to be told so where there is a real one
        options |= {"_tty_in": False} if not os.isatty(streams[0]) else {}
        options |= {"_tty_out": False} if not os.isatty(streams[1]) else {}
        if folder is not None:
            options["_cwd"] = str(folder)
        return sh.Command(argv[0])(*argv[1:], **options)

    @property
    def pid(self) -> int:
        """The process id; its own process group."""
        return int(self._running.pid)

    def is_alive(self) -> bool:
        """Whether it has not ended yet."""
        return bool(self._running.is_alive())

    def signal(self, number: int) -> None:
        """Send a signal to it, and to what it started where it has a group of its own; no error if it has ended."""
        if self.is_alive():
            with contextlib.suppress(ProcessLookupError):
                self._running.signal_group(number) if self._own_group else self._running.signal(number)

    def send(self, data: bytes) -> bool:
        """Write a few bytes to its standard input, at once; whether they could be written."""
        with self._closing:
            if self.stdin not in self._open_descriptors:
                return False
            try:
                return os.write(self.stdin, data) == len(data)
            except OSError:
                return False

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
                except ChildProcessError:  # somebody in this process took it, or SIGCHLD is ignored
                    self._code = UNKNOWN_CODE
            return self._code

    def stop(self, grace: float = GRACE_SECONDS, number: int = SIGINT) -> int:
        """End it: standard input closed and a signal, then SIGKILL after `grace` seconds. Returns its exit code."""
        self.signal(number)
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

    def exchange(
        self,
        request: bytes,
        deadline: float,
        enough: Callable[[], bool] = lambda: False,
        read_output: Callable[[int], bool] | None = None,
    ) -> bool:
        """Write to it while reading what it prints, until it closes its streams or until `enough()`.

        Args:
            request: for its standard input.
            deadline: on `time.monotonic()`'s clock.
            read_output: reads from its standard output's descriptor itself, once, and tells whether there may be more;
                what it raises ends the exchange.

        Returns:
            False if the deadline came first. `output` and `errors` (its last MiB) have grown.

        Raises:
            Interrupted: this run was asked to end.
        """
        readers = {
            self.stdout: read_output or functools.partial(_read_into, self.output),
            self.stderr: functools.partial(_read_into, self.errors),
        }
        with selectors.DefaultSelector() as selector:
            reading = self._open_descriptors & readers.keys()
            for descriptor in reading:
                selector.register(descriptor, selectors.EVENT_READ)
            unwritten = memoryview(request)
            if unwritten and self.stdin in self._open_descriptors:
                os.set_blocking(self.stdin, False)
                selector.register(self.stdin, selectors.EVENT_WRITE)
            while reading:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return False
                for key, _ in selector.select(remaining):
                    if key.fd == self.stdin:
                        unwritten = self._write_some(unwritten)
                        if not unwritten:
                            selector.unregister(self.stdin)
                        continue
                    if not readers[key.fd](key.fd):
                        selector.unregister(key.fd)
                        reading.remove(key.fd)
                if len(self.errors) > 2 * KEPT_OUTPUT_BYTES:
                    del self.errors[:-KEPT_OUTPUT_BYTES]
                if enough():
                    return True
        interrupts.check()  # if its streams ended because we are to end, say that and not what broke
        return True

    def feed(self, data: memoryview, deadline: float) -> bool:
        """Write all of it to its standard input, reading what it complains of meanwhile.

        Returns:
            False if the deadline came first, or if it has ended and reads no more.

        Raises:
            Interrupted: this run was asked to end.
        """
        os.set_blocking(self.stdin, False)
        with selectors.DefaultSelector() as selector:
            selector.register(self.stdin, selectors.EVENT_WRITE)
            selector.register(self.stderr, selectors.EVENT_READ)
            while data:
                ready = selector.select(max(0.0, deadline - time.monotonic()))
                interrupts.check()
                if not ready:
                    return False
                for key, _ in ready:
                    if key.fd == self.stderr:
                        if not _read_into(self.errors, key.fd):
                            return False
                        continue
                    try:
                        data = data[os.write(self.stdin, data) :]
                    except BlockingIOError:
                        continue
                    except BrokenPipeError:
                        return False
        return True

    def _write_some(self, request: memoryview) -> memoryview:
        try:
            with self._closing:  # another thread may end us: the number could be another file's by now
                if self.stdin not in self._open_descriptors:
                    return request[:0]
                return request[os.write(self.stdin, request) :]
        except BlockingIOError:
            return request
        except OSError:
            return request[:0]  # it has ended; its streams tell why

    def close_descriptor(self, descriptor: int) -> None:
        """Close one of our ends, once."""
        with self._closing:
            if descriptor not in self._open_descriptors:
                return
            self._open_descriptors.remove(descriptor)
        os.close(descriptor)


def _read_into(buffer: bytearray, descriptor: int) -> bool:
    chunk = os.read(descriptor, 65536)
    buffer += chunk
    return bool(chunk)


def _three_pipes() -> list[tuple[int, int]]:
    """Read and write ends; all three, or none is left open."""
    with contextlib.ExitStack() as stack:
        pipes = []
        for _ in range(3):
            pipes.append(os.pipe())
            stack.callback(os.close, pipes[-1][0])
            stack.callback(os.close, pipes[-1][1])
        stack.pop_all()
    return pipes


def _not_started(program: str, reason: str) -> ProgramMissing | OutOfResources:
    message = f"{program} cannot be run: {reason}"
    if (
        any(os.strerror(number) in reason for number in (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM))
        or "new thread" in reason
    ):
        return OutOfResources(message, "Raise the limit of this process (`ulimit -a` shows it), or end what else runs.")
    return ProgramMissing(message, "Install it, or set connection.bin_dir.")
