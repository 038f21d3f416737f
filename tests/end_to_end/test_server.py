"""`vecbak serve`, started as a process against a real database."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.end_to_end.test_pipeline import ALL, EMBEDDING, python, with_steps
from tests.end_to_end.test_restore import both
from tests.support.api import PREFIX, TOKEN, Api, serving
from tests.support.command import VECBAK, environment, vecbak
from tests.support.programs import slow_pg_dump
from tests.support.server import Database, bin_folder
from tests.support.workspace import Workspace

STATUS_BY_BODY = [
    ({"execution_mode": "bogus"}, 400),
    ({"execution_mode": 7}, 422),
    ({"execution_mode": "step"}, 400),
    ({"execution_mode": "step", "step_name": "nothing"}, 400),
    ({"step_name": "training_load"}, 400),
    ({"backup_vector_tables": "yes"}, 422),
    ({"vector_options": {"truncate_vector_tables": 1}}, 422),
    ({"vector_options": []}, 422),
    ({"truncate_vector_tables": True, "vector_options": {"truncate_vector_tables": False}}, 400),
    ({"connection": {"dsn": "postgresql://elsewhere/"}}, 400),
    ([], 422),
]


@pytest.fixture
def workspace(tmp_path, filled18: Database) -> Workspace:
    workspace = Workspace(tmp_path, filled18)
    workspace.save(tasks_directory="tasks")
    insert = f"INSERT INTO {EMBEDDING} (id, document) SELECT 'new-' || n, 'new' FROM generate_series(1, 5) n"
    psql = [str(bin_folder(18) / "psql"), "-Xq", "-d", filled18.socket_dsn, "-c", insert]
    with_steps(workspace, *ALL, load_command=psql)
    return workspace


@pytest.fixture
def api(workspace: Workspace):
    with serving(workspace) as api:
        yield api


def folder(workspace: Workspace, task: str) -> Path:
    return workspace.folder / "tasks" / task


def backups(workspace: Workspace, task: str) -> list[Path]:
    return sorted((folder(workspace, task) / "vector_bak").glob("vector_backup_*.json"))


def problem(answer: httpx.Response, status: int) -> dict[str, object]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, object] = answer.json()
    assert {"type", "title", "status", "detail", "hint"} <= set(document)
    assert document["status"] == status
    assert "Traceback" not in answer.text
    return document


# the table of flags


def test_the_table_of_flags(workspace: Workspace, api: Api):
    """Complete and training_load alone, flat and nested, for all flags."""
    old = both(workspace.database)
    combinations = [
        (mode, backup, truncate, skip)
        for mode in ("complete", "step")
        for backup in (False, True)
        for truncate in (False, True)
        for skip in (False, True)
    ]
    for number, (mode, backup, truncate, skip) in enumerate(combinations):
        task = f"t{number}"
        flags = {"backup_vector_tables": backup, "truncate_vector_tables": truncate, "skip_training": skip}
        body = flags if number % 3 else {"vector_options": flags}
        step = "training_load" if mode == "step" else None
        answer = api.execute(task, execution_mode=mode, step_name=step, **body)
        assert answer.status_code == 200, answer.text
        document = answer.json()
        assert (document["success"], document["task_id"]) == (True, task)
        assert (document["execution_mode"], document["step_name"]) == (mode, step)
        assert document["warnings"] == []
        managed = document["result"]["vector_management"]
        assert managed["backup_performed"] == (backup or truncate)
        assert managed["truncate_performed"] == truncate
        assert len(backups(workspace, task)) == (1 if backup or truncate else 0)
        assert workspace.database.count(EMBEDDING) == (0 if truncate else 62) + (0 if skip else 5), flags
        state = document["result"]["workflow_state"]
        ran = ([] if mode == "step" else list(ALL[:3])) + ([] if skip else ["training_load"])
        assert (state["state"], state["completed_steps"]) == ("completed", ran)
        assert state["skipped_steps"] == (["training_load"] if skip else [])
        if truncate:
            assert api.restore("latest", task_id=task, mode="replace").status_code == 200
        workspace.database.execute("DELETE FROM langchain_pg_embedding WHERE id LIKE 'new-%'")
        assert both(workspace.database) == old


def test_other_steps_ignore_the_flags_and_say_so(workspace: Workspace, api: Api):
    for step in ALL[:3]:
        answer = api.execute("other", execution_mode="step", step_name=step, truncate_vector_tables=True)
        assert answer.status_code == 200
        assert "ignored" in answer.json()["warnings"][0]
    assert "ignored" in api.execute(
        "other", execution_mode="step", step_name=ALL[0], skip_training=True
    ).json()["warnings"][0]  # fmt: skip
    assert backups(workspace, "other") == []
    assert workspace.database.count(EMBEDDING) == 62


def test_a_step_that_fails(workspace: Workspace):
    workspace.config["workflow"]["steps"][1]["command"] = ["sh", "-c", "exit 5"]
    workspace.save()
    with serving(workspace) as api:
        document = api.execute("failing", truncate_vector_tables=True).json()
        assert document["success"] is False
        state = document["result"]["workflow_state"]
        assert (state["state"], state["failed_steps"], state["exit_code"]) == ("failed", ["qa_generation"], 5)
        known = api.state("failing")
        assert [step["status"] for step in known["steps"]] == ["done", "failed", "pending", "pending"]
    assert workspace.database.count(EMBEDDING) == 62


# backup, restore, looking


def test_back_up_truncate_restore(workspace: Workspace, api: Api):
    before = both(workspace.database)
    first = api.backup("one", truncate_vector_tables=True)
    assert first.status_code == 200, first.text
    assert first.json()["truncate_performed"] is True
    assert first.json()["tables_backed_up"][EMBEDDING]["row_count"] == 62
    assert workspace.database.count(EMBEDDING) == 0
    listed = api.client.get(f"{PREFIX}/tasks/one/backups").json()["backups"]
    assert [item["backup_id"] for item in listed] == [first.json()["backup_id"]]
    assert api.client.get(f"{PREFIX}/vector/backups").json()["backups"] == listed
    assert api.state("one")["result"]["vector_management"]["truncate_performed"] is True
    restored = api.restore(first.json()["backup_id"])
    assert restored.status_code == 200, restored.text
    assert restored.json()["restore_performed"] is True
    assert both(workspace.database) == before
    assert (api.state("one")["operation"], api.state("one")["state"]) == ("restore", "completed")
    refused = problem(api.restore("latest"), 409)
    assert refused["exit_code"] == 4
    assert "restore" in refused["result"]


def test_what_is_not_there(workspace: Workspace, api: Api):
    problem(api.client.get(f"{PREFIX}/tasks/nobody"), 404)
    problem(api.client.get(f"{PREFIX}/tasks/nobody/backups"), 404)
    problem(api.restore("20200101_000000"), 404)
    problem(api.client.get("/nothing"), 404)
    problem(api.client.put("/healthz"), 405)
    for name in ("..", "a.b", "%2e%2e", "..%2Fetc", "a%00", "a" * 129, "%C3%A4", "a%0A"):
        for method, path in (("GET", ""), ("GET", "/backups"), ("POST", "/execute")):
            answer = api.client.request(method, f"{PREFIX}/tasks/{name}{path}", json={})
            assert answer.status_code in {400, 404, 405}, (name, answer.text)
        problem(api.backup(name), 400)
        problem(api.restore(name), 400)
    assert not (workspace.folder / "tasks").exists()


def test_invalid_bodies(workspace: Workspace, api: Api):
    for body, status in STATUS_BY_BODY:
        answer = api.client.post(f"{PREFIX}/tasks/invalid/execute", json=body)
        problem(answer, status)
        assert "elsewhere" not in answer.text
    problem(api.client.post(f"{PREFIX}/vector/backup", content=b"{", headers={"content-type": "application/json"}), 400)
    json = {"content-type": "application/json"}
    for content in (b'{"\\ud800": 1}', b'{"task_id": "\\ud800"}', b"\xff\xfe", b"[" * 60000, b'{"task_id": NaN}', b""):
        answer = api.client.post(f"{PREFIX}/vector/backup", content=content, headers=json)
        assert answer.status_code in {400, 422}, (content, answer.text)
    assert not (workspace.folder / "tasks").exists()


def test_a_preflight_that_refuses_and_a_database_that_is_away(workspace: Workspace, api: Api):
    workspace.database.execute("CREATE TABLE child () INHERITS (langchain_pg_embedding)")
    refused = problem(api.backup("refused", truncate_vector_tables=True), 409)
    assert (refused["exit_code"], refused["type"]) == (4, "urn:vecbak:problem:refused")
    assert "child" in str(refused["detail"])
    assert not folder(workspace, "refused").exists()
    assert api.state("refused")["problem"]["detail"] == refused["detail"]
    assert (
        problem(api.execute("refused", truncate_vector_tables=True), 409)["result"]["workflow_state"]["exit_code"] == 4
    )


def test_a_database_that_is_away(workspace: Workspace):
    secret = "hunter2-and-more"
    workspace.save(connection={"dsn": f"postgresql://someone:{secret}@127.0.0.1:1/nowhere"})
    with serving(workspace) as api:
        answer = api.backup("away")
        assert problem(answer, 503)["exit_code"] == 3
        assert secret not in answer.text
        assert "postgresql://" not in answer.text
        assert api.client.get("/healthz").status_code == 200


def test_it_does_not_wait_if_asked(workspace: Workspace):
    with_steps(workspace, *ALL, load_command=python(workspace, "load.py", "time.sleep(1); insert('new')"))
    with serving(workspace) as api:
        answer = api.execute("poll", wait=False, truncate_vector_tables=True)
        assert answer.status_code == 202
        assert answer.headers["location"] == f"{PREFIX}/tasks/poll"
        deadline = time.monotonic() + 30
        while (state := api.state("poll"))["current_step"] != "training_load" or not state["progress"]:
            assert time.monotonic() < deadline
        assert state["state"] == "running"
        assert [step["status"] for step in state["steps"]] == ["done"] * 3 + ["running"]
        done = api.await_state("poll", "completed")
        assert done["result"]["vector_management"]["truncate_performed"] is True
    assert workspace.database.count(EMBEDDING) == 5


# one at a time


def test_twenty_at_once_make_one_backup(workspace: Workspace, api: Api):
    barrier = threading.Barrier(20)

    def ask(_: int) -> int:
        barrier.wait()
        return api.execute("crowd", backup_vector_tables=True, skip_training=True).status_code

    with ThreadPoolExecutor(20) as pool:
        codes = sorted(pool.map(ask, range(20)))
    assert codes == [200] + [409] * 19
    assert len(backups(workspace, "crowd")) == 1


def test_tasks_beside_each_other_have_logs_of_their_own(workspace: Workspace):
    workspace.config["workflow"]["steps"][0]["command"] = [
        "sh",
        "-c",
        "for i in 1 2 3; do echo $VECBAK_TASK_ID; sleep 0.2; done",
    ]
    workspace.save()
    with serving(workspace) as api, ThreadPoolExecutor(3) as pool:
        bodies = pool.map(lambda task: api.execute(task, execution_mode="step", step_name=ALL[0]), ("a", "b", "c"))
        assert [answer.status_code for answer in bodies] == [200] * 3
    for task in ("a", "b", "c"):
        lines = (folder(workspace, task) / "data_pipeline.log").read_text().splitlines()
        assert [line.rpartition("] ")[2] for line in lines if "[ddl_generation]" in line] == [task] * 3


def test_children_know_neither_the_token_nor_other_pipelines(workspace: Workspace):
    workspace.config["workflow"]["steps"][0]["command"] = ["sh", "-c", "env > environment"]
    workspace.save()
    with serving(workspace) as api:
        api.execute("first", truncate_vector_tables=True, skip_training=True)
        api.execute("second", execution_mode="step", step_name=ALL[0])
    said = (workspace.folder / "environment").read_text()
    assert TOKEN not in said
    assert "VECBAK_MANAGED" not in said
    assert "VECBAK_TASK_ID=second" in said


def test_a_run_inside_a_task_does_it_once(workspace: Workspace):
    inner = [str(VECBAK), "run", "--truncate-vector-tables", "--output-dir", "inner", "--", "true"]
    with_steps(workspace, *ALL, load_command=inner)
    with serving(workspace) as api:
        assert api.execute("outer", truncate_vector_tables=True).json()["success"] is True
    assert len(backups(workspace, "outer")) == 1
    assert not (workspace.folder / "inner" / "vector_bak").exists()


# who may


def test_without_the_token_nothing_is_told(workspace: Workspace):
    with serving(workspace, send=None) as api:
        for sent in ("", "wrong", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", "Bearer"):
            api.client.headers = httpx.Headers({"Authorization": sent} if sent else {})
            for answer in (
                api.client.get(f"{PREFIX}/vector/backups"),
                api.backup("x"),
                api.execute("x"),
                api.client.get("/nothing"),
            ):
                problem(answer, 401)
                assert "Bearer" in answer.headers["www-authenticate"]
        assert api.client.get("/healthz").json()["status"] == "ok"
        assert api.client.get("/docs").status_code == 200
    assert not (workspace.folder / "tasks").exists()


def test_without_a_token_of_the_server(workspace: Workspace):
    """It starts, says what it can do and how to set one, and does nothing for anybody on the machine."""
    with serving(workspace, token=None, send=None) as api:
        said = (workspace.folder / "server.log").read_text()
        assert "VECBAK_API_TOKEN is not set" in said
        assert "export VECBAK_API_TOKEN=$(openssl rand -hex 32)" in said
        told = problem(api.backup("plain"), 401)
        assert "VECBAK_API_TOKEN" in str(told["hint"])
        problem(api.execute("plain", execution_mode="step", step_name="training_load"), 401)
        problem(api.restore("latest"), 401)
        problem(api.client.get(f"{PREFIX}/vector/backups"), 401)
        assert api.client.get("/healthz").json()["status"] == "ok"
        problem(api.client.get("/healthz", headers={"Host": "evil.example"}), 403)
    assert workspace.database.count(EMBEDDING) == 62
    assert not (workspace.folder / "tasks").exists()


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.0.1", "::", "example.org"])  # noqa: S104 - it must refuse
def test_without_a_token_it_binds_to_loopback_only(workspace: Workspace, host):
    done = vecbak("serve", "--host", host, "--port", "0", cwd=workspace.folder, env=environment(VECBAK_API_TOKEN=""))
    assert done.code == 2
    assert "loopback" in done.stderr


def test_large_requests(api: Api):
    problem(api.client.post(f"{PREFIX}/vector/backup", content=b" " * 65537), 413)
    problem(api.client.post(f"{PREFIX}/vector/backup", content=(b"x" * 10000 for _ in range(100))), 413)


# its end


def reader(workspace: Workspace):
    """A session that has read and keeps its lock, so that TRUNCATE waits."""
    connection = workspace.database.connect(autocommit=False)
    connection.execute(f"SELECT count(*) FROM {EMBEDDING}")
    return connection


def await_truncate(workspace: Workspace, api: Api, task: str) -> None:
    """Until the backup is complete and TRUNCATE waits for its lock."""
    deadline = time.monotonic() + 30
    log = folder(workspace, task) / "data_pipeline.log"
    while not log.exists() or "TRUNCATE waits for its lock" not in log.read_text():
        assert time.monotonic() < deadline
        assert api.process.poll() is None
        time.sleep(0.02)


def held(workspace: Workspace) -> int:
    """Advisory locks: what a run of vecbak holds on the server."""
    return int(
        workspace.database.value(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_its_end_in_mid_truncate_loses_nothing(workspace: Workspace, number):
    before = both(workspace.database)
    with serving(workspace) as api:
        with reader(workspace), ThreadPoolExecutor(1) as pool:
            answer = pool.submit(lambda: _answer(api))
            await_truncate(workspace, api, "ended")
            code = api.end(number)
            if number == signal.SIGKILL:
                assert answer.result() is None
            else:
                assert code == 128 + number
                told = answer.result()
                assert told is not None
                assert problem(told, 503)["exit_code"] == 128 + number
        deadline = time.monotonic() + 10
        while held(workspace):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert both(workspace.database) == before
    with serving(workspace) as api:
        known = api.state("ended")
        assert known["state"] == "interrupted"
        assert [step["status"] for step in known["steps"]][-1:] == ["pending"]
        assert len(api.client.get(f"{PREFIX}/tasks/ended/backups").json()["backups"]) == 1
        assert api.execute("ended", truncate_vector_tables=True).json()["success"] is True
        assert api.state("ended")["state"] == "completed"
    with serving(workspace) as api:
        assert api.state("ended")["state"] == "completed"
        assert api.state("ended")["result"]["vector_management"]["truncate_performed"] is True


def _answer(api: Api) -> httpx.Response | None:
    try:
        return api.execute("ended", truncate_vector_tables=True)
    except httpx.TransportError:
        return None


def test_a_load_is_ended_too(workspace: Workspace):
    with_steps(workspace, *ALL, load_command=python(workspace, "load.py", "open('loading', 'w'); time.sleep(60)"))
    with serving(workspace) as api:
        api.execute("loading", wait=False, backup_vector_tables=True)
        deadline = time.monotonic() + 30
        while not (workspace.folder / "loading").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        began = time.monotonic()
        assert api.end() == 143
        assert time.monotonic() - began < 10
    with serving(workspace) as api:
        known = api.state("loading")
        assert known["state"] == "interrupted"
        assert known["steps"][-1]["status"] == "failed"


def test_a_backup_is_ended_and_leaves_nothing(workspace: Workspace):
    workspace.save(connection={"bin_dir": str(slow_pg_dump(workspace.folder, seconds=60))})
    with serving(workspace) as api, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(api.backup, "slow", truncate_vector_tables=True)
        deadline = time.monotonic() + 30
        while not list((folder(workspace, "slow") / "vector_bak").glob("*.csv")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert api.end(signal.SIGINT) == 130
        assert problem(answer.result(), 503)["exit_code"] == 130
    names = {path.name for path in (folder(workspace, "slow") / "vector_bak").iterdir()}
    assert names <= {"vector_backup_log.txt"}
    assert workspace.database.count(EMBEDDING) == 62
    with serving(workspace) as api:
        assert (api.state("slow")["state"], api.state("slow")["operation"]) == ("interrupted", "backup")


# its own description


CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def test_its_own_openapi_finds_no_5xx(workspace: Workspace):
    with_steps(workspace, *ALL, load_command=["true"])
    with serving(workspace) as api:
        api.backup("fuzzed")
        done = subprocess.run(
            [VECBAK.parent / "schemathesis", "run", f"{api.url}/openapi.json", f"--header=Authorization: Bearer {TOKEN}", f"--checks={CHECKS}",
             "--max-examples=5", "--phases=coverage,fuzzing", "--seed=7", "--no-color",
             "--generation-database=none"],
            cwd=workspace.folder, env=environment(), capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert api.client.get("/healthz").status_code == 200
