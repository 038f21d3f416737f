"""Running programs inside a container by `docker exec -i`: the same processes and pipes as on this machine.

`docker exec` hands on neither signals nor our own end. So one small shell, the attendant, lives inside beside the
programs: it sends them the signals that we want sent, and when its own input ends, because we did, it ends them all.
It finds them by a mark in their environment.

No program of ours may leave a child behind: the server is process 1 of its container, inherits orphans, and takes one
that a signal ended for a crash of its own (process_pm_child_exit in PostgreSQL's src/backend/postmaster/postmaster.c).
So each program is the first process of its own `docker exec`, and none is started by another.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from vecbak.postgres.container import Container, what_became_of
from vecbak.postgres.process import Process
from vecbak.postgres.runner import LocalRunner

MARK = "VECBAK_PROGRAM"
KILL_SECONDS = 2.0

_ATTEND = f"""
send() {{
    for path in $(grep -ls "{MARK}=$2" /proc/[0-9]*/environ); do
        pid=${{path#/proc/}}
        kill -s "$1" "${{pid%/environ}}" 2>/dev/null
    done
}}
while read -r name mark; do send "$name" "$mark"; done
send KILL "$0"
rm -f "/tmp/vecbak-$0"*
"""


class InnerProcess(Process):
    """A `docker exec`: what is asked of it is done to the program inside.

    Args:
        tell: sends the program a signal by its number.
        epitaph: what became of the container, empty if it runs.
    """

    def __init__(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        folder: Path | None,
        *,
        tell: Callable[[int], None],
        epitaph: Callable[[], str],
        output: int | None = None,
        source: int | None = None,
    ) -> None:
        self._tell = tell
        self._epitaph = epitaph
        self._explained = False
        self._killed = False
        super().__init__(argv, environment, folder, output=output, source=source)

    def signal(self, number: int) -> None:
        """Send the program a signal; after SIGKILL `docker exec` ends too, whatever the engine does."""
        if not self.is_alive():
            return
        self._killed = self._killed or number == signal.SIGKILL
        self._tell(number)
        if number == signal.SIGKILL and super().wait(KILL_SECONDS) is None:
            super().signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int | None:
        """The program's exit code; docker tells signals as a shell does. What became of the container is added to `errors`."""
        code = super().wait(timeout)
        if code is None or code <= 0:
            return code
        # 1 and 3 are psql's own, of an error that it has told
        if not self._explained and not self._killed and code not in {1, 3}:
            self._explained = True
            if sentence := self._epitaph():
                self.errors += f"\n{sentence}\n".encode()
        return 128 - code if code > 128 else code


class ContainerRunner(LocalRunner):
    """Runs programs here, and those whose command line says so inside a container.

    Made by `container_runner`, in a thread that lives as long as it: the attendant dies with that thread.
    """

    def __init__(self, container: Container, secrets: Sequence[str]) -> None:
        super().__init__(secrets)
        self._container = container
        self._run = uuid.uuid4().hex
        self._numbers = itertools.count()
        self._attendant = Process(self._attend_command(self._run), os.environ, None)

    def mark(self) -> str:
        """What no other program of any run is called."""
        return f"{self._run}-{next(self._numbers):06}"

    def _attend_command(self, run: str) -> list[str]:
        return [*self._container.exec_command(), "sh", "-c", _ATTEND, run]

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
        outside = self._container.exec_command()
        if list(argv[: len(outside)]) != outside:
            return super()._make(argv, environment, folder, output=output, source=source, users_own=users_own)
        mark = self.mark()
        marked = [*self._container.exec_command("-e", f"{MARK}={mark}"), *argv[len(outside) :]]
        return InnerProcess(
            marked,
            environment,
            folder,
            tell=lambda number: self._tell(mark, number),
            epitaph=lambda: what_became_of(self._container),
            output=output,
            source=source,
        )

    def _name_of(self, argv: Sequence[str]) -> str:
        outside = self._container.exec_command()
        inside = [word for word in argv[len(outside) :] if word != "stdbuf" and not word.startswith("-")]
        return super()._name_of(inside if list(argv[: len(outside)]) == outside else argv)

    def _tell(self, mark: str, number: int) -> None:
        order = f"{signal.Signals(number).name.removeprefix('SIG')} {mark}\n".encode()
        if self._attendant.is_alive() and self._attendant.send(order):
            return
        # it is gone, with a restart of the container perhaps: another one for this order alone
        substitute = Process(self._attend_command("none"), os.environ, None)
        substitute.exchange(order, time.monotonic() + KILL_SECONDS, lambda: True)
        substitute.close_descriptor(substitute.stdin)
        substitute.wait(KILL_SECONDS)
        substitute.stop()

    def close(self) -> None:
        """End every program, and whatever of them may be left inside."""
        self.stop_all()
        self._attendant.close_descriptor(self._attendant.stdin)
        if self._attendant.wait(KILL_SECONDS) is None:
            self._attendant.signal(signal.SIGKILL)
            self._attendant.wait()
        self._attendant.close()


@contextlib.contextmanager
def container_runner(container: Container, secrets: Sequence[str]) -> Iterator[ContainerRunner]:
    """A runner whose programs have all ended when the context ends, those inside the container too."""
    runner = ContainerRunner(container, secrets)
    try:
        yield runner
    finally:
        runner.close()
