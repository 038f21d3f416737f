import fcntl
import os
import resource
import stat
import threading
from datetime import datetime
from pathlib import Path

import pytest

from vecbak.backups.log import LOG_NAME, append, backup_section, find_entry, truncate_section
from vecbak.results import TableBackup, TableTruncate


def copied(name: str, rows: int = 1234, **changes) -> TableBackup:
    fields = {
        "success": True, "row_count": rows, "file_size": "45.6 KB", "size_bytes": 46694, "backup_file": f"{name}_20250720_121007.csv",
        "backup_files": (f"{name}_20250720_121007.csv",), "duration": 1.0,
    }  # fmt: skip
    return TableBackup(**{**fields, **changes})


def section(**tables: TableBackup) -> str:
    moment = datetime(2025, 1, 20, 12, 10, 7)  # noqa: DTZ001 - the log shows local time
    return backup_section(
        moment=moment, task_id="manual_20250720_121007", database="highway_db", duration=12.5, tables=tables
    )


def test_an_entry_reads_as_the_contract_says():
    name, other = "langchain_pg_collection", "langchain_pg_embedding"
    emptied = TableTruncate(success=True, rows_before=12345, rows_after=0, duration=0.1)
    failed = copied(other, success=False, error="disk\nfull", backup_file=None, backup_files=())
    text = section(**{name: copied(name), other: failed})
    text += truncate_section(tables=[name, other], truncated={other: emptied}, asked=True)
    assert text == (
        "=== Vector Table Backup Log ===\n"
        "Backup Time: 2025-01-20 12:10:07\n"
        "Task ID: manual_20250720_121007\n"
        "Database: highway_db\n"
        "Duration: 12.50s\n"
        "\n"
        "Tables Backup Status:\n"
        "✓ langchain_pg_collection: 1,234 rows -> langchain_pg_collection_20250720_121007.csv (45.6 KB)\n"
        "✗ langchain_pg_embedding: FAILED - disk full\n"
        "\n"
        "Truncate Status:\n"
        "✓ langchain_pg_embedding: TRUNCATED (12,345 rows removed)\n"
        "- langchain_pg_collection: SKIPPED (collection table preserved)\n"
        "\n"
    )


def test_truncating_was_not_asked_for():
    assert truncate_section(tables=["a"], truncated={}, asked=False) == "\nTruncate Status:\n- Not performed\n\n"


def test_errors_come_last_on_one_line():
    failed = TableTruncate(success=False, rows_before=1, rows_after=1, duration=0, error="no\nlock")
    text = truncate_section(tables=["a", "b"], truncated={"a": failed}, asked=True, errors=["no\n  lock", "x"])
    assert text == (
        "\nTruncate Status:\n✗ a: FAILED - no lock\n- b: SKIPPED (table preserved)\n\nErrors: no lock; x\n\n"
    )


def test_what_was_copied_but_thrown_away_is_not_called_a_file():
    text = section(a=copied("a", backup_file=None, backup_files=()))
    assert "✓ a: 1,234 rows -> discarded, as the backup is not complete\n" in text


def test_parts_are_counted():
    text = section(a=copied("a", backup_files=("1", "2", "3")))
    assert "-> a_20250720_121007.csv and 2 more (45.6 KB)" in text


def test_appending_adds_behind_what_is_there(tmp_path):
    append(tmp_path, "one\n")
    append(tmp_path, "✓ two\n")
    assert (tmp_path / LOG_NAME).read_text() == "one\n✓ two\n"


def test_the_log_is_its_owners_alone(tmp_path):
    before = os.umask(0)
    try:
        append(tmp_path, "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / LOG_NAME).stat().st_mode) == 0o600


def test_a_full_disk_leaves_the_log_as_it_was(tmp_path):
    append(tmp_path, "before\n")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            append(tmp_path, "x" * 20_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / LOG_NAME).read_text() == "before\n"


def test_entries_of_many_runs_do_not_mix(tmp_path):
    texts = [f"{number}" * 30_000 + "\n" for number in range(8)]
    threads = [threading.Thread(target=append, args=(tmp_path, text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted((tmp_path / LOG_NAME).read_text().splitlines(keepends=True)) == texts


def test_appending_waits_until_another_run_has_appended(tmp_path):
    append(tmp_path, "one\n")
    with (tmp_path / LOG_NAME).open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        thread = threading.Thread(target=append, args=(tmp_path, "three\n"))
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
        other.write("two\n")
    thread.join()
    assert (tmp_path / LOG_NAME).read_text() == "one\ntwo\nthree\n"


def test_a_link_in_the_logs_place_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").write_text("precious")
    (tmp_path / LOG_NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        append(tmp_path, "x")
    assert (tmp_path / "elsewhere").read_text() == "precious"


def test_a_folder_in_the_logs_place_is_an_error(tmp_path):
    (tmp_path / LOG_NAME).mkdir()
    with pytest.raises(IsADirectoryError):
        append(tmp_path, "x")


def test_a_fifo_in_the_logs_place_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / LOG_NAME)
    outcome = []

    def attempt():
        try:
            append(tmp_path, "x")
        except OSError as error:
            outcome.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(2)
    hung = thread.is_alive()
    os.close(os.open(tmp_path / LOG_NAME, os.O_RDONLY | os.O_NONBLOCK))  # lets it go on
    thread.join(10)
    assert not hung
    assert outcome


def test_an_entry_is_found_by_a_file_it_names(tmp_path):
    first, second = section(a=copied("a")), section(b=copied("b"))
    append(tmp_path, first + "\nTruncate Status:\n- Not performed\n\n" + second)
    assert find_entry(tmp_path, ["a_20250720_121007.csv"]) == first + "\nTruncate Status:\n- Not performed\n"
    assert find_entry(tmp_path, ["b_20250720_121007.csv"]) == second
    assert find_entry(tmp_path, ["c.csv"]) == ""
    assert find_entry(tmp_path, []) == ""


def test_of_two_entries_the_later_counts(tmp_path):
    append(tmp_path, section(a=copied("a", rows=1)) + "\n" + section(a=copied("a", rows=2)))
    assert "a: 2 rows" in find_entry(tmp_path, ["a_20250720_121007.csv"])


def test_no_log_no_entry(tmp_path):
    assert find_entry(tmp_path, ["a"]) == ""
    (tmp_path / LOG_NAME).write_bytes(b"\xff\xfe no entry")
    assert find_entry(tmp_path, ["a"]) == ""


def test_what_was_appended_is_on_the_disk(tmp_path, monkeypatch):
    synced, real = [], os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda number: (synced.append(Path(f"/proc/self/fd/{number}").readlink()), real(number))
    )
    append(tmp_path, "x")
    assert synced == [tmp_path / LOG_NAME, tmp_path]
