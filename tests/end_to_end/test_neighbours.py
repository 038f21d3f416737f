"""What else stands in a backup folder, and who else writes there: nothing odd stops a run, and no record is lost."""

from __future__ import annotations

import hashlib
import json

import msgspec
import pytest

from tests.support.collections import EMBEDDING
from tests.support.stopped import Stopped
from tests.support.workspace import Workspace

pytestmark = pytest.mark.local


@pytest.fixture
def space(tmp_path, filled18) -> Workspace:
    return Workspace(tmp_path, filled18)


def rewrite(space: Workspace, **changes: object) -> None:
    """Change the only manifest, as somebody who knows how its checksum is made."""
    path = next(space.backups.glob("vector_backup_*.json"))
    document = json.loads(path.read_text()) | changes | {"checksum": ""}
    data = msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"
    path.write_bytes(data.replace(b'"checksum": ""', f'"checksum": "{hashlib.sha256(data).hexdigest()}"'.encode()))


@pytest.mark.parametrize(
    "changes",
    [
        {"created_at": "9999-12-31T23:59:59.999999Z"},
        {"created_at": "9999-12-31T23:59:59.999999-23:59"},
        {"created_at": "0001-01-01T00:00:00+23:59"},
        {"created_at": "2025-07-20T12:00:00"},
        {"duration": -1e300},
        {"truncated": {"completed_at": "9999-12-31T23:59:59.999999-23:59", "rows_removed": {EMBEDDING: 10**40}}},
        {"truncated": {"completed_at": "0001-01-01T00:00:00+01:00", "rows_removed": {EMBEDDING: 62}}},
    ],
)
def test_an_odd_manifest_in_the_folder(space: Workspace, changes):
    assert space.run("backup").code == 0
    rewrite(space, **changes)
    done = space.run("truncate", "--prune", "--json")
    assert done.code == 0, done.stderr
    assert space.database.count(EMBEDDING) == 0
    for command in (
        ["list"],
        ["list", "--json"],
        ["prune", "--dry-run", "--json"],
        ["doctor"],
        ["show", done.json["backup_id"]],
    ):
        looked = space.run(*command)
        assert looked.code in {0, 4}, looked.stderr
    assert space.run("restore", done.json["backup_id"]).code == 0
    assert space.database.count(EMBEDDING) == 62


def manifest_of(space: Workspace) -> dict[str, object]:
    return json.loads(next(space.backups.glob("vector_backup_*.json")).read_text())


@pytest.mark.parametrize("step", ["published", "truncated", "committed"])
def test_a_proof_beside_a_truncate_loses_neither_record(space: Workspace, step):
    truncate = Stopped(space, step, "truncate")
    backup_id = manifest_of(space)["backup_id"]
    (space.folder / "proof").mkdir()
    prover = Workspace(space.folder / "proof", space.database)
    verify = prover_process(prover, space, backup_id)
    code, errors = truncate.go()
    assert code == 0, errors
    _, errors = verify.communicate(timeout=120)
    assert verify.returncode == 0, errors
    found = manifest_of(space)
    assert found["truncated"]["rows_removed"] == {EMBEDDING: 62}
    assert found["proven_restorable"] is not None
    assert space.run("verify", backup_id).code == 0


def prover_process(prover: Workspace, space: Workspace, backup_id: object):
    from tests.support.command import start_vecbak

    return start_vecbak("verify", backup_id, "--restore", "--output-dir", space.out, cwd=prover.folder)


def test_a_truncate_beside_a_proof_loses_neither_record(space: Workspace):
    """The proof is about to write its record when the run that made the backup has long ended, and another proof comes first."""
    assert space.run("backup").code == 0
    backup_id = manifest_of(space)["backup_id"]
    first = Stopped(space, "amending", "verify", backup_id, "--restore")
    second = prover_process(space, space, backup_id)
    code, errors = first.go()
    assert code == 0, errors
    _, errors = second.communicate(timeout=120)
    assert second.returncode == 0, errors
    assert "could not be recorded" not in errors
    assert manifest_of(space)["proven_restorable"] is not None
