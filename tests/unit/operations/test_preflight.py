import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.unit.examples import ScriptedRunner, column, facts, table
from vecbak.config import Backup, Config
from vecbak.errors import Refused
from vecbak.operations import preflight
from vecbak.operations.preflight import (
    check_folder,
    check_format,
    check_space,
    check_tables,
    estimate_bytes,
    reading_problems,
    truncating_problems,
)
from vecbak.postgres.catalog import ForeignKey, Reaction
from vecbak.postgres.programs import Installation

MB = 1 << 20


def judge(*tables, truncated=(), allow=False, **server):
    return check_tables(facts(*tables, **server), truncated, allow_replicated_truncate=allow)


def refusal(*tables, **options) -> tuple[str, str]:
    with pytest.raises(Refused) as caught:
        judge(*tables, **options)
    return caught.value.message, caught.value.hint


def refused_truncate(item, *others, **options) -> tuple[str, str]:
    return refusal(item, *others, truncated=[item], **options)


def test_nothing_in_the_way():
    item = table()
    assert judge(item, table("other", 2), truncated=[item]) == []
    assert judge(table(kind="p")) == []


@pytest.mark.parametrize(
    ("kind", "name"),
    [("v", "a view"), ("m", "a materialized view"), ("f", "a foreign table"), ("S", "a sequence"), ("c", "a composite type"), ("i", "an index"), ("t", "not a table")],
)  # fmt: skip
def test_only_tables_are_backed_up(kind, name):
    message, hint = refusal(table(kind=kind))
    assert message == f"items is {name}, not a table"
    assert "supported_tables" in hint


def test_no_privilege_to_read():
    assert refusal(table('It"ems', can_select=False)) == (
        'the role vecbak may not read It"ems',
        'Let its owner olga run: GRANT SELECT ON "public"."It""ems" TO vecbak',
    )


def test_row_level_security_would_hide_rows():
    message, hint = refusal(table(row_security=True))
    assert message == "row-level security would hide rows of items from the role vecbak"
    assert hint == "Use its owner olga, or a role with BYPASSRLS: ALTER ROLE vecbak BYPASSRLS"


def test_all_problems_are_told_but_of_what_is_no_table_only_that():
    problems = list(reading_problems(table(can_select=False, row_security=True), "vecbak"))
    assert [problem.message.split()[0] for problem in problems] == ["the", "row-level"]
    assert len(list(reading_problems(table(kind="v", can_select=False), "vecbak"))) == 1
    item = table(can_truncate=False, children=("x",), publications=("p",))
    assert len(list(truncating_problems(item, {item.oid}, "vecbak", allow_replicated_truncate=False))) == 3
    assert len(list(truncating_problems(item, {item.oid}, "vecbak", allow_replicated_truncate=True))) == 2


@pytest.mark.parametrize("columns", [(), (column("g", generated="s"),)])
def test_a_table_without_columns_to_copy(columns):
    assert refusal(table(columns=columns))[0] == "items has no column that can be copied"


@pytest.mark.parametrize(
    "changes", [{"name": "a\nb"}, {"schema": "a\x7f"}, {"columns": (column("id"), column("a\tb"))}]
)
def test_names_that_psqls_copy_cannot_say(changes):
    message, hint = refusal(table(**changes))
    assert "has a name with a control character" in message
    assert "\n" not in message.replace("a\nb has", "")
    assert "Rename it" in hint


def test_a_generated_column_may_be_named_anyhow():
    assert judge(table(columns=(column("id"), column("a\nb", generated="s")))) == []


def test_a_standby_cannot_truncate_but_can_be_backed_up():
    message, hint = refused_truncate(table(), in_recovery=True)
    assert message == "the server is a standby, which cannot truncate"
    assert "primary" in hint
    assert judge(table(), in_recovery=True) == []


def test_no_privilege_to_truncate():
    assert refused_truncate(table(can_truncate=False)) == (
        "the role vecbak may not truncate items",
        'Let its owner olga run: GRANT TRUNCATE ON "public"."items" TO vecbak',
    )
    assert judge(table(can_truncate=False)) == []


def test_truncate_would_empty_the_children_too():
    message, hint = refused_truncate(table(children=("public.child", "x")))
    assert "items has inheritance children (public.child, x), which TRUNCATE would empty too" in message
    assert "NO INHERIT" in hint


def test_a_foreign_key_from_outside():
    key = ForeignKey(name="fk", table_oid=99, table="public.other")
    message, hint = refused_truncate(table(foreign_keys=(key,)))
    assert message == "items cannot be truncated: a foreign key points at it (fk of public.other)"
    assert "Put public.other into supported_tables and truncate_tables" in hint
    assert "CASCADE" in hint


