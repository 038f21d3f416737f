from pathlib import Path

import pytest

from tests.unit.examples import table
from vecbak.backups.files import FinishedFile, Identity
from vecbak.operations.copying import Copied
from vecbak.operations.exporting import CopyTask
from vecbak.operations.outcome import TableOutcome, outcomes_of
from vecbak.operations.parts import Part

ITEMS = table()


def copied(number: int | None, rows: int, counted: int | None = None, error: str | None = None, label: str = "items"):
    name = f"{label}.part{number}.csv" if number else f"{label}.csv"
    file = None if error else FinishedFile(Path(name), 10, "a" * 64, rows, Identity(0, 0, 0, 0, 0))
    return Copied(CopyTask(label, ITEMS, Part(number), name), counted, rows, float(number or 0), 9.5, file, error)


def outcome(*files: Copied) -> TableOutcome:
    return outcomes_of(files, {"items": ITEMS})[0]


def test_parts_are_put_in_order_whichever_was_ready_first():
    result = outcome(copied(3, 3), copied(1, 1, counted=6), copied(2, 2))
    assert [file.path.name for file in result.finished] == [f"items.part{n}.csv" for n in (1, 2, 3)]
    assert (result.rows, result.size_bytes, result.duration, result.error) == (6, 30, 8.5, None)
    assert [(file.name, file.rows) for file in result.to_entry().files] == [
        ("items.part1.csv", 1),
        ("items.part2.csv", 2),
        ("items.part3.csv", 3),
    ]


@pytest.mark.parametrize("counted", [0, 5, 7])
def test_every_row_under_the_snapshot_must_be_in_a_file(counted):
    result = outcome(copied(1, 4, counted=counted), copied(2, 2))
    assert result.error == f"items has {counted} rows under the snapshot, and 6 were copied"
    assert not result.to_result().success


def test_a_missing_part_is_an_error():
    assert outcome(copied(1, 4, counted=6)).error


def test_one_failed_part_fails_the_table():
    result = outcome(copied(1, 4, counted=6), copied(2, 2, error="disk full"))
    assert result.error == "disk full"
    assert result.to_result(kept=False).backup_files == ()
    assert result.to_result(kept=False).error == "disk full"


def test_an_empty_table_is_a_good_backup():
    result = outcome(copied(None, 0, counted=0)).to_result()
    assert (result.success, result.row_count, result.backup_file, result.file_size) == (
        True,
        0,
        "items.csv",
        "10 Bytes",
    )


def test_tables_come_in_the_configs_order():
    files = [copied(None, 1, counted=1, label="b"), copied(None, 2, counted=2, label="a")]
    assert [item.label for item in outcomes_of(files, {"a": ITEMS, "b": ITEMS})] == ["a", "b"]
