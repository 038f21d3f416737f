"""Definitions as a manifest has them, which may come from anybody: each text judged in the position that it takes.

What is judged is what `definitions`, `type_definitions` and `protection` make statements of; names are judged when the
manifest is read (`vecbak.backups.manifest_check`), and each whole statement before it is sent (`untrusted`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from vecbak.errors import RestoreFailed
from vecbak.postgres import fragments
from vecbak.postgres.catalog import Column, Constraint, Partition, Protection, Table, UserType
from vecbak.postgres.fragments import Position, misfit

_STORAGES = frozenset({"PLAIN", "EXTERNAL", "EXTENDED", "MAIN", "DEFAULT"})
_COMMANDS = frozenset({"ALL", "SELECT", "INSERT", "UPDATE", "DELETE"})


class Piece(msgspec.Struct, frozen=True):
    """A text, what it defines (for messages), and the position that it takes, or the words of which it must be one."""

    text: str
    name: str
    position: Position | frozenset[str]


def check_tables(tables: Iterable[Table]) -> None:
    """Refuse tables whose definitions are none that PostgreSQL wrote.

    Raises:
        RestoreFailed: says which one, and why.
    """
    for table in tables:
        _check(pieces_of_table(table))


def check_types(types: Iterable[UserType]) -> None:
    """The same of types.

    Raises:
        RestoreFailed: says which one, and why.
    """
    for item in types:
        _check(pieces_of_type(item))


def check_type_names(names: Mapping[str, str]) -> None:
    """The same of the types of some columns, by their names.

    Raises:
        RestoreFailed: says which one, and why.
    """
    _check(Piece(text, name, fragments.TYPE) for name, text in names.items())


def pieces_of_table(table: Table) -> Iterator[Piece]:
    """What a table's definition is made of, with its partitions, and without its types."""
    for column in table.columns:
        yield from _of_column(column)
    for sequence in table.sequences:
        if sequence.options:
            yield Piece(sequence.options, sequence.name, fragments.SEQUENCE_OPTIONS)
        if sequence.type:
            yield Piece(sequence.type, sequence.name, fragments.TYPE)
    for constraint in table.constraints:
        yield _of_constraint(constraint)
    for part in table.partitions:
        yield Piece(part.bound, part.name, fragments.PARTITION_BOUND)
    yield from _of_relation(table)
    for part in table.partitions:
        yield from _of_relation(part)


def pieces_of_type(item: UserType) -> Iterator[Piece]:
    """What a type's definition is made of."""
    for field in item.attributes:
        yield Piece(field.type, item.name, fragments.TYPE)
    if item.base is not None:
        yield Piece(item.base, item.name, fragments.TYPE)
    if item.collation is not None:
        yield Piece(item.collation, item.name, fragments.COLLATION)
    if item.default is not None:
        yield Piece(item.default, item.name, fragments.DEFAULT)
    for check in item.constraints:
        yield _of_constraint(check)


def _of_column(column: Column) -> Iterator[Piece]:
    yield Piece(column.type, column.name, fragments.TYPE)
    if column.collation:
        yield Piece(column.collation, column.name, fragments.COLLATION)
    if column.default is not None:
        yield Piece(column.default, column.name, fragments.EXPRESSION if column.generated else fragments.DEFAULT)
    if column.storage:
        yield Piece(column.storage, column.name, _STORAGES)


def _of_constraint(constraint: Constraint) -> Piece:
    kinds = fragments.CONSTRAINTS_BY_KIND
    return Piece(constraint.definition, constraint.name, kinds.get(constraint.kind, frozenset()))


def _of_relation(item: Table | Partition) -> Iterator[Piece]:
    if item.partition_by is not None:
        yield Piece(item.partition_by, item.name, fragments.PARTITION_KEY)
    for index in item.indexes:
        yield Piece(index.definition, index.name, fragments.index_of(index.name, item.schema, item.name))
    yield from _of_protection(item.protection)


def _of_protection(protection: Protection) -> Iterator[Piece]:
    for policy in protection.policies:
        yield Piece(policy.command, policy.name, _COMMANDS)
        for condition in (policy.using, policy.check):
            if condition is not None:
                yield Piece(condition, policy.name, fragments.CONDITION)


def _check(pieces: Iterable[Piece]) -> None:
    for piece in pieces:
        if isinstance(piece.position, frozenset):
            problem = None if piece.text in piece.position else "it is none of the words that may stand there"
        else:
            problem = misfit(piece.text, piece.position)
        if problem:
            raise RestoreFailed(
                f"the manifest's definition of {piece.name} is none that PostgreSQL wrote: {piece.text[:60]!r}"
                f" ({problem}); nothing was changed",
                "Do not use this manifest; find out where it comes from.",
            )
