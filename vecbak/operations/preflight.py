"""Preflight: what refuses a backup or a truncate before a byte is written.

Pure judgements over facts that were read under the guard's locks; the messages say what to do. Each yields every problem
that it sees, as the error that it would be: a run raises the first one, `vecbak doctor` lists them all.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from vecbak.backups.formats import COMPRESSORS
from vecbak.config import Backup
from vecbak.errors import Refused
from vecbak.operations.exporting import outside_compression
from vecbak.operations.job import Job
from vecbak.postgres.catalog import Facts, Reaction, Server, Table
from vecbak.postgres.catalog import Sequence as TableSequence
from vecbak.postgres.names import has_control_characters, quote_identifier, written
from vecbak.postgres.programs import Installation
from vecbak.results import human_size

_KINDS = {
    "v": "a view",
    "m": "a materialized view",
    "f": "a foreign table",
    "S": "a sequence",
    "c": "a composite type",
    "i": "an index",
}
_ALWAYS = {"A": "ALWAYS ", "R": "REPLICA "}


def check_tables(facts: Facts, truncated: Sequence[Table], *, allow_replicated_truncate: bool) -> list[str]:
    """Judge what the catalogs say.

    Args:
        truncated: those of the facts' tables that are to be truncated.
        allow_replicated_truncate: as in the config.

    Returns:
        Warnings.

    Raises:
        Refused: the first thing that stands in the way.
    """
    oids = emptied_together(truncated)
    check_readable(facts)
    if truncated:
        _raise_first(standby_problems(facts.server))
    for table in truncated:
        check_truncatable(table, oids, facts.server.user, allow_replicated_truncate)
    return [
        warning
        for table in facts.tables
        for warning in (
            *table_warnings(table),
            *sequence_warnings(table, facts.server.user, emptied=table.oid in oids),
        )
    ]


def emptied_together(tables: Iterable[Table]) -> set[int]:
    """The oids of all that a TRUNCATE of these tables empties, their partitions included."""
    return {oid for table in tables for oid in table.relations}


def check_readable(facts: Facts) -> None:
    """Refuse what cannot be backed up.

    Raises:
        Refused: the first thing that stands in the way.
    """
    for table in facts.tables:
        _raise_first(reading_problems(table, facts.server.user))
    _raise_first(overlap_problems(facts.tables))


def overlap_problems(tables: Sequence[Table]) -> Iterator[Refused]:
    """Tables of which one is a part of another: their rows would be saved, and restored, twice."""
    names = {table.oid: table.name for table in tables}
    for table in tables:
        for oid in table.ancestors:
            if oid in names:
                yield Refused(
                    f"{table.name} is a partition of {names[oid]}, and both are named: its rows would be there twice",
                    f"Take {table.name} out of vector_tables: {names[oid]} holds its rows.",
                )


def _raise_first(problems: Iterable[Refused]) -> None:
    for problem in problems:
        raise problem


def reading_problems(table: Table, user: str) -> Iterator[Refused]:
    """Why a table cannot be backed up by a role."""
    if table.kind not in {"r", "p"}:
        yield Refused(
            f"{table.name} is {_KINDS.get(table.kind, 'not a table')}, not a table",
            "Name tables in vector_tables.supported_tables; what a view shows is in the tables below it.",
        )
        return
    if not table.can_select:
        yield Refused(
            f"the role {user} may not read {table.name}",
            f"Let its owner {table.owner} run: GRANT SELECT ON {table.sql} TO {written(user)}",
        )
    if table.row_security:
        yield Refused(
            f"row-level security would hide rows of {table.name} from the role {user}",
            f"Use its owner {table.owner}, or a role with BYPASSRLS: ALTER ROLE {user} BYPASSRLS",
        )
    if not table.copied_columns:
        yield Refused(
            f"{table.name} has no column that can be copied", "Take it out of vector_tables.supported_tables."
        )
    for name in (table.schema, table.name, *table.copied_columns):
        if has_control_characters(name):
            yield Refused(
                f"{table.name} has a name with a control character ({name!r})",
                "Rename it; psql's \\copy cannot say it.",
            )


def standby_problems(server: Server) -> Iterator[Refused]:
    """Why a server can truncate nothing at all."""
    if server.in_recovery:
        yield Refused(
            "the server is a standby, which cannot truncate",
            "Connect to the primary, or run `vecbak backup` without --truncate.",
        )


def check_truncatable(table: Table, truncated: set[int], user: str, allow_replicated_truncate: bool) -> None:
    """Refuse to truncate this table.

    Args:
        truncated: oids of all tables that are truncated together with it.

    Raises:
        Refused: says what stands in the way.
    """
    _raise_first(truncating_problems(table, truncated, user, allow_replicated_truncate=allow_replicated_truncate))


def truncating_problems(
    table: Table, truncated: Collection[int], user: str, *, allow_replicated_truncate: bool
) -> Iterator[Refused]:
    """Why a table cannot be truncated by a role.

    Args:
        truncated: the oids of all tables that are to be truncated together.
        allow_replicated_truncate: as in the config.
    """
    if not table.can_truncate:
        yield Refused(
            f"the role {user} may not truncate {table.name}",
            f"Let its owner {table.owner} run: GRANT TRUNCATE ON {table.sql} TO {written(user)}",
        )
    if table.children:
        yield Refused(
            f"{table.name} has inheritance children ({', '.join(table.children)}), which TRUNCATE would empty too, without a backup",
            "Take it out of vector_tables.truncate_tables, or end the inheritance (ALTER TABLE … NO INHERIT).",
        )
    if table.foreign_partitions:
        yield Refused(
            f"{table.name} has partitions on other servers ({', '.join(table.foreign_partitions)}), which no lock of ours protects",
            "Take it out of vector_tables.truncate_tables, or detach them.",
        )
    outside = [key for key in table.foreign_keys if key.table_oid not in truncated]
    if outside:
        keys = ", ".join(f"{key.name} of {key.table}" for key in outside)
        yield Refused(
            f"{table.name} cannot be truncated: a foreign key points at it ({keys})",
            f"Name {outside[0].table} in vector_tables instead of its partition, or drop the foreign key; vecbak never uses CASCADE."
            if outside[0].table_oid in table.ancestors
            else f"Put {outside[0].table} into supported_tables and truncate_tables too, or drop the foreign key; vecbak never uses CASCADE.",
        )
    yield from _acting_problems(table, [item for item in table.reactions if item.on_truncate and item.acts], "TRUNCATE")
    if table.publications and not allow_replicated_truncate:
        yield Refused(
            f"a TRUNCATE of {table.name} would be replicated to subscribers (publication {', '.join(table.publications)})",
            "Set allow_replicated_truncate: true if that is meant, or ALTER PUBLICATION … SET (publish = 'insert, update, delete').",
        )


def deleting_problems(table: Table, user: str) -> Iterator[Refused]:
    """Why some rows of a table cannot be deleted without touching what nobody backed up."""
    if not table.can_delete:
        yield Refused(
            f"the role {user} may not delete from {table.name}",
            f"Let its owner {table.owner} run: GRANT DELETE ON {table.sql} TO {written(user)}",
        )
    if table.foreign_partitions:
        yield Refused(
            f"{table.name} has partitions on other servers ({', '.join(table.foreign_partitions)}), whose rows no snapshot of ours holds",
            "Detach them first.",
        )
    if table.foreign_keys:
        keys = ", ".join(f"{key.name} of {key.table}" for key in table.foreign_keys)
        yield Refused(
            f"rows of {table.name} cannot be deleted: a foreign key points at it ({keys}), and could take rows along that nobody backed up",
            "Drop the foreign key, or truncate whole tables (without --collection).",
        )
    # of the rules only those of the table that is named count
    acting = [
        item
        for item in table.reactions
        if item.on_delete and item.acts and (item.kind == "TRIGGER" or item.place == table.sql)
    ]
    yield from _acting_problems(table, acting, "DELETE")


def _acting_problems(table: Table, acting: Sequence[Reaction], event: str) -> Iterator[Refused]:
    """What a statement would set off, on the table or on one of its partitions."""
    if acting:
        names = ", ".join(item.name if item.place == table.sql else f"{item.name} on {item.table}" for item in acting)
        off = " ".join(f"ALTER TABLE {item.place} DISABLE {_quoted(item)};" for item in acting)
        on = " ".join(
            f"ALTER TABLE {item.place} ENABLE {_ALWAYS.get(item.state, '')}{_quoted(item)};" for item in acting
        )
        yield Refused(
            f"{table.name} has a trigger or rule on {event} ({names}), which could change more than was backed up",
            f"Switch it off while vecbak works: {off} And on again: {on}",
        )


def _quoted(item: Reaction) -> str:
    return f"{item.kind} {quote_identifier(item.name)}"


def check_deletable(tables: Sequence[Table], server: Server) -> list[str]:
    """Refuse to delete some rows of these tables.

    Returns:
        Warnings.

    Raises:
        Refused: says what stands in the way.
    """
    for table in tables:
        _raise_first(standby_problems(server))
        _raise_first(deleting_problems(table, server.user))
    return [
        warning
        for table in tables
        for warning in (
            *table_warnings(table),
            *sequence_warnings(table, server.user, emptied=True),
        )
    ]


def table_warnings(table: Table) -> Iterator[str]:
    """What is worth knowing of a table, and stands in nobody's way."""
    if table.children:
        yield f"{table.name} has inheritance children ({', '.join(table.children)}); their rows are not in this backup"


