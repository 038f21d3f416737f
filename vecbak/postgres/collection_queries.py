"""The SQL about LangChain's collections, as pure functions: which there are, whose rows they are, and deleting some rows.

All of it may run under the role's own path: every name has its schema, and a type that anybody could have made is never cast,
for the cast could be theirs (format() calls the type's own output function alone).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vecbak.postgres.catalog import Table
from vecbak.postgres.names import quote_identifier, quote_literal
from vecbak.postgres.queries import milliseconds
from vecbak.postgres.restore_queries import same_key

KEY, NAME, REFERENCE = "uuid", "name", "collection_id"


def any_of(column: str, values: Iterable[str]) -> str:
    """A condition: the column has one of these values; none of them: it holds for no row."""
    listed = ", ".join(quote_literal(value).strip() for value in values)
    return (
        f"{quote_identifier(column)} OPERATOR(pg_catalog.=) ANY (ARRAY[{listed}]::pg_catalog.uuid[])"
        if listed
        else f"{quote_identifier(column)} IS NULL AND false"
    )


def census(collections: Table, embeddings: Table) -> str:
    """Every collection that is meant: name, key, embeddings; a second one of the same name is listed as well."""
    return f"""
SELECT COALESCE(pg_catalog.json_agg(pg_catalog.json_build_object('name', pg_catalog.format('%s', c.name),
  'uuid', c.uuid::pg_catalog.text, 'rows', COALESCE(e.rows, 0)) ORDER BY c.name, c.uuid), '[]')
FROM (SELECT uuid, name FROM {collections.source}{collections.where}) AS c
LEFT JOIN (SELECT collection_id, pg_catalog.count(*) AS rows FROM {embeddings.source}{embeddings.where} GROUP BY collection_id) AS e
  ON e.collection_id OPERATOR(pg_catalog.=) c.uuid
WHERE c.name IS NOT NULL;
"""


def list_collections(source: str) -> str:
    """Names and keys of the collections in a table, in order.

    Args:
        source: what stands behind FROM.
    """
    return f"""
SELECT COALESCE(pg_catalog.json_agg(pg_catalog.json_build_object('name', pg_catalog.format('%s', name),
  'uuid', uuid::pg_catalog.text) ORDER BY name, uuid), '[]')
FROM {source} WHERE name IS NOT NULL;
"""


def delete(table: Table, lock_seconds: float) -> str:
    """Delete the rows that are meant.

    Raises:
        ValueError: that would be all of them.
    """
    if not table.condition:
        raise ValueError(f"nothing says which rows of {table.name} are to be deleted")
    return f"SET LOCAL lock_timeout = '{milliseconds(lock_seconds)}ms';\nDELETE FROM {table.source}{table.where};"


def others(table: Table) -> str:
    """The rows that are not meant: how many, and a checksum over their versions, which any change of them would change."""
    return f"""
SELECT pg_catalog.json_build_object('rows', pg_catalog.count(*), 'checksum',
  COALESCE(pg_catalog.sum(pg_catalog.hashtextextended(pg_catalog.concat_ws(' ', tableoid, ctid, xmin), 0)), 0)::pg_catalog.text)
FROM {table.source} WHERE ({table.condition or "true"}) IS NOT TRUE;
"""


def after_delete(table: Table) -> str:
    """What must hold before COMMIT: the rows left of those that were meant, and partitions that our snapshot does not have.

    What our lock lets in: one attached since then, of which preflight knows no key and no trigger. The functions of partitions
    see what is there now, a SELECT from the catalogs what our snapshot shows. Also our transaction's id.
    """
    return f"""
WITH RECURSIVE known(id) AS (SELECT {table.oid}::pg_catalog.oid
  UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN known ON known.id OPERATOR(pg_catalog.=) i.inhparent)
SELECT pg_catalog.json_build_object('rows', (SELECT pg_catalog.count(*) FROM {table.source}{table.where}),
  'xid', pg_catalog.pg_current_xact_id()::pg_catalog.text,
  'attached', (SELECT COALESCE(pg_catalog.json_agg(now.relid::pg_catalog.text), '[]')
    FROM pg_catalog.pg_partition_tree({table.oid}::pg_catalog.regclass) AS now
    WHERE NOT EXISTS (SELECT FROM known WHERE known.id OPERATOR(pg_catalog.=) now.relid)));
"""


def keep_only(scratch: str, column: str, keys: Iterable[str]) -> str:
    """Remove from a scratch table what is not of these collections."""
    return f"DELETE FROM {scratch} WHERE ({any_of(column, keys)}) IS NOT TRUE;"


def renew(scratch: str, column: str, before: str, now: str) -> str:
    """Give rows of a scratch table the key that their collection has now."""
    name = quote_identifier(column)
    return f"UPDATE {scratch} SET {name} = {quote_literal(now)} WHERE {name} OPERATOR(pg_catalog.=) {quote_literal(before)};"


def renamed(scratch: str, collections: Table) -> str:
    """Collections of a scratch table that have another name in the database: pairs of names, the backup's first."""
    return f"""
SELECT COALESCE(pg_catalog.json_agg(pg_catalog.json_build_array(pg_catalog.format('%s', s.name), pg_catalog.format('%s', t.name))), '[]')
FROM {scratch} s JOIN {collections.source} t ON t.uuid OPERATOR(pg_catalog.=) s.uuid
WHERE pg_catalog.format('%s', t.name) OPERATOR(pg_catalog.<>) pg_catalog.format('%s', s.name);
"""


def keep_changed(scratch: str, changed: str, collections: Table, columns: Sequence[str]) -> str:
    """A temporary table of the collections that a scratch table has otherwise than they are."""
    ours, theirs = (
        f"ROW({', '.join(f'{alias}.{quote_identifier(name)}' for name in columns)})::pg_catalog.text" for alias in "st"
    )
    return (
        f"CREATE TEMPORARY TABLE {quote_identifier(changed)} ON COMMIT DROP AS SELECT s.* FROM {scratch} s"
        f" JOIN {collections.source} t ON t.uuid OPERATOR(pg_catalog.=) s.uuid WHERE {ours} OPERATOR(pg_catalog.<>) {theirs};"
    )


def overwrite(changed: str, collections: Table, columns: Sequence[str]) -> str:
    """Bring collections back to what a scratch table has; never deleting them, which would take their embeddings along.

    It runs under the role's own path, for what is computed from the new values.
    """
    sets = ", ".join(f"{name} = s.{name}" for name in map(quote_identifier, columns) if name != quote_identifier(KEY))
    return f"UPDATE {collections.source} AS t SET {sets} FROM {changed} s WHERE t.uuid OPERATOR(pg_catalog.=) s.uuid;"


def elsewhere(scratch: str, embeddings: Table, keys: Iterable[str]) -> str:
    """Rows of a scratch table whose key stands in another collection: their number, and one of the keys."""
    shown = ", ".join(f"t.{quote_identifier(name)}" for name in embeddings.primary_key)
    return f"""
SELECT pg_catalog.json_build_object('count', pg_catalog.count(*), 'key', pg_catalog.min(ROW({shown})::pg_catalog.text))
FROM {scratch} s JOIN {embeddings.source} t ON {same_key(embeddings)} WHERE (t.{any_of(REFERENCE, keys)}) IS NOT TRUE;
"""
