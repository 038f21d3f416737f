"""Filling emptied, empty or living tables inside the guard's transaction: indexes dropped, rows loaded, indexes built."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from vecbak.checkpoints import reach
from vecbak.errors import Refused, RestoreFailed
from vecbak.operations.before_rows import BeforeRows
from vecbak.operations.job import Job
from vecbak.operations.lifting import Lifting
from vecbak.operations.loading import SourceFile, load
from vecbak.operations.merging import Merge
from vecbak.operations.sequences import Advances
from vecbak.operations.targets import Plan, too_early
from vecbak.postgres import queries, restore_queries, untrusted
from vecbak.postgres.catalog import Index, Partition, Table, UserType
from vecbak.postgres.definitions import add_constraint, create_index, partition_schema
from vecbak.postgres.guard import Guard
from vecbak.postgres.protection import disable, enable, protect
from vecbak.postgres.recorded_definitions import check_type_names
from vecbak.postgres.session import SessionFailed
from vecbak.postgres.type_definitions import late_checks

log = logging.getLogger(__name__)

OUT_OF_SPACE = {"53100", "53200"}  # disk_full, out_of_memory: what a small /dev/shm makes of a parallel build


class Filled(msgspec.Struct, frozen=True):
    """What became of one table: rows inserted, rows that were there already, rows in it now, seconds."""

    inserted: int
    skipped: int
    rows_after: int
    duration: float


class Filling:
    """The work on all tables of one restore.

    Args:
        plans: in the order in which they are to be loaded.
        here: a definition of the backup as the target says it.
        policies: whether new tables get the policies that they had.

    Attributes:
        filled: by label.
        rebuilt: names of the indexes that were built.
        advances: of the sequences.
        migrated: where the ids of migrated rows come from, by label.
    """

    def __init__(
        self, job: Job, guard: Guard, plans: Sequence[Plan], here: Callable[[str], str], *, policies: bool
    ) -> None:
        self._job = job
        self._guard = guard
        self._plans = plans
        self._here = here
        self._policies = policies
        self._seconds = job.config.timeouts.restore_seconds
        server = guard.facts([]).server
        self._tablespaces = server.tablespaces
        self.advances = Advances(guard, server.user, self._seconds)
        self._temporary = server.temporary
        self.filled: dict[str, Filled] = {}
        self.rebuilt: list[str] = []
        self.migrated: dict[str, dict[str, Any]] = {}
        self._dropped: dict[str, list[Index]] = {}
        self._early: set[tuple[str, str]] = set()  # what a new table got before its rows: table, constraint or index

    def run(self) -> None:
        """Do it all; not committed yet.

        Raises:
            SessionFailed: the server refused.
            RestoreFailed: rows are missing, or differ from what is there.
            FileDamaged: a file could not be read.
        """
        settings = self._job.config.restore
        memory, workers = settings.maintenance_work_mem, settings.max_parallel_maintenance_workers
        self._guard.ask(restore_queries.build_settings(memory, workers), "setting what indexes may use")
        for plan in self._plans:
            self._dropped[plan.source.label] = self._drop_indexes(plan)
        for plan in self._plans:
            made = BeforeRows(self._guard, self._here, self._tablespaces).make(plan)
            self._early |= made.items
            self.rebuilt += made.indexes
        reach("loading")
        self._in_one_go()
        reach("loaded")
        for plan in self._plans:
            self._finish(plan)
        self._point_at_each_other()
        for plan in self._plans:
            self._analyse(plan.table)
        for plan in self._plans:
            self.advances.look(plan)
        for plan in self._plans:
            self._protect(plan)  # from here on we may not see the rows ourselves
        self.advances.move()

    def _drop_indexes(self, plan: Plan) -> list[Index]:
        """Those that are built again when the rows are in: of an emptied table what could be, tried while that costs nothing."""
        dropped = []
        for index in plan.rebuild:
            step = f"dropping the index {index.name}"
            drop = restore_queries.drop_index(plan.table, index)
            if plan.empty or not plan.rows_before:
                lines = map(self._here, create_index(plan.table, index, plan.table.schema, self._tablespaces))
                # by one process: that a small /dev/shm is too small for several is no reason to keep it
                serial = "SET LOCAL max_parallel_maintenance_workers = 0;"
                trial = self._guard.ask(queries.attempt("vecbak_trial", "\n".join([serial, drop, *lines])), step)
                self._guard.ask("ROLLBACK TO SAVEPOINT vecbak_trial;\nRELEASE SAVEPOINT vecbak_trial;", step)
                if trial.error:
                    log.warning(
                        "%s could not be built again, and stays: rows go in one by one (%s)", index.name, trial.messages
                    )
                    continue
            self._guard.ask(drop, step)
            dropped.append(index)
        return dropped

    def _analyse(self, table: Table) -> None:
        step = f"analysing {table.name}"
        with self._guard.own_path():
            answer = self._guard.ask(restore_queries.analyze(table), step, timeout=self._seconds)
            self._guard.ask(f"{'ROLLBACK TO' if answer.error else 'RELEASE'} SAVEPOINT vecbak_analyze;", step)
        if answer.error:
            log.warning("%s has no statistics: ANALYZE failed (%s)", table.name, answer.messages.splitlines()[0])

    def _in_one_go(self) -> None:
        """Load everything, and only then check what points at what.

        Triggers and rules keep still meanwhile, as TRUNCATE did not set them off either: what they would change, here or
        elsewhere, is as it was. (pg_dump makes them when the rows are in, for the same reason.)
        """
        lifting = Lifting(
            self._guard, self._plans, lock_seconds=self._job.config.timeouts.lock_seconds, seconds=self._seconds
        )
        deferred = [(table, name) for table, name in too_early(self._plans) if not lifting.holds(table.sql, name)]
        acting = [item for plan in self._plans for item in plan.table.reactions if item.would_act]
        self._switch(disable(acting), "keeping triggers still")
        lifting.drop()
        for table, name in deferred:
            self._guard.ask(restore_queries.alter_foreign_key(table, name, deferred=True), f"deferring {name}")
        self._guard.ask(restore_queries.DEFER, "deferring constraints")
        for number, plan in enumerate(self._plans):
            self._fill(plan, f"vecbak_rows_{number}")
        with self._guard.own_path():
            self._guard.ask(restore_queries.CHECK_NOW, "checking deferred constraints", timeout=self._seconds)
        for table, name in deferred:
            self._guard.ask(restore_queries.alter_foreign_key(table, name, deferred=False), f"restoring {name}")
        lifting.add()
        self._switch(enable(acting), "letting triggers act again")

    def _switch(self, statements: Sequence[str], step: str) -> None:
        if statements:
            self._guard.ask("\n".join(statements), step)

    def _fill(self, plan: Plan, scratch: str) -> None:
        began = time.monotonic()
        before = 0 if plan.empty else plan.rows_before
        self._job.progress.started(plan.source.label, plan.source.rows)
        inserted = self._load(plan, plan.table.sql) if plan.how == "load" else self._merge(plan, scratch)
        after = self._guard.count(plan.table, timeout=self._seconds)
        if after != before + inserted:
            raise RestoreFailed(
                f"{plan.table.name} holds {after:,} rows after {inserted:,} were loaded into {before:,};"
                " the target is as it was before",
                "A trigger or rule on the table may swallow rows. Disable it, then run vecbak again.",
            )
        self._job.progress.finished(plan.source.label, plan.source.rows, plan.source.size_bytes)
        seconds = round(time.monotonic() - began, 3)
        self.filled[plan.source.label] = Filled(inserted, plan.source.rows - inserted, after, seconds)
        log.info("loaded %s: %s rows", plan.table.name, f"{inserted:,}")

    def _load(self, plan: Plan, target: str) -> int:
        migration = plan.source.migration
        if migration is None:
            return self._load_files(plan, target, plan.source.columns)
        name, step = f"vecbak_older_{self._plans.index(plan)}", f"migrating {plan.table.name}"
        check_type_names(migration.types)
        self._guard.define([self._here(migration.scratch(name))], step)
        older = f"pg_temp.{name}"
        loaded = self._load_files(plan, older, tuple(migration.types))
        if migration.renames:
            self.migrated[plan.source.label] = self._guard.query(migration.account(older), step, timeout=self._seconds)
        self._guard.change(migration.convert(f"{name}_now", older), step, timeout=self._seconds)
        with self._guard.own_path():
            statement = migration.insert(target, f"pg_temp.{name}_now")
            inserted = self._guard.change(statement, step, timeout=self._seconds)
        if inserted != loaded:
            raise RestoreFailed(
                f"{loaded:,} rows were loaded, and {inserted:,} migrated into {plan.table.name}; the target is as it was before",
                "A trigger or rule on the table may swallow rows. Disable it, then run vecbak again.",
            )
        return inserted

    def _load_files(self, plan: Plan, target: str, columns: Sequence[str], merge: Merge | None = None) -> int:
        """Load its files; of a merge only what is not there."""
        progress, label, total = self._job.progress, plan.source.label, 0
        for file in plan.source.files:
            before = merge.new if merge else 0
            with self._guard.own_path():
                rows = load(
                    self._guard,
                    target,
                    columns,
                    merge.only_new(file) if merge else file,
                    seconds=self._seconds,
                    on_bytes=_Meter(file, lambda rows, done=total: progress.advanced(label, done + rows)),  # type: ignore[misc]
                )
            expected = merge.new - before if merge else file.rows
            if rows != expected:
                raise RestoreFailed(
                    f"{file.name} holds {expected:,} rows, and {rows:,} were loaded; the target is as it was before",
                    "A trigger that drops rows can do this; else run `vecbak verify` on the backup.",
                )
            total += rows
            progress.advanced(label, total)
        return total

    def _merge(self, plan: Plan, scratch: str) -> int:
        """Load beside the table, then insert what is missing; of a kept table what differs refuses."""
        columns, step = plan.source.columns, f"merging into {plan.table.name}"
        if not self._temporary:
            return self._merge_here(plan)
        self._guard.change(restore_queries.scratch_table(scratch, plan.table, columns), step)
        scratch = f"pg_temp.{scratch}"
        self._load(plan, scratch)
        return self._insert_missing(plan, scratch, step)

    def _merge_here(self, plan: Plan) -> int:
        """The same without a table beside it."""
        if not plan.source.files:
            return 0
        merge = Merge(plan.table, plan.source.columns, plan.source.files[0].options)
        merge.read(self._guard, seconds=self._seconds)
        loaded = self._load_files(plan, plan.table.sql, plan.source.columns, merge)
        if merge.different and plan.how == "merge":
            raise _differs(plan.table, merge.different, merge.example)
        return loaded

    def _insert_missing(self, plan: Plan, scratch: str, step: str) -> int:
        columns = plan.source.columns
        if plan.how == "merge" and plan.table.key_among(columns):
            with self._guard.planning(plan.table):
                query = restore_queries.conflicts(scratch, plan.table, columns)
                found = self._guard.query(query, step, timeout=self._seconds)
            if found["count"]:
                raise _differs(plan.table, found["count"], found["key"])
        # PostgreSQL has no ON CONFLICT for what is checked later
        checked_now = not any(item.deferrable and item.kind != "f" for item in plan.table.constraints)
        skip = plan.how == "skip" and checked_now
        with self._guard.planning(plan.table):
            self._guard.change(restore_queries.drop_present(scratch, plan.table, columns), step, timeout=self._seconds)
        return self._insert_all(plan, scratch, step, skip_conflicts=skip)

    def _insert_all(self, plan: Plan, scratch: str, step: str, *, skip_conflicts: bool = False) -> int:
        statement = restore_queries.insert_all(scratch, plan.table, plan.source.columns, skip_conflicts=skip_conflicts)
        with self._guard.own_path():
            return self._guard.change(statement, step, timeout=self._seconds)

    def _finish(self, plan: Plan) -> None:
        """Build what was dropped, or of a new table all that it had."""
        definition = plan.source.definition
        if not plan.new or definition is None:
            for index in self._dropped[plan.source.label]:
                self._build(plan, plan.table, index, plan.table.schema)
            return
        self._add_late_checks(definition.types, plan.table)
        for constraint in definition.constraints:
            if constraint.kind == "n" and self._guard.server_major < 18:
                log.warning(
                    "%s: NOT VALID came with PostgreSQL 18, so %s is left out", constraint.name, constraint.definition
                )
            elif constraint.kind != "f" and (definition.name, constraint.name) not in self._early:
                statement = self._here(add_constraint(definition, constraint, plan.table.schema, {}))
                self._guard.define([statement], f"adding the constraint {constraint.name}", timeout=self._seconds)
        for index in definition.indexes:
            if index.constraint is None and index.valid and (definition.name, index.name) not in self._early:
                self._build(plan, plan.table, index, plan.table.schema)
        for partition in definition.partitions:
            for index in partition.indexes:
                if index.constraint is None and index.valid and (partition.name, index.name) not in self._early:
                    self._build(plan, partition, index, partition_schema(definition, partition, plan.table.schema))

    def _add_late_checks(self, types: Sequence[UserType], table: Table) -> None:
        """Constraints of domains that were made here, which older rows may break."""
        for item in types:
            if late_checks(item, ()):
                now = {found.sql: found for found in self._guard.facts([table.oid]).tables[0].types}
                there = [check.name for check in now[self._here(item.sql)].constraints]
                for statement in late_checks(item, there):
                    self._guard.define([self._here(statement)], f"adding the constraints of {item.sql}")

    def _build(self, plan: Plan, table: Table | Partition, index: Index, schema: str) -> None:
        step = f"building the index {index.name}"
        log.info("%s of %s", step, table.name)
        made = create_index(table, index, schema, self._tablespaces, with_partitions=plan.new)
        # what the target's own catalog says is no manifest's, and must not fail because of a judge
        tablespace, create, *rest = [untrusted.definition(self._here(line)) for line in made] if plan.new else made
        if plan.table.needs_path or self._early:  # a parallel build is planned, and inlines what other indexes call
            tablespace += "\nSET LOCAL max_parallel_maintenance_workers = 0;"
        self._guard.ask(tablespace, step)
        answer = self._guard.ask(queries.attempt("vecbak_index", create), step, timeout=self._seconds)
        if answer.error:
            if answer.sqlstate not in OUT_OF_SPACE:
                raise SessionFailed(f"{step} failed", output=answer.messages, sqlstate=answer.sqlstate)
            log.warning("%s ran out of room in parallel (a small /dev/shm?); building it with one process", step)
            serial = "ROLLBACK TO SAVEPOINT vecbak_index;\nSET LOCAL max_parallel_maintenance_workers = 0;"
            self._guard.ask(f"{serial}\n{create}", step, timeout=self._seconds)
        self._guard.ask("\n".join(["RELEASE SAVEPOINT vecbak_index;", *rest]), step)
        self.rebuilt.append(index.name)

    def _point_at_each_other(self) -> None:
        """Foreign keys of new tables, when all rows are there."""
        moved = {
            (plan.source.definition.schema, plan.source.definition.name): plan.table.schema
            for plan in self._plans
            if plan.source.definition
        }
        for plan in self._plans:
            for constraint in plan.source.definition.constraints if plan.new and plan.source.definition else ():
                if constraint.kind == "f" and plan.source.definition:
                    statement = add_constraint(plan.source.definition, constraint, plan.table.schema, moved)
                    self._guard.define([statement], f"adding the foreign key {constraint.name}", timeout=self._seconds)

    def _protect(self, plan: Plan) -> None:
        definition, schema = plan.source.definition, plan.table.schema
        if not plan.new or definition is None:
            return
        made = [(schema, definition.name, definition.protection)]
        made += [
            (partition_schema(definition, item, schema), item.name, item.protection) for item in definition.partitions
        ]
        for place, name, protection in made:
            statements = protect(place, name, protection, policies=self._policies)
            try:
                self._guard.define([self._here(line) for line in statements], f"protecting {name}")
            except SessionFailed as error:
                raise RestoreFailed(
                    f"the policies of {name} could not be made: {error.message}; the target is as it was before",
                    "Make what they need; or use --no-policies: row-level security is switched on all the same, and shows"
                    " nobody but the owner a row until you have made policies.",
                    output=error.output,
                ) from None


def _differs(table: Table, rows: int, example: str) -> Refused:
    return Refused(
        f"{table.name} holds {rows:,} rows with the key of a row in the backup and another content"
        f" (the first: {example}); the target is as it was before",
        "Use --mode replace to have them as in the backup, or --mode skip-existing to keep them as they are.",
    )


class _Meter:
    """Turns bytes that were taken into rows, by the file's own proportion."""

    def __init__(self, file: SourceFile, tell: Callable[[int], None]) -> None:
        self._file = file
        self._tell = tell
        self._bytes = 0

    def __call__(self, size: int) -> None:
        self._bytes += size
        share = min(1.0, self._bytes / max(1, self._file.size_bytes))
        self._tell(int(self._file.rows * share))