def test_a_foreign_key_from_a_table_that_is_only_backed_up_refuses_too():
    item = table(foreign_keys=(ForeignKey(name="fk", table_oid=99, table="other"),))
    assert "fk of other" in refused_truncate(item, table("other", 99))[0]


def test_foreign_keys_among_the_truncated_are_no_reason():
    key = ForeignKey(name="fk", table_oid=99, table="other")
    own = ForeignKey(name="self", table_oid=16384, table="items")
    item, other = table(foreign_keys=(key, own)), table("other", 99)
    assert judge(item, other, truncated=[item, other]) == []


def test_a_publication_would_carry_the_truncate():
    item = table(publications=("pub", "pub2"))
    message, hint = refused_truncate(item)
    assert message == "a TRUNCATE of items would be replicated to subscribers (publication pub, pub2)"
    assert "allow_replicated_truncate: true" in hint
    assert judge(item, truncated=[item], allow=True) == []
    assert judge(item) == []


def test_the_second_table_is_judged_like_the_first():
    first, second = table(), table("second", 2, can_truncate=False)
    assert "second" in refusal(first, second, truncated=[first, second])[0]
    assert "second" in refusal(first, table("second", 2, can_select=False))[0]


def test_warnings():
    item, parent = table(), table("parent", 2, children=("child",))
    assert judge(item, parent) == ["parent has inheritance children (child); their rows are not in this backup"]
    assert judge(item) == []


def reaction(**changes):
    fields = {
        "kind": "TRIGGER",
        "name": "audit",
        "schema": "public",
        "table": "items",
        "state": "O",
        "on_load": False,
        "on_truncate": True,
    }
    return Reaction(**{**fields, **changes})  # fmt: skip


def test_a_trigger_on_truncate_and_how_to_switch_it_off_and_on_as_it_was():
    message, hint = refused_truncate(table(reactions=(reaction(), reaction(table="part", name="b", state="A"))))
    assert "on TRUNCATE (audit, b on part)" in message
    assert 'ALTER TABLE "public"."items" DISABLE TRIGGER "audit";' in hint
    assert 'ALTER TABLE "public"."part" ENABLE ALWAYS TRIGGER "b";' in hint


@pytest.mark.parametrize("changes", [{"state": "D"}, {"state": "R"}, {"fires": False}, {"on_truncate": False}])
def test_a_trigger_that_does_not_fire_is_in_nobodys_way(changes):
    item = table(reactions=(reaction(**changes),))
    assert judge(item, truncated=[item]) == []


def test_keys_from_a_partition_of_what_is_truncated_too():
    key = ForeignKey(name="fk", table_oid=99, table="part")
    part = SimpleNamespace(oid=99)
    item, other = table(foreign_keys=(key,)), table("other", 7, kind="p", partitions=(part,))
    assert judge(item, other, truncated=[item, other]) == []
    assert "fk of part" in refused_truncate(item, other)[0]


def test_a_table_and_its_partition():
    message, hint = refusal(table(), table("part", 2, ancestors=(16384,)))
    assert message == "part is a partition of items, and both are named: its rows would be there twice"
    assert "Take part out" in hint


# formats


def check(*tables, **backup):
    job = SimpleNamespace(config=Config(backup=Backup(**backup)), runner=ScriptedRunner({}))
    check_format(job, tables, Installation(Path("/pg"), 15, "PATH"))


def test_csv_holds_everything():
    check(table(columns=(column("a", binary_obstacles=("regclass",)),)))


def test_binary_names_the_columns_that_it_cannot_hold():
    columns = (column("a", binary_obstacles=("regclass", "x")), column("g", generated="s", binary_obstacles=("y",)))
    with pytest.raises(Refused) as caught:
        check(table(columns=columns), table("other"), format="binary")
    assert caught.value.message == (
        "the binary form of these columns is not safe to load elsewhere: items.a (regclass, x)"
    )
    assert "format: csv" in caught.value.hint
    check(table(), format="binary")


@pytest.mark.parametrize("compression", ["zstd", "lz4", "gzip"])
def test_a_missing_compressor_is_named(monkeypatch, compression):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Refused, match=f"the program {compression} was not found") as caught:
        check(table(), compression=compression)
    assert f"apt-get install {compression}" in caught.value.hint
    check(table())


