from datetime import UTC, datetime

import pytest

from tests.unit.examples import manifest, table
from vecbak.backups.draft import start_draft
from vecbak.backups.files import FileDamaged
from vecbak.backups.formats import check_ends
from vecbak.backups.manifest import DataFile, SchemaFile, TableEntry, encode
from vecbak.backups.verified import VerifiedBackup

MOMENT = datetime(2025, 7, 20, 12, 10, 7, tzinfo=UTC)


@pytest.fixture
def backup(tmp_path):
    """A published backup of two rows: its draft, the manifest's file, and the data files."""
    draft = start_draft(tmp_path, MOMENT, "%Y%m%d_%H%M%S", ".tmp")
    for name, text in (("items_x.csv", "id\n1\n2\n"), ("schema_x.sql", "--\n")):
        draft.create(name).path.write_text(text)
    data, schema = draft.finish("items_x.csv", check_ends("csv", "none")), draft.finish("schema_x.sql")
    files = (DataFile(name=data.path.name, size_bytes=data.size_bytes, sha256=data.sha256, rows=2),)
    entry = TableEntry(table=table(), rows=2, size_bytes=data.size_bytes, columns=("id",), files=files, duration=0)
    described = manifest(
        tables={"items": entry},
        schema_file=SchemaFile(name=schema.path.name, size_bytes=schema.size_bytes, sha256=schema.sha256),
    )
    published = draft.publish(encode(described))
    yield draft, published, {"items": (data,), "": (schema,)}
    draft.close()


def test_a_good_backup_is_verified(backup):
    _, published, files = backup
    verified = VerifiedBackup.verify(published, files, {"items": 2})
    assert verified.manifest.rows == 2
    verified.check_untouched()


def test_nobody_else_can_make_one():
    with pytest.raises(TypeError):
        VerifiedBackup(object(), manifest(), ())


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_another_count_now_is_no_proof(backup, rows):
    _, published, files = backup
    with pytest.raises(FileDamaged, match=rf"items has {rows} rows now, and 2 in the backup"):
        VerifiedBackup.verify(published, files, {"items": rows})


def test_other_files_than_the_manifests_are_no_proof(backup):
    _, published, files = backup
    with pytest.raises(FileDamaged, match="does not name the files of items"):
        VerifiedBackup.verify(published, {**files, "items": ()}, {"items": 2})


def test_a_changed_manifest_is_no_proof(backup):
    _, published, files = backup
    published.path.write_bytes(published.path.read_bytes().replace(b"nightly", b"NIGHTLY"))
    with pytest.raises(FileDamaged, match="checksum"):
        VerifiedBackup.verify(published, files, {"items": 2})


@pytest.mark.parametrize("label", ["items", ""])
def test_a_file_touched_after_its_checksum_is_no_proof(backup, label):
    _, published, files = backup
    verified = VerifiedBackup.verify(published, files, {"items": 2})
    path = files[label][0].path
    text = path.read_bytes()
    path.write_bytes(text)
    with pytest.raises(FileDamaged, match="changed or replaced"):
        verified.check_untouched()
    with pytest.raises(FileDamaged):
        VerifiedBackup.verify(published, files, {"items": 2})


def test_a_file_that_is_gone_is_no_proof(backup):
    _, published, files = backup
    verified = VerifiedBackup.verify(published, files, {"items": 2})
    files["items"][0].path.unlink()
    with pytest.raises(FileDamaged, match="is gone"):
        verified.check_untouched()


def test_the_manifests_own_file_counts_too(backup):
    _, published, files = backup
    verified = VerifiedBackup.verify(published, files, {"items": 2})
    published.path.unlink()
    with pytest.raises(FileDamaged, match="is gone"):
        verified.check_untouched()


def test_another_schema_file_than_the_manifests_is_no_proof(backup):
    _, published, files = backup
    with pytest.raises(FileDamaged):
        VerifiedBackup.verify(published, {**files, "": files["items"]}, {"items": 2})


def test_a_table_that_is_not_in_the_backup_is_no_proof(backup):
    _, published, files = backup
    with pytest.raises(FileDamaged):
        VerifiedBackup.verify(published, files, {"items": 2, "other": 5})
