"""`restore --create`: schemas, types and tables that are missing, as they were, and never less protected."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from vecbak.errors import Refused, RestoreFailed
from vecbak.operations.targets import SourceTable
from vecbak.postgres import restore_queries
from vecbak.postgres.catalog import Table, UserType
from vecbak.postgres.definitions import create_table
from vecbak.postgres.guard import Guard
from vecbak.postgres.names import quote_identifier
from vecbak.postgres.protection import missing_roles, protections
from vecbak.postgres.recorded_definitions import check_tables, check_types
from vecbak.postgres.type_definitions import create_type, is_made_here, types_of


def create_missing(
    guard: Guard, tables: Sequence[SourceTable], here: Callable[[str], str], tablespaces: tuple[str, ...]
) -> None:
    """Make tables that are not there, without constraints, indexes and protection: those come when the rows are in.

    Args:
        here: a definition of the backup as the target says it.
        tablespaces: those of the server.

    Raises:
        Refused: nothing records how one of them was.
        RestoreFailed: the server does not know a type, and nothing records that either; or a definition is none.
        SessionFailed: the server refused.
    """
    for table in tables:
        if table.target.schema is None or table.definition is None:
            raise Refused(
                f"the table {table.target} does not exist, and nothing records how it was",
                "Make it first; langchain-postgres does so when it is used.",
            )
    definitions = [table.definition for table in tables if table.definition]
    types = types_of(definitions)
    check_types(types)
    check_tables(definitions)
    for item in types:
        _create_type(guard, item, here)
    for table in tables:
        if table.definition and table.target.schema:
            _check_types(guard, table.definition, here)
            _create_schema(guard, table.target.schema)
            statements = create_table(table.definition, table.target.schema, tablespaces)
            guard.define(map(here, statements), f"making the table {table.target}")


def check_roles(guard: Guard, tables: Sequence[SourceTable]) -> None:
    """Refuse to make a table whose policies name roles that the server does not have.

    Raises:
        Refused: says which.
    """
    for table in tables:
        found = protections(table.definition) if table.definition else []
        roles = {role for item in found for policy in item.policies for role in policy.roles}
        missing = guard.query(missing_roles(roles), "looking for the roles of policies") if roles else []
        if missing:
            raise Refused(
                f"policies of {table.target} are for roles that the server does not have: {', '.join(missing)}",
                "CREATE ROLE them first; or use --no-policies: row-level security is switched on all the same, and shows"
                " nobody but the owner a row until you have made policies.",
            )


def what_is_not_made(table: SourceTable, *, policies: bool) -> Iterator[str]:
    """Warnings about what a table had that `create_missing` and what follows it do not make."""
    definition = table.definition
    if definition is None:
        return
    if definition.grantees:
        yield f"{table.target} was made without privileges for others; {', '.join(definition.grantees)} had some"
    kept_by_server = [item for item in definition.reactions if item.table == definition.name]
    if kept_by_server:
        names = ", ".join(f"{item.kind.lower()} {item.name}" for item in kept_by_server)
        yield f"{table.target} was made without what acted on its rows: {names}; the schema file of the backup has it"
    if not policies and any(item.policies for item in protections(definition)):
        yield f"{table.target} was made without its policies: row-level security shows nobody but its owner a row"


def _create_type(guard: Guard, item: UserType, here: Callable[[str], str]) -> None:
    if not is_made_here(item) or not guard.query(restore_queries.unknown_types([item.sql]), "looking for a type"):
        return
    _create_schema(guard, item.schema)
    guard.define([here(create_type(item))], f"making the type {item.sql}")


def _create_schema(guard: Guard, schema: str) -> None:
    # IF NOT EXISTS would want the privilege to make one even where it exists
    if not guard.query(restore_queries.schema_exists(schema), f"looking for the schema {schema}"):
        guard.define([f"CREATE SCHEMA {quote_identifier(schema)};"], f"making the schema {schema}")


def _check_types(guard: Guard, definition: Table, here: Callable[[str], str]) -> None:
    types = [here(column.type) for column in definition.columns]
    unknown = guard.query(restore_queries.unknown_types(types), "looking for the columns' types")
    if unknown:
        raise RestoreFailed(
            f"the server does not know the type {', '.join(unknown)} of {definition.name}",
            "Install the extension that brings it, or create the type, then run vecbak again.",
        )
