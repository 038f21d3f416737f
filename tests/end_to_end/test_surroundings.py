"""Whatever a run is started in: closed, full or blocked outputs, odd signals, limits and folders change nothing of what it does.

Every run is a real process of a shell, and the rows are counted afterwards.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.command import VECBAK, Ended, environment
from tests.support.workspace import Workspace

EMBEDDING = "langchain_pg_embedding"
ROWS = 62

REDIRECTIONS = [
    ">&-", "2>&-", "<&-", ">&- 2>&-", ">&- 2>&- <&-", ">/dev/full", "2>/dev/full", ">/dev/full 2>&1",
    "| true", "2>&1 | true", "| head -c 5", "1<vecbak.yaml", "2<vecbak.yaml", ">&- 2>/dev/full",
]  # fmt: skip


@pytest.fixture
def space(filled18, tmp_path) -> Workspace:
    return Workspace(tmp_path, filled18)


def shell(
    space: Workspace, script: str, *, cwd: Path | None = None, prepare: Callable[[], None] | None = None, **changes: str | None
) -> Ended:  # fmt: skip
    """Run a script in which $V is vecbak and $OUT the output directory; its exit code is the first program's of a pipeline."""
    env = environment(V=str(VECBAK), OUT=str(space.out), CONFIG=str(space.folder / "vecbak.yaml"), **changes)
    done = subprocess.run(
        ["/bin/bash", "-c", f"{script}\nexit ${{PIPESTATUS[0]}}"], cwd=cwd or space.folder, env=env, preexec_fn=prepare,
        stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    out, err = (text.decode(errors="replace") for text in (done.stdout, done.stderr))
    assert "Traceback" not in err, err
    assert done.returncode != 70, err
    return Ended(done.returncode, out, err)


def rows(space: Workspace) -> int:
    return int(space.database.count(EMBEDDING))


# outputs


@pytest.mark.parametrize("redirection", REDIRECTIONS)
def test_a_truncate_and_a_restore_do_their_work(space, redirection):
    done = shell(space, f'"$V" truncate --yes --output-dir "$OUT" {redirection}')
    assert (done.code, rows(space)) == (0, 0), done.stderr
    assert space.run("verify", "latest").code == 0  # nothing was written into a file that got a stream's number
    done = shell(space, f'"$V" -v restore latest --json --output-dir "$OUT" {redirection}')
    assert (done.code, rows(space)) == (0, ROWS), done.stderr


@pytest.mark.parametrize("redirection", REDIRECTIONS)
def test_a_load_begins_and_what_it_breaks_is_taken_back(space, redirection):
    load = 'run --truncate-vector-tables --on-failure restore --output-dir "$OUT" -- sh -c "touch begun; exit 3"'
    done = shell(space, f'"$V" {load} {redirection}')
    assert (done.code, rows(space)) == (3, ROWS), done.stderr
    assert (space.folder / "begun").exists()


@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">/dev/full 2>&1", "2>&1 | true"])
def test_a_workflow_goes_on(space, redirection):
    space.save(workflow={"steps": [{"name": "training_load", "command": ["sh", "-c", "echo loading; exit 4"]}]})
    done = shell(
        space, f'"$V" workflow --truncate-vector-tables --on-failure restore --output-dir "$OUT" {redirection}'
    )
    assert (done.code, rows(space)) == (4, ROWS), done.stderr
    assert "loading" in (space.out / "data_pipeline.log").read_text()


@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">/dev/full", "| true", ">&- 2>&- <&-"])
@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("doctor", 0), ("backup --json", 0), ("backup --dry-run", 0), ("list", 0), ("list --json", 0), ("show latest", 0),
        ("verify latest", 0), ("prune --dry-run --json", 0), ("show none", 2), ("--help", 0), ("completion bash", 0),
    ],
)  # fmt: skip
def test_every_command_ends_with_its_own_code(space, command, code, redirection):
    assert space.run("backup").code == 0
    where = "" if command.startswith(("--help", "completion")) else '--output-dir "$OUT"'
    assert shell(space, f'"$V" {command} {where} {redirection}').code == code


