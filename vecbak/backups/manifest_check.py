"""What a manifest says of names and numbers, held against what vecbak writes: it may come from anybody.

File names go to programs and into commands to paste, table and column names onto psql's one-line `\\copy`, numbers into
SQL and sums. What is SQL in a manifest is judged by PostgreSQL's parser when it is used.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from vecbak.postgres.catalog import Index, Table, UserType
from vecbak.postgres.names import MAXIMUM_IDENTIFIER_BYTES, has_control_characters, parse_table_name

if TYPE_CHECKING:
    from vecbak.backups.manifest import Manifest, TableEntry

_FILE_NAME = re.compile(r"[A-Za-z0-9_.%-]{1,255}")
_BACKUP_ID = re.compile(r"[0-9_T-]{1,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_VERSION = re.compile(r"\d{1,3}(?!\d)[^\x00-\x1f\x7f]{0,200}")
# JSON's only way to write a character that PostgreSQL has in no text, and at which C ends one
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_LARGEST = 1 << 63
_STATISTICS_TARGETS = range(10_001)  # https://www.postgresql.org/docs/current/sql-alterindex.html


def problem_of(manifest: Manifest, data: bytes) -> str | None:
    """What no vecbak would have written; None if there is nothing.

    Args:
        data: the document that it was read from.
    """
    if _NUL.search(data):
        return "it holds a character of code 0"
    return next(_problems(manifest), None)


def _problems(manifest: Manifest) -> Iterator[str]:
    files = [file for entry in manifest.tables.values() for file in entry.files]
    for name in (*(file.name for file in files), manifest.schema_file.name):
        if not _FILE_NAME.fullmatch(name) or name in {".", ".."}:
            yield f"it names a file outside its own folder, or one that vecbak does not make: {name[:80]!r}"
    for text in (*(file.sha256 for file in files), manifest.schema_file.sha256):
        if not _SHA256.fullmatch(text):
            yield f"{text[:80]!r} is no SHA-256"
    if not _BACKUP_ID.fullmatch(manifest.backup_id):
        yield f"{manifest.backup_id[:80]!r} is no backup's id"
    if not _VERSION.fullmatch(manifest.server.version):
        yield f"{manifest.server.version[:80]!r} is no version of PostgreSQL"
    for label, entry in manifest.tables.items():
        yield from _of_label(label)
        yield from _of_entry(entry)
    yield from _of_numbers(manifest)


def _of_label(label: str) -> Iterator[str]:
    try:
        parse_table_name(label)
    except ValueError as error:
        yield str(error)


def _of_entry(entry: TableEntry) -> Iterator[str]:
    table = entry.table
    known = [column.name for column in table.columns]
    if not entry.files or not entry.columns or len(set(entry.columns)) < len(entry.columns):
        yield f"{table.name[:80]!r} has no files, or no columns, or one of them twice"
    if not set(entry.columns) <= set(known):
        yield f"{table.name[:80]!r} has files with a column that it has not"
    for name in (table.schema, table.name, *entry.columns, *table.primary_key):
        if has_control_characters(name):
            yield f"{name[:80]!r} holds a control character"
    for name in _names(table):
        if not name or len(name.encode()) > MAXIMUM_IDENTIFIER_BYTES:
            yield f"{name[:80]!r} is no name in PostgreSQL: empty, or longer than {MAXIMUM_IDENTIFIER_BYTES} bytes"
    for index in _indexes(table):
        for number, target in index.statistics.items():
            if not re.fullmatch("[1-9][0-9]{0,4}", number) or target not in _STATISTICS_TARGETS:
                yield f"{number[:80]!r} and {target} are no column's number and statistics target"


def _indexes(table: Table) -> list[Index]:
    return [*table.indexes, *(index for part in table.partitions for index in part.indexes)]


def _names(table: Table) -> Iterator[str]:
    yield from (table.schema, table.name, *(column.name for column in table.columns), *table.primary_key)
    yield from (item.name for item in table.constraints)
    for sequence in table.sequences:
        yield from (sequence.schema, sequence.name, sequence.column)
    for reaction in table.reactions:
        yield from (reaction.schema, reaction.table, reaction.name)
    for part in table.partitions:
        yield from (part.schema, part.name, part.parent)
    yield from (index.name for index in _indexes(table))
    for protection in (table.protection, *(part.protection for part in table.partitions)):
        for policy in protection.policies:
            yield from (policy.name, *policy.roles)
    yield from _names_of_types(table.types)


def _names_of_types(types: Iterable[UserType]) -> Iterator[str]:
    for item in types:
        yield from (item.schema, item.name, *(field.name for field in item.attributes))
        yield from (check.name for check in item.constraints)


def _of_numbers(manifest: Manifest) -> Iterator[str]:
    """Whole numbers beyond 64 bits, and sizes, rows and durations below nothing."""
    waiting: list[Any] = [msgspec.to_builtins(manifest)]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict | list | tuple):
            waiting += item.values() if isinstance(item, dict) else item
        elif isinstance(item, int) and not -_LARGEST <= item < _LARGEST:
            yield "it holds a number of more than 64 bits"
    for name, number in _counts(manifest):
        if not 0 <= number < _LARGEST:
            yield f"{name} is {number:.6g}"


def _counts(manifest: Manifest) -> Iterator[tuple[str, int | float]]:
    """What cannot be less than nothing."""
    yield "its duration", manifest.duration
    yield "the size of its schema file", manifest.schema_file.size_bytes
    for label, entry in manifest.tables.items():
        items = [
            (label, entry.size_bytes, entry.rows),
            *((file.name, file.size_bytes, file.rows) for file in entry.files),
        ]
        for name, size, rows in items:
            yield f"the size of {name[:80]!r}", size
            yield f"the number of rows of {name[:80]!r}", rows
    yield from (
        (f"the number of rows of {name[:80]!r}", item.rows) for name, item in (manifest.collections or {}).items()
    )
    if manifest.truncated:
        yield from (("a number of removed rows", rows) for rows in manifest.truncated.rows_removed.values())
