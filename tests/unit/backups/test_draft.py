import fcntl
import hashlib
import os
import re
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit import examples
from vecbak.backups import draft as drafts
from vecbak.backups import draft_file
from vecbak.backups import manifest as manifests
from vecbak.backups.amending import amend_manifest
from vecbak.backups.draft import remove_leftovers, start_draft
from vecbak.backups.draft_file import DraftFile
from vecbak.backups.files import FileDamaged, Identity, hash_file, make_folder
from vecbak.backups.formats import check_ends
from vecbak.backups.naming import data_name, encode_table_name, manifest_name, schema_name
from vecbak.postgres.names import TableName

MOMENT = datetime(2025, 7, 20, 12, 10, 7, tzinfo=UTC)
FORMAT = "%Y%m%d_%H%M%S"
ID = "20250720_121007"
CSV = f"items_{ID}.csv"
TEXT = b"id\n1\n2\n"

identifiers = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1).filter(
    lambda t: len(t.encode()) <= 63
)
labels = st.builds(TableName, st.none() | identifiers, identifiers).map(str)


MANIFEST = manifests.encode(examples.manifest())


def say_more(now: manifests.Manifest) -> manifests.Manifest:
    return msgspec.structs.replace(now, task_id="more")


@pytest.fixture
def draft(tmp_path):
    draft = start_draft(tmp_path, MOMENT, FORMAT, ".tmp")
    yield draft
    draft.close()


