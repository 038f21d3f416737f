"""What the README shows is run as it stands there; the wheel works in an empty environment."""

from __future__ import annotations

import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.support.command import environment, vecbak
from tests.support.server import Database, bin_folder

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"<!-- runnable -->\n```sh\n(.*?)```", README, re.DOTALL)
EMBEDDING = "langchain_pg_embedding"
LOAD = f"""
import os, psycopg
with psycopg.connect(autocommit=True) as connection:
    connection.execute("INSERT INTO {EMBEDDING} (id, document) VALUES ('new', 'new')")
"""


class Terminal:
    """A folder, the environment of somebody at work there, and bash."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.folder = folder
        paths = [Path(sys.executable).parent, bin_folder(18), "/usr/bin", "/bin"]
        self.env = environment(
            PATH=":".join(map(str, paths)),
            PGHOST=str(database.server.folder),
            PGPORT=str(database.server.port),
            PGDATABASE=database.name,
            PGUSER="postgres",
            VECBAK_CONFIG=str(folder / "vecbak.yaml"),
        )
        (folder / "vecbak.yaml").write_text("backup: {min_free_bytes: 0, min_free_percent: 0}\n")
        (folder / "pipeline").mkdir()
        (folder / "pipeline" / "load.py").write_text(LOAD)

    def backup_id(self) -> str:
        """Of the first backup here."""
        return sorted(self.folder.glob("vector_bak/*.json"))[0].stem.removeprefix("vector_backup_")

    def run(self, block: str, cwd: Path | None = None) -> str:
        text = block.replace("20250720_121007", self.backup_id()).replace(
            "vectors_copy", f"{self.env['PGDATABASE']}_copy"
        )
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text], cwd=cwd or self.folder, env={**self.env, "ID": self.backup_id()},
            capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, f"{text}\n{done.stderr}"
        return done.stdout


def test_the_blocks_are_found():
    assert len(BLOCKS) == 6


@pytest.mark.needs("jq")
def test_every_runnable_block_runs(tmp_path, filled18: Database):
    terminal = Terminal(tmp_path, filled18)
    verify, restore, run, check, back, into_empty = BLOCKS
    folder = tmp_path / "vector_bak"
    assert vecbak("truncate", "--output-dir", tmp_path, cwd=tmp_path, env=terminal.env).code == 0
    assert "byte for byte the same" in terminal.run(verify)
    terminal.run(restore)
    assert filled18.count(EMBEDDING) == filled18.count(f"drill.{EMBEDDING}") == 62
    terminal.run(run)
    assert filled18.count(EMBEDDING) == 1
    assert terminal.run(check, folder).count("OK") == 3
    filled18.execute(f"TRUNCATE {EMBEDDING}")
    terminal.run(back, folder)
    assert filled18.count(EMBEDDING) == 62
    try:
        terminal.run(into_empty, folder)
        assert Database(filled18.server, f"{filled18.name}_copy").count(EMBEDDING) == 62
    finally:
        filled18.execute(f"DROP DATABASE IF EXISTS {filled18.name}_copy WITH (FORCE)")


def test_the_chinese_page_names_every_command():
    page = (ROOT / "README.zh-CN.md").read_text("utf-8")
    commands = set(re.findall(r"^### `vecbak ([a-z]+)`$", README, re.MULTILINE))
    assert {name for name in commands if f"`vecbak {name}" not in page} == set()
    for code in ("| 0 |", "| 5 |", "| 8 |", "| 70 |"):
        assert code in page


@pytest.mark.timeout(900)
def test_the_wheel_works_in_an_empty_environment(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, ROOT],
        check=True,
        timeout=250,
    )
    (wheel,) = tmp_path.glob("vecbak-*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    binaries = tmp_path / "venv" / "bin"
    subprocess.run(
        [binaries / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"{wheel}[embedded]"],
        check=True, timeout=600,
    )  # fmt: skip
    env = environment(PATH=f"{binaries}:/usr/bin:/bin")

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [binaries / "vecbak", *arguments], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=200, check=False
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert run("--version").startswith("vecbak, version ")
    run("init")
    assert "byte for byte the same" in run("demo", "--documents", "50")
