"""The client programs in a container: their command lines, run from outside by `docker exec -i`."""

from __future__ import annotations

import contextlib
import os
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from vecbak.errors import Refused
from vecbak.postgres.attended import ContainerRunner
from vecbak.postgres.container import Container
from vecbak.postgres.fifos import Fifo
from vecbak.postgres.process import Process
from vecbak.postgres.programs import OLDEST_PSQL, Installation, major_version
from vecbak.postgres.runner import Runner

ANSWER_SECONDS = 30.0

# the official image's psql on PATH is Debian's Perl wrapper, which is slower and chooses a version by itself
_LOOK = """
folder=/usr/lib/postgresql/${PG_MAJOR:-none}/bin
if [ ! -x "$folder/psql" ]; then path=$(command -v psql) || exit 0; folder=${path%/*}; fi
echo "$folder"
"$folder/psql" --version
for program in psql pg_dump pg_restore; do if [ -x "$folder/$program" ]; then echo "$program"; fi; done
for program in stdbuf mkfifo grep cat rm; do if command -v "$program" >/dev/null; then echo "$program"; fi; done
"""

_FILL = 'mkfifo -m 600 "$0" && echo made && exec 3>"$0" && rm "$0" && exec cat >&3'


class ContainedInstallation(Installation, frozen=True):
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

    def let_go(self) -> None:
        """Its reader has ended by itself, and it with it."""

    def release(self) -> None:
        """Nobody will read it: let whoever writes end."""
        self._process.signal(signal.SIGKILL)


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
