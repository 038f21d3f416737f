"""COMMIT, and what became of it when the connection broke meanwhile."""

from __future__ import annotations

import logging
from typing import Literal

import msgspec

from vecbak.operations.job import Job
from vecbak.postgres.guard import Guard, transaction_outcome
from vecbak.postgres.programs import Installation
from vecbak.postgres.session import SessionFailed

log = logging.getLogger(__name__)

OUTCOME_SECONDS = 5.0  # at least; a server that crashed needs time to recover


class Ending(msgspec.Struct, frozen=True):
    """How a transaction ended, and what psql said if it was not answered."""

    outcome: Literal["committed", "aborted", "unknown"]
    output: str = ""


def commit(job: Job, guard: Guard, installation: Installation, transaction: str) -> Ending:
    """COMMIT; if the connection breaks meanwhile, ask a new session.

    Args:
        transaction: its xid8, from pg_current_xact_id().
    """
    try:
        guard.commit()
    except SessionFailed as error:
        log.warning("the connection was lost during COMMIT; asking a new session what became of it")
        guard.kill()
        seconds = max(OUTCOME_SECONDS, job.config.timeouts.truncate_seconds)
        status = transaction_outcome(job.runner, job.endpoint, installation, transaction, seconds=seconds)
        if status == "committed":
            log.warning("COMMIT had succeeded")
            return Ending("committed")
        return Ending("aborted" if status == "aborted" else "unknown", error.output)
    return Ending("committed")
