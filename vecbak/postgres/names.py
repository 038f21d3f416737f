"""Table names as the configuration writes them, and SQL quoting.

The rules are PostgreSQL's own: https://www.postgresql.org/docs/current/sql-syntax-lexical.html.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MAXIMUM_IDENTIFIER_BYTES = 63

# letters and all that is not ASCII, told by what they are not: a set that reaches to U+10FFFF takes 6 ms to compile
_IDENTIFIER = re.compile(r'"((?:[^"]|"")+)"|([^\0-@\[-^`{-\x7f][^\0-#%-/:-@\[-^`{-\x7f]*)')


class TableName(NamedTuple):
    """A table as the configuration means it; `schema` None is found along the connection's search_path."""

    schema: str | None
    name: str

    @property
    def sql(self) -> str:
        """Quoted, ready for a statement."""
        return quote_name(self.schema, self.name)

    def lock_order(self) -> tuple[str, str]:
        """The one order in which every run locks its tables, so that two runs cannot deadlock."""
        return (self.schema or "", self.name)

    def __str__(self) -> str:
        parts = [part for part in (self.schema, self.name) if part is not None]
        return ".".join(part if _is_plain(part) else '"' + part.replace('"', '""') + '"' for part in parts)


def written(name: str) -> str:
    """A name as a person writes it in SQL: in quotes only where it needs them."""
    return name if _is_plain(name) else quote_identifier(name)


def _is_plain(part: str) -> bool:
    return re.fullmatch(r"[a-z_][a-z0-9_$]*", part) is not None


def parse_table_name(text: str) -> TableName:
    """Read `table`, `schema.table`, `"Odd name"` or `"schema"."Odd name"` as PostgreSQL would.

    What is not quoted is folded to lower case (ASCII letters, as PostgreSQL does in UTF-8 databases).

    Raises:
        ValueError: no table name; says why.
    """
    parts: list[str] = []
    position = 0
    while True:
        match = _IDENTIFIER.match(text, position)
        if not match:
            raise ValueError(
                f"{text!r} is no table name; write `table` or `schema.table`, and put odd names in double quotes"
            )
        quoted, plain = match.groups()
        parts.append(quoted.replace('""', '"') if quoted is not None else _fold(plain))
        position = match.end()
        if position == len(text):
            break
        if text[position] != "." or len(parts) == 2:
            raise ValueError(
                f"{text!r} is no table name; write `table` or `schema.table`, and put odd names in double quotes"
            )
        position += 1
    for part in parts:
        if has_control_characters(part):
            raise ValueError(f"{text!r} holds a control character; vecbak does not handle such names")
        if len(part.encode("utf-8", "surrogatepass")) > MAXIMUM_IDENTIFIER_BYTES:
            raise ValueError(f"{text!r} is longer than PostgreSQL's {MAXIMUM_IDENTIFIER_BYTES} bytes; it would be cut")
    return TableName(parts[0] if len(parts) == 2 else None, parts[-1])


def _fold(plain: str) -> str:
    return "".join(letter.lower() if letter.isascii() else letter for letter in plain)


def quote_identifier(name: str) -> str:
    """An identifier in double quotes, whatever it holds but control characters (a line end would end psql's \\copy)."""
    return '"' + name.replace('"', '""') + '"'


def quote_name(schema: str | None, name: str) -> str:
    """A possibly qualified name, quoted."""
    return quote_identifier(name) if schema is None else f"{quote_identifier(schema)}.{quote_identifier(name)}"


def quote_literal(text: str) -> str:
    """A string constant on one line, whatever standard_conforming_strings is set to."""
    quoted = text.replace("'", "''")
    if "\\" not in text and not has_control_characters(text):
        return f"'{quoted}'"
    escaped = (
        f"\\x{ord(letter):02x}" if has_control_characters(letter) else letter for letter in quoted.replace("\\", "\\\\")
    )
    return f" E'{''.join(escaped)}'"


def has_control_characters(name: str) -> bool:
    """Whether a name holds what cannot stand on one line of psql's input."""
    return any(ord(letter) < 32 or ord(letter) == 127 for letter in name)