def test_what_standard_output_lacks_is_told(space):
    assert "No space left on device; what was done stays done" in shell(space, '"$V" list >/dev/full').stderr
    assert shell(space, '"$V" list | true').stderr == ""  # a reader that has read enough is no trouble


def test_a_reader_of_the_log_that_sleeps_holds_up_nobody_for_long(space):
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    os.set_blocking(writer, True)
    began = time.monotonic()
    done = subprocess.run(
        [VECBAK, "-v", "truncate", "--yes", "--output-dir", space.out], cwd=space.folder, env=environment(),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=writer, timeout=120, check=False,
    )  # fmt: skip
    os.close(writer)
    os.close(reader)
    assert (done.returncode, rows(space)) == (0, 0)
    assert time.monotonic() - began < 60


def test_a_descriptor_that_does_not_block_gets_everything(space):
    assert space.run("backup").code == 0
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writer, False)
    command = [VECBAK, "show", "latest", "--json", "--output-dir", space.out]
    process = subprocess.Popen(command, cwd=space.folder, env=environment(), stdout=writer)
    os.close(writer)
    time.sleep(2)  # its pipe is full meanwhile
    with os.fdopen(reader) as file:
        assert json.load(file)["database"] == space.database.name
    assert process.wait(60) == 0


@pytest.mark.needs("root")
def test_a_log_whose_disk_fills_up_in_mid_run_is_told_and_stops_nothing(space, small_disk):
    out = small_disk / "out"
    out.mkdir()
    (out / "vector_bak").symlink_to(space.folder)  # the backups have room
    fill = f"cat /dev/zero >{small_disk}/full 2>/dev/null; seq 9000; exit 3"
    space.save(workflow={"steps": [{"name": "training_load", "command": ["sh", "-c", fill]}]})
    done = shell(space, f'"$V" workflow --truncate-vector-tables --on-failure restore --output-dir {out}')
    assert (done.code, rows(space)) == (3, ROWS), done.stderr
    assert done.stderr.count("data_pipeline.log could not be written: No space left on device") == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"LC_ALL": "C"}, {"LC_ALL": "xx_YY.UTF-8"}, {"LANG": "xx", "LANGUAGE": "yy"}, {"PYTHONIOENCODING": "ascii:strict"},
        {"PYTHONIOENCODING": "utf-16"}, {"PYTHONUNBUFFERED": "1"}, {"PYTHONDEVMODE": "1"}, {"TERM": "dumb"}, {"TERM": None},
        {"COLUMNS": "0"}, {"COLUMNS": "99999999999999999999"}, {"COLUMNS": "x"}, {"HOME": None}, {"HOME": "/nonexistent"},
        {"PATH": None}, {"TMPDIR": "/nonexistent"}, {"TZ": "Nowhere/Such"}, {"XDG_RUNTIME_DIR": "/nonexistent"},
    ],
    ids=str,
)  # fmt: skip
def test_an_odd_environment(space, changes):
    done = shell(space, '"$V" truncate --yes --output-dir "$OUT"', **changes)
    assert (done.code, rows(space)) == (0, 0), done.stderr
    done = shell(space, '"$V" restore latest --output-dir "$OUT"', **changes)
    assert (done.code, rows(space)) == (0, ROWS), done.stderr
    assert shell(space, '"$V" doctor', **changes).code == 0


# what a parent has set up


def _ignore(*numbers: signal.Signals) -> Callable[[], None]:
    return lambda: [signal.signal(number, signal.SIG_IGN) for number in numbers] and None


def _block(*numbers: signal.Signals) -> Callable[[], None]:
    return lambda: signal.pthread_sigmask(signal.SIG_BLOCK, numbers) and None


