"""Cutting large tables: into their partitions, and those into ctid ranges, which PostgreSQL 14+ scans alone.

Sound under the snapshot: a row version that the snapshot sees stays on its page, wherever later versions go
(https://www.postgresql.org/docs/14/release-14.html: "efficient heap range scans on TIDs").
"""

from __future__ import annotations

import math

import msgspec

from vecbak.postgres.catalog import Partition, Table

FIRST_VERSION = 140000


class Part(msgspec.Struct, frozen=True):
    """Some pages of a table.

    Attributes:
        number: counted from 1; None where the table is not cut.
        first_page: from this page on; None from the beginning.
        end_page: up to, not including, this page; None to the end, however far that is.
        partition: whose pages they are, where the table is divided.
    """

    number: int | None = None
    first_page: int | None = None
    end_page: int | None = None
    partition: Partition | None = None

    @property
    def is_first(self) -> bool:
        """Whether it is the table's first, or only, part."""
        return self.number in {None, 1}

    def within(self, table: Table) -> Table:
        """What is read: the table, or its partition in its place."""
        if self.partition is None:
            return table
        return msgspec.structs.replace(table, schema=self.partition.schema, name=self.partition.name, kind="r")

    @property
    def condition(self) -> str:
        """` WHERE ctid …`, or nothing."""
        bounds = [f"ctid OPERATOR(pg_catalog.>=) '({self.first_page},0)'"] if self.first_page is not None else []
        bounds += [f"ctid OPERATOR(pg_catalog.<) '({self.end_page},0)'"] if self.end_page is not None else []
        return f" WHERE {' AND '.join(bounds)}" if bounds else ""


def cut(table: Table, *, part_bytes: int, jobs: int, server_version: int) -> list[Part]:
    """The parts of a table: one up to `part_bytes`, else at least 4 × `jobs`, sized by all its bytes.

    A larger table that is divided is cut into its partitions first, unless one of them may only be read through its parent.

    Args:
        part_bytes: about how large a part is to be, TOAST included (vectors live there, not in the heap's pages).
        server_version: server_version_num.
    """
    if table.table_bytes <= part_bytes:
        return [Part()]
    leaves = [partition for partition in table.partitions if partition.kind != "p"]
    if table.kind == "r":
        parts = _ranges(table, table.table_bytes, part_bytes, 4 * jobs, server_version)
    elif leaves and all(leaf.can_copy for leaf in leaves):
        parts = [
            msgspec.structs.replace(part, partition=leaf)
            for leaf in leaves
            for part in _ranges(leaf, table.table_bytes, part_bytes, 4 * jobs, server_version)
        ]
    else:
        parts = [Part()]
    if len(parts) == 1:
        return parts
    return [msgspec.structs.replace(part, number=number) for number, part in enumerate(parts, 1)]


def _ranges(
    table: Table | Partition, whole_bytes: int, part_bytes: int, at_least: int, server_version: int
) -> list[Part]:
    """Ranges of pages: as many as the table's share in the whole asks for."""
    if table.kind != "r" or table.access_method != "heap" or server_version < FIRST_VERSION:
        return [Part()]
    parts = max(at_least, math.ceil(whole_bytes / part_bytes))
    count = min(math.ceil(parts * table.table_bytes / whole_bytes), table.heap_pages)
    if count < 2:
        return [Part()]
    inner = [table.heap_pages * number // count for number in range(1, count)]
    bounds = [None, *inner, None]
    return [Part(None, bounds[number], bounds[number + 1]) for number in range(count)]
