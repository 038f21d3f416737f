"""Definitions of enums, domains and composite types as statements, made from what the catalogs said.

https://www.postgresql.org/docs/current/sql-createtype.html, …/sql-createdomain.html.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import msgspec

from vecbak.postgres.catalog import Constraint, Table, UserType
from vecbak.postgres.names import quote_identifier, quote_literal, quote_name

MADE_KINDS = frozenset({"e", "d", "c"})


def is_made_here(item: UserType) -> bool:
    """Whether `create_type` can make it: it needs nothing but its definition."""
    return item.kind in MADE_KINDS and item.extension is None


def types_of(tables: Iterable[Table]) -> list[UserType]:
    """The types of some tables, each once; what one is made of comes before it."""
    found: dict[str, UserType] = {}
    for table in tables:
        for item in table.types:
            found.setdefault(item.sql, item)
    return list(found.values())


def create_type(item: UserType) -> str:
    """CREATE TYPE, or CREATE DOMAIN."""
    name = quote_name(item.schema, item.name)
    if item.kind == "e":
        return f"CREATE TYPE {name} AS ENUM ({', '.join(quote_literal(label).strip() for label in item.labels)});"
    if item.kind == "c":
        fields = ", ".join(f"{quote_identifier(field.name)} {field.type}" for field in item.attributes)
        return f"CREATE TYPE {name} AS ({fields});"
    words = [f"CREATE DOMAIN {name} AS {item.base or ''}"]
    words += [f"COLLATE {item.collation}"] if item.collation else []
    words += [f"DEFAULT {item.default}"] if item.default is not None else []
    words += ["NOT NULL"] if item.not_null else []
    words += [
        f"CONSTRAINT {quote_identifier(check.name)} {check.definition}"
        for check in item.constraints
        if not _is_late(check)
    ]
    return f"{' '.join(words)};"


def late_checks(item: UserType, there: Collection[str]) -> list[str]:
    """What `create_type` leaves out: constraints that older values may break, to be added when those are loaded.

    Args:
        there: names of those that it has.
    """
    return [
        f"ALTER DOMAIN {quote_name(item.schema, item.name)} ADD CONSTRAINT {quote_identifier(check.name)}"
        f" {check.definition};"
        for check in item.constraints
        if item.kind == "d" and _is_late(check) and check.name not in there
    ]


def _is_late(check: Constraint) -> bool:
    return check.definition.endswith(" NOT VALID")


def bare_types(types: Iterable[UserType], schema: str) -> tuple[list[UserType], dict[str, str]]:
    """The same types in another schema, without what may call functions that exist at the source alone.

    Returns:
        The types, and their new names by their old ones; for `renamed`.
    """
    names: dict[str, str] = {}
    made = []
    for number, item in enumerate(types):
        name = f"type_{number}"  # two schemas may have types of one name
        fields = tuple(msgspec.structs.replace(field, type=renamed(field.type, names)) for field in item.attributes)
        made.append(
            msgspec.structs.replace(
                item,
                schema=schema,
                name=name,
                base=renamed(item.base, names) if item.base else None,
                attributes=fields,
                constraints=(),
                default=None,
                not_null=False,
                collation=None,
            )
        )
        names[item.sql] = quote_name(schema, name)
    return made, names


def renamed(type: str, names: Mapping[str, str]) -> str:
    """A type, or an array of it, by its new name."""
    element = type.removesuffix("[]")
    return names.get(element, element) + type[len(element) :]
