"""`vecbak verify`: every kind of damage is named, and a proof is recorded."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from pathlib import Path

import msgspec
import pytest

from tests.support import langchain
from tests.support.places import server, server18  # noqa: F401 - fixtures
from tests.support.server import Database
from tests.support.workspace import Workspace
from vecbak.backups import manifest as manifests

EMBEDDING, COLLECTION = "langchain_pg_embedding", "langchain_pg_collection"
FORMATS = [
    ("csv", "none"), ("binary", "none"), ("pg_dump", "none"), ("csv", "zstd"),
    *(pytest.param(item, marks=pytest.mark.local) for item in [("binary", "lz4"), ("csv", "gzip"), ("pg_dump", "gzip")]),
]  # fmt: skip


@pytest.fixture(params=FORMATS, ids="-".join)
def backup(request, tmp_path, filled18: Database) -> Workspace:
    workspace = Workspace(tmp_path, filled18)
    workspace.save(backup={"format": request.param[0], "compression": request.param[1]})
    assert workspace.run("backup").code == 0
    return workspace


@pytest.fixture
def plain(tmp_path, filled18: Database) -> Workspace:
    workspace = Workspace(tmp_path, filled18)
    assert workspace.run("backup").code == 0
    return workspace


def data_file(workspace: Workspace, table: str = EMBEDDING) -> Path:
    return next(workspace.backups.glob(f"{table}_*"))


def manifest(workspace: Workspace) -> Path:
    return next(workspace.backups.glob("vector_backup_*.json"))


@pytest.mark.local  # verifying reads files alone
def test_an_intact_backup(backup: Workspace):
    done = backup.run("verify", "latest", "--json")
    assert done.code == 0, done.stderr
    assert done.json["verified"] is True
    assert done.json["proven_restorable"] is None
    assert done.json["rows"] == 63
    assert {item["success"] for item in done.json["files"].values()} == {True}


@pytest.mark.local  # slow, and verifying reads files alone
def test_a_flipped_bit_is_found(backup: Workspace):
    source = random.Random(7)
    for path in sorted(backup.backups.iterdir()):
        if path.name == "vector_backup_log.txt":
            continue
        good = path.read_bytes()
        for position in (0, source.randrange(len(good)), len(good) - 1):
            bad = bytearray(good)
            bad[position] ^= 1 << source.randrange(8)
            path.write_bytes(bad)
            done = backup.run("verify", "latest" if path.suffix != ".json" else path)
            assert done.code == 5, (path.name, position)
            assert path.name in done.stderr
        restored = backup.run("restore", manifest(backup), "--mode", "append")
        assert restored.code == 5, path.name
        path.write_bytes(good)
    assert backup.run("verify", "latest").code == 0


@pytest.mark.local  # verifying reads files alone
@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-7]), "was cut short"),
        (lambda path: path.write_bytes(b""), "was cut short"),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), "has extra bytes"),
        (lambda path: (path.unlink(), path.mkdir()), "not a regular file"),
        (lambda path: (path.rename(path.with_suffix(".else")), path.symlink_to(path.with_suffix(".else"))), "link"),
    ],
)
def test_damage_is_named(plain: Workspace, harm, words):
    path = data_file(plain)
    harm(path)
    done = plain.run("verify", "latest", "--json")
    assert done.code == 5
    assert path.name in done.stderr
    assert done.json["verified"] is False
    assert done.json["files"][path.name]["success"] is False
    if words in {"is missing", "was cut short", "has extra bytes"}:
        assert words in done.stderr


def test_another_tables_file_under_the_right_name(plain: Workspace):
    one, other = data_file(plain), data_file(plain, COLLECTION)
    shutil.copy(other, one)
    done = plain.run("verify", "latest")
    assert done.code == 5
    assert one.name in done.stderr


def test_swapped_files_of_one_size_are_told_apart(tmp_path, filled18: Database):
    filled18.execute(
        "CREATE TABLE a (x int); INSERT INTO a VALUES (1); CREATE TABLE b (x int); INSERT INTO b VALUES (2)"
    )
    workspace = Workspace(tmp_path, filled18)
    workspace.save(vector_tables={"supported_tables": ["a", "b"], "truncate_tables": []})
    assert workspace.run("backup").code == 0
    a, b = data_file(workspace, "a"), data_file(workspace, "b")
    content = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(content)
    done = workspace.run("verify", "latest")
    assert done.code == 5
    assert f"it is the content of {b.name}" in done.stderr


def test_every_damaged_file_is_told(plain: Workspace):
    for table in (EMBEDDING, COLLECTION):
        data_file(plain, table).unlink()
    done = plain.run("verify", "latest", "--json")
    assert len(done.json["errors"]) == 2


@pytest.mark.local  # verifying reads files alone
@pytest.mark.parametrize("content", [b"", b"{}", b"not json", b"[]", b"\xff\xfe", b'{"format_version": 99}'])
def test_a_damaged_manifest(plain: Workspace, content):
    path = manifest(plain)
    path.write_bytes(content)
    for name in (path, "latest", path.stem.removeprefix("vector_backup_")):
        done = plain.run("verify", name)
        assert done.code == 5, name
        assert path.name in done.stderr


def test_an_unknown_backup(plain: Workspace):
    for name in ("20010101_000000", "./nothing.json"):
        assert plain.run("verify", name).code == 2


def test_a_proof_is_made_and_recorded(backup: Workspace):
    done = backup.run("verify", "latest", "--restore", "--json")
    assert done.code == 0, done.stderr
    assert done.json["proven_restorable"] is True
    assert done.json["proof"]["place"] == "embedded server"
    assert done.json["proof"]["server"].startswith("18")
    recorded = json.loads(manifest(backup).read_text())["proven_restorable"]
    assert recorded["server"] == done.json["proof"]["server"]
    assert backup.run("verify", "latest").code == 0


def test_a_proof_on_another_server(plain: Workspace, server16):
    with server16.new_database() as other:
        before = other.fetch("SELECT nspname FROM pg_namespace ORDER BY 1")
        done = plain.run("verify", "latest", "--restore", "--on", other.socket_dsn, "--json")
        assert done.code == 0, done.stderr
        assert done.json["proof"]["place"] == "scratch schema"
        assert done.json["proof"]["server"].startswith("16")
        assert other.fetch("SELECT nspname FROM pg_namespace ORDER BY 1") == before


def test_the_embedded_server_is_as_near_to_the_source_as_there_is(tmp_path, server16):
    with server16.new_database() as database:
        langchain.fill(database, 5)
        workspace = Workspace(tmp_path, database)
        assert workspace.run("backup").code == 0
        done = workspace.run("verify", "latest", "--restore", "--json")
        assert done.json["proof"]["server"].startswith("16"), done.stderr


def test_what_comes_back_differently_is_not_proven(tmp_path, database18: Database):
    # a domain's default is not in the file; a type whose output is not its input shows up in the comparison
    database18.execute("CREATE TABLE t (x char(4)); INSERT INTO t VALUES ('a')")
    workspace = Workspace(tmp_path, database18)
    workspace.save(vector_tables={"supported_tables": ["t"], "truncate_tables": ["t"]}, backup={"part_bytes": 1})
    assert workspace.run("backup").code == 0
    path = manifest(workspace)
    # as if the column had been another one: the same bytes load, and come out differently
    document = json.loads(path.read_text())
    document["tables"]["t"]["table"]["columns"][0]["type"] = "numeric(5,2)"
    file = data_file(workspace, "t")
    file.write_text("x\n7\n")
    data = document["tables"]["t"]["files"][0]
    data.update(size_bytes=file.stat().st_size, sha256=hashlib.sha256(file.read_bytes()).hexdigest())
    document["checksum"] = ""
    path.write_bytes(manifests.encode(msgspec.convert(document, manifests.Manifest)))
    done = workspace.run("verify", path, "--restore", "--json")
    assert done.code == 5
    assert "differs at byte" in done.stderr
    assert done.json["proven_restorable"] is False
    assert json.loads(path.read_text())["proven_restorable"] is None


def test_truncate_waits_for_the_proof(tmp_path, filled18: Database):
    workspace = Workspace(tmp_path, filled18)
    workspace.save(backup={"verify_before_truncate": "restore"})
    done = workspace.run("truncate", "--json")
    assert done.code == 0, done.stderr
    assert filled18.count(EMBEDDING) == 0
    document = json.loads(manifest(workspace).read_text())
    assert document["proven_restorable"]["place"] == "embedded server"
    assert document["truncated"]["rows_removed"] == {EMBEDDING: 62}


def test_without_a_proof_nothing_is_truncated(tmp_path, filled18: Database):
    filled18.execute(f"ALTER TABLE {EMBEDDING} ADD r regclass DEFAULT '{COLLECTION}'::regclass")
    workspace = Workspace(tmp_path, filled18)
    workspace.save(backup={"verify_before_truncate": "restore"})
    done = workspace.run("truncate", "--json")
    assert done.code == 5  # what a regclass names is in no other database
    assert "does not exist" in done.stderr
    assert filled18.count(EMBEDDING) == 62
    assert workspace.files("*.json") == []
    assert workspace.run("backup").code == 0, "a backup alone needs no proof"


def test_a_password_on_the_command_line_is_refused(plain: Workspace):
    done = plain.run("verify", "latest", "--restore", "--on", "postgresql://u:hush-9931@127.0.0.1/x")
    assert done.code == 2
    assert "hush-9931" not in done.stderr


def test_on_needs_restore(plain: Workspace):
    assert plain.run("verify", "latest", "--on", "dbname=x").code == 2


def test_it_works_without_a_config_and_without_a_server(plain: Workspace):
    (plain.folder / "vecbak.yaml").unlink()
    assert plain.run("verify", manifest(plain)).code == 0