def test_a_compressor_must_be_there_for_what_pg_dump_does_not_compress(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    check(table(), format="pg_dump")
    check(table(), format="pg_dump", compression="gzip")
    with pytest.raises(Refused, match="the program zstd was not found"):
        check(table(), format="pg_dump", compression="zstd")


# disk


@pytest.fixture
def disk(monkeypatch):
    """A disk of 100 MB with 50 MB free."""
    status = SimpleNamespace(f_frsize=4096, f_blocks=100 * MB // 4096, f_bavail=50 * MB // 4096)
    monkeypatch.setattr(preflight.os, "statvfs", lambda path: status)


def room(
    tmp_path, *, estimate: int = 0, on_server: int = 0, left_bytes: int = 0, left_percent: float = 0, binary: int = 0
) -> None:
    backup = Backup(min_free_bytes=left_bytes, min_free_percent=left_percent)
    others = {"binary": binary} if binary else {}
    check_space(tmp_path / "not" / "yet", backup, estimate, [table(total_bytes=on_server)], lambda: others)


@pytest.mark.usefixtures("disk")
def test_room_to_the_last_byte(tmp_path):
    room(tmp_path, estimate=50 * MB)
    room(tmp_path, estimate=MB, on_server=5000 * MB)  # indexes and bloat are not copied
    room(tmp_path, estimate=40 * MB, left_bytes=10 * MB)
    room(tmp_path, estimate=40 * MB, left_percent=10)


@pytest.mark.usefixtures("disk")
@pytest.mark.parametrize(
    "needs",
    [
        {"estimate": 50 * MB + 1},
        {"estimate": 40 * MB, "left_bytes": 10 * MB + 1},
        {"estimate": 40 * MB, "left_percent": 11},
        {"left_percent": 51},
    ],
)
def test_no_room(tmp_path, needs):
    with pytest.raises(Refused, match="too little disk space"):
        room(tmp_path, **needs)


@pytest.mark.usefixtures("disk")
def test_no_room_says_needed_free_and_missing(tmp_path):
    with pytest.raises(Refused) as caught:
        room(tmp_path, estimate=60 * MB, on_server=30 * MB, left_bytes=20 * MB)
    assert caught.value.message == (
        f"too little disk space in {tmp_path}: needed 80.0 MB, free 50.0 MB, missing 30.0 MB"
    )
    assert (
        "estimated at 60.0 MB (the tables take 30.0 MB on the server, indexes and bloat included)" in caught.value.hint
    )


@pytest.mark.usefixtures("disk")
@pytest.mark.parametrize(("size", "helps"), [(40 * MB, True), (41 * MB, False)])
def test_another_format_is_named_only_where_it_fits(tmp_path, size, helps):
    with pytest.raises(Refused) as caught:
        room(tmp_path, estimate=60 * MB, left_bytes=10 * MB, binary=size)
    assert ("Set backup.format to binary (40.0 MB)" in caught.value.hint) is helps


def test_a_real_disk_has_no_room_for_an_exabyte(tmp_path):
    with pytest.raises(Refused):
        room(tmp_path, estimate=1 << 60)
    room(tmp_path)


def test_estimates_are_never_below_the_sample():
    assert estimate_bytes(Backup(), 0, 100.0) == 0
    assert estimate_bytes(Backup(), 1000, 100.0) >= 101_000
    assert estimate_bytes(Backup(), 1000, 0.0) > 0


@pytest.mark.parametrize("compression", ["zstd", "lz4", "gzip"])
def test_compression_needs_less_but_binary_vectors_do_not_shrink(compression):
    plain = estimate_bytes(Backup(), 1000, 100.0)
    assert plain / 2 < estimate_bytes(Backup(compression=compression), 1000, 100.0) < plain
    assert estimate_bytes(Backup(format="binary", compression=compression), 1000, 100.0) >= 100_000


# folder


def test_a_folder_that_can_be_made(tmp_path):
    check_folder(tmp_path)
    check_folder(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [lambda path: path.touch(), lambda path: path.symlink_to("nowhere"), os.mkfifo])
def test_something_else_in_the_folders_place(tmp_path, make):
    make(tmp_path / "a")
    for folder in (tmp_path / "a", tmp_path / "a" / "b"):
        with pytest.raises(Refused, match=f"{tmp_path}/a is not a folder"):
            check_folder(folder)


def test_a_folder_without_permission(tmp_path, monkeypatch):
    monkeypatch.setattr(preflight.os, "access", lambda path, mode: False)
    with pytest.raises(Refused, match=f"no permission in {tmp_path}"):
        check_folder(tmp_path / "a")
