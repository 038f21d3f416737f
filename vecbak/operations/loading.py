r"""Loading files into tables and reading tables back, inside the guard's transaction.

The bytes that were verified are handed to psql's `\copy` through a pipe, so that every format and compression goes one
way; what psql loaded is then held against what was read.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO

import msgspec

from vecbak.backups.formats import COPY_OPTIONS
from vecbak.backups.rows import Consumer, DumpRows, row_reader
from vecbak.operations.reading import FileReader
from vecbak.postgres import restore_queries
from vecbak.postgres.fifos import Fifo, local_pipe
from vecbak.postgres.guard import Guard
from vecbak.postgres.process import PIPE_BYTES
from vecbak.postgres.session import Answer, SessionFailed

LOAD_OPTIONS = {**COPY_OPTIONS, "pg_dump": "format text"}
EXPORT_OPTIONS = {"csv": "format csv", "binary": "format binary", "pg_dump": "format text"}


class Different(Exception):
    """What was exported again is not what the files hold; the message says where."""


class SourceFile(msgspec.Struct, frozen=True):
    """One file to load.

    Attributes:
        name: for messages.
        rows: that it holds.
        size_bytes: of the file, for the progress.
        options: COPY's.
        feed: hands its bytes, as COPY wants them, to a consumer.
    """

    name: str
    rows: int
    size_bytes: int
    options: str
    feed: Callable[[Consumer], None]


def backup_file(reader: FileReader, name: str, *, rows: int, size_bytes: int) -> SourceFile:
    """A file of a backup, to be loaded: of a dump the rows alone, in COPY's text format."""

    def feed(consume: Consumer) -> None:
        reader.decode(name, DumpRows(consume).feed if reader.format == "pg_dump" else consume)

    return SourceFile(name, rows, size_bytes, LOAD_OPTIONS[reader.format], feed)


def load(
    guard: Guard,
    target: str,
    columns: Sequence[str],
    file: SourceFile,
    *,
    seconds: float,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> int:
    """COPY a file into a table.

    Args:
        target: quoted and qualified.
        seconds: for the whole file.
        on_bytes: told the size of each piece that psql took.

    Returns:
        Rows, by psql's own count.

    Raises:
        SessionFailed: the server refused a row, or did not answer in time.
        FileDamaged: the file could not be read to its end.
    """

    def write(pipe: BinaryIO) -> None:
        def consume(chunk: bytes) -> None:
            pipe.write(chunk)
            on_bytes(len(chunk))

        file.feed(consume)

    with guard.fifo() as fifo, _working_at(fifo, write) as finished:
        request = restore_queries.copy_from(target, columns, fifo.path, file.options)
        answer = _ask(guard, request, f"loading {file.name}", seconds)
        finished()
        return answer.row_count


def compare(
    guard: Guard, source: str, columns: Sequence[str], names: Sequence[str], reader: FileReader, *, seconds: float
) -> None:
    """Export a table again and hold it against files, byte for byte.

    Args:
        source: the table, quoted and qualified.
        names: the files, in order.
        seconds: for the export.

    Raises:
        Different: says where.
        SessionFailed: the export failed.
        FileDamaged: a file could not be read to its end.
    """

    def read(pipe: BinaryIO) -> None:
        try:
            _compare_streams(pipe, columns, names, reader)
        finally:
            while pipe.read(PIPE_BYTES):  # psql must be able to end
                pass

    with local_pipe("rb") as fifo, _working_at(fifo, read, reads=True) as finished:
        request = restore_queries.copy_out(source, columns, fifo.path, EXPORT_OPTIONS[reader.format])
        _ask(guard, request, f"exporting {source}", seconds)
        finished()


def _ask(guard: Guard, request: str, step: str, seconds: float) -> Answer:
    try:
        return guard.ask(request, step, timeout=seconds)
    except BaseException:
        guard.kill()  # Ctrl-C must not wait until psql has taken gigabytes
        raise


def _compare_streams(pipe: BinaryIO, columns: Sequence[str], names: Sequence[str], reader: FileReader) -> None:
    exported = _RowStream(pipe, reader.format, len(columns))
    position = 0
    for name in names:

        def expect(chunk: bytes, name: str = name) -> None:
            nonlocal position
            found = exported.take(len(chunk))
            if found != chunk:
                same = next(
                    (at for at, pair in enumerate(zip(found, chunk, strict=False)) if pair[0] != pair[1]), len(found)
                )
                raise Different(
                    f"{name}: what was loaded and exported again differs at byte {position + same:,} of the rows"
                )
            position += len(chunk)

        reader.decode(name, row_reader(reader.format, len(columns), expect).feed)
    if exported.take(1):
        raise Different(
            f"{names[-1]}: more was exported again than the files hold, from byte {position:,} of the rows on"
        )


class _RowStream:
    """The rows' bytes of an export, without what binary puts around them."""

    def __init__(self, pipe: BinaryIO, format: str, columns: int) -> None:
        self._pipe = pipe
        self._bytes = bytearray()
        # an export of ours has no header line and no statements: only binary needs its reader
        self._feed = (
            row_reader("binary", columns, self._bytes.extend).feed if format == "binary" else self._bytes.extend
        )

    def take(self, size: int) -> bytes:
        while len(self._bytes) < size and (chunk := self._pipe.read1(PIPE_BYTES)):  # type: ignore[attr-defined]
            self._feed(chunk)
        taken = bytes(self._bytes[:size])
        del self._bytes[:size]
        return taken


@contextlib.contextmanager
def _working_at(fifo: Fifo, work: Callable[[BinaryIO], None], *, reads: bool = False) -> Iterator[Callable[[], None]]:
    """A thread that works at our end of a named pipe while psql works at the other.

    Yields:
        A function that waits for the thread and raises what it raised.
    """
    failure: list[BaseException] = []

    def run() -> None:
        try:
            with fifo.open() as stream:
                work(stream)
        except BrokenPipeError:
            pass  # psql ended first, and says why
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            failure.append(error)

    thread = threading.Thread(target=run, name="fifo", daemon=True)
    thread.start()

    def finished() -> None:
        fifo.let_go()
        thread.join()
        if failure:
            raise failure[0]

    def end() -> None:
        while thread.is_alive():  # psql may have failed before it opened its end
            fifo.release()
            thread.join(0.02)

    try:
        yield finished
    except SessionFailed:
        end()
        if failure and not reads:  # a file that ended too early explains whatever psql said
            raise failure[0] from None
        raise
    finally:
        end()
