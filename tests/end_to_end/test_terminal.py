"""vecbak on a real (pseudo) terminal: the question, the bars, Ctrl-C."""

from __future__ import annotations

import os
import pty
import select
import time

import pytest

from tests.support import langchain
from tests.support.command import VECBAK, environment
from tests.support.programs import slow_pg_dump
from tests.support.workspace import Workspace

EMBEDDING = "langchain_pg_embedding"


def on_terminal(*arguments, folder, answers=(), interrupt_at=None, seconds=60, program=VECBAK):
    """Run vecbak on a terminal of its own: its exit code and everything it showed.

    `answers` are pairs: what is waited for, what is typed then. `interrupt_at`: a function that says when to press Ctrl-C.
    """
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.execve(program, [str(program), *map(str, arguments)], {**environment(), "TERM": "xterm", "COLUMNS": "100"})
    shown, waiting = b"", list(answers)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.05)[0]:
            try:
                shown += os.read(terminal, 65536)
            except OSError:
                break
        if waiting and waiting[0][0] in shown:
            os.write(terminal, waiting.pop(0)[1])
        if interrupt_at and interrupt_at():
            os.write(terminal, b"\x03")
            interrupt_at = None
    else:
        os.kill(pid, 9)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(terminal)
    return code, shown.decode(errors="replace")


def test_the_question_names_everything_and_no_means_no(filled18, tmp_path):
    space = Workspace(tmp_path, filled18)
    arguments = ("truncate", "--output-dir", space.out)
    code, shown = on_terminal(*arguments, folder=tmp_path, answers=[(b"[y/N]", b"n\n")])
    assert code == 1, shown
    for word in (
        str(filled18.server.folder),
        filled18.name,
        EMBEDDING,
        "62 rows",
        "langchain_pg_collection",
        "Writers",
    ):
        assert word in shown
    assert filled18.count(EMBEDDING) == 62
    assert not space.out.exists()


def test_yes_truncates_and_shows_bars(filled18, tmp_path):
    space = Workspace(tmp_path, filled18)
    arguments = ("truncate", "--output-dir", space.out)
    code, shown = on_terminal(*arguments, folder=tmp_path, answers=[(b"[y/N]", b"y\n")])
    assert code == 0, shown
    assert "62/62" in shown
    assert "truncated" in shown
    assert filled18.count(EMBEDDING) == 0


def test_yes_option_skips_the_question(filled18, tmp_path):
    space = Workspace(tmp_path, filled18)
    code, shown = on_terminal("truncate", "--yes", "--output-dir", space.out, folder=tmp_path)
    assert code == 0, shown
    assert "[y/N]" not in shown


def test_ctrl_c_at_the_question_and_in_mid_run(database18, tmp_path):
    langchain.fill(database18, 100)
    space = Workspace(tmp_path, database18)
    began = time.monotonic()
    code, shown = on_terminal(
        "truncate", "--output-dir", space.out, folder=tmp_path, interrupt_at=lambda: time.monotonic() > began + 2
    )
    assert code == 130, shown
    assert not space.out.exists()
    space.save(connection={"bin_dir": str(slow_pg_dump(tmp_path, seconds=30))})
    code, shown = on_terminal(
        "truncate", "--yes", "--output-dir", space.out, folder=tmp_path,
        interrupt_at=lambda: bool(list(space.backups.glob("*_embedding_*.csv"))),
    )  # fmt: skip
    assert code == 130, shown
    assert "nothing was truncated" in shown
    assert space.files() == ["vector_backup_log.txt"]
    assert database18.count(EMBEDDING) == 100


def test_a_command_has_the_terminal_for_itself(filled18, tmp_path):
    space = Workspace(tmp_path, filled18)
    command = (
        "--",
        "sh",
        "-c",
        "test -t 0 && test -t 1 && test -t 2 && echo ready && read line && echo got $line; exit 3",
    )
    code, shown = on_terminal(
        "run", "--backup-vector-tables", "--output-dir", space.out, *command,
        folder=tmp_path, answers=[(b"ready", b"hello\n")],
    )  # fmt: skip
    assert code == 3, shown
    assert "got hello" in shown
    assert (
        "langchain_pg_embedding" not in shown[shown.index("ready") : shown.index("got hello")]
    )  # no bar is drawn over it