PARENTS: dict[str, Callable[[], object]] = {
    "ignores SIGCHLD": _ignore(signal.SIGCHLD),
    "ignores SIGPIPE": _ignore(signal.SIGPIPE),
    "ignores SIGINT, SIGHUP and SIGTERM": _ignore(signal.SIGINT, signal.SIGHUP, signal.SIGTERM),
    "blocks signals": _block(signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE),
    "umask 000": lambda: os.umask(0),
    "umask 777": lambda: os.umask(0o777),
    "a session of its own": os.setsid,
}


@pytest.mark.parametrize("parent", PARENTS)
def test_an_odd_parent(space, parent):
    def prepare() -> None:
        PARENTS[parent]()

    done = shell(space, 'exec "$V" truncate --yes --output-dir "$OUT"', prepare=prepare)
    assert (done.code, rows(space)) == (0, 0), done.stderr
    assert {path.stat().st_mode & 0o777 for path in space.backups.iterdir()} == {0o600}
    assert space.backups.stat().st_mode & 0o777 == 0o700
    load = 'exec "$V" run --truncate-vector-tables --on-failure restore --output-dir "$OUT" -- sh -c "exit 3"'
    assert shell(space, '"$V" restore latest --output-dir "$OUT"', prepare=prepare).code == 0
    done = shell(space, load, prepare=prepare)
    assert (done.code, rows(space)) == (3, ROWS), done.stderr


def test_a_blocked_sigterm_ends_a_run_all_the_same(space):
    process = subprocess.Popen(
        [VECBAK, "run", "--truncate-vector-tables", "--on-failure", "restore", "--output-dir", space.out, "--",
         "sh", "-c", "touch begun; exec sleep 60"],
        cwd=space.folder, env=environment(), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]),
    )  # fmt: skip
    while not (space.folder / "begun").exists():
        time.sleep(0.05)
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert (process.returncode, rows(space)) == (143, ROWS), err


@pytest.mark.parametrize("descriptors", [8, 12, 16, 20, 24, 28, 32, 40])
def test_few_descriptors(space, descriptors):
    def prepare() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

    done = shell(space, 'exec "$V" truncate --yes --output-dir "$OUT"', prepare=prepare)
    assert (done.code == 0) == (rows(space) == 0), done.stderr
    assert done.code in {0, 4, 5}, done.stderr
    assert "bin_dir" not in done.stderr, "a wrong hint"
    assert rows(space) == (ROWS if done.code else 0)
    if done.code:
        assert "Too many open files" in done.stderr
        assert "ulimit" in done.stderr or "Mend" in done.stderr
    else:
        assert space.run("verify", "latest").code == 0


@pytest.mark.parametrize("size", [0, 100, 5_000, 20_000])
def test_files_that_may_not_grow(space, size):
    def prepare() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    done = shell(space, 'exec "$V" truncate --yes --output-dir "$OUT"', prepare=prepare)
    assert done.code in {4, 5}, done.stderr
    assert rows(space) == ROWS
    assert not space.files("*.json*")


# folders


def test_a_current_folder_that_is_gone(space):
    gone = "mkdir gone && cd gone && rmdir ../gone && "
    done = shell(space, f'{gone} exec "$V" truncate --yes -c "$CONFIG" --output-dir "$OUT"')
    assert (done.code, rows(space)) == (0, 0), done.stderr
    done = shell(space, f'{gone} exec "$V" restore latest -c "$CONFIG" --output-dir "$OUT"')
    assert (done.code, rows(space)) == (0, ROWS), done.stderr
    for command in ("truncate --yes", 'truncate --yes -c "$CONFIG" --output-dir out', "init", "doctor", "prune --yes"):
        done = shell(space, f'{gone} exec "$V" {command}')
        assert done.code == 2, (command, done.stderr)
        assert "current folder" in done.stdout + done.stderr
    assert rows(space) == ROWS
    assert shell(space, f'{gone} exec "$V" list -c "$CONFIG"').code == 0