def names_in(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write(draft, name: str = CSV, data: bytes = TEXT):
    path = draft.create(name).path
    with path.open("ab") as file:  # as a program does that was told the name
        file.write(data)
    return path


def mode_of(path) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


# names


def test_names():
    assert data_name("langchain_pg_embedding", ID, ".csv") == "langchain_pg_embedding_20250720_121007.csv"
    assert manifest_name(ID) == "vector_backup_20250720_121007.json"
    assert schema_name(ID) == "vector_schema_20250720_121007.sql"


@pytest.mark.parametrize(
    ("text", "name"),
    [("public.items", "public.items"), ('"My Table"', "%22My%20Table%22"), ('"a/b"', "%22a%2Fb%22"), ('".."', "%22..%22"),
     ("é", "%C3%A9"), ('"~%"', "%22%7E%25%22"), ("A-z_0.9", "A-z_0.9")],
)  # fmt: skip
def test_all_but_plain_characters_are_percent_encoded(text, name):
    assert encode_table_name(text) == name


@given(st.lists(labels, unique=True, min_size=2, max_size=6))
def test_distinct_tables_have_distinct_names(texts):
    assert len({encode_table_name(text) for text in texts}) == len(texts)


@given(labels)
def test_names_are_plain_and_at_most_200_bytes(text):
    name = encode_table_name(text)
    assert len(name.encode()) <= 200
    assert not set(name) - set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-%")
    assert name not in {".", ".."}


@given(labels.filter(lambda text: len(encode_table_name(text)) < 180))
def test_short_names_can_be_read_back(text):
    assert unquote(encode_table_name(text)) == text


def test_long_names_that_begin_alike_stay_distinct():
    long = '"' + "é" * 31 + '"."' + "é" * 30
    first, second = encode_table_name(long + 'x"'), encode_table_name(long + 'y"')
    assert first != second
    assert (len(first), len(second)) == (200, 200)


# folders


def test_new_folders_are_their_owners_alone_even_with_umask_0(tmp_path):
    tmp_path.chmod(0o755)
    before = os.umask(0)
    try:
        make_folder(tmp_path / "a" / "b")
        make_folder(tmp_path / "a" / "b")
    finally:
        os.umask(before)
    assert (mode_of(tmp_path / "a"), mode_of(tmp_path / "a" / "b"), mode_of(tmp_path)) == (0o700, 0o700, 0o755)


def test_a_file_in_the_folders_place_is_an_error(tmp_path):
    (tmp_path / "a").write_text("")
    with pytest.raises(OSError, match=r"File exists|Not a directory"):
        make_folder(tmp_path / "a" / "b")


# from .tmp to final


def test_a_file_gets_its_final_name_with_size_and_checksum(draft, tmp_path):
    write(draft)
    assert names_in(tmp_path) == [f"{CSV}.tmp", f"vector_backup_{ID}.json.tmp"]
    finished = draft.finish(CSV, check_ends("csv", "none"))
    assert finished.path == tmp_path / CSV
    assert finished.size_bytes == 7
    assert finished.sha256 == hashlib.sha256(TEXT).hexdigest()
    assert names_in(tmp_path) == [CSV, f"vector_backup_{ID}.json.tmp"]
    finished.check_untouched()


def received(draft, *chunks: bytes):
    file = draft.create(CSV)
    for chunk in chunks:
        file.write(memoryview(chunk))
    file.end()
    return file.path


def test_what_was_received_is_hashed_as_it_came(draft):
    received(draft, TEXT[:2], TEXT[2:])
    finished = draft.finish(CSV)
    assert (finished.size_bytes, finished.sha256) == (len(TEXT), hashlib.sha256(TEXT).hexdigest())
    assert finished.path.read_bytes() == TEXT
    finished.check_untouched()


@pytest.mark.parametrize("change", ["grown", "shortened", "one byte", "the same again"])
def test_a_file_that_changes_after_it_was_received_is_noticed(draft, change):
    path = received(draft, TEXT)
    data = {"grown": TEXT + b"3\n", "shortened": TEXT[:-2], "one byte": TEXT[:-2] + b"3\n", "the same again": TEXT}
    with path.open("r+b") as file:
        file.write(data[change])
        file.truncate()
    with pytest.raises(FileDamaged, match="changed while its checksum was taken"):
        draft.finish(CSV)


@pytest.mark.parametrize("at", ["the next write", "the end"])
def test_a_byte_that_changes_while_it_is_received_is_noticed(draft, at):
    file = draft.create(CSV)
    file.write(memoryview(TEXT))
    with file.path.open("r+b") as other:
        other.write(b"x")
    with pytest.raises(FileDamaged, match="changed by somebody else"):
        file.write(memoryview(TEXT)) if at == "the next write" else file.end()


def test_where_a_stamp_takes_long_few_are_made(draft, monkeypatch):
    """As on a network file system; what was received is the same, and the end is stamped."""
    stamps = []

    def slow(descriptor, ns):
        stamps.append(ns)
        time.sleep(0.02)
        set_times(descriptor, ns=ns)

    set_times = os.utime
    monkeypatch.setattr(os, "utime", slow)
    received(draft, *[TEXT] * 50)
    assert len(stamps) < 10
    finished = draft.finish(CSV)
    assert finished.sha256 == hashlib.sha256(TEXT * 50).hexdigest()
    assert not finished.racy


def test_what_was_received_is_not_read_again(draft, monkeypatch):
    received(draft, TEXT)
    finished = draft.finish(CSV)
    monkeypatch.setattr(os, "pread", lambda *_: pytest.fail("read again"))
    finished.check_untouched()


def test_where_file_times_are_coarse_it_is_read_again(draft, monkeypatch):
    def coarse(descriptor, ns):
        set_times(descriptor, ns=(ns[0] // 10**9 * 10**9,) * 2)

    set_times = os.utime
    monkeypatch.setattr(os, "utime", coarse)
    received(draft, TEXT)
    finished = draft.finish(CSV)
    before = finished.identity.modified_ns
    finished.path.write_bytes(TEXT[::-1])
    set_times(finished.path, ns=(before, before))
    unseen = msgspec.structs.replace(finished, identity=Identity.of(os.lstat(finished.path)))
    with pytest.raises(FileDamaged):
        unseen.check_untouched()


@pytest.mark.parametrize("size", [0, 3, 100])
@pytest.mark.parametrize("at", ["the next write", "the end"])
def test_a_change_of_size_while_it_is_received_is_noticed(draft, size, at):
    file = draft.create(CSV)
    file.write(memoryview(TEXT))
    os.truncate(file.path, size)
    with pytest.raises(FileDamaged, match="changed by somebody else"):
        file.end() if at == "the end" else file.write(memoryview(TEXT))


def test_a_full_disk_is_an_error_of_the_write(tmp_path):
    descriptor = os.open("/dev/full", os.O_RDWR)
    with pytest.raises(OSError, match="No space left"):
        DraftFile(tmp_path / "x", descriptor).write(memoryview(TEXT))
    os.close(descriptor)


def test_files_are_their_owners_alone_even_with_umask_0(tmp_path):
    before = os.umask(0)
    try:
        draft = start_draft(tmp_path, MOMENT, FORMAT, ".tmp")
        write(draft)
        draft.finish(CSV)
        draft.publish(MANIFEST)
        draft.amend(say_more)
        draft.close()
    finally:
        os.umask(before)
    assert {mode_of(tmp_path / name) for name in names_in(tmp_path)} == {0o600}


def test_a_published_backup_stays(draft, tmp_path):
    write(draft)
    draft.finish(CSV)
    published = draft.publish(b'{"a": 1}')
    draft.close()
    assert names_in(tmp_path) == [CSV, f"vector_backup_{ID}.json"]
    assert published.path.read_bytes() == b'{"a": 1}'
    published.check_untouched()
    assert (published.size_bytes, published.sha256) == hash_file(published.path)


def test_the_manifest_is_not_there_before_publish(draft, tmp_path):
    write(draft)
    draft.finish(CSV)
    assert not draft.manifest_path.exists()


def test_what_was_not_published_leaves_nothing(draft, tmp_path):
    write(draft)
    draft.finish(CSV)
    write(draft, f"other_{ID}.csv")
    draft.close()
    assert names_in(tmp_path) == []
    draft.close()


def test_what_was_withdrawn_leaves_nothing(draft, tmp_path):
    write(draft)
    draft.finish(CSV)
    draft.publish(b"{}")
    draft.withdraw()
    assert not draft.manifest_path.exists()
    draft.close()
    assert names_in(tmp_path) == []


def test_withdrawing_what_was_not_published_removes_no_manifest(draft):
    draft.manifest_path.write_text("somebody else's")
    draft.withdraw()
    assert draft.manifest_path.read_text() == "somebody else's"


def test_amend_replaces_the_manifest_in_one_step(draft, tmp_path):
    draft.publish(MANIFEST)
    before = draft.manifest_path.stat().st_ino
    draft.amend(say_more)
    assert manifests.read(draft.manifest_path).task_id == "more"
    assert draft.manifest_path.stat().st_ino != before
    assert names_in(tmp_path) == [f"vector_backup_{ID}.json"]


def test_amend_leaves_the_old_manifest_if_its_way_is_blocked(draft, tmp_path, monkeypatch):
    draft.publish(MANIFEST)
    monkeypatch.setattr(drafts, "WAIT_SECONDS", 0.1)
    with (tmp_path / f"vector_backup_{ID}.json.tmp").open("w") as theirs:
        fcntl.flock(theirs, fcntl.LOCK_EX)
        with pytest.raises(FileExistsError):
            draft.amend(say_more)
    assert draft.manifest_path.read_bytes() == MANIFEST


def test_amend_takes_over_what_a_writer_that_was_killed_left(draft, tmp_path):
    draft.publish(MANIFEST)
    (tmp_path / f"vector_backup_{ID}.json.tmp").write_text("half of a manif")
    draft.amend(say_more)
    assert manifests.read(draft.manifest_path).task_id == "more"
    assert names_in(tmp_path) == [f"vector_backup_{ID}.json"]


def test_nobody_else_amends_the_manifest_of_a_run_that_lives(draft):
    draft.publish(MANIFEST)
    for _ in range(2):
        with pytest.raises(FileExistsError):
            amend_manifest(draft.manifest_path, say_more, ".tmp", seconds=0.1)
        draft.amend(lambda now: now)
    draft.close()
    amend_manifest(draft.manifest_path, say_more, ".tmp", seconds=0.1)
    assert manifests.read(draft.manifest_path).task_id == "more"


def test_no_record_is_lost_among_many_writers(draft):
    draft.publish(MANIFEST)
    draft.close()

    def count(now: manifests.Manifest) -> manifests.Manifest:
        return msgspec.structs.replace(now, duration=now.duration + 1)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: amend_manifest(draft.manifest_path, count, ".tmp"), range(24)))
    assert manifests.read(draft.manifest_path).duration == msgspec.json.decode(MANIFEST)["duration"] + 24


def test_a_manifest_that_was_removed_meanwhile_is_not_made_again(draft, tmp_path):
    draft.publish(MANIFEST)
    draft.close()
    draft.manifest_path.unlink()
    with pytest.raises(OSError, match="No such file"):
        amend_manifest(draft.manifest_path, say_more, ".tmp", seconds=0.1)
    assert names_in(tmp_path) == []


def test_a_failed_publish_leaves_no_manifest(draft, tmp_path, monkeypatch):
    monkeypatch.setattr(drafts, "read_through", lambda descriptor, consume: (0, "0" * 64))
    with pytest.raises(FileDamaged, match="does not hold what was written"):
        draft.publish(b"{}")
    draft.close()
    assert names_in(tmp_path) == []


def test_publish_overwrites_no_manifest(draft):
    draft.manifest_path.write_text("somebody else's")
    with pytest.raises((FileDamaged, OSError)):
        draft.publish(b"{}")
    assert draft.manifest_path.read_text() == "somebody else's"


def test_everything_is_on_the_disk_before_its_name_says_so(draft, tmp_path, monkeypatch):
    steps, fsync, rename = [], os.fsync, Path.rename

    def note_fsync(number):
        steps.append(("fsync", Path(f"/proc/self/fd/{number}").readlink().name))
        fsync(number)

    def note_rename(path, target):
        steps.append(("rename", Path(target).name))
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "rename", note_rename)
    write(draft)
    draft.finish(CSV)
    draft.publish(MANIFEST)
    draft.amend(say_more)
    manifest = f"vector_backup_{ID}.json"
    assert steps == [
        ("fsync", f"{CSV}.tmp"),
        ("rename", CSV),
        ("fsync", tmp_path.name),
        ("fsync", f"{manifest}.tmp"),
        ("rename", manifest),
        ("fsync", tmp_path.name),
        ("fsync", f"{manifest}.tmp"),
        ("rename", manifest),
        ("fsync", tmp_path.name),
    ]


