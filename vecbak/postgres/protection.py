"""Row-level security as statements, and triggers and rules that keep still while rows are loaded.

https://www.postgresql.org/docs/current/ddl-rowsecurity.html.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from vecbak.postgres.catalog import Policy, Protection, Reaction, Table
from vecbak.postgres.names import quote_identifier, quote_literal, quote_name

_STATES = {"A": "ALWAYS ", "R": "REPLICA "}


def protect(schema: str, name: str, protection: Protection, *, policies: bool) -> Iterator[str]:
    """Statements that protect a table as another was.

    Args:
        policies: make them; without any, row-level security shows nobody but the owner a row.
    """
    table = quote_name(schema, name)
    if policies:
        yield from (_create_policy(table, policy) for policy in protection.policies)
    if protection.enabled:
        yield f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;"
    if protection.forced:
        yield f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY;"


def protections(table: Table) -> list[Protection]:
    """Of a table and of its partitions."""
    return [table.protection, *(partition.protection for partition in table.partitions)]


def missing_roles(names: Iterable[str]) -> str:
    """Those of these roles that the server does not have."""
    rows = ", ".join(f"({quote_literal(name)})" for name in sorted(set(names)))
    known = "SELECT FROM pg_catalog.pg_roles WHERE rolname = r.name"
    return f"SELECT coalesce(json_agg(r.name), '[]') FROM (VALUES {rows}) AS r(name) WHERE NOT EXISTS ({known});"


def disable(reactions: Sequence[Reaction]) -> list[str]:
    """Keep them from acting; ONLY, for a partition's own are listed themselves."""
    return [f"ALTER TABLE ONLY {_table(item)} DISABLE {_reaction(item)};" for item in reactions]


def enable(reactions: Sequence[Reaction]) -> list[str]:
    """Let them act as before."""
    return [
        f"ALTER TABLE ONLY {_table(item)} ENABLE {_STATES.get(item.state, '')}{_reaction(item)};" for item in reactions
    ]


def _create_policy(table: str, policy: Policy) -> str:
    roles = ", ".join(quote_identifier(role) for role in policy.roles) or "PUBLIC"
    kind = "PERMISSIVE" if policy.permissive else "RESTRICTIVE"
    using = f" USING ({policy.using})" if policy.using is not None else ""
    check = f" WITH CHECK ({policy.check})" if policy.check is not None else ""
    return f"CREATE POLICY {quote_identifier(policy.name)} ON {table} AS {kind} FOR {policy.command} TO {roles}{using}{check};"


def _table(item: Reaction) -> str:
    return quote_name(item.schema, item.table)


def _reaction(item: Reaction) -> str:
    return f"{item.kind} {quote_identifier(item.name)}"
