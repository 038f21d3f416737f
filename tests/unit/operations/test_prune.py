"""Pruning real files: what goes, what stays, and what happens when somebody is in the middle of something."""

import fcntl
import os
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.unit.examples import data_file, manifest, table
from vecbak.backups import removal
from vecbak.backups.amending import amend_manifest
from vecbak.backups.draft import remove_leftovers
from vecbak.backups.manifest import SchemaFile, TableEntry, encode
from vecbak.backups.removal import InUse, reading, remove_backup
from vecbak.config import Retention
from vecbak.errors import UsageError
from vecbak.operations.prune import plan, prune

NONE = Retention(keep_last=0, keep_daily=0, keep_weekly=0, keep_monthly=0)
FIRST = datetime(2025, 1, 1, tzinfo=UTC)


def put(folder: Path, day: int, *, name: str | None = None, file: str | None = None) -> Path:
    """A backup of one table made on that day, with its files."""
    moment = FIRST + timedelta(days=day)
    backup_id = f"{moment:%Y%m%d_%H%M%S}"
    data = data_file(file or f"items_{backup_id}.csv", size_bytes=3)
    schema = SchemaFile(name=f"vector_schema_{backup_id}.sql", size_bytes=2, sha256="b" * 64)
    entry = TableEntry(table=table(), rows=2, size_bytes=3, columns=("id",), files=(data,), duration=0.1)
    made = manifest(backup_id=backup_id, created_at=moment, tables={"items": entry}, schema_file=schema)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / data.name).write_text("id\n")
    (folder / schema.name).write_text("--")
    path = folder / (name or f"vector_backup_{backup_id}.json")
    path.write_bytes(encode(made))
    return path


def csv_of(path: Path) -> Path:
    return path.with_name(path.name.replace("vector_backup_", "items_").replace(".json", ".csv"))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def run(*folders: Path, rules: Retention = NONE, suffix: str = ".tmp"):
    return prune(plan(folders, rules), suffix=suffix)


def actions(result) -> dict[str, tuple[str, tuple[str, ...]]]:
    return {item.backup_id: (item.action, item.reasons) for item in result.backups}


def test_old_ones_go_with_all_their_files_and_nothing_else(tmp_path):
    old, new = put(tmp_path, 0), put(tmp_path, 1)
    others = {"vector_backup_log.txt", "notes.txt", "items_20250101_000000.csv.tmp", "items_20240101_000000.csv"}
    for other in others:
        (tmp_path / other).write_text("x")
    before = names(tmp_path)
    result = run(tmp_path)
    assert actions(result) == {
        "20250102_000000": ("keep", ("last good backup",)), "20250101_000000": ("removed", ()),
    }  # fmt: skip
    assert before - names(tmp_path) == {old.name, csv_of(old).name, "vector_schema_20250101_000000.sql"}
    assert result.freed_bytes > 5
    assert result.errors == ()
    assert new.exists()


def test_a_preview_changes_nothing(tmp_path):
    put(tmp_path, 0)
    put(tmp_path, 1)
    before = names(tmp_path)
    result = plan([tmp_path], NONE).preview()
    assert [item.action for item in result.backups] == ["keep", "remove"]
    assert result.dry_run
    assert names(tmp_path) == before


def test_each_folder_on_its_own_and_each_once(tmp_path):
    for folder in ("a", "b"):
        put(tmp_path / folder, 0)
        put(tmp_path / folder, 1)
    (tmp_path / "link").symlink_to("a")
    result = run(tmp_path / "a", tmp_path / "b", tmp_path / "link")
    assert [item.action for item in result.backups] == ["keep", "removed", "keep", "removed"]


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda path: csv_of(path).unlink(), "is missing"),
        (lambda path: csv_of(path).write_text("i"), "has 1 bytes, not 3"),
        (lambda path: path.with_name("vector_schema_20250103_000000.sql").unlink(), "is missing"),
        (lambda path: (csv_of(path).unlink(), csv_of(path).symlink_to("notes")), "is not a regular file"),
    ],
)
def test_a_damaged_one_keeps_no_other_and_is_not_touched(tmp_path, harm, reason):
    (tmp_path / "notes").write_text("id\n")
    oldest, good, damaged = (put(tmp_path, day) for day in (0, 1, 2))
    harm(damaged)
    result = run(tmp_path, rules=Retention(keep_last=1, keep_daily=0, keep_weekly=0, keep_monthly=0))
    found = actions(result)
    assert found["20250102_000000"] == ("keep", ("last",))
    assert found["20250103_000000"][0] == "keep"
    assert reason in found["20250103_000000"][1][0]
    assert not oldest.exists()
    assert damaged.exists()
    assert good.exists()
    assert (tmp_path / "notes").read_text() == "id\n"


