r"""Two ways to get rows into a file: psql's `\copy`, alone or through a compressor, and pg_dump."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import msgspec

from vecbak.backups.draft_file import DraftFile
from vecbak.backups.files import FileDamaged, FinishedFile
from vecbak.backups.formats import COMPRESSORS, COPY_OPTIONS, Compressor, check_ends
from vecbak.backups.rows import DumpRows
from vecbak.config import Backup
from vecbak.errors import BackupFailed, VecbakError
from vecbak.operations.parts import Part
from vecbak.operations.reading import decompress
from vecbak.postgres import queries
from vecbak.postgres.catalog import Table
from vecbak.postgres.connection import Endpoint
from vecbak.postgres.environment import Changes
from vecbak.postgres.process import widen_pipe
from vecbak.postgres.programs import (
    DUMP_ENVIRONMENT,
    Installation,
    data_dump_command,
    dump_compresses,
    restore_list_command,
)
from vecbak.postgres.runner import Completed, Runner
from vecbak.postgres.worker import Worker

LAST_WORDS_SECONDS = 0.5  # for what a program says when it ends


class CopyTask(msgspec.Struct, frozen=True):
    """One file to make: the config's name for its table, the part of it, and the file's final name."""

    label: str
    table: Table
    part: Part
    file: str


class Exporter(Protocol):
    """One way to make and to examine a data file."""

    def export(self, worker: Worker, task: CopyTask, file: DraftFile) -> int | None:
        """Fill the file; the rows that the program says it wrote, if it says so."""

    def check_ends(self, head: bytes, tail: bytes) -> str | None:
        """What is wrong with how the file begins and ends, if anything is."""

    def examine(self, task: CopyTask, file: FinishedFile) -> int | None:
        """Let the fitting program read the finished file; the rows in it, where that tells them.

        Raises:
            FileDamaged: it cannot be read to its end.
        """


class CopyExporter(msgspec.Struct, frozen=True):
    r"""`\copy` in the worker's own session; its rows pass through us into the file, or into a compressor.

    Attributes:
        seconds: for one file.
    """

    runner: Runner
    format: str
    compression: str
    seconds: float

    def export(self, worker: Worker, task: CopyTask, file: DraftFile) -> int | None:
        """Run it; psql's own count."""
        request = queries.copy_out(task.part.within(task.table), task.part.condition, COPY_OPTIONS[self.format])
        step = f"copying {task.table.name}"
        compressor = COMPRESSORS.get(self.compression)
        if compressor is None:
            rows = worker.copy(request, task.table, file.write, step=step, timeout=self.seconds)
            file.end()
            return rows
        with compressing(self.runner, compressor, file, seconds=self.seconds) as take:
            return worker.copy(request, task.table, take, step=step, timeout=self.seconds)

    def check_ends(self, head: bytes, tail: bytes) -> str | None:
        """By format and compression."""
        return check_ends(self.format, self.compression)(head, tail)

    def examine(self, task: CopyTask, file: FinishedFile) -> int | None:
        """Let the compressor test its file."""
        compressor = COMPRESSORS.get(self.compression)
        if compressor is None:
            return None
        done = self.runner.run([compressor.program, *compressor.test, str(file.path)], timeout=self.seconds)
        if done.exit_code != 0:
            raise FileDamaged(f"{file.path.name} is no complete {compressor.program} file: {done.stderr.strip()}")
        return None


@contextlib.contextmanager
def compressing(
    runner: Runner, compressor: Compressor, file: DraftFile, *, seconds: float
) -> Iterator[Callable[[memoryview], None]]:
    """Run a compressor whose output is the file; it must have ended well when the context ends.

    Yields:
        What takes the bytes to be compressed.

    Raises:
        BackupFailed: it ended early or badly, or took longer than `seconds`.
    """
    deadline = time.monotonic() + seconds
    process = runner.start([compressor.program, *compressor.compress], output=file.descriptor)
    widen_pipe(process.stdin)

    def failed(what: str) -> BackupFailed:
        process.exchange(b"", time.monotonic() + LAST_WORDS_SECONDS)
        process.stop()
        return BackupFailed(f"{compressor.program} {what}", output=process.errors.decode("utf-8", "replace").strip())

    def take(chunk: memoryview) -> None:
        if not process.feed(chunk, deadline):
            late = time.monotonic() >= deadline
            raise failed("took too long" if late else "ended before it had read every row")

    try:
        yield take
        process.close_descriptor(process.stdin)
        process.exchange(b"", deadline)
        code = process.wait(max(0.1, deadline - time.monotonic()))
        if code is None:
            raise failed("took too long")
        if code != 0:
            raise failed(f"failed (exit code {code})")
    finally:
        process.stop()


