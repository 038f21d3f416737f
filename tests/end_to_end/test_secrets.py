"""The password is nowhere: no output, no log, no file, no process list."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

import pytest

from tests.support.command import environment, start_vecbak, vecbak
from tests.support.server import SUPERUSER, SUPERUSER_PASSWORD
from tests.support.workspace import Workspace
from vecbak.config import Config, Connection, LoadedConfig
from vecbak.errors import UsageError
from vecbak.postgres.connection import endpoint_from_config


class ProcessWatch:
    """Reads every command line of the machine, again and again."""

    def __init__(self, secret: str) -> None:
        self.secret = secret.encode()
        self.seen = 0
        self.leaks: set[bytes] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._stop.is_set():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    line = path.read_bytes()
                except OSError:
                    continue
                self.seen += b"psql" in line and b"vecbak" not in line
                if self.secret in line:
                    self.leaks.add(line)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()


@pytest.mark.parametrize("how", ["config", "dsn", "environment"])
def test_password_is_nowhere(filled18, tmp_path, how):
    space = Workspace(tmp_path, filled18)
    server = filled18.server
    address = f"127.0.0.1:{server.port}/{filled18.name}"
    env = environment(SECRET=SUPERUSER_PASSWORD)
    if how == "config":
        space.save(connection={"dsn": f"postgresql://{SUPERUSER}@{address}", "password": "${SECRET}"})
    elif how == "dsn":
        space.save(connection={"dsn": f"postgresql://{SUPERUSER}:${{SECRET}}@{address}"})
    else:
        space.save(connection={"dsn": f"postgresql://{SUPERUSER}@{address}"})
        env = environment(PGPASSWORD=SUPERUSER_PASSWORD)
    space.save(hooks={"before": [["env"]], "after": [["env"]]})  # what they print of our environment is logged
    printed = ""
    with ProcessWatch(SUPERUSER_PASSWORD) as watch:
        for arguments in (
            ["-v", "truncate", "--yes"],
            ["-v", "backup", "--json"],
            ["truncate", "--dry-run"],
            ["show", "latest"],
            ["show", "latest", "--json"],
            ["list"],
            ["doctor"],
            ["doctor", "--json"],
            ["prune", "--dry-run"],
        ):
            done = vecbak(*arguments, "--output-dir", space.out, cwd=tmp_path, env=env)
            assert done.code == 0, done.stderr
            printed += done.stdout + done.stderr
    assert watch.seen, "no psql was seen: the test proves nothing"
    assert not watch.leaks
    assert SUPERUSER_PASSWORD not in printed
    for path in space.out.rglob("*"):
        if path.is_file():
            assert SUPERUSER_PASSWORD.encode() not in path.read_bytes(), path


def test_a_dry_run_says_where_the_password_must_be(filled18, tmp_path):
    space = Workspace(tmp_path, filled18)
    space.save(
        connection={
            "dsn": f"postgresql://{SUPERUSER}@127.0.0.1:{filled18.server.port}/{filled18.name}",
            "password": SUPERUSER_PASSWORD,
        }
    )
    assert space.run("truncate").code == 0
    for arguments in (["truncate", "--dry-run"], ["restore", "latest", "--dry-run"]):
        script = space.run(*arguments).stdout
        assert SUPERUSER_PASSWORD not in script
        without = subprocess.run(["bash", "-c", script], check=False, env=environment(), capture_output=True, text=True)
        assert without.returncode != 0
        assert "PGPASSWORD: set it to the password that the configuration has" in without.stderr
        given = environment(PGPASSWORD=SUPERUSER_PASSWORD)
        pasted = subprocess.run(["bash", "-c", script], check=False, env=given, capture_output=True, text=True)
        assert pasted.returncode == 0, pasted.stderr


def test_password_is_not_in_errors(filled18, tmp_path):
    space = Workspace(tmp_path, filled18)
    env = environment(SECRET=SUPERUSER_PASSWORD)
    for dsn in (
        "postgresql://u:${SECRET}@127.0.0.1:1/x",
        "postgresql://u:${SECRET}@[bad/x",
        "host=127.0.0.1 port=1 password=${SECRET} user=u x",
        "password=${SECRET}' dbname=x",
        "postgresql://u:${SECRET}@127.0.0.1:1/x?nonsense=1",
    ):
        space.save(connection={"dsn": dsn})
        for flags in ([], ["--json"], ["--dry-run"]):
            done = space.run("backup", *flags, env=env)
            assert done.code in (2, 3), (dsn, done.stderr)
            assert SUPERUSER_PASSWORD not in done.stdout + done.stderr


def test_nothing_is_left_running(filled18, tmp_path):
    space = Workspace(tmp_path, filled18)
    run = start_vecbak("truncate", "--output-dir", space.out, cwd=tmp_path)
    run.communicate(timeout=60)
    assert not filled18.fetch("SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'vecbak%'")


MISTAKEN = [
    "postgresql://u:{}@127.0.0.1:1/x", "postgresql://u:{}@h/x?sslmode=no", "postgresql+psycopg://u:{}@h/x", "postgresql://{}@h:x/y",
    "host=h password={} user=u", "host=h password='{} user=u", "host=u:{}@h dbname=x", "dbname=postgresql://u:{}@h/x",
    "postgresql://h/x?password={}&sslpassword={}", "mysql://u:{}@h/x", "{}", "password={}", "u:{}@h/x", "{}=x",
    "postgresql://u:{}@h1,u2:{}@h2/x", "postgresql://h/x?passwd={}", "postgresql://u:{}@[h/x",
]  # fmt: skip
PASSWORDS = [
    "p@sS9k", "p/sS9k", "p:@/sS9k", "p?sS9k", "p#sS9k", "p%sS9k", "p&sS9k=", "p sS9k", "p'sS9k", "p%40sS9k", "p,sS9k@x",
]  # fmt: skip


@pytest.mark.parametrize("secret", PASSWORDS)
@pytest.mark.parametrize("dsn", MISTAKEN)
def test_no_piece_of_a_password_lands_where_it_is_shown(dsn, secret):
    if dsn.startswith("postgresql://{}@"):
        pytest.skip("a user's name is no password")
    loaded = LoadedConfig(Config(connection=Connection(dsn=dsn.replace("{}", secret))), Path("/x.yaml"))
    try:
        endpoint = endpoint_from_config(loaded)
        shown = repr(endpoint) + str(endpoint.host) + endpoint.conninfo
    except UsageError as error:
        shown = error.message + error.hint + error.output
    assert "sS9k" not in shown


@pytest.mark.parametrize("dsn", MISTAKEN[:1] + MISTAKEN[6:8])
def test_no_piece_of_a_password_is_shown_by_a_mistaken_dsn(tmp_path, dsn):
    (tmp_path / "vecbak.yaml").write_text(f"connection:\n  dsn: '{dsn.replace('{}', 'p@sS9k')}'\n")
    with ProcessWatch("sS9k") as watch:
        for command in (["-v", "backup"], ["doctor", "--json"], ["truncate", "--dry-run"]):
            done = vecbak(*command, "--output-dir", tmp_path / "out", cwd=tmp_path)
            assert done.code == 2, done.stderr
            assert "sS9k" not in done.stdout + done.stderr
    assert not watch.leaks


def test_a_password_with_an_at_sign_is_refused_and_its_encoding_works(filled18, tmp_path):
    space = Workspace(tmp_path, filled18)
    role = f"at_{filled18.name}"
    filled18.execute(f"CREATE ROLE {role} LOGIN SUPERUSER PASSWORD 'p@ss/w:rd'")
    try:
        address = f"127.0.0.1:{filled18.server.port}/{filled18.name}"
        space.save(connection={"dsn": f"postgresql://{role}:p@ss/w:rd@{address}"})
        done = space.run("backup")
        assert done.code == 2
        assert "must be written %40" in done.stderr
        space.save(connection={"dsn": f"postgresql://{role}:p%40ss%2Fw:rd@{address}"})
        assert space.run("backup").code == 0
    finally:
        filled18.execute(f"DROP ROLE {role}")


@pytest.mark.parametrize(
    "words",
    [
        ["verify", "latest", "--restore", "--on", "postgresql://u:p@sS9k@h/x"], ["init", "--discover", "--dsn", "postgresql://u:p/sS9k@h/x"],
        ["verify", "latest", "--restore", "--on", "host=h password=sS9k"], ["verify", "latest", "postgresql://u:sS9k@h/x"],
        ["backup", "--dsn", "postgresql://u:sS9k@h/x"], ["show", "postgresql://u:sS9k@h/x"], ["restore", "latest", "password=sS9k"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_nor_by_one_on_the_command_line(filled18, tmp_path, words):
    space = Workspace(tmp_path, filled18)
    assert space.run("backup").code == 0
    for flags in ([], ["-v"]):
        done = vecbak(*flags, *words, cwd=tmp_path)
        assert done.code == 2, done.stderr
        assert "sS9k" not in done.stdout + done.stderr


def test_a_token_in_a_hooks_words_is_not_logged(filled18, tmp_path):
    space = Workspace(tmp_path, filled18)
    space.save(hooks={"before": [["true", "Bearer ${TOKEN}"]], "after": [["false", "${TOKEN}"]]})
    done = space.run("-v", "backup", env=environment(TOKEN="t0ps3cret"))
    assert done.code == 0
    assert "a hook after the run failed: false ended with exit code 1" in done.stderr
    assert "t0ps3cret" not in done.stderr + (space.out / "data_pipeline.log").read_text()
