import os
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.examples import data_file, manifest
from vecbak.backups import manifest as manifests
from vecbak.backups.manifest import SchemaFile, TableEntry, TruncateRecord, encode, read, with_truncate
from vecbak.errors import UsageError


def written(folder, data: bytes):
    path = folder / "vector_backup_20250720_121007.json"
    path.write_bytes(data)
    return path


def with_file_name(name: str):
    entry = manifest().tables["items"]
    fields = {field: getattr(entry, field) for field in TableEntry.__struct_fields__}
    return manifest(tables={"items": TableEntry(**{**fields, "files": (data_file(name),)})})


def test_what_is_written_is_read_again(tmp_path):
    original = manifest(
        truncated=TruncateRecord(completed_at=datetime(2025, 7, 20, tzinfo=UTC), rows_removed={"items": 2})
    )
    found = read(written(tmp_path, encode(original)))
    assert len(found.checksum) == 64
    assert encode(found) == encode(original)
    assert (found.rows, found.size_bytes) == (2, 19)
    assert found.tables == original.tables


def test_every_flipped_bit_is_noticed(tmp_path):
    data = encode(manifest())
    path = written(tmp_path, data)
    with path.open("r+b", buffering=0) as file:
        for position, byte in enumerate(data):
            for bit in range(8):
                os.pwrite(file.fileno(), bytes([byte ^ 1 << bit]), position)
                with pytest.raises(UsageError):
                    read(path)
            os.pwrite(file.fileno(), bytes([byte]), position)
    read(path)


def test_every_shorter_manifest_is_refused(tmp_path):
    data = encode(manifest())
    for length in range(len(data)):
        with pytest.raises(UsageError):
            read(written(tmp_path, data[:length]))


@pytest.mark.parametrize("added", [b"\n", b" ", b"\0", b"{}"])
def test_a_longer_manifest_is_refused(tmp_path, added):
    data = encode(manifest())
    for changed in (data + added, added + data):
        with pytest.raises(UsageError):
            read(written(tmp_path, changed))


def test_a_changed_manifest_is_told_from_garbage(tmp_path):
    path = written(tmp_path, encode(manifest()).replace(b'"nightly"', b'"NIGHTLY"'))
    with pytest.raises(UsageError, match="was changed since it was written") as caught:
        read(path)
    assert caught.value.hint


def test_a_manifest_without_a_checksum_is_refused(tmp_path):
    with pytest.raises(UsageError, match="checksum does not agree"):
        read(written(tmp_path, manifests._bytes(manifest(), "")))


@given(data=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_garbage_is_refused(tmp_path_factory, data):
    with pytest.raises(UsageError, match="is no vecbak manifest"):
        read(written(tmp_path_factory.getbasetemp(), data))


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"format_version": 1}'])
def test_what_is_no_manifest_is_refused(tmp_path, data):
    with pytest.raises(UsageError, match="is no vecbak manifest") as caught:
        read(written(tmp_path, data))
    assert "vecbak list" in caught.value.hint


@pytest.mark.parametrize("name", ["../x.csv", "/etc/passwd", "a/b", "", ".", "..", "a\0b", "a/", "./a"])
def test_a_data_file_outside_the_folder_is_refused(tmp_path, name):
    with pytest.raises(UsageError, match=r"outside its own folder|code 0"):
        read(written(tmp_path, encode(with_file_name(name))))


def test_a_schema_file_outside_the_folder_is_refused(tmp_path):
    changed = manifest(schema_file=SchemaFile(name="../../etc/x", size_bytes=0, sha256=""))
    with pytest.raises(UsageError, match="outside its own folder"):
        read(written(tmp_path, encode(changed)))


def test_another_format_version_asks_for_another_vecbak(tmp_path):
    with pytest.raises(UsageError, match="format version 3; this vecbak knows 1, 2") as caught:
        read(written(tmp_path, encode(manifest(format_version=3))))
    assert "newer" in caught.value.hint


def test_a_newer_field_does_not_break_the_checksum(tmp_path):
    data = manifests._bytes(manifest(), "").replace(b'"format_version"', b'"something_new": [1],\n "format_version"', 1)
    checksum = manifests.hashlib.sha256(data).hexdigest().encode()
    path = written(tmp_path, data.replace(b'"checksum": ""', b'"checksum": "' + checksum + b'"'))
    assert read(path).backup_id == "20250720_121007"


def test_a_huge_file_is_not_read(tmp_path):
    path = tmp_path / "m.json"
    path.touch()
    os.truncate(path, manifests.MAXIMUM_BYTES + 1)
    with pytest.raises(UsageError, match="too large"):
        read(path)


def test_what_is_not_there_or_no_file_is_refused(tmp_path):
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(UsageError, match="cannot be read"):
            read(path)


def test_the_truncate_is_added_and_nothing_else_changes(tmp_path):
    record = TruncateRecord(completed_at=datetime(2025, 7, 20, tzinfo=UTC), rows_removed={"items": 2})
    amended = read(written(tmp_path, encode(with_truncate(manifest(), record))))
    assert amended.truncated == record
    assert amended.tables == manifest().tables
    assert encode(with_truncate(amended, None)) == encode(manifest())
