"""One collection of many, by every way in: `vecbak workflow`, its configuration, the Python API, the HTTP API."""

from __future__ import annotations

import asyncio
import json
import sys

import pytest

from tests.support.api import serving
from tests.support.collections import EMBEDDING, add, everything, rows_of
from tests.support.server import Database
from tests.support.workspace import Workspace
from vecbak import VectorTableManager
from vecbak.errors import UsageError


@pytest.fixture
def space(tmp_path, database18: Database) -> Workspace:
    """Collections a and b, a workflow whose load inserts nothing, and tasks below `tasks`."""
    for name, rows in (("a", 30), ("b", 20)):
        add(database18, name, rows)
    workspace = Workspace(tmp_path, database18)
    workspace.save(workflow={"steps": [{"name": "training_load", "command": [sys.executable, "-c", "pass"]}]})
    workspace.save(tasks_directory="tasks")
    return workspace


def counts(space: Workspace) -> tuple[int, int]:
    return len(rows_of(space.database, "a")), len(rows_of(space.database, "b"))


@pytest.mark.parametrize("source", ["option", "configuration", "option before configuration"])
def test_a_workflow_manages_these_alone(space: Workspace, source):
    if source != "option":
        space.config["workflow"]["collections"] = ["a" if source == "configuration" else "b"]
        space.save()
    options = () if source == "configuration" else ("--collection", "a")
    done = space.run("workflow", "--truncate-vector-tables", *options, "--json")
    assert done.code == 0, done.stderr
    assert counts(space) == (0, 20)
    assert done.json["vector_management"]["truncate_results"][EMBEDDING]["rows_before"] == 30
    assert json.loads((space.out / "task_config.json").read_text())["collections"] == ["a"]
    assert space.run("show", "latest", "--json").json["scope"] == "collections"


def test_a_workflow_brings_these_alone_back(space: Workspace):
    before = everything(space.database)
    options = ("--truncate-vector-tables", "--on-failure", "restore", "--collection", "a")
    done = space.run("workflow", *options, "--json")
    assert done.code == 1  # the load left the collection empty
    assert done.json["restored"]["restore_performed"] is True
    assert everything(space.database) == before


def test_a_workflow_with_an_unknown_collection_touches_nothing(space: Workspace):
    before = everything(space.database)
    done = space.run("workflow", "--truncate-vector-tables", "--collection", "nobody")
    assert done.code == 2
    assert "'a', 'b'" in done.stderr
    assert everything(space.database) == before
    assert space.run("workflow", "--collection", "a").code == 2


def test_the_python_api(space: Workspace):
    config = space.folder / "vecbak.yaml"
    vectors = VectorTableManager(space.out, config=config, collections=["a"])
    result = asyncio.run(vectors.execute_vector_management(backup=True, truncate=True))
    assert result["truncate_results"][EMBEDDING]["rows_before"] == 30
    assert counts(space) == (0, 20)
    with pytest.raises(UsageError, match="nobody"):
        asyncio.run(VectorTableManager(space.out, config=config, collections=["nobody"]).backup_vector_tables())
    with pytest.raises(TypeError):
        VectorTableManager(space.out, config=config, collections="a")


def test_the_http_api(space: Workspace):
    before = everything(space.database)
    with serving(space) as api:
        saved = api.backup("one", truncate_vector_tables=True, collections=["a"])
        assert saved.status_code == 200, saved.text
        assert counts(space) == (0, 20)
        restored = api.restore(saved.json()["backup_id"], collections=["a"])
        assert restored.status_code == 200, restored.text
        assert everything(space.database) == before
        assert api.restore(saved.json()["backup_id"], collections=["b"]).status_code == 400
        run = api.execute("two", vector_options={"truncate_vector_tables": True, "collections": ["b"]})
        assert run.status_code == 200, run.text
        assert counts(space) == (30, 0)
        assert api.backup("three", collections=["nobody"]).status_code == 400
        assert api.backup("three", collections="a").status_code == 422
        assert api.backup("three", collections=[""]).status_code == 400
