"""What the README shows is run as it stands there; the wheel works in an empty environment."""

from __future__ import annotations

import re
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.command import environment, vecbak
from tests.support.server import Database, bin_folder

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text("utf-8")
CHINESE = (ROOT / "README.zh-CN.md").read_text("utf-8")
EMBEDDING, COLLECTION = "langchain_pg_embedding", "langchain_pg_collection"
NO_FLOOR = "backup: {min_free_bytes: 0, min_free_percent: 0}\n"
LOAD = f"""#!{sys.executable}
import psycopg
with psycopg.connect(autocommit=True) as connection:
    connection.execute("INSERT INTO {EMBEDDING} (id, document, collection_id)"
                       " VALUES ('new', 'new', (SELECT uuid FROM {COLLECTION} LIMIT 1))")
"""
NOT_RUN = {  # and why
    "Quick start": "scripts/demo and scripts/test: CI runs the latter, and the wheel's test the demo",
    "Installing": "installs for the reader; the wheel's test does the same in an empty environment",
    "Files of older, hand-written exporters": "tests/end_to_end/test_csv_pair.py",
    "The HTTP API": "tests/end_to_end/test_server.py",
    "PostgreSQL in a container": "tests/end_to_end/test_container.py",
    "Loading a backup by hand": "sets what Terminal sets",
}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    heading: str
    text: str
    runnable: bool


def blocks_of(page: str) -> Iterator[Block]:
    """The shell blocks of a page."""
    heading = ""
    pattern = r"^(?P<heading>#+ [^\n]*)$|(?P<mark>^ *<!-- runnable -->\n)?^(?P<indent> *)```(?P<kind>\w*)\n(?P<text>.*?)^ *```$"
    for match in re.finditer(pattern, page, re.MULTILINE | re.DOTALL):
        if match["heading"]:
            heading = match["heading"].lstrip("# ")
        elif match["kind"] == "sh":
            text = re.sub(rf"^{match['indent']}", "", match["text"], flags=re.MULTILINE)
            yield Block(heading, text, bool(match["mark"]))


BLOCKS = list(blocks_of(README))


class Terminal:
    """A folder, the environment of somebody at work there, and bash.

    Attributes:
        copy: the second database that a page calls vectors_copy.
    """

    def __init__(self, folder: Path, database: Database) -> None:
        self.folder, self.database = folder, database
        self.copy = Database(database.server, f"{database.name}_copy")
        paths = [Path(sys.executable).parent, bin_folder(18), "/usr/bin", "/bin"]
        self.env = environment(
            PATH=":".join(map(str, paths)),
            PGHOST=str(database.server.folder),
            PGPORT=str(database.server.port),
            PGDATABASE=database.name,
            PGUSER="postgres",
            EDITOR=str(self.script("edit", f"#!/bin/sh\nprintf '{NO_FLOOR}' > \"$1\"\n")),
        )
        self.script("load_new_vectors", LOAD)
        self.script("load_manuals", LOAD)
        (folder / "pipeline").mkdir()
        (folder / "pipeline" / "load.py").write_text(LOAD)

    def script(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def configure(self, *names: str) -> None:
        """A config; one that is called old.yaml, new.yaml or test.yaml says which database it means."""
        for name in names:
            database = self.database if name in {"vecbak.yaml", "old.yaml"} else self.copy
            (self.folder / name).write_text(f"connection: {{dbname: {database.name}}}\n{NO_FLOOR}")

    def vecbak(self, *arguments: object) -> None:
        done = vecbak(*arguments, cwd=self.folder, env=self.env)
        assert done.code == 0, done.stderr

    def saved(self) -> None:
        """A config, and one backup in the current folder."""
        self.configure("vecbak.yaml")
        self.vecbak("backup", "--output-dir", ".")

    def truncated(self) -> None:
        """A config, one backup, and an empty table."""
        self.configure("vecbak.yaml")
        self.vecbak("truncate", "--output-dir", ".")

    def backup_id(self) -> str:
        """Of the first backup here."""
        found = sorted(self.folder.glob("vector_bak/*.json"))
        return found[0].stem.removeprefix("vector_backup_") if found else ""

    def run(self, block: str, cwd: Path | None = None) -> str:
        text = block.replace("20250720_121007", self.backup_id()).replace("vectors_copy", self.copy.name)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text], cwd=cwd or self.folder, env={**self.env, "ID": self.backup_id()},
            capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture
def terminal(tmp_path: Path, filled18: Database) -> Iterator[Terminal]:
    yield Terminal(tmp_path, filled18)
    filled18.execute(f"DROP DATABASE IF EXISTS {filled18.name}_copy WITH (FORCE)")


def nothing(terminal: Terminal) -> None:
    """No config, no backup."""


def two_databases(terminal: Terminal) -> None:
    terminal.configure("vecbak.yaml", "old.yaml", "new.yaml", "test.yaml")
    terminal.database.execute(f"CREATE DATABASE {terminal.copy.name}")


