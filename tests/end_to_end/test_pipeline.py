"""`vecbak run`, `vecbak workflow` and the scripts around them: the vectors managed exactly once, and brought back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.end_to_end.test_restore import both
from tests.support.command import VECBAK, environment, start_vecbak, vecbak
from tests.support.server import Database
from tests.support.workspace import Workspace

EMBEDDING = "langchain_pg_embedding"
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def workspace(tmp_path, filled18: Database) -> Workspace:
    workspace = Workspace(tmp_path, filled18)
    python(workspace, "load.py", "insert('new')")
    return workspace


def python(workspace: Workspace, name: str, body: str) -> list[str]:
    """A program that can insert rows, as a training load does."""
    path = workspace.folder / name
    path.write_text(f"""
import os, signal, sys, time
import psycopg
def insert(prefix, rows=5):
    with psycopg.connect({workspace.database.socket_dsn!r}, autocommit=True) as connection:
        for number in range(rows):
            connection.execute("INSERT INTO {EMBEDDING} (id, document) VALUES (%s, 'new')", [f"{{prefix}}-{{number}}"])
{body}
""")
    return [sys.executable, str(path)]


def load(workspace: Workspace) -> list[str]:
    return [sys.executable, str(workspace.folder / "load.py")]


def backups(workspace: Workspace) -> int:
    return len(workspace.files("vector_backup_*.json"))


def with_steps(workspace: Workspace, *names: str, load_command: list[str] | None = None, **options: object) -> None:
    others = {name: {"name": name, "command": ["sh", "-c", f"echo {name} >> ran; echo says {name}"]} for name in names}
    if "training_load" in others:
        others["training_load"].update(command=load_command or load(workspace), **options)
    workspace.save(workflow={"steps": list(others.values())})


ALL = ("ddl_generation", "qa_generation", "sql_validation", "training_load")


@pytest.mark.parametrize(
    ("entry", "skip"), [("run", False), ("workflow", False), ("workflow", True), ("step", False), ("step", True)]
)
@pytest.mark.parametrize("truncate", [False, True])
@pytest.mark.parametrize("backup", [False, True])
def test_the_table_of_flags(workspace: Workspace, entry, backup, truncate, skip):
    flags = ["--backup-vector-tables"] * backup + ["--truncate-vector-tables"] * truncate
    if entry == "run":
        done = run(workspace, *flags, command=load(workspace))
    else:
        with_steps(workspace, *ALL)
        step = ["--step", "training_load"] if entry == "step" else []
        done = workspace.run("workflow", *flags, *(["--skip-training-load"] * skip), *step)
    assert done.code == 0, done.stderr
    assert backups(workspace) == (1 if backup or truncate else 0)
    assert workspace.database.count(EMBEDDING) == (0 if truncate else 62) + (0 if skip else 5)
    said = done.stdout + done.stderr
    assert ("not performed (no option given)" in said) == (not backup and not truncate)
    if backup or truncate:
        assert "backup performed" in said
        assert ("truncate performed" in said) == truncate
        assert "2 tables, 63 rows, 2 files" in said
        assert "2 tables, 63 rows, 2 files" in (workspace.out / "data_pipeline.log").read_text()


def run(workspace: Workspace, *options: object, command: list[str], **kwargs):
    """vecbak run … -- command, with --output-dir in front of the dashes."""
    return vecbak("run", *options, "--output-dir", workspace.out, "--", *command, cwd=workspace.folder, **kwargs)


# run


@pytest.mark.parametrize("code", [0, 1, 3, 42])
def test_the_commands_code_is_ours(workspace: Workspace, code):
    assert run(workspace, command=["sh", "-c", f"exit {code}"]).code == code


def test_the_commands_streams_are_its_own(workspace: Workspace):
    done = subprocess.run(
        [VECBAK, "-q", "run", "--output-dir", workspace.out, "--", "sh", "-c", "cat; echo err >&2"],
        cwd=workspace.folder, env=environment(), input="typed", capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "typed", "err\n")


def test_options_of_the_command_are_its_own(workspace: Workspace):
    done = run(workspace, command=["echo", "--backup-vector-tables", "-c", "--help"])
    assert done.stdout == "--backup-vector-tables -c --help\n"


def test_the_command_is_never_started_if_the_vectors_cannot_be_managed(workspace: Workspace):
    workspace.database.execute("CREATE TABLE child () INHERITS (langchain_pg_embedding)")
    done = run(workspace, "--truncate-vector-tables", command=["touch", "started"])
    assert done.code == 4
    assert not (workspace.folder / "started").exists()


def test_a_command_that_does_not_exist_is_told_before_anything_is_done(workspace: Workspace):
    done = run(workspace, "--truncate-vector-tables", command=["no-such-program-at-all"])
    assert done.code == 2
    assert workspace.database.count(EMBEDDING) == 62
    assert backups(workspace) == 0


def test_restore_needs_a_backup(workspace: Workspace):
    assert run(workspace, "--on-failure", "restore", command=["true"]).code == 2


RESTORE = ("--truncate-vector-tables", "--on-failure", "restore")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("insert('half'); sys.exit(9)", 9),
        ("insert('half'); os.kill(os.getpid(), signal.SIGKILL)", 137),
        ("insert('half'); signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)", 124),
        ("pass", 1),
    ],
    ids=["fails", "SIGKILL", "ignores SIGTERM past its timeout", "leaves the table empty"],
)
def test_a_failed_load_takes_itself_back(workspace: Workspace, body, code):
    before = both(workspace.database)
    command = python(workspace, "bad.py", body)
    done = run(workspace, *RESTORE, *(["--timeout", "1.5"] if code == 124 else []), command=command)
    assert done.code == code, done.stderr
    assert both(workspace.database) == before
    assert "the old vectors were brought back from backup" in done.stderr


def test_a_backend_that_outlives_its_command_is_waited_for(workspace: Workspace):
    """A killed command's query runs on, and its transaction holds the table longer than lock_seconds."""
    workspace.save(timeouts={"lock_seconds": 1})
    before = both(workspace.database)
    body = f"""
import threading
connection = psycopg.connect({workspace.database.socket_dsn!r})
connection.execute("INSERT INTO {EMBEDDING} (id) VALUES ('half')")
threading.Thread(target=connection.execute, args=("SELECT pg_sleep(5)",), daemon=True).start()
time.sleep(0.5)
os.kill(os.getpid(), signal.SIGKILL)"""
    done = run(workspace, *RESTORE, command=python(workspace, "bad.py", body))
    assert done.code == 137, done.stderr
    assert "trying again" in done.stderr
    assert both(workspace.database) == before