@pytest.mark.needs("root")
def test_a_current_folder_that_may_not_be_entered(space):
    user = pwd.getpwnam("nobody")
    closed = space.folder / "closed"
    closed.mkdir()
    out = space.folder / "nobodys"
    out.mkdir()
    os.chown(out, user.pw_uid, user.pw_gid)
    for folder in (space.folder, *space.folder.parents[:-2]):
        folder.chmod(folder.stat().st_mode | 0o055)
    (space.folder / "vecbak.yaml").chmod(0o644)
    programs = shutil.which("setpriv")
    inside = f"chmod 700 . && exec {programs} --reuid=nobody --clear-groups"
    server = space.database.server
    assert server.folder.stat().st_mode & 0o055
    done = shell(space, f'{inside} "$V" truncate --yes -c "$CONFIG" --output-dir {out}', cwd=closed)
    assert (done.code, rows(space)) == (0, 0), done.stderr
    for command in ("truncate --yes", "list", "doctor", f"truncate --yes -c closed/x.yaml --output-dir {out}"):
        done = shell(space, f'{inside} "$V" {command}', cwd=closed)
        assert done.code in {0, 2}, (command, done.stderr)
    done = shell(space, f'exec {programs} --reuid=nobody --clear-groups "$V" list --output-dir closed')
    assert done.code == 2
    assert "cannot be read" in done.stderr


WRITTEN = [
    ".task.lock", "task_config.json", "task_result.json", "data_pipeline.log", "vector_bak",
    "vector_bak/vector_backup_log.txt", "metrics.prom",
]  # fmt: skip


@pytest.mark.parametrize("made", ["link", "dangling", "loop", "folder", "fifo", "device"])
@pytest.mark.parametrize("name", WRITTEN)
def test_what_stands_where_vecbak_writes_is_never_followed_and_never_waited_for(space, name, made):
    space.save(
        workflow={"steps": [{"name": "training_load", "command": ["true"]}]}, metrics_textfile=str(space.out / "metrics.prom")
    )  # fmt: skip
    precious = space.folder / "precious"
    precious.write_text("precious")
    path = space.out / name
    path.parent.mkdir(parents=True)
    if made == "device" and os.geteuid() != 0:
        pytest.skip("it must run as root")
    {
        "link": lambda: path.symlink_to(precious),
        "dangling": lambda: path.symlink_to(space.folder / "made"),
        "loop": lambda: path.symlink_to(path),
        "folder": lambda: path.mkdir(),
        "fifo": lambda: os.mkfifo(path),
        "device": lambda: os.mknod(path, 0o020600, os.makedev(1, 5)),  # /dev/zero: endless
    }[made]()
    done = shell(space, 'exec "$V" workflow --truncate-vector-tables --output-dir "$OUT"')
    assert done.code in {0, 4, 5}, done.stderr
    assert (done.code == 0) == (rows(space) == 0), done.stderr
    assert precious.read_text() == "precious"
    assert not (space.folder / "made").exists()
    if done.code:
        assert "Hint:" in done.stderr
        assert rows(space) == ROWS
    if name == ".task.lock":
        assert done.code == 4
        assert "cannot be claimed" in done.stderr


def test_names_that_are_no_text(space):
    odd = b"out\xff\x1b[31m"
    env = environment()
    folder = os.fsencode(space.folder) + b"/" + odd
    command = [os.fsencode(VECBAK), b"truncate", b"--yes", b"--json", b"--output-dir", folder]
    done = subprocess.run(
        command, cwd=space.folder, env=env, capture_output=True, stdin=subprocess.DEVNULL, check=False
    )
    assert (done.returncode, rows(space)) == (0, 0), done.stderr
    assert json.loads(done.stdout)["backup_directory"].endswith("vector_bak")
    assert b"\x1b" not in done.stdout + done.stderr
    done = subprocess.run(
        [os.fsencode(VECBAK), b"restore", b"latest", b"--output-dir", folder], cwd=space.folder, env=env, capture_output=True,
        stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert (done.returncode, rows(space)) == (0, ROWS), done.stderr
    assert b"\x1b" not in done.stdout + done.stderr
