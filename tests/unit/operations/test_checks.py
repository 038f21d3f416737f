from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.unit.examples import column, manifest, server, table
from vecbak.backups.inventory import FoundBackup
from vecbak.errors import BackupFailed, ConnectionFailed, Refused, UsageError
from vecbak.operations.checks import (
    Findings,
    describe_programs,
    describe_table,
    in_one_line,
    judge_last_backup,
    judge_restore,
    judge_tls,
    table_doubts,
)
from vecbak.operations.restorable import table_lacks
from vecbak.postgres.catalog import Index
from vecbak.postgres.programs import Installation
from vecbak.postgres.surroundings import Link


def link(**changes) -> Link:
    fields = {
        "pid": 1, "application": "psql", "user": "vecbak", "database": "d", "version": "18.1", "superuser": False,
        "in_recovery": False, "server_address": None, "tls": None, "vector": "0.8.1",
    }  # fmt: skip
    return Link(**{**fields, **changes})


def index(name: str = "by_vector", **changes) -> Index:
    fields = {
        "name": name, "definition": "", "method": "hnsw", "tablespace": None, "comment": None, "statistics": {},
        "valid": True, "constraint": None,
    }  # fmt: skip
    return Index(**{**fields, **changes})


def only(findings: Findings):
    (check,) = findings.checks
    return check


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({}, "ok", "Unix socket"),
        ({"server_address": "127.0.0.1"}, "ok", "this machine"),
        ({"server_address": "::1"}, "ok", "this machine"),
        ({"server_address": "10.0.0.7"}, "warning", "10.0.0.7 is not encrypted"),
        ({"server_address": "10.0.0.7", "tls": "TLSv1.3 TLS_AES_256"}, "ok", "TLSv1.3 TLS_AES_256"),
    ],
)
def test_tls(changes, status, words):
    findings = Findings()
    judge_tls(findings, link(**changes))
    assert only(findings).status == status
    assert words in only(findings).message


def test_the_first_failure_decides_the_exit_code():
    findings = Findings()
    findings.warn("a", "x")
    assert findings.examination().ok
    findings.fail("b", ConnectionFailed("x"))
    findings.fail("c", UsageError("x"))
    found = findings.examination()
    assert (found.ok, found.exit_code) == (False, 3)
    assert [check.status for check in found.checks] == ["warning", "failed", "failed"]


def test_every_problem_is_listed():
    findings = Findings()
    assert not findings.judge("a", iter([Refused("one", "h"), Refused("two", "h")]), "fine")
    assert [check.message for check in findings.checks] == ["one", "two"]
    assert findings.judge("b", iter([]), "fine")
    assert findings.checks[-1].message == "fine"


@pytest.mark.parametrize(
    ("output", "line"),
    [
        ("", "failed"),
        ("a\nb\n\n", "failed: b"),
        ("WARNING:  old\nFATAL:  no\nDETAIL:  more", "failed: FATAL:  no"),
        ("psql: error: refused\n\tIs it running?", "failed: psql: error: refused"),
    ],
)
def test_in_one_line(output, line):
    assert in_one_line(BackupFailed("failed", output=output)) == line


def test_programs_and_what_an_old_psql_cannot_restore():
    old, new = Installation(Path("/15"), 15, "PATH"), Installation(Path("/18"), 18, "PATH")
    assert describe_programs([old, new], "csv") == "psql 15 in /15, psql 18 in /18"
    assert "psql 18 alone" in describe_programs([old], "csv")
    assert describe_programs([old], "binary") == "psql 15 in /15"


def test_a_table_in_words():
    item = table(columns=(column("id"), column("v")), indexes=(index(), index("b", method="btree")))
    assert describe_table(item, {"v": (3,)}) == "2 columns; v 3 dimensions; 16.0 KB with indexes (btree, hnsw)"
    assert describe_table(table(), {"v": ()}) == "2 columns; v unknown dimensions; 16.0 KB with indexes (none)"


def test_doubts():
    item = table(indexes=(index(valid=False), index("fine")))
    messages = [message for message, _ in table_doubts(item, {"v": (3, 2), "w": (3,)})]
    assert messages == ["items.v holds vectors of 2 and 3 dimensions", "the index by_vector is not valid"]


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, "ok"),
        ({"indexes": (index(),)}, "ok"),
        ({"indexes": (index(method="btree"),), "is_owner": False}, "ok"),
        ({"indexes": (index(),), "is_owner": False}, "warning"),
        ({"indexes": (index(),), "can_create": False}, "warning"),
        ({"can_insert": False}, "warning"),
    ],
)
def test_the_right_to_restore(changes, status):
    findings, item = Findings(), table(**changes)
    lacks = list(table_lacks(item, server(), emptied=True))
    judge_restore(findings, "restore items", item, lacks, "vecbak")
    assert only(findings).status == status


def test_the_last_backups_age(tmp_path):
    (tmp_path / "items_20250720_121007.csv").write_bytes(b"x" * 19)
    (tmp_path / "vector_schema_20250720_121007.sql").write_bytes(b"x" * 5)
    found = FoundBackup(tmp_path / "vector_backup_20250720_121007.json", manifest())
    now = datetime(2025, 7, 20, 10, 10, 7, tzinfo=UTC) + timedelta(days=3)
    findings = Findings()
    judge_last_backup(findings, found, now)
    assert (
        only(findings).message
        == f"20250720_121007, 3 days ago, 2 rows, nothing truncated, not proven by a restore ({tmp_path})"
    )
    assert only(findings).status == "ok"
