"""A backup in a place that does not last: nothing is truncated or replaced for it, or it is told."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from tests.support.command import environment
from tests.support.workspace import Workspace
from vecbak import VectorTableManager
from vecbak.errors import Refused

EMBEDDING = "langchain_pg_embedding"
ROWS = 62


@pytest.fixture
def space(filled18, tmp_path) -> Workspace:
    """A user's folder below one that Airflow made for a task."""
    folder = tmp_path / "airflowtmpk3x1_2vq"
    folder.mkdir()
    return Workspace(folder, filled18)


def only_manifest(space: Workspace) -> dict:
    [path] = space.backups.glob("vector_backup_*.json")
    return json.loads(path.read_text())


@pytest.mark.parametrize(
    "words",
    [
        ["truncate", "--yes"], ["backup", "--truncate", "--yes"], ["truncate", "--prune", "--json"],
        ["run", "--truncate-vector-tables", "--", "touch", "begun"],
        ["run", "--truncate-vector-tables", "--on-failure", "restore", "--", "touch", "begun"],
        ["workflow", "--truncate-vector-tables"], ["truncate", "--collection", "COLLECTION", "--yes"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_nothing_is_truncated_below_a_tasks_folder(space, words):
    space.save(
        workflow={
            "steps": [{"name": "ddl", "command": ["touch", "begun"]}, {"name": "training_load", "command": ["true"]}]
        }
    )
    [(collection,)] = space.database.fetch("SELECT name FROM langchain_pg_collection LIMIT 1")
    command = words.index("--") if "--" in words else len(words)
    words = [collection if word == "COLLECTION" else word for word in words]
    done = (
        space.run(*words)
        if command == len(words)
        else space.run(*words[:command], "--output-dir", "out", *words[command:])
    )
    assert done.code == 4, done.stderr
    assert "airflowtmpk3x1_2vq, which a scheduler made for one task" in done.stderr
    assert space.database.count(EMBEDDING) == ROWS
    assert not (space.folder / "begun").exists()
    assert not space.files("*")


def test_a_backup_alone_is_made_and_says_so(space):
    done = space.run("backup", "--json")
    assert done.code == 0
    assert done.json["durable"] is False
    assert only_manifest(space)["durable"] is False
    assert "goes when the task of" in done.stderr
    assert space.run("list", "--json").json[0]["durable"] is False
    assert "Place:" in space.run("show", "latest").stdout


def test_doctor_foretells_it(space):
    done = space.run("doctor", "--json")
    assert done.code == 4
    [folder] = [check for check in done.json["checks"] if check["name"] == "folder"]
    assert folder["status"] == "failed"
    assert "one task" in folder["message"]
    assert folder["hint"]
    space.save(vector_tables={"truncate_tables": []})
    assert space.run("doctor").code == 0


def test_a_replace_needs_a_safety_backup_that_lasts(space, tmp_path):
    lasting = tmp_path / "lasting"
    assert space.run("backup", "--output-dir", lasting).code == 0  # the last --output-dir counts: in the task's folder
    done = space.run("restore", "latest", "--mode", "replace", "--yes")
    assert done.code == 4
    assert space.database.count(EMBEDDING) == ROWS
    assert space.run("restore", "latest", "--mode", "replace", "--no-safety-backup", "--yes").code == 0
    assert space.database.count(EMBEDDING) == ROWS


def test_the_python_api_refuses_too(space):
    manager = VectorTableManager(space.out, config=space.folder / "vecbak.yaml")
    with pytest.raises(Refused, match="one task"):
        asyncio.run(manager.truncate_vector_tables())
    assert space.database.count(EMBEDDING) == ROWS


def test_links_are_resolved_first(space, tmp_path):
    lasting = tmp_path / "lasting"
    lasting.mkdir()
    (space.folder / "kept").symlink_to(lasting)
    (tmp_path / "looks_kept").symlink_to(space.folder)
    config = ("--config", space.folder / "vecbak.yaml", "--yes")
    bad = space.run("truncate", *config, "--output-dir", tmp_path / "looks_kept")
    assert bad.code in {0, 4}  # space.run names its own folder last
    assert space.database.count(EMBEDDING) == ROWS
    space.out.symlink_to(lasting)
    done = space.run("truncate", "--yes", "--json")
    assert (done.code, space.database.count(EMBEDDING)) == (0, 0), done.stderr


@pytest.mark.parametrize("pattern", ["$MY_TASK_FOLDER", "task-[0-9]*"])
def test_the_patterns_are_the_configurations(filled18, tmp_path, pattern):
    space = Workspace(tmp_path / "task-17", _made(tmp_path / "task-17", filled18))
    space.save(backup={"task_folder_patterns": [pattern]})
    env = environment(MY_TASK_FOLDER=str(space.folder))
    assert space.run("truncate", "--yes", env=env).code == 4
    space.save(backup={"task_folder_patterns": []})
    assert space.run("truncate", "--yes", env=env).code == 0


def _made(folder: Path, database):
    folder.mkdir()
    return database


def test_another_temporary_place_is_a_warning(filled18, tmp_path):
    space = Workspace(tmp_path, filled18)
    done = space.run("truncate", "--yes", "--json")
    assert done.code == 0
    assert done.json["durable"] is False
    assert only_manifest(space)["durable"] is False
    assert "WARNING the backup folder" in done.stderr
    assert "is for what is temporary" in done.stderr
    assert "is for what is temporary" in (space.out / "data_pipeline.log").read_text()
    done = space.run("restore", "latest", "--mode", "replace", "--yes", "--json")
    assert done.code == 0


@pytest.mark.needs("root")
def test_memory_is_no_place(filled18, small_disk, tmp_path):
    """A tmpfs elsewhere than below /tmp; where TMPDIR lets tests be elsewhere."""
    place = Path("/mnt/vecbak-memory") if not str(small_disk).startswith("/mnt") else small_disk
    place.mkdir(parents=True, exist_ok=True)
    os.system(f"mount -t tmpfs -o size=8m tmpfs {place}")  # noqa: S605
    try:
        space = Workspace(tmp_path, filled18)
        space.save(backup={"backup_directory": "b"})
        space.out.mkdir()
        (space.out / "b").symlink_to(place)
        done = space.run("backup", "--json")
        assert done.code == 0, done.stderr
        assert "is in memory (tmpfs)" in done.stderr
        assert done.json["durable"] is False
    finally:
        os.system(f"umount -l {place}")  # noqa: S605
        place.rmdir()


def test_a_place_that_lasts_says_so(filled18, tmp_path):
    place = Path(__file__).parents[2] / f".place-{tmp_path.name}"
    place.mkdir()
    try:
        space = Workspace(tmp_path, filled18)
        space.out.symlink_to(place)
        done = space.run("truncate", "--yes", "--json")
        assert done.code == 0
        assert done.json["durable"] is True
        assert only_manifest(space)["durable"] is True
        assert "WARNING" not in done.stderr
    finally:
        for path in sorted(place.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        place.rmdir()


def test_what_a_relative_output_dir_means_is_in_the_log(space):
    from tests.support.command import vecbak

    done = vecbak("backup", "--output-dir", "here", cwd=space.folder)
    assert done.code == 0
    assert f"--output-dir here is {space.folder}/here" in done.stderr
    assert f"--output-dir here is {space.folder}/here" in (space.folder / "here" / "data_pipeline.log").read_text()