def test_ctrl_c_ends_a_load_and_brings_the_old_vectors_back(filled18, tmp_path):
    space = Workspace(tmp_path, filled18)
    arguments = ("run", "--truncate-vector-tables", "--on-failure", "restore", "--output-dir", space.out)
    loading = tmp_path / "loading"
    code, shown = on_terminal(
        *arguments, "--", "sh", "-c", f"touch {loading}; sleep 60", folder=tmp_path, interrupt_at=loading.exists
    )
    assert code == 130, shown
    assert "brought back from backup" in shown
    assert filled18.count(EMBEDDING) == 62


def test_replace_asks_and_names_the_tables(filled18, tmp_path):
    space = Workspace(tmp_path, filled18)
    assert space.run("backup").code == 0
    arguments = ("restore", "latest", "--mode", "replace", "--output-dir", space.out)
    code, shown = on_terminal(*arguments, folder=tmp_path, answers=[(b"[y/N]", b"n\n")])
    assert code == 1, shown
    for word in ("REPLACE", "62 rows", filled18.name, "readers wait"):
        assert word in shown
    assert space.files("vector_backup_*.json") == space.files("vector_backup_*.json")[:1]
    code, shown = on_terminal(*arguments, folder=tmp_path, answers=[(b"[y/N]", b"y\n")])
    assert code == 0, shown
    assert "what stood there before is backup" in shown


def redirected(folder, *words, **options):
    """On a terminal, through a shell that redirects something."""
    return on_terminal(*words, folder=folder, program="/bin/bash", **options)


@pytest.mark.parametrize(
    ("redirection", "answer", "code", "left"),
    [
        ("2>err", b"n\n", 1, 62), ("2>err", b"y\n", 0, 0), ("2>err", b"\x04", 1, 62), ("2>/dev/full", b"n\n", 1, 62),
        (">told 2>&1", b"y\n", 0, 0), ("2>&- >&-", b"y\n", 0, 0), ("2>&1 | cat >told", b"y\n", 0, 0),
    ],
)  # fmt: skip
def test_who_redirects_standard_error_is_asked_all_the_same(filled18, tmp_path, redirection, answer, code, left):
    space = Workspace(tmp_path, filled18)
    script = f'"{VECBAK}" truncate --output-dir "{space.out}" {redirection}; exit ${{PIPESTATUS[0]}}'
    ended, shown = redirected(tmp_path, "-c", script, answers=[(b"[y/N]", answer)])
    assert (ended, filled18.count(EMBEDDING)) == (code, left), shown
    assert "62 rows" in shown


def test_where_nobody_can_be_asked_nothing_is_truncated(filled18, tmp_path):
    space = Workspace(tmp_path, filled18)
    # a terminal that is not the session's own: /dev/tty cannot be opened
    script = f'setsid --wait "{VECBAK}" truncate --output-dir "{space.out}" 2>err'
    ended, shown = redirected(tmp_path, "-c", script)
    assert ended == 2, shown
    assert "nobody would see the question" in (tmp_path / "err").read_text()
    assert filled18.count(EMBEDDING) == 62
    ended, _ = redirected(tmp_path, "-c", script.replace("truncate", "truncate --yes"))
    assert (ended, filled18.count(EMBEDDING)) == (0, 0)


def test_without_a_terminal_it_does_not_ask(filled18, tmp_path):
    space = Workspace(tmp_path, filled18)
    ended, shown = redirected(tmp_path, "-c", f'"{VECBAK}" truncate --output-dir "{space.out}" </dev/null')
    assert (ended, filled18.count(EMBEDDING)) == (0, 0), shown
