"""A PostgreSQL server with pgvector in a Docker container, for the tests."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg

from tests.support.image import ensure_image
from tests.support.server import SUPERUSER, SUPERUSER_PASSWORD, Cluster

PREFIX = "vecbak-test-"


def docker(*arguments: object, check: bool = True, timeout: float = 60) -> str:
    """Run `docker`, which finds the password in its environment, and return what it prints."""
    done = subprocess.run(
        ["docker", *map(str, arguments)], check=False, capture_output=True, text=True, timeout=timeout,
        env={**os.environ, "POSTGRES_PASSWORD": SUPERUSER_PASSWORD},
    )  # fmt: skip
    assert done.returncode == 0 or not check, done.stderr
    return done.stdout.strip()


def why_no_engine() -> str:
    """Why no container can be had; empty if one can."""
    try:
        done = subprocess.run(["docker", "version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"no Docker engine: {error}"
    return "" if done.returncode == 0 else f"no Docker engine answers: {done.stderr.strip().splitlines()[-1]}"


class ContainerServer(Cluster):
    """A server in a container of its own; its socket inside trusts, its port on 127.0.0.1 asks for the password.

    Args:
        options: of `docker run`.
    """

    def __init__(self, major: int, *options: str) -> None:
        self.major = major
        self.name = f"{PREFIX}{uuid.uuid4().hex[:8]}"
        settings = {"fsync": "off", "max_connections": "60", "wal_level": "logical", "log_min_messages": "warning"}
        words = [word for item in settings.items() for word in ("-c", "=".join(item))]
        docker(
            "run", "--detach", "--name", self.name, "--publish", "127.0.0.1::5432", "--shm-size=256m",
            "--env", "POSTGRES_PASSWORD", *options, ensure_image(major), "postgres", *words,
        )  # fmt: skip
        self.wait()

    def dsn(self, dbname: str) -> str:
        """Over the published port."""
        return f"postgresql://{SUPERUSER}:{SUPERUSER_PASSWORD}@127.0.0.1:{self.port}/{dbname}"

    def connection(self, dbname: str, user: str = SUPERUSER) -> dict[str, Any]:
        """Through the socket inside, which trusts."""
        return {"container": self.name, "dbname": dbname, "user": user}

    def wait(self, seconds: float = 60) -> None:
        """Until it answers; the port is another one after each start."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                self.port = int(docker("port", self.name, "5432/tcp").splitlines()[0].rpartition(":")[2])
                psycopg.connect(self.dsn("postgres"), connect_timeout=2).close()
                return
            except (psycopg.OperationalError, IndexError, AssertionError):
                assert time.monotonic() < deadline, docker("logs", self.name, check=False)
                time.sleep(0.1)

    def processes(self) -> list[str]:
        """Command lines of what runs inside beside the server."""
        lines = docker("exec", self.name, "ps", "-o", "args").splitlines()[1:]
        return [line for line in lines if not line.startswith(("postgres", "ps "))]

    def log(self) -> str:
        """What the server wrote."""
        done = subprocess.run(["docker", "logs", self.name], capture_output=True, text=True, timeout=60, check=True)
        return done.stdout + done.stderr

    def remove(self) -> None:
        """End it."""
        docker("rm", "--force", "--volumes", self.name, check=False)


@contextlib.contextmanager
def container_server(major: int, *options: str) -> Iterator[ContainerServer]:
    """A server that is gone when the context ends."""
    server = ContainerServer(major, *options)
    try:
        yield server
    finally:
        server.remove()


def required() -> bool:
    """Whether these tests must run here; then a missing engine is a failure."""
    return os.environ.get("VECBAK_DOCKER_TESTS") == "required"
