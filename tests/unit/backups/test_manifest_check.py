"""Names and numbers that no vecbak would have written, wherever they stand in a manifest."""

from __future__ import annotations

import json

import msgspec
import pytest

from tests.security.hostile import signed
from tests.unit.examples import data_file, manifest, table
from vecbak.backups.manifest import DamagedManifest, encode, read
from vecbak.errors import UsageError
from vecbak.postgres.catalog import Constraint, Index, Partition, Policy, Protection, Reaction, Sequence, UserType

FULL = table(
    constraints=(Constraint(name="c", kind="c", definition="CHECK (true)"),), primary_key=("id",),
    indexes=(Index(name="i", definition="x", method="gin", tablespace=None, comment=None, statistics={"1": 100}, valid=True, constraint=None),),
    sequences=(Sequence(schema="public", name="s", column="id", last_value=1),),
    types=(UserType(sql="public.e", schema="public", name="e", kind="e", labels=("x",)),),
    protection=Protection(policies=(Policy(name="p", permissive=True, command="ALL", roles=("r",), using="true", check=None),)),
    reactions=(Reaction(kind="TRIGGER", name="t", schema="public", table="items", state="O", on_load=True),),
    partitions=(Partition(oid=1, schema="public", name="p", parent="items", kind="r", bound="DEFAULT", partition_by=None, access_method=None,
                          heap_pages=1, table_bytes=1, can_copy=True),),
)  # fmt: skip


def document():
    whole = manifest()
    entry = msgspec.structs.replace(whole.tables["items"], table=FULL, files=(data_file(),))
    return json.loads(encode(msgspec.structs.replace(whole, tables={"items": entry})))


def problem_with(tmp_path, way, value) -> str:
    changed = document()
    place = changed
    for step in way[:-1]:
        place = place[step]
    place[way[-1]] = value
    path = tmp_path / "vector_backup_x.json"
    path.write_bytes(signed(changed))
    with pytest.raises(UsageError) as error:
        read(path)
    assert isinstance(error.value, DamagedManifest)
    assert len(error.value.message) < 600
    return error.value.message


ENTRY = ("tables", "items")
TABLE = (*ENTRY, "table")
NAMES = [
    ("schema",), ("name",), ("columns", 0, "name"), ("primary_key", 0), ("constraints", 0, "name"), ("indexes", 0, "name"), ("sequences", 0, "schema"),
    ("sequences", 0, "name"), ("sequences", 0, "column"), ("types", 0, "schema"), ("types", 0, "name"), ("protection", "policies", 0, "name"),
    ("protection", "policies", 0, "roles", 0), ("reactions", 0, "schema"), ("reactions", 0, "table"), ("reactions", 0, "name"),
    ("partitions", 0, "schema"), ("partitions", 0, "name"), ("partitions", 0, "parent"),
]  # fmt: skip


def test_what_vecbak_writes_is_read(tmp_path):
    path = tmp_path / "vector_backup_x.json"
    path.write_bytes(signed(document()))
    assert read(path).tables["items"].table == FULL


@pytest.mark.parametrize("way", NAMES)
@pytest.mark.parametrize("text", ["", "x" * 64, "é" * 32, "a\0b"])
def test_no_name(tmp_path, way, text):
    problem_with(tmp_path, (*TABLE, *way), text)


@pytest.mark.parametrize(
    "way", [(*TABLE, "schema"), (*TABLE, "name"), (*ENTRY, "columns", 0), (*TABLE, "primary_key", 0)]
)
@pytest.mark.parametrize("text", ["a\nb", "id\n\\! id\n", "a\rb", "\x1b[2J", "a\x7f", "x\x00"])
def test_what_stands_on_one_line_of_psql(tmp_path, way, text):
    problem_with(tmp_path, way, text)


