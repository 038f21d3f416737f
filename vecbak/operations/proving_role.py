"""The role in which a backup is proved: on a throw-away server one that may neither run programs nor read files.

What is proved may come from anybody. An ordinary role makes its tables; the superuser makes nothing but pgvector and that role.
"""

from __future__ import annotations

import dataclasses
import logging

import msgspec

from vecbak.errors import BackupFailed
from vecbak.operations.job import Job
from vecbak.postgres.guard import Guard
from vecbak.postgres.names import quote_identifier
from vecbak.postgres.session import SessionFailed

log = logging.getLogger(__name__)

ROLE = "vecbak_proof"

_IS_SUPERUSER = "SELECT pg_catalog.to_json(pg_catalog.current_setting('is_superuser')::pg_catalog.bool);"


def in_ordinary_role(job: Job, *, vector: bool) -> Job:
    """The same job, in an ordinary role of the throw-away server that it is about.

    Args:
        vector: whether it is to have pgvector.

    Raises:
        BackupFailed: the server does not make the role.
        ConnectionFailed: it cannot be reached.
    """
    guard, _ = job.connect()
    database = quote_identifier(job.endpoint.parameters["dbname"])
    statements = [
        *(["CREATE EXTENSION IF NOT EXISTS vector SCHEMA public;"] if vector else []),
        f"CREATE ROLE {ROLE} LOGIN;",
        f"GRANT CREATE, TEMPORARY ON DATABASE {database} TO {ROLE};",
    ]
    try:
        guard.ask("\n".join(statements), "preparing the throw-away server")
    except SessionFailed as error:
        raise BackupFailed(
            f"the throw-away server did not work: {error.message}",
            "Try `vecbak verify BACKUP --restore --on DSN`.",
            output=error.output,
        ) from None
    finally:
        guard.close()
    endpoint = dataclasses.replace(job.endpoint, parameters={**job.endpoint.parameters, "user": ROLE})
    return msgspec.structs.replace(job, endpoint=endpoint)


def warn_of_superuser(guard: Guard) -> None:
    """Say so if a backup that may come from anybody is proved as a superuser of a server that stays."""
    if guard.ask_json(_IS_SUPERUSER, "looking at the role"):
        log.warning(
            "the role of --on is a superuser; a role of its own with CREATE and TEMPORARY on a scratch database is enough"
        )
