"""Shell scripts that people copy hold no traps."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SCRIPTS = sorted(
    path
    for folder in ("scripts", "scripts/pipeline", ".ci")
    for path in (ROOT / folder).iterdir()
    if path.is_file() and path.read_bytes()[:2] == b"#!" and b"python" not in path.read_bytes().splitlines()[0]
)


def test_the_scripts_are_found():
    assert {"test", "demo", "run", "nightly_backup.sh"} <= {path.name for path in SCRIPTS}


@pytest.mark.needs("shellcheck")
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_is_content(path):
    done = subprocess.run(
        ["shellcheck", "-x", path.relative_to(ROOT)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_they_can_be_run_and_stop_at_errors(path):
    assert path.stat().st_mode & 0o111
    assert "set -eu" in path.read_text("utf-8")
