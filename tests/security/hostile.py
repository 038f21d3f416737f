"""Hostile manifests: text made of PostgreSQL's own grammar of literals and of psql's commands, in any place of a real manifest."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.support.server import Database

MARK = "@MARK@"  # a folder that psql's user and the server's may write into
SEQUENCE = "tripwire.touched"

# what would be noticed even if everything is rolled back: a file, or a sequence that moved
PROGRAMS = (
    f"\\! touch {MARK}/psql", f"\n\\! touch {MARK}/psql\n", f"\\o |touch {MARK}/psql", f"`touch {MARK}/psql`", f"\\setenv X `touch {MARK}/psql`",
    f"\\copy (SELECT 1) to program 'touch {MARK}/copy'", f"\n\\copy (SELECT 1) to '{MARK}/copied'\n", f"SELECT 'touch {MARK}/psql' \\g |sh",
    f"SELECT $q$COPY (SELECT 1) TO PROGRAM 'touch {MARK}/gexec'$q$ \\gexec", "\\q", ":'v'", ":v", "\\i /etc/passwd", "\\connect x",
    f"\nVECBAK\ntouch {MARK}/shell\n", f"\nSUMS\ntouch {MARK}/shell\n", f"$(touch {MARK}/shell)", f"; touch {MARK}/shell;", "EOF",
)  # fmt: skip
STATEMENTS = (
    f"; COPY (SELECT 1) TO PROGRAM 'touch {MARK}/server'; --", f"); SELECT nextval('{SEQUENCE}'); --", f"; SELECT nextval('{SEQUENCE}')",
    f"; DO $d$BEGIN PERFORM nextval('{SEQUENCE}'); END$d$;", f", ADD CHECK (nextval('{SEQUENCE}') > 0)", " WITH (fillfactor = 10)",
    " INHERITS (pg_class)", ") TABLESPACE pg_default; --", " NOT NULL", ", y int", " AS SELECT 1", " OWNED BY NONE", " COLLATE \"C\"", " -- ", " /* ", " */ ",
)  # fmt: skip
CALLS = (
    f"query_to_xml('SELECT nextval(''{SEQUENCE}'')', true, true, '')::text", f"lo_export(lo_from_bytea(0, 'x'), '{MARK}/lo')",
    f"pg_catalog.pg_file_write('{MARK}/w', 'x', false)", "pg_read_file('/etc/passwd')", "set_config('role', 'postgres', false)", f"setval('{SEQUENCE}', 9)",
    f"(SELECT nextval('{SEQUENCE}'))", f"ts_stat('SELECT nextval(''{SEQUENCE}'')')", "$1", "pg_sleep(30)", "pg_terminate_backend(pg_backend_pid())",
)  # fmt: skip
PAYLOADS = st.sampled_from(PROGRAMS + STATEMENTS + CALLS)
JUNK = st.sampled_from(
    ["", " ", "\n", "\t", "'", "''", '"', "$$", "$t$", "\\", "\\'", "(", ")", "[", "]", ",", ";", ":", "::", "|| ", "E", "U&", "\x7f", "\x1b[2J", "é", "x", "1",
     "UESCAPE '!'", "\0", "x" * 70, "{0.__class__}", "%s", "../", "-"]
)  # fmt: skip
INSIDE = st.lists(st.one_of(PAYLOADS, JUNK), max_size=3).map("".join)


def _wrapped(before: str, after: str) -> st.SearchStrategy[str]:
    return INSIDE.map(lambda text: f"{before}{text}{after}")


# https://www.postgresql.org/docs/current/sql-syntax-lexical.html: every literal, name and comment, well-formed or not
_QUOTES = [
    ("'", "'"), ("E'", "'"), ("e'\\'", "'"), ("U&'", "'"), ("B'", "'"), ("X'", "'"), ("N'", "'"), ("$$", "$$"), ("$tag$", "$tag$"),
    ("$a$ $b$", "$b$ $a$"), ('"', '"'), ('U&"', '"'), ("/*", "*/"), ("/* /*", "*/ */"), ("--", "\n"), ("'x'\n'", "'"), ("$$'$$", "$$'$$"),
    ("'\\'", "'"), ("(", ")"), ("ARRAY[", "]"), ("E'\\\\'", "''"),
]  # fmt: skip
LITERALS = st.one_of(*(_wrapped(before, after) for before, after in _QUOTES))
TEXTS = st.lists(st.one_of(LITERALS, PAYLOADS, JUNK), min_size=1, max_size=4).map("".join)

# what ends the statement that it stands in as it should end, and begins another for what comes after it
_NEXT = f"SELECT nextval('{SEQUENCE}');"
_SPY = f"query_to_xml('SELECT nextval(''{SEQUENCE}'')', true, true, '') IS NOT NULL"
BEHIND = (
    f"; {_NEXT}", f"; COPY (SELECT 1) TO PROGRAM 'touch {MARK}/server';", f"); {_NEXT} CREATE TABLE tripwire.y (a int", f"); {_NEXT} SELECT (1",
    f" CHECK ({_SPY})", f" CHECK (setval('{SEQUENCE}', 9) > 0)", f"\n\\! touch {MARK}/psql\n", f"; {_NEXT} --",
)  # fmt: skip
INSTEAD = (
    f"CHECK ({_SPY})", f"CHECK (setval('{SEQUENCE}', 9) > 0)", f"CHECK (true); {_NEXT}", f"int); {_NEXT} CREATE TABLE tripwire.y (a int",
    f"true); {_NEXT} SELECT (1", f"int CHECK ({_SPY})", f"int DEFAULT setval('{SEQUENCE}', 9)", f"setval('{SEQUENCE}', 9)",
    f"CREATE INDEX i ON pg_class (oid); {_NEXT}", f"SELECT; {_NEXT}", f"PLAIN; {_NEXT}", f"DEFAULT; {_NEXT}", f"RANGE (id); {_NEXT}",
)  # fmt: skip
ATTEMPTS = st.one_of(
    st.tuples(st.just("behind"), st.sampled_from(BEHIND)), st.tuples(st.just("instead"), st.sampled_from(INSTEAD)),
    st.tuples(st.sampled_from(["instead", "before", "behind"]), TEXTS),
)  # fmt: skip


def places(document: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to every text in a document, and to every key that is data."""
    if isinstance(document, dict):
        for key, value in document.items():
            if way and way[-1] in {
                "tables",
                "statistics",
                "settings",
                "extensions",
                "extension_schemas",
                "collections",
                "rows_removed",
            }:
                yield (*way, ("key", key))
            yield from places(value, (*way, key))
    elif isinstance(document, list):
        for number, value in enumerate(document):
            yield from places(value, (*way, number))
    elif isinstance(document, str):
        yield way