class DumpExporter(msgspec.Struct, frozen=True):
    """pg_dump under the guard's snapshot, one file a table; pg_restore then reads it back, and its rows are counted.

    Attributes:
        inside: what pg_dump itself compresses with.
        outside: what its output is piped through, if pg_dump was not built with what is asked for.
        seconds: for one file.
        lock_seconds: how long pg_dump may wait for its lock.
    """

    runner: Runner
    endpoint: Endpoint
    installation: Installation
    snapshot: str
    inside: str
    outside: str
    folder: Path
    seconds: float
    lock_seconds: float

    def command(self, task: CopyTask) -> list[str]:
        """pg_dump's argv."""
        return data_dump_command(
            self.installation,
            self.endpoint.conninfo,
            table=task.table.sql,
            sequences=task.table.sequence_names,
            snapshot=self.snapshot,
            compression=self.inside,
            lock_seconds=self.lock_seconds,
        )

    @property
    def _environment(self) -> Changes:
        return {**self.endpoint.environment, **DUMP_ENVIRONMENT}

    def export(self, worker: Worker, task: CopyTask, file: DraftFile) -> int | None:
        """Run pg_dump; it does not tell how many rows it wrote."""
        compressor = COMPRESSORS.get(self.outside)
        ended = self._dump(task, file) if compressor is None else self._dump_through(compressor, task, file)
        for name, done in ended.items():
            if done.exit_code != 0:
                raise BackupFailed(f"{name} of {task.table.name} failed", output=done.stderr.strip())
        return None

    def _dump(self, task: CopyTask, file: DraftFile) -> dict[str, Completed]:
        done = self.runner.run(
            self.command(task), timeout=self.seconds, environment=self._environment, output=file.descriptor
        )
        return {"pg_dump": done}

    def _dump_through(self, compressor: Compressor, task: CopyTask, file: DraftFile) -> dict[str, Completed]:
        dump, compress = self.runner.pipe(
            self.command(task),
            [compressor.program, *compressor.compress],
            timeout=self.seconds,
            folder=self.folder,
            environment=self._environment,
            output=file.descriptor,
        )
        return {compressor.program: compress, "pg_dump": dump}

    def check_ends(self, head: bytes, tail: bytes) -> str | None:
        """By what it is compressed with; the rest only pg_restore can read."""
        return check_ends("pg_dump", self.outside)(head, tail)

    def examine(self, task: CopyTask, file: FinishedFile) -> int | None:
        """Count the COPY lines that pg_restore makes of it."""
        counter = DumpRows()
        compressor = COMPRESSORS.get(self.outside)
        name = file.path.name
        try:
            if compressor is None:
                command = restore_list_command(self.installation)
                with file.path.open("rb") as dump:
                    ended = [self.runner.run(command, timeout=self.seconds, consume=counter.feed, source=dump.fileno())]
            else:
                ended = list(
                    self.runner.pipe(
                        decompress(compressor, name),
                        restore_list_command(self.installation),
                        timeout=self.seconds,
                        folder=self.folder,
                        consume=counter.feed,
                    )
                )
        except VecbakError as error:
            raise FileDamaged(f"{name}: {error.message}") from None
        for done in ended:
            if done.exit_code != 0:
                raise FileDamaged(f"{name} cannot be read by pg_restore: {done.stderr.strip()}")
        return counter.rows


def outside_compression(runner: Runner, backup: Backup, dump_installation: Installation) -> str:
    """What the files themselves are compressed with: none where pg_dump does it inside."""
    if backup.format == "pg_dump" and dump_compresses(runner, dump_installation, backup.compression):
        return "none"
    return backup.compression
