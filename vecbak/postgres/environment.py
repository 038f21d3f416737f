"""The environment of the programs that vecbak starts: ours and what is added to it, or one that names no other server.

libpq's variables: https://www.postgresql.org/docs/current/libpq-envars.html.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

Changes = Mapping[str, str | None]  # beyond our own environment; None takes a variable away

# By prefix, as every version of PostgreSQL brings new ones. The locale goes too: one that does not exist ends initdb.
# HOME stays: without a service, a password or TLS libpq needs nothing that is below it; Python does.
_FOREIGN = ("PG", "PSQL", "LC_", "LANG")


def without_foreign_servers() -> dict[str, str | None]:
    """What makes our environment one in which nothing leads to, or is meant for, a server that is not vecbak's own."""
    taken: dict[str, str | None] = {name: None for name in os.environ if name.startswith(_FOREIGN)}
    return {**taken, "LC_ALL": "C"}


def applied(changes: Changes) -> dict[str, str]:
    """Our environment with these changes."""
    merged: dict[str, str | None] = {**os.environ, **changes}
    return {name: value for name, value in merged.items() if value is not None}