def sequence_warnings(table: Table, user: str, *, emptied: bool) -> Iterator[str]:
    """What a backup cannot record of sequences, and a restore not do: it would refuse where one has been reset meanwhile."""
    for text, hint in sequence_doubts(table, user, emptied=emptied):
        yield f"{text}. {hint}"


def sequence_doubts(table: Table, user: str, *, emptied: bool) -> Iterator[tuple[str, str]]:
    """The same, as messages with their hints.

    Args:
        emptied: whether rows of the table are to be removed; in a backup alone it matters only what can be read.
    """
    for item in table.sequences:
        unseen = not (item.can_enter and item.can_read)
        if unseen or (emptied and not item.can_update):
            what = "see where it stands" if unseen else "move it"
            yield (
                f"the sequence {item.name} gives {table.name}.{item.column} its values, and the role {user} may not {what}",
                f"Let its owner run: {sequence_grant(item, user)}",
            )


def sequence_grant(sequence: TableSequence, user: str) -> str:
    """What lets a role see where a sequence stands, and move it."""
    wanted = [name for name, granted in (("SELECT", sequence.can_read), ("UPDATE", sequence.can_update)) if not granted]
    schema = (
        [] if sequence.can_enter else [f"GRANT USAGE ON SCHEMA {quote_identifier(sequence.schema)} TO {written(user)}"]
    )
    own = [f"GRANT {', '.join(wanted)} ON SEQUENCE {sequence.sql} TO {written(user)}"] if wanted else []
    return "; ".join([*schema, *own])


def check_format(job: Job, tables: Sequence[Table], dump_installation: Installation) -> None:
    """Refuse a format that cannot hold these tables, or whose programs are missing.

    Raises:
        Refused: names the columns, or the program.
    """
    _raise_first(format_problems(job, tables, dump_installation))


def format_problems(job: Job, tables: Sequence[Table], dump_installation: Installation) -> Iterator[Refused]:
    """Why the config's format and compression do not do for these tables on this machine."""
    backup = job.config.backup
    if partly := [table.name for table in tables if table.condition and backup.format == "pg_dump"]:
        yield Refused(
            f"pg_dump copies whole tables, and only some rows of {', '.join(partly)} were asked for",
            "Set backup.format to csv or binary.",
        )
    if parents := [table.name for table in tables if table.kind == "p" and backup.format == "pg_dump"]:
        yield Refused(
            f"pg_dump copies no row of a partitioned table itself, and {', '.join(parents)} is one",
            "Set backup.format to csv or binary.",
        )
    if backup.format == "binary":
        yield from _binary_problems(tables)
    compressor = COMPRESSORS.get(outside_compression(job.runner, backup, dump_installation))
    if compressor and not shutil.which(compressor.program):
        yield Refused(
            f"the program {compressor.program} was not found, and backup.compression asks for it",
            f"Install it (Debian: apt-get install {compressor.program}), or set backup.compression to none.",
        )


def _binary_problems(tables: Sequence[Table]) -> Iterator[Refused]:
    columns = [
        f"{table.name}.{column.name} ({', '.join(column.binary_obstacles)})"
        for table in tables
        for column in table.columns
        if column.binary_obstacles and not column.generated
    ]
    if columns:
        yield Refused(
            f"the binary form of these columns is not safe to load elsewhere: {'; '.join(columns)}",
            "Use backup.format: csv.",
        )


def estimate_bytes(backup: Backup, rows: int, row_bytes: float, table_bytes: int = 0) -> int:
    """The size of a table's files: rows × sampled width × what compression leaves at most.

    A tenth is added for quotes and for the sample's error.

    Args:
        row_bytes: of COPY's text or, for the binary format, of COPY's binary form; 0 where no row could be sampled.
        table_bytes: on the server without indexes, for that case; vectors as text take up to three times as much.
    """
    if not row_bytes and rows:
        row_bytes = 3 * table_bytes / rows
    compressor = COMPRESSORS.get(backup.compression)
    ratio = compressor.ratio if compressor and backup.format != "binary" else 1.0
    return round(rows * (row_bytes + 8) * ratio * 1.1)


def check_space(
    folder: Path, backup: Backup, estimated: int, tables: Sequence[Table], others: Callable[[], Mapping[str, int]]
) -> None:
    """Refuse if the disk would not hold the backup and what must be left over.

    What the tables take on the server says little: it counts indexes and bloat, which are not copied, and text is larger than
    stored vectors. A sample that was wrong ends in a full disk, where nothing is truncated and nothing is left behind.

    Args:
        folder: where the backup goes; need not exist yet.
        estimated: bytes of all files.
        others: what other formats would take, asked only if this one does not fit.

    Raises:
        Refused: with needed, free and missing bytes.
    """
    _raise_first(space_problems(folder, backup, estimated, tables, others))


def space_problems(
    folder: Path,
    backup: Backup,
    estimated: int,
    tables: Sequence[Table],
    others: Callable[[], Mapping[str, int]] = dict,
) -> Iterator[Refused]:
    """Why the disk would not hold the backup.

    Args:
        estimated: bytes of all files.
        others: what other formats would take.
    """
    existing = next(path for path in (folder, *folder.parents) if os.path.exists(path))  # noqa: PTH110 - an error is no
    disk = os.statvfs(existing)
    free, size = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    on_server = sum(table.total_bytes for table in tables if not table.condition)
    left_over = max(backup.min_free_bytes, round(size * backup.min_free_percent / 100))
    needed = estimated + left_over
    if needed > free:
        fitting = {name: size for name, size in others().items() if size + left_over <= free}
        advice = "".join(f"Set backup.format to {name} ({human_size(size)}), free" for name, size in fitting.items())
        yield Refused(
            f"too little disk space in {existing}: needed {human_size(needed)}, free {human_size(free)}, missing {human_size(needed - free)}",
            f"The files are estimated at {human_size(estimated)} (the tables take {human_size(on_server)} on the server,"
            f" indexes and bloat included), and {human_size(left_over)} must be left over (backup.min_free_bytes,"
            f" min_free_percent). {advice or 'Free'} some space, or choose another --output-dir.",
        )


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be made or written, as far as looking tells.

    Raises:
        Refused: says which part of the path is in the way.
    """
    _raise_first(folder_problems(folder))


def folder_problems(folder: Path) -> Iterator[Refused]:
    """Why a folder cannot be made or written."""
    existing = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not existing.is_dir():
        yield Refused(
            f"the backup folder {folder} cannot be made: {existing} is not a folder", "Choose another --output-dir."
        )
        return
    if not os.access(existing, os.W_OK | os.X_OK):
        yield Refused(
            f"the backup folder {folder} cannot be written: no permission in {existing}", "Choose another --output-dir."
        )
