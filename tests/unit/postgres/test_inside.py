"""Programs in a container: their command lines, where they are, and what is asked of a container."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import yaml

from tests.unit.examples import ScriptedRunner
from vecbak.config_file import load_config
from vecbak.errors import ConnectionFailed, Refused
from vecbak.extras import install_hint
from vecbak.postgres import container as containers
from vecbak.postgres.connection import Endpoint, endpoint_inside
from vecbak.postgres.container import Container, find_container
from vecbak.postgres.inside import _LOOK, ContainedInstallation, contained_installation
from vecbak.postgres.programs import exporting_psql_command, psql_command, restore_list_command
from vecbak.postgres.runner import Completed

BOX = Container("0123456789abcdef", "box", {"POSTGRES_PASSWORD": "hidden-8812"})
OUTSIDE = ["docker", "exec", "-i", "-e", "PGPASSWORD", "0123456789ab"]
LOOK = (*OUTSIDE, "sh", "-c", _LOOK)
EVERYTHING = "/bin\npsql (PostgreSQL) 18.4\npsql\npg_dump\npg_restore\nstdbuf\nmkfifo\ngrep\ncat\nrm\n"


def installation(*programs: str) -> ContainedInstallation:
    return ContainedInstallation(Path("/usr/bin"), 18, "container", BOX, frozenset(programs))


def test_psql_runs_inside_and_no_secret_is_in_its_command_line():
    options = ["-XAtqw", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose", "--dbname=user=u", "-f", "-"]
    assert psql_command(installation(), "user=u") == [*OUTSIDE, "/usr/bin/psql", *options]
    assert exporting_psql_command(installation(), "user=u") == [*OUTSIDE, "/usr/bin/psql", *options]
    buffered = exporting_psql_command(installation("stdbuf"), "user=u")
    assert buffered == [*OUTSIDE, "stdbuf", "--output=256K", "/usr/bin/psql", *options]
    assert restore_list_command(installation()) == [*OUTSIDE, "/usr/bin/pg_restore", "--file=-"]


def test_a_container_keeps_its_environment_to_itself():
    assert "hidden-8812" not in repr(BOX)
    assert "hidden-8812" not in repr(installation())


def test_what_a_container_has():
    found = contained_installation(ScriptedRunner({LOOK: EVERYTHING}), BOX)
    assert (found.folder, found.major, found.place) == (Path("/bin"), 18, "the container box")
    assert found.has("pg_dump")
    assert not found.has("pg_basebackup")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("", "there is no psql 13 or newer in the container box"),
        ("/bin\npsql (PostgreSQL) 12.1\npsql\n", "there is no psql 13 or newer"),
        (EVERYTHING.replace("grep\n", ""), "has no grep"),
        (Completed(126, "", 'exec: "sh": executable file not found'), "does not let programs be run"),
    ],
)
def test_what_a_container_lacks(answer, words):
    with pytest.raises(Refused, match=words):
        contained_installation(ScriptedRunner({LOOK: answer}), BOX)


@pytest.mark.parametrize(
    ("given", "environment", "user", "dbname"),
    [
        ({}, {}, "postgres", "postgres"),
        ({}, {"POSTGRES_USER": "ada"}, "ada", "ada"),
        ({}, {"POSTGRES_USER": "ada", "POSTGRES_DB": "vectors"}, "ada", "vectors"),
        ({"user": "bob"}, {"POSTGRES_USER": "ada"}, "bob", "bob"),
        ({"dbname": "mine"}, {"POSTGRES_DB": "vectors"}, "postgres", "mine"),
    ],
)
def test_user_and_database_are_the_containers(given, environment, user, dbname):
    found = endpoint_inside(Endpoint(given, "secret"), "box", environment)
    # its own server, whatever PGHOST, PGHOSTADDR or PGSERVICE the container's environment has
    own = {"host": "", "hostaddr": ""}
    assert (found.parameters, found.password) == ({"user": user, "dbname": dbname, **own}, "secret")
    assert found.host == "container box"


def test_another_server_is_reached_as_the_config_says():
    found = endpoint_inside(Endpoint({"host": "db"}), "box", {"POSTGRES_USER": "ada"})
    assert (found.parameters, found.host) == ({"host": "db"}, "db as seen from container box")


def test_the_example_for_compose_names_what_it_starts():
    config = Path(__file__).parents[3] / "config"
    services = yaml.safe_load((config / "compose.yml").read_text())["services"]
    wanted = load_config(config / "container.yaml").config.connection.container
    assert wanted == f"com.docker.compose.service={next(iter(services))}"
    assert services["db"]["image"] == "pgvector/pgvector:pg18"
    assert "./container.yaml:/etc/vecbak/vecbak.yaml:ro" in services["vecbak"]["volumes"]


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "docker", None)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    with pytest.raises(Refused, match="needs the extra `docker`") as caught:
        find_container("box", seconds=1)
    assert caught.value.hint == install_hint("docker")


@pytest.mark.parametrize(
    ("state", "words", "hint"),
    [
        ({"Paused": True, "Running": True}, "is paused", "docker unpause box"),
        ({"Restarting": True, "ExitCode": 1}, "restarts over and over", "docker logs box"),
        ({"Status": "created", "ExitCode": 0}, "was never started", "docker start box"),
        ({"Status": "exited", "ExitCode": 137, "OOMKilled": True}, "exit code 137, out of memory", "docker start box"),
    ],
)
def test_one_that_does_not_run(state, words, hint):
    with pytest.raises(ConnectionFailed, match=words) as caught:
        containers._check_running(state, "box")
    assert hint in caught.value.hint
