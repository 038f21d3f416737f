"""What `vecbak doctor` asks beyond what a backup needs to know: the connection, the role, dimensions."""

from __future__ import annotations

import re

import msgspec

from vecbak.postgres.catalog import Table
from vecbak.postgres.guard import Guard
from vecbak.postgres.names import quote_identifier

SAMPLED_ROWS = 1000

_VECTOR = re.compile(r"(?:.*\.)?(?:vector|halfvec|sparsevec)(?:\((?P<dimensions>\d+)\))?", re.DOTALL)
_DENSE = re.compile(r"(?:.*\.)?(?:vector|halfvec)", re.DOTALL)


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """One session as the server sees it.

    Attributes:
        pid: the server process, behind a pooler perhaps another one for each transaction.
        server_address: None over a Unix socket.
        tls: version and cipher, None without TLS.
        vector: pgvector's version, None if the extension is not there.
    """

    pid: int
    application: str
    user: str
    database: str
    version: str
    superuser: bool
    in_recovery: bool
    server_address: str | None
    tls: str | None
    vector: str | None


# asked outside a transaction too, where no search_path is pinned: everything with its schema
_LINK = """
SELECT pg_catalog.json_build_object('pid', pg_catalog.pg_backend_pid(),
  'application', pg_catalog.current_setting('application_name'), 'user', current_user,
  'database', pg_catalog.current_database(), 'version', pg_catalog.current_setting('server_version'),
  'superuser', (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) current_user),
  'in_recovery', pg_catalog.pg_is_in_recovery(), 'server_address', pg_catalog.host(pg_catalog.inet_server_addr()),
  'tls', (SELECT pg_catalog.concat_ws(' ', version, cipher) FROM pg_catalog.pg_stat_ssl
    WHERE pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid() AND ssl),
  'vector', (SELECT extversion FROM pg_catalog.pg_extension WHERE extname OPERATOR(pg_catalog.=) 'vector'));
"""


def read_link(guard: Guard) -> Link:
    """Look at a session; inside its transaction or outside."""
    return msgspec.convert(guard.ask_json(_LINK, "looking at the connection"), Link)


def vector_dimensions(guard: Guard, table: Table) -> dict[str, tuple[int, ...]]:
    """The dimensions of each vector column: as declared, or else those found in the first rows (none: no row, not told)."""
    found: dict[str, tuple[int, ...]] = {}
    for column in table.columns:
        match = _VECTOR.fullmatch(column.type)
        if not match:
            continue
        if match["dimensions"]:
            found[column.name] = (int(match["dimensions"]),)
        else:
            found[column.name] = _sampled(guard, table, column.name) if _DENSE.fullmatch(column.type) else ()
    return found


def _sampled(guard: Guard, table: Table, column: str) -> tuple[int, ...]:
    name = quote_identifier(column)
    # by its text: a cast would be that of whoever made a type of this name
    dimensions = f"pg_catalog.array_length(pg_catalog.string_to_array(pg_catalog.concat({name}), ','), 1)"
    query = (
        f"SELECT COALESCE(pg_catalog.json_agg(DISTINCT s.d), '[]') FROM (SELECT {dimensions} AS d"
        f" FROM {table.source} WHERE {name} IS NOT NULL LIMIT {SAMPLED_ROWS}) AS s;"
    )
    with guard.planning(table):
        found = guard.ask_json(query, f"reading the dimensions of {table.name}.{column}")
    return tuple(found)


# bit strings are vectors where a vector index says so; a partition is part of its parent
VECTOR_TABLES = """
SELECT coalesce(json_agg(c.oid::bigint ORDER BY n.nspname, c.relname), '[]')
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND NOT c.relispartition
  AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
  AND (EXISTS (
    SELECT FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND t.typname IN ('vector', 'halfvec', 'sparsevec'))
  OR EXISTS (
    SELECT FROM pg_catalog.pg_index x JOIN pg_catalog.pg_class ic ON ic.oid = x.indexrelid
      JOIN pg_catalog.pg_am am ON am.oid = ic.relam
    WHERE x.indrelid = c.oid AND am.amname IN ('hnsw', 'ivfflat')));
"""
