"""The installed `vecbak` command, run as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import preloaded

VECBAK = Path(sys.executable).parent / "vecbak"


@dataclass(frozen=True)
class Ended:
    """What a command left: its exit code and what it printed."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """Its standard output as the one JSON document that it must be."""
        return json.loads(self.stdout)


def environment(**changes: str | None) -> dict[str, str]:
    """Our environment without anything that could point at another server; None removes a variable."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PG", "VECBAK"))}
    for key, value in changes.items():
        if value is None:
            clean.pop(key, None)
        else:
            clean[key] = value
    return clean


def vecbak(*arguments: object, cwd: Path, timeout: float = 120, env: dict[str, str] | None = None) -> Ended:
    """Run it to its end."""
    words, env = [str(word) for word in arguments], env or environment()
    if preloaded.may_run_with(env):
        done = preloaded.run(words, cwd=cwd, environment=env, timeout=timeout)
    else:
        done = subprocess.run(
            [VECBAK, *words], cwd=cwd, env=env, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return Ended(done.returncode, done.stdout, done.stderr)


def start_vecbak(*arguments: object, cwd: Path, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """Start it, in a session of its own."""
    return subprocess.Popen(
        [VECBAK, *map(str, arguments)], cwd=cwd, env=env or environment(), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