# what must not be believed


def test_a_link_put_in_place_is_not_followed(draft, tmp_path):
    path = write(draft)
    (tmp_path / "elsewhere").write_bytes(TEXT)
    path.unlink()
    path.symlink_to("elsewhere")
    with pytest.raises(FileDamaged, match=r"items_.*\.csv\.tmp was replaced"):
        draft.finish(CSV, check_ends("csv", "none"))


def test_a_replaced_file_is_noticed(draft, tmp_path):
    path = write(draft)
    (tmp_path / "other").write_bytes(TEXT)
    (tmp_path / "other").rename(path)
    with pytest.raises(FileDamaged, match="was replaced"):
        draft.finish(CSV)


def test_a_hard_link_to_another_file_is_noticed(draft, tmp_path):
    path = write(draft)
    (tmp_path / "other").write_bytes(TEXT)
    path.unlink()
    path.hardlink_to(tmp_path / "other")
    with pytest.raises(FileDamaged, match="was replaced"):
        draft.finish(CSV)


def test_a_file_that_is_gone_is_noticed(draft):
    write(draft).unlink()
    with pytest.raises(FileDamaged, match="is gone"):
        draft.finish(CSV)


@pytest.mark.parametrize("change", ["grown", "shortened", "written again"])
def test_a_file_that_changes_while_it_is_hashed_is_noticed(draft, monkeypatch, change):
    path = write(draft)
    real = draft_file.read_through

    def read_and_change(descriptor, consume):
        answer = real(descriptor, consume)
        path.write_bytes({"grown": TEXT + b"3\n", "shortened": b"id\n", "written again": TEXT.upper()}[change])
        return answer

    monkeypatch.setattr(draft_file, "read_through", read_and_change)
    with pytest.raises(FileDamaged, match="changed while its checksum was taken"):
        draft.finish(CSV)


