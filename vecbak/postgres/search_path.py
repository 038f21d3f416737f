"""The search_path: the one under which our own statements run, and the connecting role's own.

Whoever may create something in a schema of a path can make a function or operator that fits a call better than PostgreSQL's
own, and runs as whoever calls it (CVE-2018-1058, https://wiki.postgresql.org/wiki/A_Guide_to_CVE-2018-1058). So nothing is
asked along the role's own path, but for two things: which tables the configuration's names mean, and loading rows, whose
functions may need it. What is said meanwhile names no function, operator or type without its schema.
"""

from __future__ import annotations

import re

from vecbak.postgres.names import quote_literal

# pg_temp last: a path that does not name it has it first, and behind a pooler its tables and types may be somebody else's
PINNED = "pg_catalog, pg_temp"
PIN = f"SET LOCAL search_path = {PINNED};"

# as PostgreSQL's SplitIdentifierString reads it: a name in quotes keeps its case, any other is folded
_ELEMENT = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([^\s",]+))\s*(?:,|\Z)')


def follow(path: str, *, behind_postgresqls: bool = False) -> str:
    """SET LOCAL search_path to what `SHOW search_path` said; no query, which would take a REPEATABLE READ's snapshot.

    Args:
        path: as the server says it.
        behind_postgresqls: PostgreSQL's own names come first, wherever the path has them.

    Raises:
        ValueError: it is no search_path.
    """
    found = elements(path)
    if behind_postgresqls:
        found = ["pg_catalog", *(name for name in found if name != "pg_catalog")]
    names = [quote_literal(name).strip() for name in found] or ["''"]
    return f"SET LOCAL search_path = {', '.join(names)};"


def elements(path: str) -> list[str]:
    """The names in a search_path, `$user` among them.

    Raises:
        ValueError: it is no search_path.
    """
    names, position = [], 0
    while path[position:].strip():
        match = _ELEMENT.match(path, position)
        if not match:
            raise ValueError(f"{path!r} is no search_path")
        quoted, plain = match.groups()
        names.append(_fold(plain) if quoted is None else quoted.replace('""', '"'))
        position = match.end()
    return names


def _fold(plain: str) -> str:
    return "".join(letter.lower() if letter.isascii() else letter for letter in plain)
