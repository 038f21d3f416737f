"""What a new table gets before its rows: its checks, and the indexes whose functions look along the search_path.

All that we say is understood under the pinned path, and what is made over rows is computed under it as well. Over none, nothing
is computed; the rows are then judged one by one as they come, under the role's own path, as the application's are.

PostgreSQL inlines functions in SQL even then: a check is made NOT VALID, and validated under the role's own path. An index
cannot be made so; before version 17, which makes none along any other path than its own, it is made along the role's, behind
pg_catalog, and must then be what it was to be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from vecbak.errors import RestoreFailed
from vecbak.operations.targets import Plan
from vecbak.postgres import queries, restore_queries
from vecbak.postgres.catalog import Constraint, Index, Partition, Table
from vecbak.postgres.definitions import add_constraint, create_index, partition_schema
from vecbak.postgres.guard import Guard
from vecbak.postgres.restore_queries import validate_constraint
from vecbak.postgres.session import SessionFailed

NOT_FOUND = {"42883", "42P01", "42704", "3F000"}  # a function, relation, type or schema: what a path decides


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
            if constraint.kind == "c" and not constraint.definition.endswith((" NOT VALID", " NOT ENFORCED")):
                self._check(plan, definition, constraint)
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

    def _check(self, plan: Plan, definition: Table, constraint: Constraint) -> None:
        later = msgspec.structs.replace(constraint, definition=f"{constraint.definition} NOT VALID")
        self._guard.ask(
            self._here(add_constraint(definition, later, plan.table.schema, {})), f"adding {constraint.name}"
        )
        statement = validate_constraint(plan.table.schema, definition.name, constraint.name)
        with self._guard.own_path():
            self._guard.ask(statement, f"adding the constraint {constraint.name}")

    def _add(self, plan: Plan, definition: Table, constraint: Constraint) -> None:
        statement = self._here(add_constraint(definition, constraint, plan.table.schema, {}))
        made = restore_queries.constraint_definition(plan.table, constraint.name)
        self._make(statement, f"adding the constraint {constraint.name}", made)

    def _build(self, table: Table | Partition, index: Index, schema: str) -> None:
        tablespace, create, *rest = map(
            self._here, create_index(table, index, schema, self._tablespaces, with_partitions=True)
        )
        step = f"building the index {index.name}"
        self._guard.ask(tablespace, step)
        self._make(create, step, restore_queries.index_definition(schema, index.name))
        if rest:
            self._guard.ask("\n".join(rest), step)

    def _make(self, statement: str, step: str, definition: str) -> None:
        """Run it, and hold what came of it against what it says.

        Args:
            definition: the query that tells what came of it.
        """
        answer = self._guard.ask(queries.attempt("vecbak_early", statement), step)
        if not answer.error:
            self._guard.ask("RELEASE SAVEPOINT vecbak_early;", step)
            return
        self._guard.ask("ROLLBACK TO SAVEPOINT vecbak_early;\nRELEASE SAVEPOINT vecbak_early;", step)
        if answer.sqlstate not in NOT_FOUND or self._guard.server_major >= 17:
            raise SessionFailed(f"{step} failed", output=answer.messages, sqlstate=answer.sqlstate)
        with self._guard.own_path(behind_postgresqls=True):
            self._guard.ask(statement, step)
        made = self._guard.ask_json(definition, step)
        if made.partition(" USING ")[2] != statement.partition(" USING ")[2].removesuffix(";"):
            raise RestoreFailed(
                f"{step} failed: along the search_path it would be another one: {made}; the target is as it was before",
                "Let the functions that it calls SET search_path, or name schemas in them.",
            )


def _indexes(plan: Plan, definition: Table) -> Iterator[tuple[Table | Partition, Index, str]]:
    """The indexes that are to be built, with their tables and the schemas of these."""
    for index in definition.indexes:
        if index.constraint is None and index.valid:
            yield plan.table, index, plan.table.schema
    for partition in definition.partitions:
        for index in partition.indexes:
            if index.constraint is None and index.valid:
                yield partition, index, partition_schema(definition, partition, plan.table.schema)
