"""`vecbak init --discover`: every table of a database that holds vectors, for a new configuration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from vecbak.errors import Refused
from vecbak.operations.job import Job
from vecbak.operations.preview import reading, rows_of
from vecbak.postgres.catalog import Table
from vecbak.postgres.names import TableName
from vecbak.postgres.surroundings import VECTOR_TABLES, vector_dimensions
from vecbak.results import human_size


class DiscoveredTable(msgspec.Struct, frozen=True):
    """One table.

    Attributes:
        name: as the configuration writes it.
        comment: rows, size and dimensions, in words.
        has_vectors: else vectors' rows point at it (LangChain's collections): it is kept when these are emptied.
    """

    name: str
    comment: str
    has_vectors: bool


def discover(job: Job) -> list[DiscoveredTable]:
    """Look for tables with vectors, and for those that they point at; the latter come first, as they are loaded first.

    Raises:
        ConnectionFailed: no connection or no login.
        Refused: there is none.
    """
    with reading(job) as guard:
        oids = [int(oid) for oid in guard.ask_json(VECTOR_TABLES, "looking for vectors")]
        vectors = guard.facts(oids).tables
        if not vectors:
            raise Refused(
                "no table in this database holds vectors",
                "Check the database's name and the role; without --discover, init writes LangChain's tables.",
            )
        pointed_at = sorted({oid for table in vectors for oid in table.references} - set(oids))
        kept = guard.facts(pointed_at).tables
        server = guard.facts([]).server
        described = [(table, ", ".join(_describe(table, *rows_of(guard, table))), False) for table in _usable(kept)]
        for table in vectors:
            rows, estimated = (
                rows_of(guard, table) if table in _usable([table]) else (max(0, table.estimated_rows), True)
            )
            dimensions = vector_dimensions(guard, table) if table.can_select else {}
            words = [*_describe(table, rows, estimated), *_dimensions(dimensions)]
            unreadable = [] if table in _usable([table]) else [f"the role {server.user} may not read all of it"]
            described.append((table, ", ".join([*words, *unreadable]), True))
        return [DiscoveredTable(str(TableName(table.schema, table.name)), text, has) for table, text, has in described]


def _usable(tables: Sequence[Table]) -> list[Table]:
    return [table for table in tables if table.can_select and not table.row_security and table.kind in {"r", "p"}]


def _describe(table: Table, rows: int, estimated: bool) -> Iterator[str]:
    yield f"{'about ' if estimated else ''}{rows:,} rows"
    if table.kind == "p":
        yield "partitioned"
    else:
        yield human_size(table.total_bytes)


def _dimensions(found: dict[str, tuple[int, ...]]) -> Iterator[str]:
    for name, dimensions in found.items():
        yield f"{name}: {' and '.join(map(str, sorted(dimensions))) or 'unknown'} dimensions"
