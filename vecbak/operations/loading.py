r"""Loading files into tables and reading tables back, inside the guard's transaction.

The bytes that were verified are handed to psql's `\copy` through a FIFO, so that every format and compression goes one
way; what psql loaded is then held against what was read.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from vecbak.backups.formats import COPY_OPTIONS
from vecbak.backups.rows import Consumer, DumpRows, row_reader
from vecbak.operations.reading import FileReader
from vecbak.postgres import restore_queries
from vecbak.postgres.guard import Guard
from vecbak.postgres.process import PIPE_BYTES, widen_pipe
from vecbak.postgres.session import Answer, SessionFailed

LOAD_OPTIONS = {**COPY_OPTIONS, "pg_dump": "format text"}
EXPORT_OPTIONS = {"csv": "format csv", "binary": "format binary", "pg_dump": "format text"}


class Different(Exception):
    """What was exported again is not what the files hold; the message says where."""


@dataclass(frozen=True)
class SourceFile:
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

    def write(fifo: BinaryIO) -> None:
        def consume(chunk: bytes) -> None:
            fifo.write(chunk)
            on_bytes(len(chunk))

        file.feed(consume)

    with _fifo("wb", write) as (path, finished):
        request = restore_queries.copy_from(target, columns, str(path), file.options)
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

    def read(fifo: BinaryIO) -> None:
        try:
            _compare_streams(fifo, columns, names, reader)
        finally:
            while fifo.read(PIPE_BYTES):  # psql must be able to end
                pass

    with _fifo("rb", read) as (path, finished):
        request = restore_queries.copy_out(source, columns, str(path), EXPORT_OPTIONS[reader.format])
        _ask(guard, request, f"exporting {source}", seconds)
        finished()


def _ask(guard: Guard, request: str, step: str, seconds: float) -> Answer:
    try:
        return guard.ask(request, step, timeout=seconds)
    except BaseException:
        guard.kill()  # Ctrl-C must not wait until psql has taken gigabytes
        raise


def _compare_streams(fifo: BinaryIO, columns: Sequence[str], names: Sequence[str], reader: FileReader) -> None:
    exported = _RowStream(fifo, reader.format, len(columns))
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

    def __init__(self, fifo: BinaryIO, format: str, columns: int) -> None:
        self._fifo = fifo
        self._bytes = bytearray()
        # an export of ours has no header line and no statements: only binary needs its reader
        self._feed = (
            row_reader("binary", columns, self._bytes.extend).feed if format == "binary" else self._bytes.extend
        )

    def take(self, size: int) -> bytes:
        while len(self._bytes) < size and (chunk := self._fifo.read1(PIPE_BYTES)):  # type: ignore[attr-defined]
            self._feed(chunk)
        taken = bytes(self._bytes[:size])
        del self._bytes[:size]
        return taken


@contextlib.contextmanager
def _fifo(mode: str, work: Callable[[BinaryIO], None]) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A FIFO whose one end psql opens, while a thread works at the other.

    Yields:
        Its path, and a function that waits for the thread and raises what it raised.
    """
    failure: list[BaseException] = []
    with tempfile.TemporaryDirectory(prefix="vecbak-") as folder:
        path = Path(folder) / "rows"
        os.mkfifo(path, 0o600)

        def run() -> None:
            try:
                with cast(BinaryIO, path.open(mode)) as fifo:
                    widen_pipe(fifo.fileno())
                    work(fifo)
            except BrokenPipeError:
                pass  # psql ended first, and says why
            except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
                failure.append(error)

        thread = threading.Thread(target=run, name="fifo", daemon=True)
        thread.start()

        def finished() -> None:
            thread.join()
            if failure:
                raise failure[0]

        def end() -> None:
            # psql may have failed before it opened its end: open it ourselves, so that the thread can go on and end
            while thread.is_alive():
                with contextlib.suppress(OSError):
                    os.close(os.open(path, os.O_NONBLOCK | (os.O_RDONLY if mode == "wb" else os.O_WRONLY)))
                thread.join(0.02)

        try:
            yield path, finished
        except SessionFailed:
            end()
            if failure and mode == "wb":  # a file that ended too early explains whatever psql said
                raise failure[0] from None
            raise
        finally:
            end()
