"""The vectors of a pipeline, managed exactly once: here, or by whoever started us."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping

import msgspec

from vecbak.operations.backup import WHOLE, back_up
from vecbak.operations.extent import Extent
from vecbak.operations.job import Job
from vecbak.operations.preview import read_identity
from vecbak.results import Result

log = logging.getLogger(__name__)

MARKER = "VECBAK_MANAGED"  # in the environment of children: what has been done, and to which tables
NOT_ASKED = "not performed (no option given)"


class Managed(msgspec.Struct, frozen=True):
    """What became of the vectors.

    Attributes:
        result: of this process.
        environment: for children, so that none of them does it again.
    """

    result: Result
    environment: dict[str, str]


def manage_vectors(
    job: Job,
    *,
    backup: bool,
    truncate: bool,
    extent: Extent = WHOLE,
    environment: Mapping[str, str] = os.environ,
) -> Managed:
    """Back up, and truncate if asked, unless a parent process has done it to the same tables already.

    Args:
        backup: asked for; `truncate` implies it.
        extent: all rows of the tables, or some collections alone.
        environment: ours, with a parent's marker.

    Raises:
        VecbakError: as `vecbak.operations.backup.back_up`.
    """
    if not backup and not truncate:
        log.info("vector management: %s", NOT_ASKED)
        return Managed(Result(task_id=job.task_id, note=NOT_ASKED), {})
    whole, tables = _fingerprint(job), _fingerprint(job, *extent.wanted)
    done = _parse(environment.get(MARKER, ""))
    before = next((done[one] for one in (whole, tables) if _covers(done.get(one), truncate=truncate)), None)
    if before:
        what = "backed up and truncated" if before == "truncate" else "backed up"
        note = f"not performed again: this pipeline has {what} these tables already"
        log.info("vector management: %s", note)
        return Managed(Result(task_id=job.task_id, note=note), {})
    result = back_up(job, truncate=truncate, extent=extent)
    done[tables] = "truncate" if truncate else "backup"
    marker = ",".join(f"{key}={value}" for key, value in done.items())
    facts = {"VECBAK_BACKUP_ID": str(result.backup_id), "VECBAK_MANIFEST": str(result.manifest)}
    return Managed(result, {MARKER: marker, **facts})


def _fingerprint(job: Job, *collections: str) -> str:
    identity = [*read_identity(job), *sorted(collections)]
    return hashlib.sha256(repr(identity).encode()).hexdigest()[:32]


def _parse(marker: str) -> dict[str, str]:
    items = (item.partition("=") for item in marker.split(",") if "=" in item)
    return {key: value for key, _, value in items if value in {"backup", "truncate"}}


def _covers(done: str | None, *, truncate: bool) -> bool:
    return done == "truncate" or (done == "backup" and not truncate)