def test_what_has_no_manifest_or_an_unreadable_one_is_not_touched(tmp_path):
    old, unreadable = put(tmp_path, 0), put(tmp_path, 1)
    put(tmp_path, 2)
    unreadable.write_text("{")
    for kind in ("collection", "embedding"):
        (tmp_path / f"langchain_pg_{kind}_20240101_000000.csv").write_text("id\n")
    before = names(tmp_path)
    run(tmp_path)
    assert {old.name, csv_of(old).name} <= before - names(tmp_path)
    assert {unreadable.name, csv_of(unreadable).name, "langchain_pg_embedding_20240101_000000.csv"} <= names(tmp_path)


def test_files_that_another_manifest_names_stay(tmp_path):
    old = put(tmp_path, 0)
    put(tmp_path, 1, file=csv_of(old).name)
    run(tmp_path)
    assert not old.exists()
    assert csv_of(old).exists()


def test_files_under_the_id_of_an_unreadable_manifest_stay(tmp_path):
    unreadable = put(tmp_path, 0)
    copy = put(tmp_path, 0, name="vector_backup_copy.json")
    put(tmp_path, 1)
    unreadable.write_text("{")
    run(tmp_path)
    assert not copy.exists()
    assert csv_of(unreadable).exists()


def test_a_backup_whose_run_has_not_ended_stays(tmp_path):
    """A truncate publishes its manifest, and then waits for its lock: its claim is held on the manifest."""
    old = put(tmp_path, 0)
    put(tmp_path, 1)
    with old.open("r+b") as running:
        fcntl.flock(running, fcntl.LOCK_EX)
        result = run(tmp_path)
    assert actions(result)["20250101_000000"] == ("keep", ("its run has not ended",))
    assert csv_of(old).exists()
    assert actions(run(tmp_path))["20250101_000000"][0] == "removed"


def test_a_backup_that_somebody_reads_stays(tmp_path):
    """Also when its manifest is replaced meanwhile, as `verify --restore` does."""
    old = put(tmp_path, 0)
    put(tmp_path, 1)
    found = plan([tmp_path], NONE).decisions[-1].found
    with reading(found), reading(found):
        amend_manifest(old, lambda now: now, ".tmp")
        result = run(tmp_path)
    assert actions(result)["20250101_000000"] == ("keep", ("somebody reads it",))
    assert csv_of(old).exists()
    assert actions(run(tmp_path))["20250101_000000"][0] == "removed"
    with pytest.raises(UsageError, match="is being removed"), reading(found):
        pass


def test_a_backup_that_is_being_removed_is_not_read(tmp_path):
    old = put(tmp_path, 0)
    found = plan([tmp_path], NONE).decisions[-1].found
    with (old.parent / found.manifest.schema_file.name).open() as removing:
        fcntl.flock(removing, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="is being removed"), reading(found):
            pass


def test_a_backup_whose_manifest_is_being_rewritten_stays(tmp_path):
    old = put(tmp_path, 0)
    put(tmp_path, 1)
    claim = tmp_path / f"{old.name}.tmp"
    claim.write_text("new")
    result = run(tmp_path)
    assert actions(result)["20250101_000000"] == ("keep", ("another vecbak is at work on its manifest",))
    assert (claim.read_text(), old.exists(), csv_of(old).exists()) == ("new", True, True)


def test_a_backup_that_was_rewritten_after_it_was_judged_stays(tmp_path):
    old = put(tmp_path, 0)
    put(tmp_path, 1)
    planned = plan([tmp_path], NONE)
    old.write_bytes(encode(manifest(task_id="another")))
    assert actions(prune(planned, suffix=".tmp"))["20250101_000000"] == ("keep", ("it changed meanwhile",))
    assert old.exists()


def test_two_at_once_remove_it_once(tmp_path):
    put(tmp_path, 0)
    put(tmp_path, 1)
    planned = plan([tmp_path], NONE)
    run(tmp_path)
    assert actions(prune(planned, suffix=".tmp"))["20250101_000000"] == ("keep", ("another vecbak removed it",))


