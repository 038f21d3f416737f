"""`restore --migrate`: rows of the older LangChain's tables (langchain-community) as today's (langchain-postgres) have them.

The older embedding table has the key `uuid` beside an optional `custom_id`, and its metadata are json; today's has `id` and
jsonb. A row's id becomes its custom_id where no other row has the same, and else its uuid.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from vecbak.postgres.catalog import Table
from vecbak.postgres.names import quote_identifier

OLD_KEY, CUSTOM, KEY, EMBEDDING = "uuid", "custom_id", "id", "embedding"

_IS_UNIQUE = "custom_id IS NOT NULL AND count(*) OVER (PARTITION BY custom_id) = 1"


class Migration(msgspec.Struct, frozen=True):
    """How the rows of a file become those of a table.

    Attributes:
        types: of the file's columns, in their order.
        values: SQL for the columns of the table, in their order.
    """

    types: Mapping[str, str]
    values: Mapping[str, str]

    @property
    def renames(self) -> bool:
        """Whether rows get a new key."""
        return KEY in self.values

    def scratch(self, name: str) -> str:
        """A temporary table of the file's form."""
        columns = ", ".join(f"{quote_identifier(column)} {type}" for column, type in self.types.items())
        return f"CREATE TEMPORARY TABLE {quote_identifier(name)} ({columns}) ON COMMIT DROP;"

    def convert(self, name: str, scratch: str) -> str:
        """A temporary table of today's form, with the rows of that one."""
        values = ", ".join(f"{value} AS {quote_identifier(column)}" for column, value in self.values.items())
        return f"CREATE TEMPORARY TABLE {quote_identifier(name)} ON COMMIT DROP AS SELECT {values} FROM {scratch};"

    def insert(self, target: str, converted: str) -> str:
        """Bring the rows over; it runs under the role's own path.

        Args:
            target: quoted and qualified.
        """
        names = ", ".join(quote_identifier(name) for name in self.values)
        return f"INSERT INTO {target} ({names}) OVERRIDING SYSTEM VALUE SELECT {names} FROM {converted};"

    def account(self, scratch: str) -> str:
        """Where the rows' ids come from; of those that lose a custom_id which they share, the first hundred."""
        return f"""
WITH rows AS (SELECT uuid, custom_id, {_IS_UNIQUE} AS keeps FROM {scratch})
SELECT json_build_object('rows', count(*), 'ids_from_custom_id', count(*) FILTER (WHERE keeps),
  'ids_from_uuid', count(*) FILTER (WHERE NOT keeps),
  'shared_custom_ids', (SELECT coalesce(json_agg(json_build_object('id', format('%s', s.uuid), 'custom_id', format('%s', s.custom_id))), '[]')
    FROM (SELECT * FROM rows WHERE NOT keeps AND custom_id IS NOT NULL ORDER BY custom_id, uuid LIMIT 100) AS s))
FROM rows;
"""


def is_older(columns: Mapping[str, str]) -> bool:
    """Whether an embedding table with these columns is of the older generation."""
    return {OLD_KEY, CUSTOM, EMBEDDING} <= columns.keys() and KEY not in columns


def migration_of(types: Mapping[str, str]) -> Migration | None:
    """What becomes of a table with these columns; None if it is as it is today.

    Args:
        types: of the file's columns, in their order.
    """
    older = is_older(types)
    if not older and not (EMBEDDING in types and "json" in types.values()):
        return None  # today's collections have json too
    values = {KEY: f"CASE WHEN {_IS_UNIQUE} THEN custom_id ELSE format('%s', uuid) END"} if older else {}
    for name, type in types.items():
        if not (older and name in {OLD_KEY, CUSTOM}):
            values[name] = quote_identifier(name) + ("::jsonb" if type == "json" else "")
    return Migration(dict(types), values)


def types_of(definition: Table, columns: tuple[str, ...]) -> dict[str, str]:
    """The types of a file's columns."""
    types = {column.name: column.type for column in definition.columns}
    return {name: types[name] for name in columns}