def test_the_backup_is_not_pruned_while_the_load_runs(workspace: Workspace):
    before = both(workspace.database)
    workspace.save(retention={"keep_last": 1})
    prune = [str(VECBAK), "backup", "--prune", "--output-dir", str(workspace.out)]
    body = f"import subprocess; insert('half'); subprocess.run({prune!r}, check=True); sys.exit(9)"
    done = run(workspace, *RESTORE, command=python(workspace, "bad.py", body))
    assert done.code == 9, done.stderr
    assert backups(workspace) == 3  # its own, the one of the load, and the safety backup
    assert both(workspace.database) == before


def test_a_table_may_be_left_empty(workspace: Workspace):
    assert run(workspace, *RESTORE, "--allow-empty", command=["true"]).code == 0
    assert workspace.database.count(EMBEDDING) == 0


def test_keep_keeps(workspace: Workspace):
    command = python(workspace, "bad.py", "insert('half'); sys.exit(9)")
    assert run(workspace, "--truncate-vector-tables", command=command).code == 9
    assert workspace.database.count(EMBEDDING) == 5


def test_a_good_load_stays(workspace: Workspace):
    assert run(workspace, *RESTORE, command=load(workspace)).code == 0
    assert workspace.database.count(EMBEDDING) == 5


@pytest.mark.parametrize("entry", ["run", "workflow"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_load_takes_itself_back(workspace: Workspace, entry, number):
    before = both(workspace.database)
    command = python(workspace, "slow.py", "insert('half'); open('loading', 'w'); time.sleep(60)")
    if entry == "run":
        process = start_vecbak("run", *RESTORE, "--output-dir", workspace.out, "--", *command, cwd=workspace.folder)
    else:
        with_steps(workspace, *ALL, load_command=command)
        process = start_vecbak("workflow", *RESTORE, "--output-dir", workspace.out, cwd=workspace.folder)
    deadline = time.monotonic() + 60
    while not (workspace.folder / "loading").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number, errors
    assert "brought back from backup" in errors
    assert both(workspace.database) == before
    if entry == "workflow":
        result = json.loads((workspace.out / "task_result.json").read_text())
        assert result["restored"]["restore_performed"] is True
        assert result["exit_code"] == 128 + number


# workflow


def test_the_steps_run_in_order_and_say_what_they_say(workspace: Workspace):
    with_steps(workspace, *ALL)
    done = workspace.run("workflow", "--truncate-vector-tables", "--json")
    assert done.code == 0, done.stderr
    assert (workspace.folder / "ran").read_text().split() == list(ALL[:3])
    log = (workspace.out / "data_pipeline.log").read_text()
    assert "[qa_generation] says qa_generation" in log
    assert log.index("[sql_validation] says") < log.index("truncated langchain_pg_embedding")
    assert [step["status"] for step in done.json["steps"]] == ["done"] * 4
    assert done.json["vector_management"]["truncate_performed"] is True
    assert json.loads((workspace.out / "task_result.json").read_text()) == done.json
    asked = json.loads((workspace.out / "task_config.json").read_text())
    assert asked["truncate_vector_tables"] is True
    assert asked["execution_mode"] == "complete"


def test_a_failed_step_ends_the_run_before_the_vectors_are_touched(workspace: Workspace):
    with_steps(workspace, *ALL)
    workspace.config["workflow"]["steps"][1]["command"] = ["sh", "-c", "echo broken >&2; exit 5"]
    workspace.save()
    done = workspace.run("workflow", "--truncate-vector-tables", "--json")
    assert done.code == 5
    assert done.json["success"] is False
    assert [step["status"] for step in done.json["steps"]] == ["done", "failed"]
    assert "[qa_generation] broken" in (workspace.out / "data_pipeline.log").read_text()
    assert workspace.database.count(EMBEDDING) == 62
    assert backups(workspace) == 0


def test_a_step_that_takes_too_long(workspace: Workspace):
    before = both(workspace.database)
    command = python(
        workspace, "slow.py", "insert('half'); signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    )
    with_steps(workspace, *ALL, load_command=command, timeout_seconds=1.5)
    done = workspace.run("workflow", *RESTORE)
    assert done.code == 124
    assert both(workspace.database) == before


@pytest.mark.parametrize("step", ALL[:3])
def test_the_flags_belong_to_training_load(workspace: Workspace, step):
    with_steps(workspace, *ALL)
    done = workspace.run("workflow", "--step", step, "--truncate-vector-tables", "--json")
    assert done.code == 0
    assert "ignored" in done.json["warnings"][0]
    assert done.json["vector_management"]["note"] == "not performed (the options belong to training_load)"
    assert (backups(workspace), workspace.database.count(EMBEDDING)) == (0, 62)


def test_unknown_steps_and_no_steps(workspace: Workspace):
    assert workspace.run("workflow").code == 2
    with_steps(workspace, *ALL)
    done = workspace.run("workflow", "--step", "nothing")
    assert done.code == 2
    assert "ddl_generation" in done.stderr


def test_a_workflow_whose_vectors_cannot_be_managed(workspace: Workspace):
    with_steps(workspace, *ALL)
    workspace.database.execute("CREATE TABLE child () INHERITS (langchain_pg_embedding)")
    done = workspace.run("workflow", "--truncate-vector-tables", "--json")
    assert done.code == 4
    assert done.json["success"] is False
    assert json.loads((workspace.out / "task_result.json").read_text())["exit_code"] == 4


def test_what_a_step_leaves_running_does_not_hold_us(workspace: Workspace):
    workspace.save(workflow={"steps": [{"name": "daemon", "command": ["sh", "-c", "sleep 30 & echo $! > pid"]}]})
    began = time.monotonic()
    assert workspace.run("workflow").code == 0
    assert time.monotonic() - began < 15
    os.kill(int((workspace.folder / "pid").read_text()), signal.SIGKILL)


# exactly once


def test_a_run_inside_a_workflow_does_it_once(workspace: Workspace):
    inner = [
        str(VECBAK),
        "run",
        "--truncate-vector-tables",
        "--output-dir",
        str(workspace.folder / "inner"),
        "--",
        *load(workspace),
    ]
    with_steps(workspace, *ALL, load_command=inner)
    done = workspace.run("workflow", "--truncate-vector-tables", "--json")
    assert done.code == 0, done.stderr
    assert backups(workspace) == 1
    assert not (workspace.folder / "inner" / "vector_bak").exists()
    assert workspace.database.count(EMBEDDING) == 5
    assert "not performed again" in (workspace.out / "data_pipeline.log").read_text()


def test_another_way_to_the_same_tables_is_the_same(workspace: Workspace):
    parts = workspace.database
    other = workspace.folder / "other.yaml"
    other.write_text(
        f"connection: {{host: {parts.server.folder}, port: {parts.server.port}, dbname: {parts.name}, user: postgres}}\n"
        "vector_tables: {supported_tables: [public.langchain_pg_embedding, public.langchain_pg_collection], truncate_tables: [public.langchain_pg_embedding]}\n"
    )
    inner = [str(VECBAK), "run", "-c", str(other), "--truncate-vector-tables", "--output-dir", "inner", "--", "true"]
    done = run(workspace, "--truncate-vector-tables", command=inner)
    assert done.code == 0, done.stderr
    assert "not performed again" in done.stderr


def test_a_child_that_truncates_after_a_parent_that_only_backed_up_does_it(workspace: Workspace):
    inner = [str(VECBAK), "run", "--truncate-vector-tables", "--output-dir", "inner", "--", "true"]
    assert run(workspace, "--backup-vector-tables", command=inner).code == 0
    assert workspace.database.count(EMBEDDING) == 0
    assert (workspace.folder / "inner" / "vector_bak").exists()


def test_other_tables_are_not_the_same(workspace: Workspace):
    workspace.database.execute("CREATE TABLE notes (x int); INSERT INTO notes VALUES (1)")
    other = workspace.folder / "other.yaml"
    other.write_text(
        f"connection: {{dsn: '{workspace.database.socket_dsn}'}}\nbackup: {{min_free_bytes: 0, min_free_percent: 0}}\n"
        "vector_tables: {supported_tables: [notes], truncate_tables: [notes]}\n"
    )
    inner = [str(VECBAK), "run", "-c", str(other), "--truncate-vector-tables", "--output-dir", "inner", "--", "true"]
    assert run(workspace, "--truncate-vector-tables", command=inner).code == 0
    assert workspace.database.count("notes") == 0


# the scripts and the sample


def scripted(workspace: Workspace, script: str, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "scripts" / "pipeline" / script, *arguments], cwd=workspace.folder, capture_output=True, text=True,
        env=environment(VECBAK=str(VECBAK), **changes), timeout=120, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_the_scripts(workspace: Workspace):
    with_steps(workspace, *ALL)
    done = scripted(workspace, "schema_workflow.sh", "one")
    assert done.returncode == 0, done.stderr
    assert workspace.database.count(EMBEDDING) == 5
    done = scripted(workspace, "run_training.sh", "two", "sh", "-c", "exit 7")
    assert done.returncode == 7, done.stderr
    assert workspace.database.count(EMBEDDING) == 5
    workspace.save(retention={"keep_last": 1})
    for _ in range(2):
        done = scripted(workspace, "nightly_backup.sh")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    nights = [item for item in vecbak("list", "--json", cwd=workspace.folder).json if item["task_id"] == "nightly"]
    assert [item["proven_restorable"] for item in nights] == [True], "last night's went, tonight's is proven"
    (workspace.folder / "vecbak.yaml").unlink()
    done = scripted(workspace, "nightly_backup.sh")
    assert done.returncode == 1
    assert "does not exist" in done.stderr
    for script in ("schema_workflow.sh", "run_training.sh"):
        assert scripted(workspace, script).returncode == 2


def test_the_sample_workflow(tmp_path, filled18: Database):
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = environment(VECBAK_DSN=filled18.socket_dsn, VECBAK_TASKS=str(tmp_path), PATH=paths)
    done = vecbak(
        "workflow", "-c", "config/workflow.yaml", "--task-id", "sample", *RESTORE, "--json", cwd=ROOT, env=env
    )  # fmt: skip
    assert done.code == 0, done.stderr
    assert filled18.count(EMBEDDING) == 40
    assert done.json["vector_management"]["summary"]["rows"] == 63
