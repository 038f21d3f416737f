"""Definitions of tables and indexes as statements, made from what the catalogs said (and the manifest kept).

Whose are a manifest's, `recorded_definitions` and `untrusted` judge.

pg_get_indexdef leaves out tablespace, comment and statistics targets; they are said here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from vecbak.errors import RestoreFailed
from vecbak.postgres.catalog import Column, Constraint, Index, Partition, Sequence, Server, Table
from vecbak.postgres.names import quote_identifier, quote_literal, quote_name

# in quotes there is one way alone to read it: two would take exponential time
_QUOTED = r'"(?:[^"]|"")+"(?!")'
_PART = rf'(?:{_QUOTED}|[^\s".(]+)'
# both from the beginning on: a quoted name may hold what looks like the rest
_INDEXED_TABLE = re.compile(rf"\A(CREATE (?:UNIQUE )?INDEX {_PART} ON )(ONLY )?{_PART}\.{_PART}(?= USING )")
_REFERENCED = re.compile(rf'\A(FOREIGN KEY \((?:[^"]|{_QUOTED})+?\) REFERENCES )({_PART})\.({_PART})(?=\()')
_QUALIFIED = re.compile(rf"({_PART})\.({_PART})")
_LITERAL = re.compile(r"'((?:[^']|'')*)'(?!')(::regclass)?")
_TYPES = "(?:vector|halfvec|sparsevec)"
_EXTENSION_OBJECT = (
    rf"(?=(?:{_TYPES}|{_TYPES}_(?:l2_|ip_|cosine_|l1_)?ops|bit_(?:hamming|jaccard)_ops|vector_dims|vector_norm"
    r"|l2_distance|inner_product|cosine_distance|l1_distance|hamming_distance|jaccard_distance|l2_norm|l2_normalize"
    r"|binary_quantize|subvector)\b|(?:<->|<#>|<=>|<\+>|<~>|<%>)\))"
)


def relocate(text: str, source: Server, target: Server) -> str:
    """A type, expression or definition with pgvector's names as they are on the target, where it may be in another schema."""
    before, now = (server.extension_schemas.get("vector") for server in (source, target))
    if before is None or now is None or before == now:
        return text
    return re.sub(rf"(?<![\w.\"]){re.escape(before)}\.{_EXTENSION_OBJECT}", lambda _: f"{now}.", text)


Places = Mapping[tuple[str, str], tuple[str, str] | None]


def sequence_places(table: Table, schema: str) -> dict[tuple[str, str], tuple[str, str] | None]:
    """Where the sequences of a table that is made in `schema` belong, by where they were; None: the server chooses.

    A column's own ones go with it. What a default takes from is copied into another schema too, so that the table there
    shares nothing with the one that it is a copy of; what it reaches by way of a domain or function stays where it is.
    """
    defaults = {column.name: column.default or "" for column in table.columns}
    places: dict[tuple[str, str], tuple[str, str] | None] = {}
    for item in sorted(
        table.sequences, key=lambda item: item.kind != "used"
    ):  # whose own it is goes over who else uses it
        named = (item.schema, item.name) in _sequences_in(defaults.get(item.column, ""))
        stays = item.kind == "used" and (schema == table.schema or not named)
        places[item.schema, item.name] = (item.schema if stays else schema, item.name)
    return places


