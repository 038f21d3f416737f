"""Every cell of the fault matrix, on a real server of its own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.faults import FAULTS, MATRIX, OPERATIONS, Case, try_case
from tests.support.server import Server


@pytest.fixture(scope="module")
def own_server(server_folder: Path) -> Iterator[Server]:
    """A server that may be stopped."""
    server = Server(server_folder / f"f{uuid.uuid4().hex[:6]}", 18)
    server.create()
    server.start()
    try:
        yield server
    finally:
        server.stop()


CASES = [pytest.param(case, marks=pytest.mark.needs("root") if FAULTS[case.fault].disk else ()) for case in MATRIX]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_nothing_is_lost(case: Case, own_server: Server, tmp_path):
    outcome = try_case(case, own_server, tmp_path)
    assert outcome.problems == ()


def test_every_step_and_every_fault_is_in_the_matrix():
    assert {case.fault for case in MATRIX} == set(FAULTS)
    for operation, steps in OPERATIONS.items():
        assert {case.step for case in MATRIX if case.operation == operation} == set(steps)
