"""What a new table gets before its rows: its checks, and the indexes whose functions look along the search_path.

All that we say is understood under the pinned path, and what is made over rows is computed under it as well. Over none, nothing
is computed; the rows are then judged one by one as they come, under the role's own path, as the application's are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from vecbak.operations.targets import Plan
from vecbak.postgres.catalog import Constraint, Index, Partition, Table
from vecbak.postgres.definitions import add_constraint, create_index, partition_schema
from vecbak.postgres.guard import Guard


class Made(msgspec.Struct, frozen=True):
    """What was made: constraints and indexes by the name of their table, and the names of those indexes that are no constraint's."""

    items: frozenset[tuple[str, str]] = frozenset()
    indexes: tuple[str, ...] = ()


class BeforeRows:
    """The work on new tables that are still empty.

    Args:
        here: a definition of the backup as the target says it.
        tablespaces: those of the server.
    """

    def __init__(self, guard: Guard, here: Callable[[str], str], tablespaces: tuple[str, ...]) -> None:
        self._guard = guard
        self._here = here
        self._tablespaces = tablespaces

    def make(self, plan: Plan) -> Made:
        """Make it, if the table is new.

        Raises:
            SessionFailed: the server refused.
        """
        definition = plan.source.definition
        if not plan.new or definition is None:
            return Made()
        made = set()
        for constraint in definition.constraints:
            # older rows need not meet one that is NOT VALID: that comes when they are in
            if constraint.kind == "c" and not constraint.definition.endswith(" NOT VALID"):
                self._add(plan, definition, constraint)
                made.add((definition.name, constraint.name))
        following = self._following(plan, definition)
        for constraint in definition.constraints:
            if (definition.name, constraint.name) in following:
                self._add(plan, definition, constraint)
        for table, index, schema in _indexes(plan, definition):
            if (table.name, index.name) in following:
                self._build(table, index, schema)
        indexes = [
            index.name for table, index, _ in _indexes(plan, definition) if (table.name, index.name) in following
        ]
        return Made(frozenset(made | following), tuple(indexes))

    def _following(self, plan: Plan, definition: Table) -> set[tuple[str, str]]:
        """The indexes that follow the path, by table: all are made, looked at, and taken back."""
        step = f"looking at the indexes of {definition.name}"
        self._guard.ask("SAVEPOINT vecbak_trial;", step)
        for constraint in definition.constraints:
            if constraint.kind == "x":
                self._add(plan, definition, constraint)
        for table, index, schema in _indexes(plan, definition):
            self._build(table, index, schema)
        found = self._guard.facts([plan.table.oid]).tables[0]
        self._guard.ask("ROLLBACK TO SAVEPOINT vecbak_trial;\nRELEASE SAVEPOINT vecbak_trial;", step)
        followers = {(found.name, index.name) for index in found.indexes if index.follows_path}
        return followers | {
            (partition.name, index.name)
            for partition in found.partitions
            for index in partition.indexes
            if index.follows_path
        }

    def _add(self, plan: Plan, definition: Table, constraint: Constraint) -> None:
        statement = self._here(add_constraint(definition, constraint, plan.table.schema, {}))
        self._guard.ask(statement, f"adding the constraint {constraint.name}")

    def _build(self, table: Table | Partition, index: Index, schema: str) -> None:
        statements = create_index(table, index, schema, self._tablespaces, with_partitions=True)
        self._guard.ask("\n".join(map(self._here, statements)), f"building the index {index.name}")


def _indexes(plan: Plan, definition: Table) -> Iterator[tuple[Table | Partition, Index, str]]:
    """The indexes that are to be built, with their tables and the schemas of these."""
    for index in definition.indexes:
        if index.constraint is None and index.valid:
            yield plan.table, index, plan.table.schema
    for partition in definition.partitions:
        for index in partition.indexes:
            if index.constraint is None and index.valid:
                yield partition, index, partition_schema(definition, partition, plan.table.schema)