def with_text(document: Any, way: tuple[Any, ...], text: str, how: str) -> Any:
    """A copy with a text in one place: instead of what is there, before it, or behind it."""
    changed = copy.deepcopy(document)
    place = changed
    for step in way[:-1]:
        place = place[step]
    if isinstance(way[-1], tuple):
        key = way[-1][1]
        place[{"instead": text, "before": text + key, "behind": key + text}[how]] = place.pop(key)
    else:
        there = place[way[-1]]
        place[way[-1]] = {"instead": text, "before": text + there, "behind": there + text}[how]
    return changed


def signed(document: Any) -> bytes:
    """The manifest's bytes with a checksum that agrees: whoever changes a manifest can do that too."""
    data = json.dumps({**document, "checksum": ""}, indent=1, ensure_ascii=False).encode() + b"\n"
    head, tail = data.rsplit(b'"checksum": ""', 1)
    return head + b'"checksum": "' + hashlib.sha256(data).hexdigest().encode() + b'"' + tail


class Tripwires:
    """What a superuser would notice, whatever was rolled back."""

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self._folder = folder
        self._files = set(folder.iterdir())
        database.execute(f"CREATE SCHEMA tripwire; CREATE SEQUENCE {SEQUENCE}")
        self._before = self._state()

    def check(self, what: object) -> None:
        """Fail if one was touched."""
        assert set(self._folder.iterdir()) == self._files, (what, list(self._folder.iterdir()))
        assert self._state() == self._before, what

    def _state(self) -> Any:
        return self._database.fetch(
            f"""SELECT is_called, last_value, (SELECT count(*) FROM pg_largeobject_metadata), (SELECT array_agg(rolname ORDER BY 1) FROM pg_roles),
              (SELECT array_agg(datname ORDER BY 1) FROM pg_database) FROM {SEQUENCE}"""
        )
