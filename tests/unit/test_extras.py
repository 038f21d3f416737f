"""How an extra is installed: as vecbak was."""

from __future__ import annotations

import shlex
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from vecbak.extras import _from_origin, _requirements, install_hint

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    ("origin", "words"),
    [
        ({"url": ROOT.as_uri(), "dir_info": {"editable": True}}, ["--editable", f"{ROOT}[api]"]),
        ({"url": ROOT.as_uri(), "dir_info": {}}, [f"{ROOT}[api]"]),
        ({"url": "file:///gone/vecbak-0.1.0-py3-none-any.whl", "archive_info": {}}, []),
        ({"url": "https://tok:en@git.example/v.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}}, ["vecbak[api] @ git+https://git.example/v.git@abc"]),
        ({"url": "https://files.example/vecbak-0.1.0-py3-none-any.whl", "archive_info": {}}, ["vecbak[api] @ https://files.example/vecbak-0.1.0-py3-none-any.whl"]),
        ({}, []),
    ],
)  # fmt: skip
def test_it_comes_from_where_vecbak_came_from(origin, words):
    assert _from_origin(origin, "api") == words


def test_else_what_the_extra_needs_is_named():
    requires = [
        "click>=8",
        'docker>=7.2; extra == "docker"',
        "psycopg[binary]>=3.2; extra == 'embedded'",
        'a; extra == "embedded-more"',
    ]
    assert _requirements(requires, "docker") == ["docker>=7.2"]
    assert _requirements(requires, "embedded") == ["psycopg[binary]>=3.2"]


@pytest.mark.parametrize("extra", ["embedded", "docker", "api"])
def test_the_hint_never_asks_the_index_for_our_name(extra):
    words = shlex.split(install_hint(extra))
    assert words[:4] == [sys.executable, "-m", "pip", "install"]
    assert not [word for word in words[4:] if word.startswith("vecbak") and "@" not in word]
    assert Path(words[-1].removesuffix(f"[{extra}]")).is_dir()


def test_pip_understands_it(tmp_path):
    """In an environment without the index: what is looked for is the extra's requirement, not our name."""
    venv.create(tmp_path / "v", with_pip=True)
    words = shlex.split(install_hint("docker"))[1:]
    done = subprocess.run(
        [tmp_path / "v" / "bin" / "python", *words, "--no-index", "--dry-run", "--no-build-isolation"], capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode != 0
    assert "hatchling" in done.stdout + done.stderr or "docker>=7.2" in done.stdout + done.stderr
