"""What surrounds a run: hooks with their facts, `--prune`, the metrics file. None of it can undo a backup or hide an error."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest

from tests.support.command import environment, start_vecbak, vecbak
from tests.support.programs import slow_pg_dump
from tests.support.server import SUPERUSER, SUPERUSER_PASSWORD, free_port
from tests.support.workspace import Workspace

EMBEDDING = "langchain_pg_embedding"
WRITE = 'env | grep -E "^(VECBAK|PGPASSWORD)" | sort > "$0.$VECBAK_EVENT"'


@pytest.fixture
def space(filled18, tmp_path):
    return Workspace(tmp_path, filled18)


def writing(space, *events: str) -> dict[str, list[list[str]]]:
    return {event: [["sh", "-c", WRITE, str(space.folder / "facts")]] for event in events}


def facts(space, event: str) -> dict[str, str]:
    lines = (space.folder / f"facts.{event}").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


def metrics(space) -> dict[str, float]:
    lines = (space.folder / "vecbak.prom").read_text().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def test_hooks_are_told_the_facts_and_never_the_password(space, filled18):
    address = f"127.0.0.1:{filled18.server.port}/{filled18.name}"
    space.save(
        connection={"dsn": f"postgresql://{SUPERUSER}@{address}", "password": "${PGPASSWORD}"},
        hooks=writing(space, "before", "after", "on_error"),
    )
    done = space.run("truncate", "--task-id", "nightly", "--json", env=environment(PGPASSWORD=SUPERUSER_PASSWORD))
    assert done.code == 0, done.stderr
    before, after = facts(space, "before"), facts(space, "after")
    assert (before["VECBAK_TASK_ID"], before["VECBAK_BACKUP_ID"], before["VECBAK_ROWS"]) == ("nightly", "", "")
    assert before["VECBAK_BACKUP_DIRECTORY"] == str(space.backups)
    assert after["VECBAK_BACKUP_ID"] == done.json["backup_id"]
    assert after["VECBAK_MANIFEST"] == done.json["manifest"]
    assert after["VECBAK_DATABASE"] == filled18.name
    assert after["VECBAK_ROWS"] == "63"
    assert int(after["VECBAK_BYTES"]) == sum(item["size_bytes"] for item in done.json["tables_backed_up"].values())
    assert (after["VECBAK_TRUNCATED"], after["VECBAK_ERROR"], after["VECBAK_EXIT_CODE"]) == ("true", "", "0")
    assert not (space.folder / "facts.on_error").exists()
    for event in ("before", "after"):
        assert SUPERUSER_PASSWORD not in (space.folder / f"facts.{event}").read_text()


def test_a_before_hook_that_fails_refuses_the_run(space):
    space.save(
        hooks={**writing(space, "on_error"), "before": [["sh", "-c", "echo not today; exit 3"], ["touch", "second"]]}
    )
    done = space.run("truncate")
    assert done.code == 4, done.stderr
    assert "hook before the run failed" in done.stderr
    assert "exit code 3" in done.stderr
    assert "\n  not today\n" in done.stderr, "what it printed belongs to the error: there is no log file yet"
    assert not space.out.exists()
    assert not (space.folder / "second").exists()
    assert space.database.count(EMBEDDING) == 62
    assert facts(space, "on_error")["VECBAK_EXIT_CODE"] == "4"


def test_before_hooks_run_before_any_lock_and_in_the_configs_folder(space):
    query = f"SELECT count(*) FROM pg_locks WHERE relation = '{EMBEDDING}'::regclass"
    (space.folder / "look").write_text(f'#!/bin/sh\n"{space.database.server.bin}/psql" -XAt "{space.database.socket_dsn}" -c "{query}" > locks\n')  # fmt: skip
    (space.folder / "look").chmod(0o755)
    space.save(hooks={"before": [["./look"]]})
    done = space.run("truncate", env=environment(LD_LIBRARY_PATH=None))
    assert done.code == 0, done.stderr
    assert (space.folder / "locks").read_text() == "0\n"


def test_paths_start_from_the_configs_folder_wherever_vecbak_runs(space, tmp_path_factory):
    (space.folder / "note").write_text("#!/bin/sh\npwd > where\n")
    (space.folder / "note").chmod(0o755)
    space.save(hooks={"after": [["./note"]]}, metrics_textfile="vecbak.prom")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    done = vecbak("backup", "-c", space.folder / "vecbak.yaml", "--output-dir", space.out, cwd=elsewhere)
    assert done.code == 0, done.stderr
    assert (space.folder / "where").read_text() == f"{space.folder}\n"
    assert metrics(space)["vecbak_last_run_success"] == 1
    assert list(elsewhere.iterdir()) == []


def test_an_after_hook_that_fails_is_a_warning_and_the_next_one_runs(space):
    space.save(hooks={"after": [["sh", "-c", "echo far away >&2; exit 9"], ["no-such-program-x"], ["touch", "third"]]})
    done = space.run("backup", "--json")
    assert done.code == 0, done.stderr
    assert done.json["backup_performed"] is True
    assert len(done.json["errors"]) == 2
    assert "exit code 9" in done.json["errors"][0]
    assert "no-such-program-x" in done.json["errors"][1]
    assert "WARNING a hook after the run failed" in done.stderr
    assert (space.folder / "third").exists()
    log = (space.out / "data_pipeline.log").read_text()
    assert "hook after: | far away" in log


def test_a_hook_that_hangs_is_stopped(space):
    space.save(hooks={"after": [["sleep", "60"]], "timeout_seconds": 0.5})
    began = time.monotonic()
    done = space.run("backup", "--json")
    assert done.code == 0, done.stderr
    assert time.monotonic() - began < 15
    assert "was stopped" in done.json["errors"][0]


@pytest.mark.parametrize("hook", [["sh", "-c", WRITE], ["false"], ["no-such-program-x"]])
def test_on_error_never_hides_the_error(space, hook):
    commands = [[*hook, str(space.folder / "facts")]]
    space.save(connection={"dsn": f"postgresql://nobody@127.0.0.1:{free_port()}/x"}, hooks={"on_error": commands})
    done = space.run("backup")
    assert done.code == 3, done.stderr
    assert "Error: cannot connect to the database" in done.stderr
    if hook[0] == "sh":
        found = facts(space, "on_error")
        assert (found["VECBAK_EXIT_CODE"], found["VECBAK_ERROR"]) == ("3", "cannot connect to the database")
    else:
        assert "a hook on error failed" in done.stderr


def test_on_error_after_a_truncate_that_failed_names_the_backup_that_is_kept(space):
    space.save(timeouts={"truncate_seconds": 0.5}, hooks=writing(space, "on_error"))
    with space.database.connect(autocommit=False) as reader:
        reader.execute(f"SELECT 1 FROM {EMBEDDING} LIMIT 1")
        done = space.run("truncate", "--json")
        reader.rollback()
    assert done.code == 6, done.stderr
    found = facts(space, "on_error")
    assert found["VECBAK_BACKUP_ID"] == done.json["backup_id"]
    assert (found["VECBAK_TRUNCATED"], found["VECBAK_EXIT_CODE"]) == ("false", "6")


@pytest.mark.parametrize("moment", ["before", "running", "after"])
def test_interrupted(space, moment):
    hang = {moment: [["sh", "-c", "echo $$$$ > hanging; exec sleep 60"]]} if moment != "running" else {}
    look = ["sh", "-c", "kill -0 $(cat hanging) && touch still-running"]
    hooks = {"on_error": [*writing(space, "on_error")["on_error"], look]}
    space.save(hooks={**hooks, **hang}, metrics_textfile="vecbak.prom")
    if moment == "running":
        space.save(connection={"bin_dir": str(slow_pg_dump(space.folder, seconds=60, after="touch ../../hanging"))})
    running = start_vecbak("backup", "--json", "--output-dir", space.out, cwd=space.folder)
    deadline = time.monotonic() + 30
    while not (space.folder / "hanging").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(running.pid, signal.SIGTERM)
    stdout, stderr = running.communicate(timeout=30)
    assert running.returncode == 143, stderr
    document = json.loads(stdout)
    assert not (space.folder / "still-running").exists()
    if moment == "after":
        assert document["backup_performed"] is True
        assert "complete and kept" in stderr
        assert metrics(space)["vecbak_last_run_success"] == 1
        assert not (space.folder / "facts.on_error").exists()
    else:
        assert document["backup_performed"] is False
        assert facts(space, "on_error")["VECBAK_EXIT_CODE"] == "143"
        assert metrics(space)["vecbak_last_run_success"] == 0


def test_metrics_of_success_and_failure(space):
    space.save(metrics_textfile="vecbak.prom")
    began = time.time()
    done = space.run("truncate", "--json")
    first = metrics(space)
    assert began <= first["vecbak_last_success_timestamp_seconds"] <= time.time()
    assert first["vecbak_last_run_success"] == 1
    assert first[f'vecbak_rows{{table="{EMBEDDING}"}}'] == 62
    assert first[f'vecbak_bytes{{table="{EMBEDDING}"}}'] == done.json["tables_backed_up"][EMBEDDING]["size_bytes"]
    assert first["vecbak_failures_total"] == 0
    space.save(backup={"min_free_bytes": 1 << 60})
    assert space.run("backup").code == 4
    assert space.run("backup").code == 4
    then = metrics(space)
    assert then["vecbak_last_run_success"] == 0
    assert then["vecbak_failures_total"] == 2
    for series in ("vecbak_last_success_timestamp_seconds", f'vecbak_rows{{table="{EMBEDDING}"}}'):
        assert then[series] == first[series]
    assert then["vecbak_last_run_timestamp_seconds"] > first["vecbak_last_run_timestamp_seconds"]


def test_metrics_that_cannot_be_written_are_a_warning(space):
    space.save(metrics_textfile="/proc/1/vecbak.prom")
    done = space.run("truncate", "--json")
    assert done.code == 0, done.stderr
    assert done.json["truncate_performed"] is True
    assert "the metrics could not be written" in done.json["errors"][0]
    space.save(backup={"min_free_bytes": 1 << 60})
    done = space.run("backup")
    assert done.code == 4
    assert "the metrics could not be written" in done.stderr
