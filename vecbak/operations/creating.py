"""`restore --create`: schemas, types and tables that are missing, as they were, and never less protected."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec

from vecbak.errors import Refused, RestoreFailed
from vecbak.operations.closing import ClosedToOthers
from vecbak.operations.targets import SourceTable
from vecbak.postgres import restore_queries
from vecbak.postgres.catalog import Access, Grant, Partition, Table, UserType
from vecbak.postgres.catalog import Sequence as TableSequence
from vecbak.postgres.definitions import create_sequence, create_table, partition_schema, sequence_places
from vecbak.postgres.guard import Guard
from vecbak.postgres.names import TableName, quote_identifier, quote_name
from vecbak.postgres.privileges import Made
from vecbak.postgres.protection import missing_roles, protections
from vecbak.postgres.recorded_definitions import check_tables, check_types
from vecbak.postgres.type_definitions import create_type, is_made_here, types_of

UNLOGGED_SEQUENCES = 15  # the first PostgreSQL that knows them


class Creation:
    """What one restore makes.

    Args:
        here: a definition of the backup as the target says it.
        tablespaces: those of the server.
        made: told of everything that is made.
    """

    def __init__(
        self, guard: Guard, here: Callable[[str], str], tablespaces: tuple[str, ...], made: ClosedToOthers
    ) -> None:
        self._guard = guard
        self._here = here
        self._tablespaces = tablespaces
        self._made = made
        self._schemas: dict[str, tuple[Grant, ...]] = {}  # that the backup knows

    def create_missing(self, tables: Sequence[SourceTable]) -> None:
        """Make tables that are not there, without constraints, indexes and protection: those come when the rows are in.

        Raises:
            Refused: nothing records how one of them was.
            RestoreFailed: the server does not know a type, and nothing records that either; or a definition is none.
            SessionFailed: the server refused.
        """
        wanted: list[tuple[Table, TableName]] = []
        for source in tables:
            if source.target.schema is None or source.definition is None:
                raise Refused(
                    f"the table {source.target} does not exist, and nothing records how it was",
                    "Make it first; langchain-postgres does so when it is used.",
                )
            wanted.append((self._as_the_server_can(source.definition), source.target))
        types = types_of([table for table, _ in wanted])
        check_types(types)
        check_tables(table for table, _ in wanted)
        self._schemas = {name: access.schema for table, _ in wanted for name, access in _in_schemas(table)}
        own = {place for table, target in wanted for place in _own_places(table, target)}
        for table, target in wanted:
            self._create_shared_sequences(table, target, own)
        for item in types:
            self._create_type(item)
        for table, target in in_making_order(wanted):
            self._create_table(table, target)

    def _as_the_server_can(self, table: Table) -> Table:
        if self._guard.server_major >= UNLOGGED_SEQUENCES:
            return table
        logged = (msgspec.structs.replace(item, persistence="p") for item in table.sequences)
        return msgspec.structs.replace(table, sequences=tuple(logged))

    def _create_shared_sequences(self, table: Table, target: TableName, own: set[tuple[str, str]]) -> None:
        """Those that defaults take from and that no table of this restore brings along."""
        places = sequence_places(table, target.schema or table.schema)
        for item in table.sequences:
            place = places[item.schema, item.name]
            if item.kind != "used" or place is None or place in own or self._relation_exists(place):
                continue
            self._create_schema(place[0])
            self._guard.define([create_sequence(item, place)], f"making the sequence {item.name}")
            self._made.add(str(target), Made("SEQUENCE", *place, item.access.grants))

    def _create_table(self, table: Table, target: TableName) -> None:
        self._check_types(table)
        schema = target.schema or table.schema
        homes = {item.name: partition_schema(table, item, schema) for item in table.partitions}
        for name in dict.fromkeys([schema, *homes.values()]):
            self._create_schema(name)
        places = sequence_places(table, schema)
        for sequence in table.sequences:
            place = places[sequence.schema, sequence.name]
            if sequence.kind == "identity" and place and self._relation_exists(place):
                places[sequence.schema, sequence.name] = None
        statements = create_table(table, schema, self._tablespaces, places)
        self._guard.define(map(self._here, statements), f"making the table {target}")
        self._made.add(str(target), Made("TABLE", schema, table.name, table.access.grants))
        for item in table.partitions:
            self._made.add(str(target), Made("TABLE", homes[item.name], item.name, item.access.grants))

    def _create_type(self, item: UserType) -> None:
        unknown = restore_queries.unknown_types([item.sql])
        if not is_made_here(item) or not self._guard.query(unknown, "looking for a type"):
            return
        self._create_schema(item.schema)
        self._guard.define([self._here(create_type(item))], f"making the type {item.sql}")
        self._made.add(f"the type {item.sql}", Made("TYPE", item.schema, item.name, item.access.grants))

    def _create_schema(self, schema: str) -> None:
        # IF NOT EXISTS would want the privilege to make one even where it exists
        if not self._guard.query(restore_queries.schema_exists(schema), f"looking for the schema {schema}"):
            self._guard.define([f"CREATE SCHEMA {quote_identifier(schema)};"], f"making the schema {schema}")
            known = self._schemas.get(schema, ())
            self._made.add(f"the schema {quote_identifier(schema)}", Made("SCHEMA", None, schema, known))

    def _relation_exists(self, place: tuple[str, str]) -> bool:
        query = restore_queries.relation_exists(*place)
        return bool(self._guard.query(query, f"looking for {quote_name(*place)}"))

    def _check_types(self, definition: Table) -> None:
        types = [self._here(column.type) for column in definition.columns]
        unknown = self._guard.query(restore_queries.unknown_types(types), "looking for the columns' types")
        if unknown:
            raise RestoreFailed(
                f"the server does not know the type {', '.join(unknown)} of {definition.name}",
                "Install the extension that brings it, or create the type, then run vecbak again.",
            )


def in_making_order(wanted: Sequence[tuple[Table, TableName]]) -> list[tuple[Table, TableName]]:
    """A table whose default takes from the sequence of another one comes after it; in a circle the order stays."""
    waiting, ordered = list(wanted), []
    while waiting:
        ready = [item for item in waiting if not _taken_from(item) & _brought_by(waiting, item)] or waiting[:1]
        ordered += ready
        waiting = [item for item in waiting if item not in ready]
    return ordered


def _taken_from(item: tuple[Table, TableName]) -> set[tuple[str, str]]:
    return {(sequence.schema, sequence.name) for sequence in item[0].sequences if sequence.kind == "used"}


def _brought_by(waiting: Sequence[tuple[Table, TableName]], besides: tuple[Table, TableName]) -> set[tuple[str, str]]:
    return {
        (sequence.schema, sequence.name)
        for item in waiting
        for sequence in item[0].sequences
        if item is not besides and sequence.kind != "used"
    }


def _own_places(table: Table, target: TableName) -> Iterator[tuple[str, str]]:
    for item in table.sequences:
        if item.kind != "used":
            yield target.schema or table.schema, item.name


def _in_schemas(table: Table) -> Iterator[tuple[str, Access]]:
    items: tuple[Table | Partition | TableSequence | UserType, ...] = (
        table,
        *table.partitions,
        *table.sequences,
        *table.types,
    )
    for item in items:
        yield item.schema, item.access


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


def what_is_not_made(table: SourceTable, user: str, *, policies: bool) -> Iterator[str]:
    """Warnings about what acted on a table, or kept it, and is not made.

    Args:
        user: to whom it belongs now.
    """
    definition = table.definition
    if definition is None:
        return
    if definition.owner != user:
        yield f"{table.target} belongs to {user} now; it belonged to {definition.owner}"
    kept_by_server = [item for item in definition.reactions if item.table == definition.name]
    if kept_by_server:
        names = ", ".join(f"{item.kind.lower()} {item.name}" for item in kept_by_server)
        yield f"{table.target} was made without what acted on its rows: {names}; the schema file of the backup has it"
    if not policies and any(item.policies for item in protections(definition)):
        yield f"{table.target} was made without its policies: row-level security shows nobody but its owner a row"