@pytest.mark.parametrize("data", [b'id\n"1', b"id\n1"])
def test_a_csv_that_ends_in_the_middle_of_a_record_is_damaged(draft, data):
    write(draft, data=data)
    with pytest.raises(FileDamaged, match="middle of a record"):
        draft.finish(CSV, check_ends("csv", "none"))


def test_a_final_name_that_is_taken_is_not_overwritten(draft, tmp_path):
    write(draft)
    (tmp_path / CSV).symlink_to("nowhere")
    with pytest.raises(FileDamaged, match="exists already"):
        draft.finish(CSV)
    assert (tmp_path / CSV).is_symlink()


def test_a_temporary_name_that_is_taken_is_not_used(draft, tmp_path):
    (tmp_path / f"{CSV}.tmp").symlink_to("precious")
    with pytest.raises(FileExistsError):
        draft.create(CSV)
    assert not (tmp_path / "precious").exists()


def test_closing_removes_no_unfinished_file_that_is_not_ours(draft, tmp_path):
    other = write(draft)
    other.unlink()
    other.write_text("somebody else's")
    draft.close()
    assert names_in(tmp_path) == [other.name]


def test_closing_removes_no_finished_file_that_is_not_ours(draft, tmp_path):
    write(draft)
    finished = draft.finish(CSV)
    finished.path.unlink()
    finished.path.write_text("somebody else's")
    draft.close()
    assert names_in(tmp_path) == [CSV]


