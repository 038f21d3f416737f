"""Finding the container that programs run in, by the Docker SDK: the one importer of `docker` (extra `docker`).

DOCKER_HOST, DOCKER_CONTEXT and the current context of ~/.docker/config.json are honoured, as the `docker` command does
(https://docs.docker.com/engine/manage-resources/contexts/).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from vecbak.errors import ConnectionFailed, Refused, UsageError, VecbakError
from vecbak.extras import install_hint

_SOCKET_HINT = (
    "Add the user to the group that owns the socket (usermod -aG docker USER, then log in again), or set DOCKER_HOST."
)
ANSWER_SECONDS = 10.0

_ENGINE_HINT = "Start Docker (systemctl start docker), or let DOCKER_HOST or `docker context use` point at the engine."


@dataclass(frozen=True)
class Container:
    """A container that was running when it was looked for.

    Attributes:
        id: the engine's own; it stays the same until the container is removed.
        name: for people.
        started_at: as the engine tells it; another one after a restart.
        environment: its own, in which POSTGRES_USER and POSTGRES_DB may stand; it may hold secrets.
    """

    id: str
    name: str
    environment: Mapping[str, str] = field(repr=False)
    started_at: str = ""

    def exec_command(self, *options: str) -> list[str]:
        """`docker exec -i …`, before the program: never a terminal, and no value of a variable in sight."""
        return ["docker", "exec", "-i", "-e", "PGPASSWORD", *options, self.id[:12]]


def find_container(wanted: str, *, seconds: float) -> Container:
    """The running container of that name or id, or the one with that label.

    Args:
        wanted: a name, an id, or `label=value` (also with `label=` before it).
        seconds: how long the engine may take to answer.

    Raises:
        Refused: the extra, or the `docker` command, is not installed.
        ConnectionFailed: no engine, no permission, no such container, or it does not run.
        UsageError: several match.
    """
    if shutil.which("docker") is None:
        raise Refused(
            "`connection.container` needs the `docker` command, which was not found on PATH",
            "Install it (Debian: apt-get install docker-cli, or docker.io).",
        )
    with _client(seconds) as client:
        found = _matching(client, wanted)
        _check_running(found.attrs["State"], found.name)
        variables = dict(item.partition("=")[::2] for item in found.attrs["Config"]["Env"] or ())
        return Container(str(found.id), str(found.name), variables, str(found.attrs["State"]["StartedAt"]))


def what_became_of(container: Container, *, seconds: float = ANSWER_SECONDS, patience: float = 1) -> str:
    """Why a program in it ended without our doing, in one line; empty if the container runs as it did.

    Args:
        patience: how long to look again, in seconds: programs end a little before their container is said to.
    """
    deadline = time.monotonic() + patience
    try:
        with _client(seconds) as client:
            while True:
                state = client.containers.get(container.id).attrs["State"]
                _check_running(state, container.name)
                if state["StartedAt"] != container.started_at:
                    return f"the container {container.name} was restarted meanwhile"
                if time.monotonic() >= deadline:
                    return ""
                time.sleep(0.1)
    except VecbakError as error:
        return error.message


@contextlib.contextmanager
def _client(seconds: float) -> Iterator[Any]:
    """The engine's client; what goes wrong while it is used, in vecbak's terms."""
    docker = _import()
    try:
        with contextlib.closing(docker.from_env(timeout=seconds, use_ssh_client=True)) as client:
            yield client
    except docker.errors.NotFound:
        raise ConnectionFailed("the container does not exist any more", "See `docker ps --all`.") from None
    except (docker.errors.DockerException, OSError, ValueError) as error:
        text = str(error)
        if "Permission" in text or "permission denied" in text:
            raise ConnectionFailed("the Docker engine's socket may not be opened by this user", _SOCKET_HINT) from None
        raise ConnectionFailed(
            f"the Docker engine does not answer{_at()}", _ENGINE_HINT, output=text.splitlines()[0] if text else ""
        ) from None


def _at() -> str:
    where = os.environ.get("DOCKER_HOST") or os.environ.get("DOCKER_CONTEXT")
    return f" ({where})" if where else ""


def _matching(client: Any, wanted: str) -> Any:
    if "=" not in wanted:
        try:
            return client.containers.get(wanted)
        except _import().errors.NotFound:
            names = ", ".join(sorted(item.name for item in client.containers.list()))
            raise ConnectionFailed(
                f"there is no container {wanted}",
                f"Set connection.container to one that runs ({names or 'none does'}); `docker ps --all` lists all.",
            ) from None
    label = wanted.removeprefix("label=") if wanted.count("=") > 1 else wanted
    found = client.containers.list(all=True, filters={"label": label})
    running = [item for item in found if item.status == "running"]
    candidates = running or found
    if not candidates:
        raise ConnectionFailed(f"no container has the label {label}", "Start it, or mend connection.container.")
    if len(candidates) > 1:
        names = ", ".join(sorted(item.name for item in candidates))
        raise UsageError(
            f"connection.container: {len(candidates)} containers have the label {label}: {names}", "Name one of them."
        )
    return candidates[0]


def _check_running(state: Mapping[str, Any], name: str) -> None:
    if state.get("Paused"):
        raise ConnectionFailed(f"the container {name} is paused", f"docker unpause {name}")
    if state.get("Restarting"):
        raise ConnectionFailed(
            f"the container {name} restarts over and over (exit code {state.get('ExitCode')})",
            f"See why: docker logs {name}",
        )
    if not state.get("Running"):
        killed = ", out of memory" if state.get("OOMKilled") else ""
        what = "was never started" if state.get("Status") == "created" else "is not running"
        raise ConnectionFailed(
            f"the container {name} {what} (exit code {state.get('ExitCode')}{killed})", f"docker start {name}"
        )


def _import() -> Any:
    try:
        import docker
    except ImportError:
        raise Refused(
            "`connection.container` needs the extra `docker`, which is not installed", install_hint("docker")
        ) from None
    return docker
