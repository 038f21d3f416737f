import json

import pytest

from vecbak.results import Result, TableBackup, TableTruncate, human_size


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 Bytes"), (1, "1 Byte"), (1023, "1023 Bytes"), (1024, "1.0 KB"), (46694, "45.6 KB"), (2202009, "2.1 MB"), (3 << 40, "3.0 TB")],
)  # fmt: skip
def test_sizes_read_as_people_write_them(size, text):
    assert human_size(size) == text


def test_the_contract_shape():
    result = Result(
        backup_performed=True,
        truncate_performed=True,
        backup_id="20250720_121007",
        task_id="t",
        database="d",
        backup_directory="/x/vector_bak",
        manifest="/x/vector_bak/vector_backup_20250720_121007.json",
        tables_backed_up={
            "e": TableBackup(
                success=True, row_count=12345, file_size="2.1 MB", size_bytes=2202009, backup_file="e_1.csv",
                backup_files=("e_1.csv",), duration=1.2,
            )
        },
        truncate_results={"e": TableTruncate(success=True, rows_before=12345, rows_after=0, duration=0.1)},
        duration=12.5,
    )  # fmt: skip
    assert json.loads(json.dumps(result.to_dict())) == {
        "backup_performed": True,
        "truncate_performed": True,
        "backup_id": "20250720_121007",
        "task_id": "t",
        "database": "d",
        "backup_directory": "/x/vector_bak",
        "manifest": "/x/vector_bak/vector_backup_20250720_121007.json",
        "tables_backed_up": {
            "e": {
                "success": True, "row_count": 12345, "file_size": "2.1 MB", "size_bytes": 2202009,
                "backup_file": "e_1.csv", "backup_files": ["e_1.csv"], "duration": 1.2,
            }
        },
        "truncate_results": {"e": {"success": True, "rows_before": 12345, "rows_after": 0, "duration": 0.1}},
        "errors": [],
        "duration": 12.5,
        "summary": {"tables": 1, "rows": 12345, "files": 1, "size_bytes": 2202009, "size": "2.1 MB"},
    }  # fmt: skip


def test_only_a_failed_table_carries_an_error():
    failed = TableTruncate(success=False, rows_before=1, rows_after=1, duration=0, error="locked")
    assert Result(truncate_results={"e": failed}).to_dict()["truncate_results"]["e"]["error"] == "locked"


def test_nothing_done_is_the_default():
    result = Result().to_dict()
    assert (result["backup_performed"], result["truncate_performed"], result["manifest"]) == (False, False, None)


def test_the_python_api_gets_lists_as_json_does():
    assert Result(errors=("a",)).to_dict()["errors"] == ["a"]