def append(path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


@pytest.mark.parametrize(
    "touch",
    [
        lambda path: append(path, b"3\n"),
        lambda path: os.truncate(path, 3),
        lambda path: path.write_bytes(TEXT),
        lambda path: path.unlink(),
        lambda path: path.rename(path.with_name("x")),
        lambda path: (path.unlink(), path.write_bytes(TEXT)),
        lambda path: (path.rename(path.with_name("x")), path.symlink_to("x")),
        lambda path: os.utime(path, (1, 1)),
    ],
    ids=["grown", "shortened", "written again", "gone", "renamed", "replaced", "a link", "dated back"],
)
def test_a_finished_file_that_is_touched_is_noticed(draft, touch):
    write(draft)
    finished = draft.finish(CSV)
    finished.check_untouched()
    touch(finished.path)
    with pytest.raises(FileDamaged, match=re.escape(CSV)):
        finished.check_untouched()


def test_a_change_that_keeps_size_and_time_is_noticed(draft):
    write(draft)
    finished = draft.finish(CSV)
    status = finished.path.stat()
    finished.path.write_bytes(TEXT.upper())
    os.utime(finished.path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(FileDamaged, match="changed or replaced"):
        finished.check_untouched()


def test_hashing_follows_no_link(tmp_path):
    (tmp_path / "a").write_bytes(TEXT)
    (tmp_path / "b").symlink_to("a")
    assert hash_file(tmp_path / "a") == (7, hashlib.sha256(TEXT).hexdigest())
    with pytest.raises(OSError, match="symbolic links"):
        hash_file(tmp_path / "b")


# ids


def test_two_runs_in_one_second_have_two_ids(tmp_path):
    drafts = [start_draft(tmp_path, MOMENT, FORMAT, ".tmp") for _ in range(3)]
    assert [draft.backup_id for draft in drafts] == [ID, "20250720_121008", "20250720_121009"]
    for draft in drafts:
        draft.close()


@pytest.mark.parametrize("name", [f"vector_backup_{ID}.json", CSV, f"x_{ID}.part0001.bin.zst", f"vector_schema_{ID}.sql", f"x_{ID}.dump.tmp"])  # fmt: skip
def test_an_id_that_stands_in_the_folder_is_not_taken_again(tmp_path, name):
    (tmp_path / name).touch()
    draft = start_draft(tmp_path, MOMENT, FORMAT, ".tmp")
    assert draft.backup_id == "20250720_121008"
    draft.close()
    assert names_in(tmp_path) == [name]


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        start_draft(tmp_path / "none", MOMENT, FORMAT, ".tmp")


# leftovers of a run that was killed


def leave(folder, backup_id: str = ID) -> list[str]:
    names = [f"items_{backup_id}.csv", f"other_{backup_id}.part0002.csv.tmp", f"vector_schema_{backup_id}.sql", f"vector_backup_{backup_id}.json.tmp"]  # fmt: skip
    for name in names:
        (folder / name).write_text("half")
    return names


def test_what_a_killed_run_left_is_removed(tmp_path):
    left = leave(tmp_path)
    (tmp_path / "notes.txt").touch()
    (tmp_path / "items_20250720_121008.csv").touch()
    assert sorted(remove_leftovers(tmp_path, ".tmp")) == sorted(left)
    assert names_in(tmp_path) == ["items_20250720_121008.csv", "notes.txt"]


def test_a_living_runs_files_are_not_touched(draft, tmp_path):
    write(draft)
    draft.finish(CSV)
    before = names_in(tmp_path)
    assert remove_leftovers(tmp_path, ".tmp") == []
    assert names_in(tmp_path) == before


def test_a_lock_held_by_anybody_protects(tmp_path):
    left = leave(tmp_path)
    with (tmp_path / left[-1]).open("r+b") as claim:
        fcntl.flock(claim, fcntl.LOCK_SH)
        assert remove_leftovers(tmp_path, ".tmp") == []
    assert names_in(tmp_path) == sorted(left)
    assert sorted(remove_leftovers(tmp_path, ".tmp")) == sorted(left)


def test_a_backup_with_a_manifest_loses_only_its_stale_claim(tmp_path):
    left = leave(tmp_path)
    (tmp_path / f"vector_backup_{ID}.json").write_text("{}")
    assert remove_leftovers(tmp_path, ".tmp") == [f"vector_backup_{ID}.json.tmp"]
    assert names_in(tmp_path) == sorted([*left[:-1], f"vector_backup_{ID}.json"])


def test_files_without_a_claim_are_somebody_elses(tmp_path):
    left = leave(tmp_path)
    (tmp_path / left[-1]).unlink()
    assert remove_leftovers(tmp_path, ".tmp") == []
    assert names_in(tmp_path) == sorted(left[:-1])


def test_a_link_as_a_claim_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").touch()
    (tmp_path / f"vector_backup_{ID}.json.tmp").symlink_to("elsewhere")
    (tmp_path / CSV).touch()
    assert remove_leftovers(tmp_path, ".tmp") == []
    assert (tmp_path / CSV).exists()


def test_leftovers_never_take_a_file_that_belongs_to_a_manifest(tmp_path):
    (tmp_path / f"vector_backup_9_{ID}.json").write_text("{}")
    (tmp_path / f"items_9_{ID}.csv").write_text("precious")
    leave(tmp_path)
    remove_leftovers(tmp_path, ".tmp")
    assert (tmp_path / f"items_9_{ID}.csv").exists()


def test_another_suffix_is_another_run(tmp_path):
    left = leave(tmp_path)
    assert remove_leftovers(tmp_path, ".part") == []
    assert names_in(tmp_path) == sorted(left)


def test_a_change_that_stat_does_not_show_is_found_in_a_file_just_written(tmp_path):
    """The kernel's file times are coarse: a byte flipped within one tick leaves size and times as they were."""
    draft = start_draft(tmp_path, datetime(2025, 7, 20, tzinfo=UTC), "%Y%m%d_%H%M%S", ".tmp")
    draft.create("a.csv").path.write_bytes(b"x\n1\n")
    file = msgspec.structs.replace(draft.finish("a.csv"), racy=True)
    file.check_untouched()
    file.path.write_bytes(b"x\n2\n")
    unseen = msgspec.structs.replace(file, identity=Identity.of(os.lstat(file.path)))
    with pytest.raises(FileDamaged):
        unseen.check_untouched()
    draft.close()


@pytest.mark.parametrize("harm", ["shorten", "flip"])
def test_harm_between_hash_and_rename_is_found(tmp_path, monkeypatch, harm):
    draft = start_draft(tmp_path, datetime(2025, 7, 20, tzinfo=UTC), "%Y%m%d_%H%M%S", ".tmp")
    path = draft.create("a.csv").path
    path.write_bytes(b"x\n1\n")
    os.utime(path, (1, 1))
    rename = Path.rename

    def harm_then_rename(self, target):
        self.write_bytes(b"x\n" if harm == "shorten" else b"x\n2\n")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", harm_then_rename)
    with pytest.raises(FileDamaged):
        draft.finish("a.csv")
    monkeypatch.undo()
    draft.close()
    assert not list(tmp_path.glob("*.tmp"))


def test_a_thread_that_comes_late_creates_nothing(draft, tmp_path):
    draft.close()
    with pytest.raises(FileDamaged, match="the run has ended"):
        draft.create(CSV)
    assert names_in(tmp_path) == []