def create_table(
    table: Table, schema: str, tablespaces: tuple[str, ...] = (), places: Places | None = None
) -> list[str]:
    """The table without constraints and indexes, with its partitions and the sequences that its columns own.

    Args:
        schema: where it is made.
        tablespaces: those of the server; what was in another one goes into the default one.
        places: of its sequences.
    """
    places = sequence_places(table, schema) if places is None else places
    name = quote_name(schema, table.name)
    identity = {column.name for column in table.columns if column.identity}
    serial = [
        item for item in table.sequences if item.kind == "owned" or (not item.kind and item.column not in identity)
    ]
    columns = ",\n  ".join(_column_definition(column, table, places) for column in table.columns)
    return [
        *(create_sequence(item, (schema, item.name)) for item in serial),
        f"CREATE {_unlogged(table)}TABLE {name} (\n  {columns}\n){_storage(table, tablespaces)};",
        *(_retype(item, place) for item in table.sequences if (place := _place_to_retype(item, table, places))),
        *(
            f"ALTER SEQUENCE {quote_name(schema, item.name)} OWNED BY {name}.{quote_identifier(item.column)};"
            for item in serial
        ),
        *(
            f"ALTER TABLE {name} ALTER COLUMN {quote_identifier(column.name)} SET STORAGE {column.storage};"
            for column in table.columns
            if column.storage
        ),
        *([f"COMMENT ON TABLE {name} IS {quote_literal(table.comment)};"] if table.comment else []),
        *(
            f"COMMENT ON COLUMN {name}.{quote_identifier(column.name)} IS {quote_literal(column.comment)};"
            for column in table.columns
            if column.comment
        ),
        *(_create_partition(table, partition, schema, tablespaces) for partition in table.partitions),
    ]


def create_sequence(sequence: Sequence, place: tuple[str, str]) -> str:
    """CREATE SEQUENCE, with its type where that is recorded."""
    kind = f" AS {sequence.type}" if sequence.type else ""
    return f"CREATE {_unlogged(sequence)}SEQUENCE {quote_name(*place)}{kind} {sequence.options};"


def partition_schema(table: Table, partition: Partition, schema: str) -> str:
    """Where a partition of a table that is made in `schema` belongs: its own schema only where all stays in place."""
    return partition.schema if schema == table.schema else schema


def _create_partition(table: Table, partition: Partition, schema: str, tablespaces: tuple[str, ...]) -> str:
    schemas = {item.name: partition_schema(table, item, schema) for item in table.partitions}
    name = quote_name(partition_schema(table, partition, schema), partition.name)
    parent = quote_name(schemas.get(partition.parent, schema), partition.parent)
    kept = f"{partition.bound}{_storage(partition, tablespaces)}"
    return f"CREATE {_unlogged(partition)}TABLE {name} PARTITION OF {parent} {kept};"


def _unlogged(item: Table | Partition | Sequence) -> str:
    return "UNLOGGED " if item.persistence == "u" else ""


def _storage(item: Table | Partition, tablespaces: tuple[str, ...]) -> str:
    divided = f" PARTITION BY {item.partition_by}" if item.partition_by else ""
    pairs = (option.partition("=") for option in item.options)
    options = ", ".join(f"{quote_identifier(name)}={quote_literal(value).strip()}" for name, _, value in pairs)
    tablespace = f" TABLESPACE {quote_identifier(item.tablespace)}" if item.tablespace in tablespaces else ""
    return f"{divided}{f' WITH ({options})' if options else ''}{tablespace if item.tablespace else ''}"


def add_constraint(table: Table, constraint: Constraint, schema: str, moved: Mapping[tuple[str, str], str]) -> str:
    """ALTER TABLE … ADD CONSTRAINT.

    Args:
        moved: the new schemas of tables that a foreign key may point at, by their old schema and name.
    """

    def follow(match: re.Match[str]) -> str:
        old = (_unquote(match.group(2)), _unquote(match.group(3)))
        return match.group(1) + quote_name(moved.get(old, old[0]), old[1])

    definition = _REFERENCED.sub(follow, constraint.definition, count=1)
    return (
        f"ALTER TABLE {quote_name(schema, table.name)} ADD CONSTRAINT {quote_identifier(constraint.name)} {definition};"
    )


