"""What a restore does with each table: mode × kept × rows, columns, order."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.examples import column, table
from tests.unit.postgres.test_definitions import an_index
from vecbak.errors import Refused, RestoreFailed, UsageError
from vecbak.operations.loading import SourceFile
from vecbak.operations.targets import (
    MODES,
    Plan,
    SourceTable,
    check_columns,
    check_target,
    in_load_order,
    live_indexes,
    make_plan,
    pick_tables,
    rebuilt_indexes,
    too_early,
    warn_of_new_columns,
)
from vecbak.postgres.catalog import Constraint
from vecbak.postgres.names import TableName


def source(label: str = "items", *, rows: int = 2, files: int = 1, **changes) -> SourceTable:
    made = tuple(SourceFile(f"{label}{number}", rows, 1, "format csv", lambda _: None) for number in range(files))
    fields = {
        "label": label, "target": TableName("public", label), "columns": ("id", "text"), "rows": rows, "size_bytes": 1,
        "files": made, "definition": table(label),
    }  # fmt: skip
    return SourceTable(**{**fields, **changes})


HNSW = an_index("CREATE INDEX h …", name="h")
BTREE = an_index("CREATE INDEX b …", name="b", method="btree")


# the plan


@pytest.mark.parametrize(("mode", "kept", "before"), [*itertools.product(MODES, [False, True], [0, 1, 2, 3])])
def test_every_mode(mode, kept, before):
    target = table(indexes=(HNSW, BTREE))
    if mode == "error" and before and not kept:
        with pytest.raises(Refused, match="not empty"):
            make_plan(source(), target, before, mode=mode, kept=kept)
        return
    plan = make_plan(source(), target, before, mode=mode, kept=kept)
    assert plan.empty == (mode == "replace")
    if mode == "replace" or not before:
        assert plan.how == "load"
    elif mode == "skip-existing":
        assert plan.how == "skip"
    else:
        assert plan.how == ("merge" if kept else "load")
    assert plan.rebuild == ((HNSW,) if mode == "replace" or before < 2 else ())


@pytest.mark.parametrize("mode", MODES)
def test_a_new_table_is_never_emptied(mode):
    plan = make_plan(source(), table(), 0, mode=mode, kept=False, new=True)
    assert (plan.empty, plan.how) == (False, "load")


@pytest.mark.parametrize(
    "changes", [{"is_partition": True}, {"kind": "p"}, {"is_owner": False}], ids=lambda changes: next(iter(changes))
)
def test_indexes_that_must_stay(changes):
    target = table(indexes=(HNSW,), **changes)
    assert rebuilt_indexes(target) == ()
    plan = make_plan(source(), target, 0, mode="error", kept=False)
    assert "live index h of items" in next(iter(live_indexes(plan)))


def test_indexes_that_are_built_again():
    gin, ivfflat = an_index("", method="gin", name="g"), an_index("", method="ivfflat", name="i")
    invalid, constraint = an_index("", valid=False), an_index("", constraint="c", method="gin")
    target = table(indexes=(HNSW, BTREE, gin, ivfflat, invalid, constraint))
    assert rebuilt_indexes(target) == (HNSW, gin, ivfflat)


def test_no_warning_where_nothing_is_loaded():
    plan = make_plan(source(rows=0), table(indexes=(HNSW,)), 3, mode="append", kept=False)
    assert [*live_indexes(plan)] == []


# the target


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "v"}, "not a table"),
        ({"kind": "f"}, "not a table"),
        ({"can_insert": False}, "may not write"),
        ({"can_select": False}, "may not write"),
        ({"row_security": True}, "row-level security"),
    ],
)
def test_targets_that_cannot_be_loaded(changes, words):
    with pytest.raises(Refused, match=words):
        check_target(table(**changes), "olga")


def test_columns_that_fit():
    check_columns(source(), table(columns=(column("text"), column("new"), column("id"))), str)
    check_columns(
        source(), table(columns=(column("id"), column("text"), column("n", not_null=True, identity="a"))), str
    )
    check_columns(source(), table(columns=(column("id"), column("text"), column("n", not_null=True, default="1"))), str)
    check_columns(
        source(), table(columns=(column("id"), column("text"), column("g", generated="s", not_null=True))), str
    )
    check_columns(
        source(definition=None), table(columns=(column("id", type="int"), column("text", type="vector"))), str
    )


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ((column("id"),), "no column text"),
        ((column("id"), column("text", generated="s")), "no column text"),
        ((column("id"), column("text", type="vector(3)")), r"items.text is vector\(3\); in the backup it is text"),
        ((column("id"), column("text"), column("n", not_null=True)), "new column n"),
    ],
)
def test_columns_that_do_not(columns, words):
    with pytest.raises(RestoreFailed, match=words):
        check_columns(source(), table(columns=columns), str)


def test_a_type_may_be_called_otherwise_here():
    check_columns(source(), table(columns=(column("id", type="TEXT"), column("text", type="TEXT"))), str.upper)


def test_new_columns_are_told():
    there = table(columns=(column("id"), column("text"), column("new"), column("g", generated="s")))
    assert "(new)" in next(iter(warn_of_new_columns(source(), there)))
    assert [*warn_of_new_columns(source(), table())] == []


# order


def plan(number: int, *points_at: int, files: int = 1, deferrable: bool = False, **changes) -> Plan:
    constraints = tuple(
        Constraint(name=f"f{number}_{oid}", kind="f", definition="", references=oid, deferrable=deferrable)
        for oid in points_at
    )
    target = table(f"t{number}", number, references=points_at, constraints=constraints, **changes)
    return make_plan(source(f"t{number}", files=files), target, 0, mode="error", kept=False)


@given(st.lists(st.sets(st.integers(0, 5)), max_size=6))
def test_tables_come_after_those_that_they_point_at(edges):
    plans = [plan(number, *points_at) for number, points_at in enumerate(edges)]
    ordered = in_load_order(plans)
    assert sorted(item.table.oid for item in ordered) == list(range(len(plans)))
    position = {item.table.oid: number for number, item in enumerate(ordered)}
    postponed = {(owner.oid, name) for owner, name in too_early(ordered)}
    for item in plans:
        for oid in set(item.table.references) & position.keys():
            later = position[oid] > position[item.table.oid]
            assert later == ((item.table.oid, f"f{item.table.oid}_{oid}") in postponed)


def test_without_a_circle_nothing_is_too_early():
    ordered = in_load_order([plan(1, 2, 3), plan(2, 3), plan(3, 9), plan(4)])
    position = [item.table.oid for item in ordered]
    assert position.index(3) < position.index(2) < position.index(1)
    assert too_early(ordered) == []


def test_a_table_that_points_at_itself():
    assert too_early([plan(1, 1)]) == []  # one COPY checks at its end
    assert [name for _, name in too_early([plan(1, 1, files=2)])] == ["f1_1"]
    assert too_early([plan(1, 1, files=2, deferrable=True)]) == []
    assert too_early([plan(1, 1, files=2, is_owner=False)]) == []


# --table


def test_tables_are_picked_in_the_backups_order():
    tables = {"b": source("b"), "a": source("a"), "s.x": source("s.x", target=TableName("s", "x"))}
    assert pick_tables(tables, []) == ["b", "a", "s.x"]
    assert pick_tables(tables, [TableName(None, "a"), TableName("public", "b")]) == ["b", "a"]
    assert pick_tables(tables, [TableName(None, "x")]) == ["s.x"]
    with pytest.raises(UsageError, match="does not hold the table t"):
        pick_tables(tables, [TableName(None, "t")])


def test_a_table_may_be_named_by_the_schema_that_it_was_in():
    moved = {"t": source("t", target=TableName("drill", "t"))}
    for schema in (None, "public", "drill"):
        assert pick_tables(moved, [TableName(schema, "t")]) == ["t"]
    with pytest.raises(UsageError):
        pick_tables(moved, [TableName("other", "t")])
