"""A data folder and its server: made by initdb, started, found again while it runs, told to read its settings, and stopped.

A server is only taken for a folder's own if its working directory is that folder, as every postmaster's is: a pid that
stands in postmaster.pid may long be another process's.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from vecbak.errors import VecbakError
from vecbak.postgres.environment import applied, without_foreign_servers
from vecbak.postgres.process import Process
from vecbak.postgres.runner import LocalRunner
from vecbak.postgres.system_user import command_as_owner

START_SECONDS = 120.0  # after a crash it first recovers
STOP_SECONDS = 60.0
INITDB_SECONDS = 120.0
SUPERUSER = "postgres"

_STARTED_BY_US = "vecbak.started"  # a setting on its command line, which stands in postmaster.opts
_SOCKET_NAME = ".s.PGSQL.65535"
_LONGEST_SOCKET = 107  # sun_path, without its end (unix(7))
_SOCKET_FOLDER = "vecbak-socket-"

# its own arguments, which no shell takes apart
_APPEND_TO_LOG = 'exec "$@" >>"$0" 2>&1 </dev/null'


class ClusterFailed(VecbakError):
    """A data folder could not be made, or its server not started."""


@dataclass(frozen=True)
class Postmaster:
    """A server that runs: its process, its socket's number and folder, and whether it takes connections."""

    pid: int
    port: str
    socket_folder: str
    ready: bool


class Cluster:
    """One data folder.

    Args:
        folder: the data folder, absolute.
        programs: the folder of initdb and postgres, of its version.
    """

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder = folder
        self._programs = programs
        self._runner = LocalRunner()

    def create(self) -> None:
        """Make the folder's content, if there is none: the same whatever our locale is.

        Raises:
            ClusterFailed: it holds something else, or initdb failed.
        """
        if (self.folder / "PG_VERSION").exists():
            return
        if any(self.folder.iterdir()):
            raise ClusterFailed("the folder is not empty, and holds no data folder's PG_VERSION")
        locale = ["--locale=C"]
        if self._programs.parent.name.endswith("18"):
            locale += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        done = self._runner.run(
            [*self._as_owner(), str(self._programs / "initdb"), "--auth=trust", "--encoding=UTF8", *locale,
             f"--username={SUPERUSER}", f"--pgdata={self.folder}"],
            timeout=INITDB_SECONDS, folder=Path("/"), environment=without_foreign_servers(),
        )  # fmt: skip
        if done.exit_code != 0:
            raise ClusterFailed("initdb failed", output=f"{done.stdout}{done.stderr}".strip())

    def start(self) -> Postmaster:
        """Start the server and wait until it takes connections.

        It outlives us: others may use it too, and `stop` ends it, or a throw-away folder's janitor.

        Raises:
            ClusterFailed: it ended, or was not ready in time.
        """
        log = self.folder / "log"
        written = log.stat().st_size if log.exists() else 0
        command = [
            *self._as_owner(), "/bin/sh", "-c", _APPEND_TO_LOG, str(log), str(self._programs / "postgres"), "-D", str(self.folder),
            "-h", "", "-k", self._socket_folder(), "-c", f"{_STARTED_BY_US}=on",
        ]  # fmt: skip
        process = Process(command, applied(without_foreign_servers()), Path("/"), outlives_us=True)
        try:
            return self._wait_until_ready(process, time.monotonic() + START_SECONDS)
        except BaseException as error:
            process.stop(number=signal.SIGQUIT)
            if isinstance(error, ClusterFailed):
                error.output = _read_from(log, written) or process.errors.decode("utf-8", "replace")
            raise
        finally:
            process.close()

    def running(self) -> Postmaster | None:
        """The server of this folder, if it runs."""
        try:
            lines = (self.folder / "postmaster.pid").read_text().splitlines()
            pid = int(lines[0])
            if not Path(f"/proc/{pid}/cwd").samefile(self.folder):
                return None
        except (OSError, ValueError, IndexError):
            return None
        if len(lines) < 8:  # it has just begun
            return Postmaster(pid, "", "", ready=False)
        return Postmaster(pid, lines[3], lines[4], ready=lines[7].strip() in {"ready", "standby"})

    def reload(self, server: Postmaster) -> None:
        """Let the server read its configuration again; it does so a moment later."""
        os.kill(server.pid, signal.SIGHUP)

    def was_started_by_vecbak(self) -> bool:
        """Whether the server that runs is one that a vecbak started."""
        with contextlib.suppress(OSError):
            return _STARTED_BY_US in (self.folder / "postmaster.opts").read_text(errors="replace")
        return False

    def stop(self) -> None:
        """End the server, if it runs: its sessions are ended and everything is written; at once if that takes too long."""
        server = self.running()
        for number, seconds in ((signal.SIGINT, STOP_SECONDS), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 10.0)):
            deadline = time.monotonic() + seconds
            if (found := self.running()) is None:
                break
            with contextlib.suppress(ProcessLookupError):
                os.kill(found.pid, number)
            while self.running() and time.monotonic() < deadline:
                time.sleep(0.02)
        if server and Path(server.socket_folder).name.startswith(_SOCKET_FOLDER):
            with contextlib.suppress(OSError):
                Path(server.socket_folder).rmdir()

    def _as_owner(self) -> list[str]:
        return command_as_owner(self._runner, self.folder, self._programs)

    def _socket_folder(self) -> str:
        """The data folder; where its path is too long for a socket, or libpq would take it for a list, a new one."""
        path = str(self.folder)
        if len(os.fsencode(self.folder / _SOCKET_NAME)) <= _LONGEST_SOCKET and not set(path) & set(',"\n'):
            return f'"{path}"'
        place = tempfile.gettempdir() if len(os.fsencode(tempfile.gettempdir())) < 60 else "/tmp"  # noqa: S108 - mkdtemp's own
        made = tempfile.mkdtemp(prefix=_SOCKET_FOLDER, dir=place)
        if os.geteuid() == 0:
            shutil.chown(made, self.folder.stat().st_uid, self.folder.stat().st_gid)
        return f'"{made}"'

    def _wait_until_ready(self, process: Process, deadline: float) -> Postmaster:
        while time.monotonic() < deadline:
            server = self.running()
            if server and server.ready and server.pid == process.pid:
                return server
            if not process.is_alive():
                raise ClusterFailed("the server ended as soon as it was started")
            time.sleep(0.01)
        raise ClusterFailed(f"the server was not ready within {START_SECONDS:g} s")


def _read_from(log: Path, position: int) -> str:
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(position)
        return file.read().decode("utf-8", "replace").strip()
    return ""
