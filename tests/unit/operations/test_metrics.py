"""The Prometheus textfile: its text, what it carries over, and its way onto the disk."""

import os
import re
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vecbak.operations.metrics import FAILURES, LAST_SUCCESS, LastRun, record, render

GOOD = LastRun(1_753_006_207.5, True, 12.25, {"items": (12_345, 2_202_009), "empty": (0, 46)})
FAILED = LastRun(1_753_009_807.0, False, 0.5)

SAMPLE = re.compile(r'(?P<name>[a-z_]+)(?:\{table="(?P<label>(?:[^"\\\n]|\\[\\"n])*)"\})? (?P<value>-?[0-9.]+)')


def samples(text: str) -> dict[tuple[str, str | None], float]:
    """Every sample by name and label; a line that Prometheus would not read fails the test."""
    found = {}
    for line in text.splitlines():
        if line.startswith("# "):
            continue
        match = SAMPLE.fullmatch(line)
        assert match, line
        key = (match["name"], match["label"])
        assert key not in found
        found[key] = float(match["value"])
    return found


def test_a_first_success():
    assert render(GOOD, "") == (
        "# HELP vecbak_last_success_timestamp_seconds When a backup or truncate last succeeded, as Unix time.\n"
        "# TYPE vecbak_last_success_timestamp_seconds gauge\n"
        "vecbak_last_success_timestamp_seconds 1753006207.500\n"
        "# HELP vecbak_last_run_timestamp_seconds When the last run ended, as Unix time.\n"
        "# TYPE vecbak_last_run_timestamp_seconds gauge\n"
        "vecbak_last_run_timestamp_seconds 1753006207.500\n"
        "# HELP vecbak_last_run_success Whether the last run succeeded: 1 or 0.\n"
        "# TYPE vecbak_last_run_success gauge\n"
        "vecbak_last_run_success 1\n"
        "# HELP vecbak_duration_seconds How long the last run took.\n"
        "# TYPE vecbak_duration_seconds gauge\n"
        "vecbak_duration_seconds 12.250\n"
        "# HELP vecbak_rows Rows in the last good backup, by table.\n"
        "# TYPE vecbak_rows gauge\n"
        'vecbak_rows{table="items"} 12345\n'
        'vecbak_rows{table="empty"} 0\n'
        "# HELP vecbak_bytes Bytes of the data files of the last good backup, by table.\n"
        "# TYPE vecbak_bytes gauge\n"
        'vecbak_bytes{table="items"} 2202009\n'
        'vecbak_bytes{table="empty"} 46\n'
        "# HELP vecbak_failures_total Runs that failed, since this file was begun.\n"
        "# TYPE vecbak_failures_total counter\n"
        "vecbak_failures_total 0\n"
    )


def test_a_failure_keeps_what_only_a_success_can_tell():
    found = samples(render(FAILED, render(GOOD, "")))
    assert found[LAST_SUCCESS, None] == 1_753_006_207.5
    assert found["vecbak_last_run_timestamp_seconds", None] == FAILED.ended
    assert found["vecbak_last_run_success", None] == 0
    assert found["vecbak_duration_seconds", None] == 0.5
    assert found[FAILURES, None] == 1
    assert found["vecbak_rows", "items"] == 12_345
    assert found["vecbak_bytes", "empty"] == 46


def test_failures_add_up_and_a_success_does_not_forget_them():
    text = ""
    for run in (FAILED, FAILED, GOOD, FAILED):
        text = render(run, text)
    assert samples(text)[FAILURES, None] == 3


def test_before_the_first_success_there_is_no_time_of_it():
    text = render(FAILED, "")
    assert LAST_SUCCESS not in text
    assert "vecbak_rows" not in text


def test_tables_that_are_backed_up_no_more_are_forgotten():
    text = render(LastRun(1.0, True, 1.0, {"other": (1, 2)}), render(GOOD, ""))
    assert {label for name, label in samples(text) if name == "vecbak_rows"} == {"other"}


@pytest.mark.parametrize("previous", ["", "\x00\xff", "vecbak_failures_total many\n", "vecbak_failures_total -1\n", "x 1\n" * 1000])  # fmt: skip
def test_nonsense_before_is_as_good_as_nothing(previous):
    assert samples(render(FAILED, previous))[FAILURES, None] == 1


@given(st.dictionaries(st.text(st.characters(exclude_categories=("Cs", "Cc")) | st.just("\n"), min_size=1), st.tuples(st.integers(0, 1 << 50), st.integers(0, 1 << 50)), max_size=4))  # fmt: skip
def test_any_table_is_written_and_carried_over(tables):
    text = render(FAILED, render(LastRun(1.0, True, 1.0, tables), ""))
    unescape = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}
    found = {
        re.sub(r'\\[\\"n]', lambda match: unescape[match.group()], label): value
        for (name, label), value in samples("\n".join(text.split("\n"))).items()
        if name == "vecbak_rows"
    }
    assert found == {table: rows for table, (rows, _) in tables.items()}


def test_the_file_is_for_everybody_and_alone(tmp_path):
    path = tmp_path / "vecbak.prom"
    mask = os.umask(0o077)
    try:
        record(path, GOOD)
        record(path, FAILED)
    finally:
        os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [item.name for item in tmp_path.iterdir()] == ["vecbak.prom"]
    assert samples(path.read_text())[FAILURES, None] == 1


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: os.mkfifo(path)])
def test_something_else_in_its_place(tmp_path, make):
    make(tmp_path / "vecbak.prom")
    with pytest.raises(OSError):  # noqa: PT011 - which one depends on what stands there
        record(tmp_path / "vecbak.prom", GOOD)
    assert [item.name for item in tmp_path.iterdir()] == ["vecbak.prom"]


def test_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        record(tmp_path / "missing" / "vecbak.prom", GOOD)


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "vecbak.prom"
    record(path, GOOD)
    before = path.read_text()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vecbak.operations.metrics.os.fchmod", full)
    with pytest.raises(OSError, match="No space"):
        record(path, FAILED)
    assert path.read_text() == before
    assert [item.name for item in tmp_path.iterdir()] == ["vecbak.prom"]
