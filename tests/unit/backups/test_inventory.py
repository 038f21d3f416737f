import hashlib
import os
from datetime import UTC, datetime

import msgspec
import pytest

from tests.unit.examples import manifest
from vecbak.backups.inventory import date_in, find_backup, search_folders, take_inventory
from vecbak.backups.manifest import DamagedManifest, encode
from vecbak.backups.retention import Moment, kept
from vecbak.config import Retention
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


def test_a_new_backup_is_dated_after_every_other_one_even_if_the_clock_has_gone_back(tmp_path, caplog):
    now = datetime(2025, 7, 20, 12, tzinfo=UTC)
    assert date_in(tmp_path, now) == now
    put(tmp_path, "20250720_110000", datetime(2025, 7, 20, 11, tzinfo=UTC))
    assert date_in(tmp_path, now) == now
    assert caplog.records == []
    put(tmp_path, "20250721_000000", datetime(2025, 7, 21, tzinfo=UTC))
    assert datetime(2025, 7, 21, tzinfo=UTC) < date_in(tmp_path, now) < datetime(2025, 7, 21, 0, 0, 1, tzinfo=UTC)
    assert "the clock is behind" in caplog.text


@pytest.mark.parametrize(
    "odd",
    [
        "9999-12-31T23:59:59.999999Z",
        "9999-12-31T23:59:59.999999-23:59",
        "9999-01-01T00:00:00+14:00",
        "0001-01-01T00:00:00Z",
        "0001-01-01T00:00:00+23:59",
        "2025-07-20T12:00:00",
        "9999-12-31T23:59:59",
    ],
)
def test_no_date_in_the_folder_keeps_a_new_backup_from_being_dated_after_it(tmp_path, odd):
    path = put(tmp_path, "20250720_121007")
    document = msgspec.json.decode(path.read_bytes())
    put_document(path, document | {"created_at": odd})
    moment = datetime(2025, 7, 20, tzinfo=UTC)
    dates = []
    for number in range(3):
        dates.append(date_in(tmp_path, moment))
        put(tmp_path, f"20250721_00000{number}", dates[-1])
    assert dates == sorted(set(dates))
    assert [found.manifest.created_at for found in take_inventory([tmp_path]).backups][:3] == dates[::-1]
    moments = [Moment(found.manifest.created_at, found.path.name) for found in take_inventory([tmp_path]).backups]
    rules = Retention(keep_last=1, keep_daily=9, keep_weekly=9, keep_monthly=9)
    assert next(iter(kept(moments, rules))).created_at == dates[-1]


@pytest.mark.parametrize(
    "changes",
    [
        {"duration": -1.0},
        {"duration": 1e308},
        {"format": "tar"},
        {"schema_file": {"name": "s.sql", "size_bytes": -1, "sha256": ""}},
        {"schema_file": {"name": "s.sql", "size_bytes": 10**30, "sha256": ""}},
        {"collections": {"a": {"uuid": "", "rows": -(10**40)}}},
        {"truncated": {"completed_at": "2025-01-01T00:00:00Z", "rows_removed": {"items": -1}}},
        {"created_at": "2025-13-01T00:00:00Z"},
        {"created_at": "2016-12-31T23:59:60Z"},
        {"created_at": "10000-01-01T00:00:00Z"},
        {"created_at": 1e18},
    ],
)
def test_numbers_and_dates_that_cannot_be_are_told_and_stop_nobody(tmp_path, changes):
    path = put(tmp_path, "20250720_121007")
    put_document(path, msgspec.json.decode(path.read_bytes()) | changes)
    moment = datetime(2025, 7, 20, tzinfo=UTC)
    assert date_in(tmp_path, moment) == moment
    found = take_inventory([tmp_path])
    assert not found.backups
    assert [path for path, _ in found.unreadable] == [path]
    with pytest.raises(UsageError):
        find_backup("20250720_121007", [tmp_path])


def put_document(path, document) -> None:
    """With the checksum that belongs to it."""
    data = msgspec.json.format(msgspec.json.encode(document | {"checksum": ""}), indent=1) + b"\n"
    checksum = hashlib.sha256(data).hexdigest()
    path.write_bytes(data.replace(b'"checksum": ""', f'"checksum": "{checksum}"'.encode()))