def drill_database(terminal: Terminal) -> None:
    two_databases(terminal)
    terminal.saved()
    terminal.copy.execute("CREATE EXTENSION vector")


def bad_reload(terminal: Terminal) -> None:
    terminal.truncated()
    terminal.run("./load_new_vectors")


def manuals(terminal: Terminal) -> None:
    terminal.configure("vecbak.yaml")
    terminal.database.execute(f"UPDATE {COLLECTION} SET name = 'manuals'")


def empty_tables(terminal: Terminal) -> None:
    terminal.saved()
    terminal.database.execute(f"TRUNCATE {EMBEDDING}, {COLLECTION}")


def configured(terminal: Terminal) -> None:
    terminal.configure("vecbak.yaml")


@dataclass(frozen=True)
class Scene:
    """What is there before the blocks under a heading, and what holds after them.

    Attributes:
        rows: in the embeddings, at the end.
        words: in what was printed.
        copied: rows in the second database, at the end.
        by_hand: they are run in the backup's folder.
    """

    before: Callable[[Terminal], None]
    rows: int = 62
    words: tuple[str, ...] = ()
    copied: int | None = None
    drill: bool = False
    by_hand: bool = False


SCENES = {
    "A first backup of your own server": Scene(nothing, words=("Backup", "62")),
    "The reload": Scene(configured, rows=1),
    "Verifying and proving": Scene(Terminal.truncated, rows=0, words=("byte for byte the same",)),
    "Restoring": Scene(Terminal.truncated, drill=True),
    "In a pipeline": Scene(configured, rows=1),
    "One collection of many": Scene(manuals, rows=1),
    "Before a reload, step by step": Scene(configured, rows=1),
    "After a bad reload": Scene(bad_reload, words=("is intact", "what stood there before is backup")),
    "Moving to another server": Scene(two_databases, copied=62),
    "A drill calendar": Scene(drill_database),
    "Check the files first": Scene(Terminal.saved, words=("OK",), by_hand=True),
    "Back into the table that was emptied": Scene(Terminal.truncated, by_hand=True),
    "Into an empty database": Scene(Terminal.saved, copied=62, by_hand=True),
    "Other tables": Scene(empty_tables, by_hand=True),
}


@pytest.mark.needs("jq")
@pytest.mark.parametrize("heading", sorted(SCENES))
def test_what_the_readme_shows_works(heading, terminal: Terminal):
    scene = SCENES[heading]
    scene.before(terminal)
    cwd = terminal.folder / "vector_bak" if scene.by_hand else None
    shown = "".join(terminal.run(block.text, cwd) for block in BLOCKS if block.heading == heading and block.runnable)
    assert terminal.database.count(EMBEDDING) == scene.rows
    for word in scene.words:
        assert word in shown
    if scene.copied is not None:
        assert terminal.copy.count(EMBEDDING) == scene.copied
    if scene.drill:
        assert terminal.database.count(f"drill.{EMBEDDING}") == 62


def test_every_block_is_run_or_has_its_reason():
    assert {block.heading for block in BLOCKS if block.runnable} == set(SCENES)
    assert {block.heading for block in BLOCKS if not block.runnable} == set(NOT_RUN)


def without_comments(text: str) -> str:
    return re.sub(r"\s+#.*$", "", text, flags=re.MULTILINE)


def test_the_chinese_page_shows_the_same_commands():
    shown = {without_comments(block.text) for block in blocks_of(CHINESE)}
    headings = {"Quick start", "Installing", "A first backup of your own server", "The reload", "Verifying and proving",
                "Restoring", "In a pipeline", "Before a reload, step by step", "After a bad reload", "Moving to another server",
                "A drill calendar"}  # fmt: skip
    assert [
        block.heading for block in BLOCKS if block.heading in headings and without_comments(block.text) not in shown
    ] == []
    english = {without_comments(block.text) for block in BLOCKS}
    assert shown <= english, "what is run on the one page is what stands on the other"


def test_the_chinese_page_has_every_command_code_and_section():
    commands = set(re.findall(r"^### `vecbak ([a-z]+)`$", README, re.MULTILINE))
    assert {name for name in commands if f"`vecbak {name}" not in CHINESE} == set()
    codes = re.findall(r"^\| ([\d, ]+) \|", README.partition("## Exit codes")[2].partition("\n## ")[0], re.MULTILINE)
    assert [code for code in codes if f"| {code} |" not in CHINESE] == []
    runbook = README.partition("\n## Runbook")[2].partition("\n## ")[0]
    chinese = CHINESE.partition("\n## 运维手册")[2].partition("\n## ")[0]
    assert runbook.count("\n### ") == chinese.count("\n### ")


@pytest.mark.timeout(900)
def test_the_wheel_works_in_an_empty_environment(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "build", "--outdir", tmp_path, ROOT], check=True, timeout=250, capture_output=True
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
