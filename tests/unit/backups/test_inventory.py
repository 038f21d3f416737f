import os
from datetime import UTC, datetime

import pytest

from tests.unit.examples import manifest
from vecbak.backups.inventory import find_backup, search_folders, take_inventory
from vecbak.backups.manifest import DamagedManifest, encode
from vecbak.errors import UsageError


def put(folder, backup_id: str, created: datetime | None = None, name: str | None = None):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (name or f"vector_backup_{backup_id}.json")
    path.write_bytes(encode(manifest(backup_id=backup_id, created_at=created or datetime(2025, 7, 20, tzinfo=UTC))))
    return path


def put_pair(folder, backup_id: str, *kinds: str):
    for kind in kinds or ("collection", "embedding"):
        (folder / f"langchain_pg_{kind}_{backup_id}.csv").write_text("id\n")


def test_the_newest_is_the_one_that_was_made_last_whatever_its_name(tmp_path):
    put(tmp_path, "20991231_000000", datetime(2025, 1, 1, tzinfo=UTC))
    newest = put(tmp_path, "20000101_000000", datetime(2025, 1, 3, tzinfo=UTC))
    put(tmp_path, "20500101_000000", datetime(2025, 1, 2, tzinfo=UTC))
    assert find_backup("latest", [tmp_path]).path == newest
    found = [item.manifest.created_at.day for item in take_inventory([tmp_path]).backups]
    assert found == [3, 2, 1]


def test_a_backup_is_found_by_its_id_or_its_path(tmp_path, monkeypatch):
    path = put(tmp_path, "20250720_121007")
    put(tmp_path, "20250720_121008")
    assert find_backup("20250720_121007", [tmp_path]).path == path
    assert find_backup(str(path), []).path == path
    monkeypatch.chdir(tmp_path)
    assert find_backup(path.name, []).path == path
    assert find_backup(f"./{path.name}", []).manifest.backup_id == "20250720_121007"


@pytest.mark.parametrize("text", ["20250720", "", "LATEST", "*", "20250720_12100"])
def test_an_unknown_backup_says_where_was_looked(tmp_path, text):
    put(tmp_path, "20250720_121007")
    with pytest.raises(UsageError, match="there is no backup") as caught:
        find_backup(text, [tmp_path])
    assert str(tmp_path) in caught.value.hint


def test_no_backup_yet(tmp_path):
    with pytest.raises(UsageError, match="there is no backup yet"):
        find_backup("latest", [tmp_path])
    with pytest.raises(UsageError, match="there is no backup yet") as caught:
        find_backup("latest", [])
    assert "no folder that exists" in caught.value.hint


def test_a_pair_named_as_a_backup_says_how_it_is_restored(tmp_path):
    put_pair(tmp_path, "20250101_000000")
    with pytest.raises(UsageError, match="two files without a manifest") as caught:
        find_backup("20250101_000000", [tmp_path])
    embedding = tmp_path / "langchain_pg_embedding_20250101_000000.csv"
    assert "vecbak restore --csv-pair /" in caught.value.hint
    assert caught.value.hint.endswith(f"langchain_pg_collection_20250101_000000.csv {embedding}")


def test_many_folders_are_not_all_named(tmp_path):
    folders = [tmp_path / str(number) for number in range(7)]
    with pytest.raises(UsageError) as caught:
        find_backup("latest", folders)
    assert "and 2 more" in caught.value.hint


def test_two_backups_of_one_id_are_told_apart_by_path(tmp_path):
    paths = [put(tmp_path / name, "20250720_121007") for name in ("a", "b")]
    with pytest.raises(UsageError, match="2 backups have the id") as caught:
        find_backup("20250720_121007", [tmp_path / "a", tmp_path / "b"])
    assert caught.value.output.splitlines() == [str(path) for path in paths]


def test_a_damaged_manifest_is_reported_and_nothing_older_taken_for_it(tmp_path):
    good = put(tmp_path, "20250101_000000", datetime(2025, 1, 1, tzinfo=UTC))
    bad = put(tmp_path, "20250102_000000", datetime(2025, 1, 2, tzinfo=UTC))
    bad.write_bytes(bad.read_bytes().replace(b"nightly", b"NIGHTLY"))
    inventory = take_inventory([tmp_path])
    assert [found.path for found in inventory.backups] == [good]
    assert [path for path, _ in inventory.unreadable] == [bad]
    assert "checksum" in inventory.unreadable[0][1]
    with pytest.raises(DamagedManifest, match="the newest backup cannot be used"):  # an older one would be a surprise
        find_backup("latest", [tmp_path])
    with pytest.raises(UsageError, match=r"20250102_000000 cannot be used: .*checksum"):
        find_backup("20250102_000000", [tmp_path])


def test_unfinished_backups_are_none(tmp_path):
    put(tmp_path, "20250720_121007", name="vector_backup_20250720_121007.json.tmp")
    inventory = take_inventory([tmp_path])
    assert (inventory.backups, inventory.pairs, inventory.unreadable) == ((), (), ())


def test_pairs_without_a_manifest_are_found_newest_first(tmp_path):
    put_pair(tmp_path, "20240101_000000")
    put_pair(tmp_path, "20250101_000000")
    put_pair(tmp_path, "20260101_000000", "collection")
    put_pair(tmp_path, "copy of mine")
    pairs = take_inventory([tmp_path]).pairs
    assert [pair.backup_id for pair in pairs] == ["20250101_000000", "20240101_000000"]
    assert pairs[0].embedding == tmp_path / "langchain_pg_embedding_20250101_000000.csv"
    assert pairs[0].size_bytes == 6


def test_a_pair_with_a_manifest_is_a_backup_and_not_a_pair(tmp_path):
    put(tmp_path, "20250101_000000")
    put(tmp_path, "20250102_000000").write_text("damaged")
    put_pair(tmp_path, "20250101_000000")
    put_pair(tmp_path, "20250102_000000")
    assert take_inventory([tmp_path]).pairs == ()


def test_a_dangling_link_does_not_break_the_list(tmp_path):
    for kind in ("collection", "embedding"):
        (tmp_path / f"langchain_pg_{kind}_20250101_000000.csv").symlink_to("nowhere")
    for pair in take_inventory([tmp_path]).pairs:
        assert pair.size_bytes >= 0


def test_an_output_directory_alone_is_searched(tmp_path):
    (tmp_path / "out" / "vector_bak").mkdir(parents=True)
    out = tmp_path / "out"
    assert search_folders(out, tmp_path, "vector_bak") == [out, out / "vector_bak"]
    assert search_folders(tmp_path / "none", tmp_path, "vector_bak") == []


def test_no_folder_is_searched_twice(tmp_path):
    assert search_folders(tmp_path, tmp_path, ".") == [tmp_path]


def test_everything_below_the_tasks_is_searched_once(tmp_path, monkeypatch):
    (tmp_path / "tasks" / "a" / "vector_bak").mkdir(parents=True)
    (tmp_path / "vector_bak").mkdir()
    monkeypatch.chdir(tmp_path)
    tasks = tmp_path / "tasks"
    assert search_folders(None, tasks, "vector_bak") == [
        tmp_path,
        tmp_path / "vector_bak",
        tasks,
        tasks / "a",
        tasks / "a" / "vector_bak",
    ]
    folders = search_folders(None, tmp_path, "vector_bak")
    assert len(folders) == len(set(folders))
    assert search_folders(None, tmp_path / "none", "x") == [tmp_path]


def test_a_folder_without_permission_is_no_reason_to_stop(tmp_path):
    (tmp_path / "a").mkdir()
    os.mkfifo(tmp_path / "pipe")
    assert take_inventory([tmp_path, tmp_path / "none"]).backups == ()
