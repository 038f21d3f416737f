"""A run that waits at a named step, so that a test can break something there."""

from __future__ import annotations

import subprocess
import time

from tests.support.command import environment, start_vecbak
from tests.support.workspace import Workspace
from vecbak.checkpoints import STOP_AT, STOP_FILE


class Stopped:
    """It waits until `go`.

    Attributes:
        process: vecbak's.
    """

    def __init__(self, workspace: Workspace, step: str, *arguments: object, **variables: str) -> None:
        self._flag = workspace.folder / "reached"
        env = environment(**{STOP_AT: step, STOP_FILE: str(self._flag)}, **variables)
        self.process: subprocess.Popen[str] = start_vecbak(
            *arguments, "--output-dir", workspace.out, cwd=workspace.folder, env=env
        )
        deadline = time.monotonic() + 60
        while not self._flag.exists() or not self._flag.read_text():
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def go(self) -> tuple[int, str]:
        """Its exit code and what it said."""
        self._flag.unlink()
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors
