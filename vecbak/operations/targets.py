"""What a restore is to do with each table: pure judgements over the backup's tables and the target's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from vecbak.config import VectorTables
from vecbak.errors import Refused, RestoreFailed, UsageError
from vecbak.operations.loading import SourceFile
from vecbak.operations.migration import Migration, migration_of, types_of
from vecbak.postgres.catalog import Index, Table
from vecbak.postgres.names import TableName, parse_table_name, written

Mode = Literal["error", "replace", "append", "skip-existing"]
Way = Literal["load", "merge", "skip"]
MODES: tuple[Mode, ...] = ("error", "replace", "append", "skip-existing")

REBUILT_METHODS = frozenset({"hnsw", "ivfflat", "gin"})


class SourceTable(msgspec.Struct, frozen=True):
    """One table to restore.

    Attributes:
        label: its name in the backup.
        target: where it goes, with its schema.
        columns: of the files, in their order.
        definition: as it was; None where nobody recorded it, or where it becomes another.
        is_partial: whether the files hold some of the table's rows alone: then nothing may empty the table for them.
        migration: how its rows become those of today's LangChain; `columns` are the latter's then.
    """

    label: str
    target: TableName
    columns: tuple[str, ...]
    rows: int
    size_bytes: int
    files: tuple[SourceFile, ...]
    definition: Table | None
    is_partial: bool = False
    migration: Migration | None = None


class Source(msgspec.Struct, frozen=True):
    """What is restored.

    Attributes:
        backup_id: of the backup; of hand-written files, from their names.
        manifest: its path, if it has one.
        check_untouched: raises FileDamaged if a file was touched since it was verified.
        needs_psql_18: whether older versions of psql cannot read it.
        skipped_rows: of hand-written files, rows that cannot be read and are left out.
    """

    backup_id: str
    manifest: str | None
    tables: tuple[SourceTable, ...]
    check_untouched: Callable[[], None]
    needs_psql_18: bool = False
    skipped_rows: int = 0


class Plan(msgspec.Struct, frozen=True):
    """What happens to one table.

    Attributes:
        table: the target as it is.
        rows_before: in it.
        how: `load` copies straight into it; `merge` inserts what is missing and refuses what differs; `skip` inserts
            what is missing.
        empty: TRUNCATE it first.
        rebuild: indexes to drop before, and to build again after.
        new: it was made by this restore.
        delete: delete the rows that `table` means first, and no others.
    """

    source: SourceTable
    table: Table
    rows_before: int
    how: Way
    empty: bool
    rebuild: tuple[Index, ...]
    new: bool = False
    delete: bool = False

    @property
    def removes(self) -> bool:
        """Whether rows that are there now go."""
        return self.empty or self.delete


def migrated(source: Source) -> Source:
    """The same, its rows as today's LangChain has them.

    Raises:
        UsageError: they are so already.
    """
    tables = tuple(_migrated(table) for table in source.tables)
    if not any(table.migration for table in tables):
        raise UsageError(
            f"nothing in the backup {source.backup_id} is of an older LangChain", "Restore it without --migrate."
        )
    return msgspec.structs.replace(source, tables=tables)


def _migrated(table: SourceTable) -> SourceTable:
    if table.definition is None:
        return table
    migration = migration_of(types_of(table.definition, table.columns))
    if migration is None:
        return table
    return msgspec.structs.replace(table, columns=tuple(migration.values), definition=None, migration=migration)


def check_columns(source: SourceTable, table: Table, same_type: Callable[[str], str]) -> None:
    """Refuse a target whose columns are not those of the backup.

    Args:
        same_type: a type of the backup as the target calls it.

    Raises:
        RestoreFailed: says which column differs, and how.
    """
    there = {column.name: column for column in table.columns if not column.generated}
    hint = (
        "Nothing was changed. Bring the table back to the form that the backup has (`vecbak show` tells it), or restore"
        " into another schema: --into-schema NAME --create."
    )
    gone = [name for name in source.columns if name not in there]
    if "custom_id" in gone and "id" in there:
        raise RestoreFailed(
            f"the backup is of an older LangChain's {table.name} (uuid and custom_id), and the table is today's (id)",
            "Nothing was changed. Use --migrate: custom_id or uuid becomes id, and json becomes jsonb.",
        )
    if gone:
        raise RestoreFailed(f"{table.name} has no column {', '.join(gone)}, which the backup holds", hint)
    recorded = {column.name: column for column in source.definition.columns} if source.definition else {}
    for name in source.columns:
        if name in recorded and (before := same_type(recorded[name].type)) != there[name].type:
            raise RestoreFailed(
                f"the column {table.name}.{name} is {there[name].type}; in the backup it is {before}", hint
            )
    added = [
        column.name
        for column in there.values()
        if column.name not in source.columns and column.not_null and column.default is None and not column.identity
    ]
    if added:
        raise RestoreFailed(
            f"{table.name} has a new column {', '.join(added)}, which may not be null and for which the backup has no values",
            hint,
        )


def check_types(source: SourceTable, table: Table, same_type: Callable[[str], str]) -> None:
    """Refuse a target whose columns have types that are only named like those of the backup.

    Args:
        same_type: a type of the backup as the target calls it.

    Raises:
        RestoreFailed: says which, and how they differ.
    """
    there = {item.sql: item for item in table.types}
    for before in source.definition.types if source.definition else ():
        now = there.get(same_type(before.sql))
        if now is None:
            continue  # the column that had it is gone or has another type, which is judged there
        if before.kind != now.kind:
            difference = "is another kind of type now"
        elif before.base and now.base and same_type(before.base) != now.base:
            difference = f"is a domain over {now.base} now; in the backup it is one over {before.base}"
        elif gone := [label for label in before.labels if label not in now.labels]:
            difference = f"has no label {', '.join(map(repr, gone))} any more"
        elif [(field.name, same_type(field.type)) for field in before.attributes] != [
            (field.name, field.type) for field in now.attributes
        ]:
            difference = "has other fields now"
        else:
            continue
        raise RestoreFailed(
            f"the type {now.sql} of {table.name} {difference}",
            "Nothing was changed. Bring the type back to the form that the backup has (`vecbak show` tells it).",
        )


def warn_of_new_columns(source: SourceTable, table: Table) -> Iterable[str]:
    """Columns that came since; restored rows get their defaults."""
    added = [column.name for column in table.columns if not column.generated and column.name not in source.columns]
    if added:
        yield f"{table.name} has columns that the backup has no values for ({', '.join(added)}); they get their defaults"


def check_target(table: Table, user: str) -> None:
    """Refuse a target that cannot be loaded.

    Raises:
        Refused: says why.
    """
    if table.kind not in {"r", "p"}:
        raise Refused(f"{table.name} is not a table", "Name tables.")
    if not (table.can_insert and table.can_select):
        raise Refused(
            f"the role {user} may not write {table.name}",
            f"Let its owner {table.owner} run: GRANT SELECT, INSERT, TRUNCATE ON {table.sql} TO {written(user)}",
        )
    if table.row_security:
        raise Refused(
            f"row-level security of {table.name} applies to the role {user}",
            f"Use its owner {table.owner}, or a role with BYPASSRLS: ALTER ROLE {user} BYPASSRLS",
        )
    acting = [item for item in table.reactions if item.would_act and not item.owned]
    if acting:
        names = ", ".join(item.name for item in acting)
        raise Refused(
            f"triggers or rules of {table.name} ({names}) could change the rows while they are loaded, and the role"
            f" {user} may not keep them still",
            f"Restore as its owner {acting[0].owner}, or let the owner disable them meanwhile: ALTER TABLE {acting[0].place} DISABLE"
            " TRIGGER …",
        )


def make_plan(
    source: SourceTable, table: Table, rows_before: int, *, mode: Mode, kept: bool, new: bool = False
) -> Plan:
    """What a mode means for one table.

    Args:
        kept: it is a table that vecbak never truncates (the collections): it may hold rows already.

    Raises:
        Refused: it must be empty, and is not.
    """
    if mode == "error" and rows_before and not kept:
        raise Refused(
            f"{table.name} is not empty: it holds {rows_before:,} rows",
            "Use --mode replace (what stands there is backed up first), append, or skip-existing; or restore into another"
            " schema: --into-schema NAME --create.",
        )
    empty = mode == "replace" and not new
    if empty and source.is_partial:
        raise Refused(
            f"the backup holds only some rows of {table.name}, and replacing would remove all others",
            "Use --mode append or skip-existing, or restore into another schema: --into-schema NAME --create.",
        )
    rebuild = rebuilt_indexes(table) if empty or source.rows > rows_before else ()
    how = way_of_loading(mode, 0 if empty else rows_before, kept=kept)
    return Plan(source, table, rows_before, how, empty, rebuild, new)


def way_of_loading(mode: Mode, rows_before: int, *, kept: bool) -> Way:
    """How a mode brings rows into a table that holds some already, or none."""
    if rows_before and mode == "skip-existing":
        return "skip"
    return "merge" if rows_before and kept else "load"


def is_kept(table: SourceTable, tables: VectorTables) -> bool:
    """Whether vecbak never truncates it; the config may by now write it with its schema, or without."""
    kept = set(tables.supported()) - set(tables.truncated())
    by_label = {label: name in kept for name, label in tables.labels().items()}
    named_so = [name in kept for name in tables.supported() if name.name == table.target.name]
    return by_label.get(table.label, bool(named_so) and all(named_so))


def rebuilt_indexes(table: Table) -> tuple[Index, ...]:
    """The indexes that are cheaper to build again than to fill row by row, and that may be dropped."""
    if table.is_partition or table.kind != "r" or not (table.is_owner and table.can_create):
        return ()
    return tuple(
        index
        for index in table.indexes
        if index.method in REBUILT_METHODS and index.valid and index.constraint is None and not index.follows_path
    )


def live_indexes(plan: Plan) -> Iterable[str]:
    """Warnings about slow indexes that rows must go into one by one."""
    slow = [index.name for index in plan.table.indexes if index.method in REBUILT_METHODS and index not in plan.rebuild]
    if slow and plan.source.rows:
        yield f"rows go into the live index {', '.join(slow)} of {plan.table.name} one by one, which takes long"
    following = [index.name for index in plan.table.indexes if index.name in slow and index.follows_path]
    if following and plan.source.rows:
        yield (
            f"{', '.join(following)} of {plan.table.name} calls functions that look along the search_path, and could not be"
            " built over rows again: it is kept and filled; let the functions SET search_path, or name schemas in them"
        )


def in_load_order(plans: Sequence[Plan]) -> list[Plan]:
    """Tables that others point at come first; what points in a circle keeps its order."""
    waiting, ordered = list(plans), []
    while waiting:
        oids = {oid for plan in waiting for oid in plan.table.relations}
        ready = [plan for plan in waiting if not (set(plan.table.references) - plan.table.relations) & oids] or waiting[
            :1
        ]
        ordered += ready
        waiting = [plan for plan in waiting if plan not in ready]
    return ordered


def too_early(plans: Sequence[Plan]) -> list[tuple[Table, str]]:
    """Foreign keys that are checked before the rows they point at are there, in a circle or within a table of several files.

    Args:
        plans: in the order in which they are loaded.
    """
    position = {oid: number for number, plan in enumerate(plans) for oid in plan.table.relations}
    return [
        (table, name)
        for number, plan in enumerate(plans)
        for table, name, references in _keys_that_may_wait(plan.table)
        if position.get(references, -1) > number or (references in plan.table.relations and len(plan.source.files) > 1)
    ]


def _keys_that_may_wait(table: Table) -> Iterable[tuple[Table, str, int]]:
    """Foreign keys that are checked at the end of each statement, and that we may tell to wait: table, name, what it points at."""
    for constraint in table.constraints:
        if constraint.references is not None and not constraint.deferrable and table.is_owner:
            yield table, constraint.name, constraint.references
    for demand in table.demands:
        on_partition = (demand.schema, demand.table) != (table.schema, table.name)
        if demand.references is not None and not demand.deferrable and demand.owned and on_partition:
            yield (
                msgspec.structs.replace(table, schema=demand.schema, name=demand.table),
                demand.name,
                demand.references,
            )


def cannot_wait(table: Table, together: Iterable[Table]) -> list[str]:
    """Foreign keys that may have to wait for rows while these tables are loaded, and that we may not tell to."""
    around = set(table.relations)
    others = [other for other in together if other.oid != table.oid]
    while back := [other for other in others if around & set(other.references)]:
        around |= {oid for other in back for oid in other.relations}
        others = [other for other in others if other not in back]
    return [
        demand.name
        for demand in table.demands
        if demand.references in around and not demand.deferrable and not demand.owned
    ]


def pick_tables(source: Mapping[str, SourceTable], wanted: Sequence[TableName]) -> list[str]:
    """The labels that `--table` names.

    Raises:
        UsageError: one of them is not in the backup.
    """
    picked = []
    for name in wanted:
        found = [
            label
            for label, table in source.items()
            if parse_table_name(label) == name or (name.schema in _schemas(table) and table.target.name == name.name)
        ]
        if not found:
            raise UsageError(f"the backup does not hold the table {name}", f"It holds {', '.join(source)}.")
        picked += found
    return [label for label in source if label in picked] if wanted else list(source)


def _schemas(table: SourceTable) -> set[str | None]:
    return {None, table.target.schema, *([table.definition.schema] if table.definition else [])}