def create_index(
    table: Table | Partition, index: Index, schema: str, tablespaces: tuple[str, ...], *, with_partitions: bool = False
) -> list[str]:
    """The index with its tablespace, and then its comment, statistics targets, and whether the table is clustered on it.

    Args:
        tablespaces: those of the server; an index whose own is not among them goes into the default one.
        with_partitions: of a partitioned table that of its partitions too; a definition names the parent alone.

    Raises:
        RestoreFailed: it is a definition as PostgreSQL does not write it.
    """

    def only(word: str | None) -> str:
        return "" if with_partitions else word or ""

    name = quote_name(schema, index.name)
    definition, moved = _INDEXED_TABLE.subn(
        lambda match: f"{match.group(1)}{only(match.group(2))}{quote_name(schema, table.name)}",
        index.definition,
        count=1,
    )
    if not moved:
        raise RestoreFailed(f"the definition of the index {index.name} names no table: {index.definition[:60]!r}")
    tablespace = index.tablespace if index.tablespace in tablespaces else ""
    statements = [f"SET LOCAL default_tablespace = {quote_literal(tablespace or '')};", f"{definition};"]
    if index.comment:
        statements.append(f"COMMENT ON INDEX {name} IS {quote_literal(index.comment)};")
    statements += [
        f"ALTER INDEX {name} ALTER COLUMN {number} SET STATISTICS {target};"
        for number, target in sorted(index.statistics.items())
    ]
    if index.clustered:
        statements.append(f"ALTER TABLE {quote_name(schema, table.name)} CLUSTER ON {quote_identifier(index.name)};")
    return statements


def _column_definition(column: Column, table: Table, places: Places) -> str:
    words = [quote_identifier(column.name), column.type]
    if column.collation:
        words.append(f"COLLATE {column.collation}")
    if column.generated:
        words.append(f"GENERATED ALWAYS AS ({column.default}) {'VIRTUAL' if column.generated == 'v' else 'STORED'}")
    elif column.identity:
        words.append(f"GENERATED {'ALWAYS' if column.identity == 'a' else 'BY DEFAULT'} AS IDENTITY")
        counting = (item for item in table.sequences if item.column == column.name and item.kind in {"identity", ""})
        words += [f"({_identity_options(item, table, places)})" for item in list(counting)[:1] if item.options]
    elif column.default is not None:
        words.append(f"DEFAULT {_with_sequences_at(column.default, places)}")
    return " ".join([*words, *(["NOT NULL"] if column.not_null else [])])


def _identity_options(sequence: Sequence, table: Table, places: Places) -> str:
    """With its name, as pg_dump says it, where that is known."""
    place = places.get((sequence.schema, sequence.name)) if sequence.kind else None
    if place is None:
        return sequence.options
    options = "" if _place_to_retype(sequence, table, places) else f" {sequence.options}"
    return f"SEQUENCE NAME {quote_name(*place)}{options}"


def _place_to_retype(sequence: Sequence, table: Table, places: Places) -> tuple[str, str] | None:
    """Where an identity is that counts in another type than its column has, as ALTER SEQUENCE allows and CREATE TABLE does not."""
    types = {column.name: column.type for column in table.columns}
    differs = sequence.kind == "identity" and sequence.type and sequence.type != types.get(sequence.column)
    return places.get((sequence.schema, sequence.name)) if differs else None


def _retype(sequence: Sequence, place: tuple[str, str]) -> str:
    return f"ALTER SEQUENCE {quote_name(*place)} AS {sequence.type} {sequence.options} RESTART;"


def _with_sequences_at(default: str, places: Places) -> str:
    """A default that takes its values from the sequences where they are now."""

    def follow(match: re.Match[str]) -> str:
        name = _sequence_name(match)
        place = places.get(name) if name else None
        return match.group() if place in {None, name} else f"{quote_literal(quote_name(*place))}::regclass"

    return _LITERAL.sub(follow, default)


def _sequences_in(default: str) -> set[tuple[str, str] | None]:
    return {_sequence_name(match) for match in _LITERAL.finditer(default)}


def _sequence_name(match: re.Match[str]) -> tuple[str, str] | None:
    name = _QUALIFIED.fullmatch(match.group(1).replace("''", "'")) if match.group(2) else None
    return (_unquote(name.group(1)), _unquote(name.group(2))) if name else None


def _unquote(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name