def test_nothing_goes_when_the_ones_to_be_kept_were_harmed_meanwhile(tmp_path):
    old, new = put(tmp_path, 0), put(tmp_path, 1)
    planned = plan([tmp_path], NONE)
    csv_of(new).unlink()
    result = prune(planned, suffix=".tmp")
    assert old.exists()
    assert "not good any more" in result.errors[0]


class Killed(BaseException):
    """As a process that is killed ends: nothing is cleaned up but what the kernel does."""


@pytest.mark.parametrize("after", range(4))
def test_killed_in_the_middle_it_is_no_backup_and_the_next_run_cleans_up(tmp_path, monkeypatch, after):
    old = put(tmp_path, 0)
    put(tmp_path, 1)
    kept_names = names(tmp_path) - {old.name, csv_of(old).name, "vector_schema_20250101_000000.sql"}
    left = [after]
    real = os.unlink

    def unlink(path, **options):
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        real(path, **options)

    monkeypatch.setattr(os, "unlink", unlink)
    with pytest.raises(Killed):
        run(tmp_path)
    monkeypatch.undo()
    if after == 0:  # not even the manifest: still a whole backup
        assert actions(run(tmp_path))["20250101_000000"][0] == "removed"
    else:
        assert not old.exists()
        remove_leftovers(tmp_path, ".tmp")
    assert names(tmp_path) == kept_names


def test_a_disk_without_hard_links(tmp_path, monkeypatch):
    old = put(tmp_path, 0)
    put(tmp_path, 1)

    def link(*_, **__):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(removal.os, "link", link)
    assert run(tmp_path).errors == ()
    assert not old.exists()
    assert not csv_of(old).exists()


def test_a_file_that_cannot_be_removed_is_an_error_and_the_others_go(tmp_path, monkeypatch):
    put(tmp_path, 0)
    second = put(tmp_path, 1)
    put(tmp_path, 2)
    real = removal._unlink

    def unlink(path):
        if path.name == "items_20250102_000000.csv":
            raise OSError(5, "Input/output error")
        return real(path)

    monkeypatch.setattr(removal, "_unlink", unlink)
    result = run(tmp_path)
    assert result.errors == (f"{second} could not be removed: Input/output error",)
    assert [item.action for item in result.backups] == ["keep", "removed", "removed"]
    assert names(tmp_path) & {"items_20250101_000000.csv"} == set()


def test_a_manifest_that_is_a_link_is_not_removed(tmp_path):
    elsewhere = put(tmp_path / "elsewhere", 0)
    put(tmp_path / "here", 1)
    (tmp_path / "here" / elsewhere.name).symlink_to(elsewhere)
    run(tmp_path / "here")
    assert elsewhere.exists()
    with pytest.raises((InUse, OSError)):
        remove_backup(plan([elsewhere.parent], NONE).decisions[0].found.__class__(tmp_path / "here" / elsewhere.name, manifest()), set(), ".tmp")  # fmt: skip


COUNTS = st.integers(0, 3)
RULES = st.builds(Retention, keep_last=COUNTS, keep_daily=COUNTS, keep_weekly=COUNTS, keep_monthly=COUNTS)
BACKUPS = st.dictionaries(st.integers(0, 60), st.sampled_from(["good", "good", "missing", "short"]), max_size=8)


@hypothesis_settings(max_examples=60)
@given(BACKUPS, RULES)
def test_whatever_there_is_the_last_good_one_and_all_that_is_damaged_stay(backups, rules):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = {day: put(folder, day) for day in backups}
        for day, state in backups.items():
            if state == "missing":
                csv_of(paths[day]).unlink()
            elif state == "short":
                csv_of(paths[day]).write_text("")
        good = sorted((day for day in backups if backups[day] == "good"), reverse=True)
        before = {path: path.read_bytes() for path in folder.iterdir()}
        result = run(folder, rules=rules)
        left = {day for day in backups if paths[day].exists()}
        must_stay = {*good[: max(1, rules.keep_last)], *(day for day in backups if backups[day] != "good")}
        assert must_stay <= left
        assert len(left & set(good)) <= max(1, rules.keep_last + rules.keep_daily + rules.keep_weekly + rules.keep_monthly)  # fmt: skip
        assert {path: path.read_bytes() for path in folder.iterdir()}.items() <= before.items()
        assert all(csv_of(paths[day]).exists() == (day in left) for day in good)
        assert [item.action for item in result.backups].count("removed") == len(backups) - len(left)
        assert [item.action for item in run(folder, rules=rules).backups].count("removed") == 0
