import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.examples import table
from vecbak.operations.parts import Part, cut
from vecbak.postgres.catalog import Partition

MB = 1 << 20


def parts_of(
    pages: int, size: int, *, part_bytes: int = MB, jobs: int = 2, version: int = 180000, **changes
) -> list[Part]:
    item = table(heap_pages=pages, table_bytes=size, **changes)
    return cut(item, part_bytes=part_bytes, jobs=jobs, server_version=version)


def holds(part: Part, page: int) -> bool:
    """Whether its condition lets a page through."""
    bounds = re.findall(r"ctid OPERATOR\(pg_catalog\.(>=|<)\) '\((\d+),0\)'", part.condition)
    return all(page >= int(number) if sign == ">=" else page < int(number) for sign, number in bounds)


@given(st.integers(0, 500), st.integers(0, 200 * MB), st.integers(1, 16), st.integers(MB, 300 * MB))
def test_every_page_is_in_exactly_one_part_also_those_that_come_later(pages, size, jobs, part_bytes):
    parts = parts_of(pages, size, jobs=jobs, part_bytes=part_bytes)
    edges = {0, pages, pages + 1, pages + 10**6}
    for part in parts:
        edges |= {page for page in (part.first_page, part.end_page) if page is not None}
    for page in edges | {max(0, edge - 1) for edge in edges}:
        assert sum(holds(part, page) for part in parts) == 1
    assert [part.number for part in parts] == ([None] if len(parts) == 1 else list(range(1, len(parts) + 1)))
    assert [part.is_first for part in parts] == [True] + [False] * (len(parts) - 1)


def test_a_large_table_has_at_least_four_parts_a_job():
    assert len(parts_of(1000, 2 * MB, jobs=2)) == 8
    assert len(parts_of(1000, 100 * MB, jobs=2)) == 100
    assert len(parts_of(3, 100 * MB)) == 3


@pytest.mark.parametrize(
    "changes",
    [{"size": MB}, {"pages": 1}, {"pages": 0}, {"version": 139999}, {"kind": "p"}, {"access_method": "columnar"}, {"access_method": None}],
)  # fmt: skip
def test_what_is_small_or_cannot_be_scanned_by_range_is_not_cut(changes):
    parts = parts_of(**{"pages": 1000, "size": 100 * MB, **changes})
    assert parts == [Part()]
    assert parts[0].condition == ""


def test_conditions():
    assert (
        Part(2, 5, 9).condition == " WHERE ctid OPERATOR(pg_catalog.>=) '(5,0)' AND ctid OPERATOR(pg_catalog.<) '(9,0)'"
    )
    assert Part(1, None, 9).condition == " WHERE ctid OPERATOR(pg_catalog.<) '(9,0)'"
    assert Part(3, 9, None).condition == " WHERE ctid OPERATOR(pg_catalog.>=) '(9,0)'"


def leaf(number: int, pages: int, size: int, **changes) -> Partition:
    fields = {
        "oid": 20000 + number, "schema": "p", "name": f'leaf "{number}"', "parent": "items", "kind": "r", "bound": "DEFAULT", "partition_by": None,
        "access_method": "heap", "heap_pages": pages, "table_bytes": size, "can_copy": True,
    }  # fmt: skip
    return Partition(**{**fields, **changes})


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 50 * MB)), min_size=1, max_size=6), st.integers(1, 8))
def test_every_page_of_every_partition_is_in_exactly_one_part(leaves, jobs):
    partitions = tuple(leaf(number, *item) for number, item in enumerate(leaves))
    size = MB + 1 + sum(item.table_bytes for item in partitions)
    parts = parts_of(0, size, jobs=jobs, kind="p", partitions=partitions)
    for partition in partitions:
        own = [part for part in parts if part.partition == partition]
        for page in (0, partition.heap_pages // 2, partition.heap_pages, 10**6):
            assert sum(holds(part, page) for part in own) == 1
    assert [part.number for part in parts] == ([None] if len(parts) == 1 else list(range(1, len(parts) + 1)))
    assert len(parts) <= len(leaves) + 4 * jobs + size // MB + 1


def test_what_is_read_of_a_partition_is_its_own():
    item = table(kind="p", condition="id > 3")
    within = Part(1, 0, 5, leaf(1, 9, MB)).within(item)
    assert within.source == 'ONLY "p"."leaf ""1"""'
    assert within.where == " WHERE (id > 3)"
    assert Part().within(item) is item


@pytest.mark.parametrize("changes", [{"can_copy": False}, {"kind": "p"}])
def test_partitions_that_cannot_be_read_are_copied_through_their_parent(changes):
    partitions = (leaf(1, 100, 9 * MB), leaf(2, 100, 9 * MB, **changes))
    parts = parts_of(0, 18 * MB, kind="p", partitions=partitions)
    through = [part for part in parts if part.partition is None]
    assert bool(through) is ("can_copy" in changes)
    assert all(part.partition is not partitions[1] for part in parts)


def test_small_partitioned_tables_are_one_part():
    assert parts_of(0, MB, kind="p", partitions=(leaf(1, 9, MB),)) == [Part()]
