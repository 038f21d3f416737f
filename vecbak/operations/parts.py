"""Cutting large tables into ctid ranges, which PostgreSQL 14+ scans without reading the rest of the table.

Sound under the snapshot: a row version that the snapshot sees stays on its page, wherever later versions go
(https://www.postgresql.org/docs/14/release-14.html: "efficient heap range scans on TIDs").
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from vecbak.postgres.catalog import Table

FIRST_VERSION = 140000


@dataclass(frozen=True)
class Part:
    """Some pages of a table.

    Attributes:
        number: counted from 1; None where the table is not cut.
        first_page: from this page on; None from the beginning.
        end_page: up to, not including, this page; None to the end, however far that is.
    """

    number: int | None = None
    first_page: int | None = None
    end_page: int | None = None

    @property
    def is_first(self) -> bool:
        """Whether it is the table's first, or only, part."""
        return self.number in {None, 1}

    @property
    def condition(self) -> str:
        """` WHERE ctid …`, or nothing."""
        bounds = [f"ctid >= '({self.first_page},0)'"] if self.first_page is not None else []
        bounds += [f"ctid < '({self.end_page},0)'"] if self.end_page is not None else []
        return f" WHERE {' AND '.join(bounds)}" if bounds else ""


def cut(table: Table, *, part_bytes: int, jobs: int, server_version: int) -> list[Part]:
    """The parts of a table: one up to `part_bytes`, else at least 4 × `jobs`, sized by all its bytes.

    Args:
        part_bytes: about how large a part is to be, TOAST included (vectors live there, not in the heap's pages).
        server_version: server_version_num.
    """
    can_be_cut = table.kind == "r" and table.access_method == "heap" and server_version >= FIRST_VERSION
    if not can_be_cut or table.table_bytes <= part_bytes:
        return [Part()]
    count = min(max(4 * jobs, math.ceil(table.table_bytes / part_bytes)), table.heap_pages)
    if count < 2:
        return [Part()]
    inner = [table.heap_pages * number // count for number in range(1, count)]
    bounds = [None, *inner, None]
    return [Part(number + 1, bounds[number], bounds[number + 1]) for number in range(count)]
