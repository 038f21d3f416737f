"""Every file of a backup against its manifest, also where the checksums are right and the content is not."""

from __future__ import annotations

import hashlib
import time

import msgspec
import pytest

from tests.unit.examples import ScriptedRunner, data_file, manifest
from vecbak.backups.inventory import FoundBackup
from vecbak.backups.manifest import SchemaFile
from vecbak.errors import BackupDamaged
from vecbak.operations.reading import FileReader
from vecbak.operations.verify import verify
from vecbak.progress import NoProgress

GOOD = b"id,text\n1,a\n2,b\n"


def backup(folder, content: bytes, rows: int, schema: bytes = b"-- x\n"):
    """A backup of one file whose checksum is right, whatever it holds."""
    file = data_file(rows=rows, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    (folder / file.name).write_bytes(content)
    made = manifest()
    entry = msgspec.structs.replace(made.tables["items"], files=(file,), rows=rows)
    name = made.schema_file.name
    (folder / name).write_bytes(schema)
    described = SchemaFile(name=name, size_bytes=5, sha256=hashlib.sha256(b"-- x\n").hexdigest())
    found = FoundBackup(
        folder / "vector_backup_20250720_121007.json",
        msgspec.structs.replace(made, tables={"items": entry}, schema_file=described),
    )
    return found, FileReader(ScriptedRunner({}), folder, "csv", None, 10)


def test_a_good_one(tmp_path):
    result, checked = verify(*backup(tmp_path, GOOD, 2), jobs=2, progress=NoProgress())
    assert (result.verified, result.rows, checked.needs_psql_18) == (True, 2, False)
    checked.check_untouched()


@pytest.mark.parametrize(
    ("content", "rows", "words"),
    [
        (GOOD, 3, "holds 2 rows, the manifest says 3"),
        (GOOD, 1, "holds 2 rows, the manifest says 1"),
        (GOOD[:-1], 2, "ends in the middle of record 3"),
        (GOOD + b'3,"', 2, "ends in the middle"),
        (b"", 0, "has no header line"),
    ],
)
def test_a_content_that_is_not_what_the_manifest_says(tmp_path, content, rows, words):
    with pytest.raises(BackupDamaged, match=words) as raised:
        verify(*backup(tmp_path, content, rows), jobs=1, progress=NoProgress())
    assert raised.value.result.verified is False
    assert raised.value.result.files["items_20250720_121007.csv"].success is False


@pytest.mark.parametrize(("schema", "words"), [(b"-- y\n", "content was changed"), (b"-- long\n", "has extra bytes")])
def test_the_schema_file_is_looked_at_too(tmp_path, schema, words):
    with pytest.raises(BackupDamaged, match=words):
        verify(*backup(tmp_path, GOOD, 2, schema), jobs=1, progress=NoProgress())


def test_an_interrupt_reads_nothing_more(tmp_path):
    """Neither the rest of a file nor the files that wait."""
    read = []

    class Interrupting(FileReader):
        def read(self, name, consume):
            read.append(name)
            if len(read) > 1:
                time.sleep(0.05)
            raise KeyboardInterrupt

    found, reader = backup(tmp_path, GOOD, 2)
    entry = found.manifest.tables["items"]
    many = msgspec.structs.replace(entry, files=entry.files * 20_000)
    found = FoundBackup(found.path, msgspec.structs.replace(found.manifest, tables={"items": many}))
    reader = Interrupting(reader.runner, reader.folder, "csv", None, 10)
    with pytest.raises(KeyboardInterrupt):
        verify(found, reader, jobs=1, progress=NoProgress())
    assert len(read) < 20_000


def test_a_line_where_old_psql_stops_is_remembered(tmp_path):
    _, checked = verify(*backup(tmp_path, b'id,text\n1,"a\n\\.\nb"\n', 1), jobs=1, progress=NoProgress())
    assert checked.needs_psql_18