@pytest.mark.parametrize(("way", "value"), [
    (("backup_id",), "../x"), (("backup_id",), "x\nSUMS\nid\n"), (("backup_id",), ""), (("backup_id",), "1" * 65),
    (("server", "version"), "9" * 5000), (("server", "version"), ""), (("server", "version"), "16\n\\! id"),
    (("created_at",), "2025-07-20T10:10:07"), (("created_at",), "yesterday"), (("created_at",), 1), (("duration",), "x"),
    ((*ENTRY, "rows"), -1), ((*ENTRY, "rows"), 1 << 63), ((*ENTRY, "size_bytes"), -1), ((*ENTRY, "files", 0, "rows"), -1), ((*ENTRY, "files", 0, "size_bytes"), 10**30),
    ((*ENTRY, "files"), []), ((*ENTRY, "columns"), []), ((*ENTRY, "columns"), ["id", "id"]), ((*ENTRY, "columns"), ["other"]),
    ((*ENTRY, "files", 0, "sha256"), "A" * 64), ((*ENTRY, "files", 0, "sha256"), "a" * 63), (("schema_file", "sha256"), "x\nSUMS\nid\n"), (("schema_file", "size_bytes"), -1),
    ((*TABLE, "indexes", 0, "statistics"), {"1 SET STATISTICS 1; DROP TABLE x; --": 1}), ((*TABLE, "indexes", 0, "statistics"), {"1": -2}),
    ((*TABLE, "indexes", 0, "statistics"), {"0": 1}), ((*TABLE, "indexes", 0, "statistics"), {"1": 10_001}), ((*TABLE, "sequences", 0, "last_value"), 1 << 63),
    ((*TABLE, "oid"), -(1 << 64)), ((*TABLE, "columns"), "x"), (("programs", "psql"), 1 << 64), (("tables",), {"a b": {}}),
])  # fmt: skip
def test_what_vecbak_does_not_write(tmp_path, way, value):
    problem_with(tmp_path, way, value)


@pytest.mark.parametrize("name", [
    "../x.csv", "/etc/passwd", "a/b.csv", "..", ".", "", "x\nSUMS\nid\n", "x.csv; id", "x y.csv", "$(id).csv", "`id`.csv", "x'.csv", "x" * 256, "é.csv", "x\\.csv", "x\0.csv",
])  # fmt: skip
@pytest.mark.parametrize("way", [(*ENTRY, "files", 0, "name"), ("schema_file", "name")])
def test_no_name_of_a_file(tmp_path, way, name):
    problem_with(tmp_path, way, name)


@pytest.mark.parametrize("label", ["a b", "a\nb", '"a\nb"', "", "a.b.c", "x" * 64, "a;b", '"open'])
def test_no_name_of_a_table(tmp_path, label):
    changed = document()
    changed["tables"][label] = changed["tables"].pop("items")
    path = tmp_path / "vector_backup_x.json"
    path.write_bytes(signed(changed))
    with pytest.raises(DamagedManifest):
        read(path)


@pytest.mark.parametrize("text", ["a\\u0000b", 'it\'s \\ "x"', "a\nb", "x" * 1000, "\\! id"])
def test_a_comment_may_hold_anything_that_postgresql_stores(tmp_path, text):
    changed = document()
    changed["tables"]["items"]["table"]["comment"] = text
    path = tmp_path / "vector_backup_x.json"
    path.write_bytes(signed(changed))
    assert read(path).tables["items"].table.comment == text


@pytest.mark.parametrize("data", [
    b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}", b"\xff\xfe", b"{}", b"[]", b"", b"null", b'{"format_version": 1, "format_version": 2}', b'{"x": "\\ud800"}', b"1e999",
], ids=str)  # fmt: skip
def test_documents_that_are_none(tmp_path, data):
    path = tmp_path / "vector_backup_x.json"
    path.write_bytes(data)
    with pytest.raises(DamagedManifest):
        read(path)


def test_of_a_key_that_stands_twice_the_last_counts_as_for_everybody(tmp_path):
    text = signed(document()).decode()
    doubled = text.replace('"format": "csv"', '"format": "tar", "format": "csv"')
    path = tmp_path / "vector_backup_x.json"
    path.write_bytes(signed_text(doubled))
    assert read(path).format == "csv" == json.loads(path.read_bytes())["format"]


def signed_text(text: str) -> bytes:
    import hashlib
    import re

    empty = re.sub(r'"checksum": "[0-9a-f]{64}"', '"checksum": ""', text).encode()
    return empty.replace(b'"checksum": ""', b'"checksum": "' + hashlib.sha256(empty).hexdigest().encode() + b'"')
