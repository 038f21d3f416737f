"""Privileges on what a restore makes: whatever the target's defaults grant and the backup does not record is revoked.

https://www.postgresql.org/docs/current/sql-alterdefaultprivileges.html.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import msgspec

from vecbak.postgres.catalog import Grant
from vecbak.postgres.catalog_query import grants_on
from vecbak.postgres.names import quote_identifier, quote_literal, quote_name


class Made(msgspec.Struct, frozen=True):
    """One object that a restore has made.

    Attributes:
        schema: None for a schema itself.
        recorded: what others might do with what it was made from.
    """

    kind: Literal["SCHEMA", "TABLE", "SEQUENCE", "TYPE"]
    schema: str | None
    name: str
    recorded: tuple[Grant, ...] = ()

    @property
    def sql(self) -> str:
        """Qualified and quoted."""
        return quote_name(self.schema, self.name)


def read_grants(objects: Sequence[Made]) -> str:
    """What others than the owner may do with each of these objects now."""
    rows = ", ".join(
        f"({number}, '{item.kind}', {quote_literal(item.schema or item.name)}, {quote_literal(item.name)})"
        for number, item in enumerate(objects)
    )
    relation = "FROM pg_catalog.pg_class c WHERE c.relnamespace = n.oid AND c.relname = o.name"
    return f"""
SELECT json_agg(coalesce(CASE o.kind
    WHEN 'SCHEMA' THEN {grants_on("n.nspacl", "n", "n.nspowner")}
    WHEN 'TABLE' THEN (SELECT {grants_on("c.relacl", "r", "c.relowner", "c.oid")} {relation})
    WHEN 'SEQUENCE' THEN (SELECT {grants_on("c.relacl", "s", "c.relowner")} {relation})
    ELSE (SELECT {grants_on("t.typacl", "T", "t.typowner")} FROM pg_catalog.pg_type t WHERE t.typnamespace = n.oid AND t.typname = o.name)
  END, '[]') ORDER BY o.position)
FROM (VALUES {rows}) AS o(position, kind, schema, name) JOIN pg_catalog.pg_namespace n ON n.nspname = o.schema;
"""


def too_open(now: Iterable[Grant], recorded: Sequence[Grant]) -> list[Grant]:
    """What somebody may do that is not recorded."""
    return [grant for grant in now if not _among(grant, recorded)]


def lost(now: Sequence[Grant], recorded: Iterable[Grant]) -> list[Grant]:
    """What somebody might do, and may no more."""
    return [grant for grant in recorded if not _among(grant, now)]


def _among(grant: Grant, others: Iterable[Grant]) -> bool:
    """Whether one of them allows as much."""
    return any(
        (other.grantee, other.privilege, other.column) == (grant.grantee, grant.privilege, grant.column)
        and other.grantable >= grant.grantable
        for other in others
    )


def revoke(item: Made, now: Iterable[Grant]) -> Iterator[str]:
    """Statements that leave others what is recorded and nothing more; the roles in them are the target's own."""
    for grant in too_open(now, item.recorded):
        option = "GRANT OPTION FOR " if _among(msgspec.structs.replace(grant, grantable=False), item.recorded) else ""
        column = f" ({quote_identifier(grant.column)})" if grant.column else ""
        role = "PUBLIC" if grant.grantee is None else quote_identifier(grant.grantee)
        yield f"REVOKE {option}{grant.privilege}{column} ON {item.kind} {item.sql} FROM {role} CASCADE;"


def grantees(grants: Iterable[Grant]) -> list[str]:
    """Who has them, each once, for messages."""
    return sorted({grant.grantee or "PUBLIC" for grant in grants})
