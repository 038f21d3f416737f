"""What is generated is current, what is documented exists: README, config/, and the commands' help."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from vecbak.cli import cli
from vecbak.config import Config, json_schema
from vecbak.config_file import load_config
from vecbak.errors import ExitCode

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text("utf-8")
CONFIGS = sorted((ROOT / "config").glob("*.yaml"))
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
ENVIRONMENT = {"VECBAK_DSN": "postgresql://vecbak@db.example.org/vectors"}  # what the examples say must be set


def generate(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "scripts" / "generate", *arguments], capture_output=True, text=True, timeout=60, check=False
    )  # fmt: skip


def keys(schema: dict[str, Any]) -> set[str]:
    return {key for struct in schema["$defs"].values() for key in struct.get("properties", {})}


def test_generated_files_and_blocks_are_current():
    done = generate("--check")
    assert done.returncode == 0, done.stderr


def test_generate_refuses_what_it_does_not_know():
    assert generate("--chekc").returncode == 2


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_has_an_example_of_itself(name):
    help_text = cli.commands[name].help or ""
    assert "Example:" in help_text
    assert f"vecbak {name}" in help_text.partition("Example:")[2]


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_the_overview_says_whole_sentences(name):
    """On a terminal of 80 columns click cuts what is longer."""
    widest = max(map(len, cli.commands))
    assert not cli.commands[name].get_short_help_str(limit=80 - widest - 6).endswith("...")


def test_every_exit_code_is_documented():
    section = README.partition("## Exit codes")[2].partition("\n## ")[0]
    assert [code for code in ExitCode if f"| {code.value} |" not in section] == []


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_config_loads(path):
    assert load_config(path, ENVIRONMENT).config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_config_follows_the_schema(path):
    jsonschema.Draft202012Validator(json_schema()).validate(yaml.safe_load(path.read_text("utf-8")) or {})


def test_schema_refuses_what_the_loader_refuses():
    validator = jsonschema.Draft202012Validator(json_schema())
    for document in ({"bakcup": {}}, {"backup": {"jobs": 0}}, {"connection": {"port": 70000}}, []):
        assert not validator.is_valid(document), document


def test_schema_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(json_schema())


def test_starter_shows_the_defaults():
    assert load_config(ROOT / "config" / "vecbak.yaml", {}).config == Config()


def test_starter_mentions_every_key():
    starter = (ROOT / "config" / "vecbak.yaml").read_text("utf-8")
    assert sorted(key for key in keys(json_schema()) if f"{key}:" not in starter) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text("utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_anchors_exist(page):
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
    assert [anchor for anchor in re.findall(r"\]\(#([^)]+)\)", text) if anchor not in anchors] == []
