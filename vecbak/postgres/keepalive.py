"""Noticing a peer that vanished without a word: within about two minutes, on either side of a connection.

https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-KEEPALIVES and runtime-config-connection.html#GUC-TCP-USER-TIMEOUT.
A peer whose kernel still acknowledges (a stopped proxy) is not noticed by these. tcp_user_timeout also decides how long keepalives go
unanswered, and how long a peer may read nothing while rows wait for it (tcp(7)): a disk that stalls for a minute breaks nothing.
"""

from __future__ import annotations

import configparser
import os
from collections.abc import Mapping
from pathlib import Path

IDLE_SECONDS, INTERVAL_SECONDS, PROBES = 20, 10, 3
UNANSWERED_MILLISECONDS = 120_000

CLIENT = {
    "keepalives": "1",
    "keepalives_idle": str(IDLE_SECONDS),
    "keepalives_interval": str(INTERVAL_SECONDS),
    "keepalives_count": str(PROBES),
    "tcp_user_timeout": str(UNANSWERED_MILLISECONDS),
}
SERVER = {
    "tcp_keepalives_idle": str(IDLE_SECONDS),
    "tcp_keepalives_interval": str(INTERVAL_SECONDS),
    "tcp_keepalives_count": str(PROBES),
    "tcp_user_timeout": str(UNANSWERED_MILLISECONDS),
}

_SYSTEM_FILES = (Path("/etc/postgresql-common/pg_service.conf"), Path("/etc/sysconfig/pgsql/pg_service.conf"))


def keepalives_for(parameters: Mapping[str, str]) -> dict[str, str]:
    """What to add to a connection's parameters: nothing that they, or the service that they name, say themselves."""
    said = set(parameters) | _said_by_service(parameters)
    return {name: value for name, value in CLIENT.items() if name not in said}


def _said_by_service(parameters: Mapping[str, str]) -> set[str]:
    service = parameters.get("service") or os.environ.get("PGSERVICE")
    if not service:
        return set()
    named = parameters.get("servicefile") or os.environ.get("PGSERVICEFILE")
    system = os.environ.get("PGSYSCONFDIR")
    files = [
        Path(named) if named else Path("~/.pg_service.conf").expanduser(),
        *([Path(system) / "pg_service.conf"] if system else _SYSTEM_FILES),
    ]
    for path in files:
        parser = configparser.RawConfigParser(
            delimiters=("=",), comment_prefixes=("#",), strict=False, allow_no_value=True
        )
        try:
            parser.read_string(path.read_text(encoding="utf-8", errors="replace"))
        except (OSError, configparser.Error, RuntimeError):
            continue
        if parser.has_section(service):
            return set(parser[service])
    return set()
