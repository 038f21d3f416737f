"""Running the client programs inside a container, by `docker exec -i`: the same processes and pipes as on this machine.

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
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from vecbak.errors import Refused
from vecbak.postgres.container import Container, what_became_of
from vecbak.postgres.fifos import Fifo
from vecbak.postgres.process import Process
from vecbak.postgres.programs import OLDEST_PSQL, Installation, major_version
from vecbak.postgres.runner import LocalRunner, Runner

MARK = "VECBAK_PROGRAM"
ANSWER_SECONDS = 30.0
KILL_SECONDS = 2.0

# the official image's psql on PATH is Debian's Perl wrapper, which is slower and chooses a version by itself
_LOOK = """
folder=/usr/lib/postgresql/${PG_MAJOR:-none}/bin
if [ ! -x "$folder/psql" ]; then path=$(command -v psql) || exit 0; folder=${path%/*}; fi
echo "$folder"
"$folder/psql" --version
for program in psql pg_dump pg_restore; do if [ -x "$folder/$program" ]; then echo "$program"; fi; done
for program in stdbuf mkfifo grep cat rm; do if command -v "$program" >/dev/null; then echo "$program"; fi; done
"""

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

_FILL = 'mkfifo -m 600 "$0" && echo made && exec 3>"$0" && rm "$0" && exec cat >&3'


@dataclass(frozen=True)
class ContainedInstallation(Installation):
    """Client programs in a container.

    Attributes:
        container: where they are.
        programs: which of them, and of the tools beside them, there are.
    """

    container: Container
    programs: frozenset[str]

    @property
    def prefix(self) -> list[str]:
        """`docker exec …`."""
        return self.container.exec_command()

    def command(self, name: str) -> list[str]:
        """The program's command line, run from outside."""
        return [*self.prefix, str(self.folder / name)]

    def buffered_command(self, name: str) -> list[str]:
        """The same, writing much at a time where the container has stdbuf."""
        buffer = ["stdbuf", "--output=256K"] if "stdbuf" in self.programs else []
        return [*self.prefix, *buffer, str(self.folder / name)]

    def has(self, name: str) -> bool:
        """Whether the container has it."""
        return name in self.programs

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        return f"the container {self.container.name}"

    @contextlib.contextmanager
    def fifo(self, runner: Runner) -> Iterator[Fifo]:
        """A FIFO in the container's /tmp, which a second program there fills with what we write."""
        name = runner.mark() if isinstance(runner, ContainerRunner) else uuid.uuid4().hex
        path = f"/tmp/vecbak-{name}"  # noqa: S108 - made by mkfifo, which refuses what exists, with mode 600
        process = runner.start([*self.prefix, "sh", "-c", _FILL, path])
        try:
            process.exchange(b"", time.monotonic() + ANSWER_SECONDS, lambda: b"made\n" in process.output)
            if b"made\n" not in process.output:
                process.wait(1)
                raise Refused(
                    f"no FIFO could be made in the container {self.container.name}, through which rows are loaded",
                    "Its /tmp must be writable, and the image must have sh, mkfifo and cat.",
                    output=process.errors.decode("utf-8", "replace").strip(),
                )
            yield _ContainedFifo(path, process)
        finally:
            process.stop()


class _ContainedFifo:
    """The pipe into the program that fills a FIFO in the container."""

    def __init__(self, path: str, process: Process) -> None:
        self.path = path
        self._process = process

    def open(self) -> BinaryIO:
        """Our end; what is written waits until somebody reads the FIFO."""
        stream = cast(BinaryIO, os.fdopen(os.dup(self._process.stdin), "wb"))
        self._process.close_descriptor(self._process.stdin)
        return stream

    def release(self) -> None:
        """Nobody will read it: let whoever writes end."""
        self._process.signal(signal.SIGKILL)


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
    ) -> Process:
        outside = self._container.exec_command()
        if list(argv[: len(outside)]) != outside:
            return super()._make(argv, environment, folder, output=output, source=source)
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


def contained_installation(runner: Runner, container: Container) -> ContainedInstallation:
    """The client programs of a container.

    Raises:
        Refused: it has no shell, or no psql that is new enough.
    """
    done = runner.run([*container.exec_command(), "sh", "-c", _LOOK], timeout=ANSWER_SECONDS)
    lines = done.stdout.splitlines()
    if done.exit_code != 0:
        raise Refused(
            f"the container {container.name} does not let programs be run in it",
            "vecbak needs a shell and PostgreSQL's client programs there; the images pgvector/pgvector have them.",
            output=done.stderr.strip(),
        )
    major = major_version(lines[1]) if len(lines) > 1 else None
    if major is None or major < OLDEST_PSQL:
        raise Refused(
            f"there is no psql {OLDEST_PSQL} or newer in the container {container.name}",
            "Name the container of the server itself; the images pgvector/pgvector have the client programs.",
            output=done.stderr.strip(),
        )
    programs = frozenset(lines[2:])
    if tools := sorted({"grep", "rm"} - programs):
        raise Refused(
            f"the container {container.name} has no {' and no '.join(tools)}, without which programs in it could not be stopped",
            "Use an image that has them, as pgvector/pgvector.",
        )
    return ContainedInstallation(Path(lines[0]), major, "container", container, programs)
