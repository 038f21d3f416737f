"""Fixtures that a test module imports to run on this machine and in a container: they stand instead of conftest's.

A test marked `local` uses what a container has no way for (a folder of programs, a proxy before the server's port):
there it is left out, and `tests/end_to_end/test_container.py` has its counterpart.
"""

from __future__ import annotations

import pytest

from tests.support.server import Cluster

CONTAINER = "container"


@pytest.fixture(params=["pg16", "pg18", CONTAINER])
def server(request: pytest.FixtureRequest) -> Cluster:
    """Each version on this machine, and 18 in a container."""
    names = {"pg16": "server16", "pg18": "server18_here", CONTAINER: "container18"}
    found = request.getfixturevalue(names[request.param])
    assert isinstance(found, Cluster)
    return found


@pytest.fixture(params=["here", CONTAINER])
def server18(request: pytest.FixtureRequest) -> Cluster:
    """PostgreSQL 18 on this machine, and in a container."""
    found = request.getfixturevalue("container18" if request.param == CONTAINER else "server18_here")
    assert isinstance(found, Cluster)
    return found


__all__ = ["server", "server18"]
