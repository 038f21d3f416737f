"""What the catalogs say of the tables: facts that preflight judges and that the manifest keeps.

Catalogs: https://www.postgresql.org/docs/current/catalogs.html.
"""

from __future__ import annotations

from typing import Any

import msgspec

from vecbak.postgres.names import quote_identifier, quote_name


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """One column, as pg_attribute has it.

    Attributes:
        generated: pg_attribute.attgenerated, empty for none.
        identity: pg_attribute.attidentity, empty for none.
        send: the function that makes its binary form.
        binary_obstacles: types in it whose binary form is not safe to load elsewhere.
    """

    name: str
    type: str
    not_null: bool
    default: str | None
    generated: str
    identity: str
    collation: str | None = None
    send: str | None = None
    binary_obstacles: tuple[str, ...] = ()


class Constraint(msgspec.Struct, frozen=True, kw_only=True):
    """One constraint; `kind` is pg_constraint.contype, `references` the oid of the table that a foreign key points at."""

    name: str
    kind: str
    definition: str
    deferrable: bool = False
    references: int | None = None


class Index(msgspec.Struct, frozen=True, kw_only=True):
    """One index, with what pg_get_indexdef leaves out (tablespace, comment, statistics targets by column number)."""

    name: str
    definition: str
    method: str
    tablespace: str | None
    comment: str | None
    statistics: dict[str, int]
    valid: bool
    constraint: str | None
    clustered: bool = False


class Sequence(msgspec.Struct, frozen=True, kw_only=True):
    """A sequence owned by a column; `last_value` None if it was never used, or may not be read; `options` as CREATE SEQUENCE has them."""

    schema: str
    name: str
    column: str
    last_value: int | None
    options: str = ""


class ForeignKey(msgspec.Struct, frozen=True, kw_only=True):
    """A foreign key of another table onto this one."""

    name: str
    table_oid: int
    table: str


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """One table.

    Attributes:
        kind: pg_class.relkind.
        access_method: pg_am.amname, None for what has no storage.
        heap_pages: pages of the main fork, without TOAST.
        estimated_rows: pg_class.reltuples, -1 if never analysed.
        total_bytes: pg_total_relation_size: with indexes and TOAST.
        table_bytes: pg_table_size: with TOAST, without indexes.
        row_security: whether row-level security would hide rows from us.
        children: tables that inherit from it.
        foreign_partitions: partitions on other servers, whose rows no lock of ours protects.
        publications: those that carry a TRUNCATE of it to subscribers.
        truncate_triggers: enabled triggers that a TRUNCATE of it fires.
        is_owner: whether we may drop and build its indexes.
        references: oids of the tables that its foreign keys point at.
        delete_triggers: enabled triggers that a DELETE from it fires.
        delete_rules: rules that rewrite a DELETE from it.
        condition: SQL that says which of its rows are meant; empty for all of them. What holds for some rows must never
            be done to all: nothing may TRUNCATE a table that has one.
    """

    oid: int
    schema: str
    name: str
    kind: str
    access_method: str | None
    heap_pages: int
    owner: str
    comment: str | None
    can_select: bool
    can_truncate: bool
    row_security: bool
    estimated_rows: int
    total_bytes: int
    table_bytes: int
    children: tuple[str, ...]
    foreign_keys: tuple[ForeignKey, ...]
    publications: tuple[str, ...]
    truncate_triggers: tuple[str, ...]
    columns: tuple[Column, ...]
    constraints: tuple[Constraint, ...]
    indexes: tuple[Index, ...]
    sequences: tuple[Sequence, ...]
    foreign_partitions: tuple[str, ...] = ()
    can_insert: bool = True
    is_owner: bool = True
    is_partition: bool = False
    references: tuple[int, ...] = ()
    primary_key: tuple[str, ...] = ()
    can_delete: bool = True
    delete_triggers: tuple[str, ...] = ()
    delete_rules: tuple[str, ...] = ()
    condition: str = ""

    @property
    def sql(self) -> str:
        """Qualified and quoted."""
        return quote_name(self.schema, self.name)

    @property
    def source(self) -> str:
        """What stands behind FROM: a plain table's own rows alone, a partitioned table's all."""
        return self.sql if self.kind == "p" else f"ONLY {self.sql}"

    @property
    def where(self) -> str:
        """` WHERE …` for the rows that are meant, or nothing."""
        return f" WHERE ({self.condition})" if self.condition else ""

    def rows_where(self, condition: str) -> Table:
        """The same table, of which some rows are meant."""
        return msgspec.structs.replace(self, condition=condition)

    @property
    def copied_columns(self) -> tuple[str, ...]:
        """The columns that can be loaded again: all but the generated ones."""
        return tuple(column.name for column in self.columns if not column.generated)

    @property
    def column_list(self) -> str:
        """The copied columns, quoted, for SELECT and COPY."""
        return ", ".join(quote_identifier(name) for name in self.copied_columns)


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """The database's side of a backup; of the extensions their versions and where their types and operators are."""

    database: str
    user: str
    version: str
    in_recovery: bool
    extensions: dict[str, str]
    encoding: str
    extension_schemas: dict[str, str] = {}
    tablespaces: tuple[str, ...] = ()


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Server and tables, read under the guard's locks; tables in the order asked for."""

    server: Server
    tables: tuple[Table, ...]


def decode_facts(document: Any) -> Facts:
    """Decode what `facts_query` returned."""
    return msgspec.convert(document, Facts)


def facts_query(oids: list[int]) -> str:
    """One JSON document with everything about these tables (https://www.postgresql.org/docs/current/catalogs.html)."""
    array = "ARRAY[" + ",".join(str(oid) for oid in oids) + "]::oid[]"
    return f"""
SELECT json_build_object(
  'server', json_build_object(
    'database', current_database(), 'user', current_user, 'version', current_setting('server_version'),
    'in_recovery', pg_is_in_recovery(), 'encoding', current_setting('server_encoding'),
    'extensions', (SELECT json_object_agg(extname, extversion ORDER BY extname) FROM pg_catalog.pg_extension),
    'extension_schemas', (SELECT json_object_agg(extname, extnamespace::regnamespace::text) FROM pg_catalog.pg_extension),
    'tablespaces', (SELECT json_agg(spcname ORDER BY spcname) FROM pg_catalog.pg_tablespace)),
  'tables', (SELECT coalesce(json_agg({_TABLE} ORDER BY wanted.position), '[]')
    FROM unnest({array}) WITH ORDINALITY AS wanted(oid, position)
    JOIN pg_catalog.pg_class c ON c.oid = wanted.oid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace));
""".replace("\n\n", "\n")


def _list(item: str, source: str, order: str) -> str:
    return f"(SELECT coalesce(json_agg({item} ORDER BY {order}), '[]') FROM {source})"


# pg_inherits also lists partitions; those are part of their parent and TRUNCATEd, copied and locked with it
_CHILDREN = _list(
    "i.inhrelid::regclass::text",
    "pg_catalog.pg_inherits i JOIN pg_catalog.pg_class k ON k.oid = i.inhrelid WHERE i.inhparent = c.oid AND NOT k.relispartition",
    "i.inhrelid",
)
_FOREIGN_PARTITIONS = _list(
    "p.relid::regclass::text",
    "pg_catalog.pg_partition_tree(c.oid) p JOIN pg_catalog.pg_class k ON k.oid = p.relid WHERE k.relkind = 'f'",
    "p.relid",
)
_FOREIGN_KEYS = _list(
    "json_build_object('name', k.conname, 'table_oid', k.conrelid::bigint, 'table', k.conrelid::regclass::text)",
    "pg_catalog.pg_constraint k WHERE k.confrelid = c.oid AND k.contype = 'f' AND k.conparentid = 0",
    "k.oid",
)
_REFERENCES = _list(
    "DISTINCT k.confrelid::bigint",
    "pg_catalog.pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'f'",
    "k.confrelid::bigint",
)
_PRIMARY_KEY = _list(
    "a.attname",
    """pg_catalog.pg_constraint k, unnest(k.conkey) WITH ORDINALITY AS key(number, position), pg_catalog.pg_attribute a
        WHERE k.conrelid = c.oid AND k.contype = 'p' AND a.attrelid = c.oid AND a.attnum = key.number""",
    "key.position",
)
_PUBLICATIONS = _list(
    "DISTINCT p.pubname",
    """pg_catalog.pg_publication p JOIN pg_catalog.pg_publication_tables t ON t.pubname = p.pubname
        WHERE p.pubtruncate AND (t.schemaname, t.tablename) IN (
          SELECT fn.nspname, fc.relname FROM pg_catalog.pg_class fc JOIN pg_catalog.pg_namespace fn ON fn.oid = fc.relnamespace
          WHERE fc.oid = c.oid OR fc.oid IN (SELECT relid FROM pg_catalog.pg_partition_tree(c.oid))
             OR fc.oid IN (SELECT relid FROM pg_catalog.pg_partition_ancestors(c.oid)))""",
    "p.pubname",
)
_TRUNCATE_TRIGGERS = _list(
    "t.tgname",
    "pg_catalog.pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgenabled <> 'D' AND (t.tgtype & 32) <> 0",
    "t.tgname",
)
_DELETE_TRIGGERS = _list(
    "DISTINCT t.tgname",
    """pg_catalog.pg_trigger t WHERE NOT t.tgisinternal AND t.tgenabled <> 'D' AND (t.tgtype & 8) <> 0
        AND (t.tgrelid = c.oid OR t.tgrelid IN (SELECT relid FROM pg_catalog.pg_partition_tree(c.oid)))""",
    "t.tgname",
)
_DELETE_RULES = _list(
    "r.rulename",
    "pg_catalog.pg_rewrite r WHERE r.ev_class = c.oid AND r.ev_type = '4' AND r.ev_enabled <> 'D'",
    "r.rulename",
)
# A type's binary form is not safe elsewhere if it has none, if it holds oids (reg*, and the element types that arrays and
# rows of types from outside PostgreSQL carry), or if it is tsvector, whose order depends on the server's own sorting.
_BINARY_OBSTACLES = """(
          WITH RECURSIVE inner_types(oid, nested) AS (
            SELECT a.atttypid, false
            UNION
            SELECT next.oid, inner_types.nested OR next.nested FROM inner_types JOIN pg_catalog.pg_type t ON t.oid = inner_types.oid,
            LATERAL (
              SELECT t.typbasetype AS oid, false AS nested WHERE t.typtype = 'd'
              UNION ALL SELECT t.typelem, true WHERE t.typelem <> 0 AND t.typlen = -1 AND t.typcategory = 'A'
              UNION ALL SELECT ra.atttypid, true FROM pg_catalog.pg_attribute ra
                WHERE t.typtype = 'c' AND ra.attrelid = t.typrelid AND ra.attnum > 0 AND NOT ra.attisdropped) AS next)
          SELECT coalesce(json_agg(DISTINCT format_type(t.oid, NULL)), '[]') FROM inner_types JOIN pg_catalog.pg_type t USING (oid)
          WHERE t.typsend = 0 OR t.typreceive = 0 OR t.oid = 'pg_catalog.tsvector'::regtype
             OR (t.typnamespace = 'pg_catalog'::regnamespace AND t.typname LIKE 'reg%')
             OR (inner_types.nested AND t.oid >= 16384))"""
_COLUMNS = _list(
    f"""json_build_object('name', a.attname, 'type', format_type(a.atttypid, a.atttypmod), 'not_null', a.attnotnull,
        'default', pg_get_expr(d.adbin, d.adrelid), 'generated', a.attgenerated, 'identity', a.attidentity,
        'collation', (SELECT quote_ident(cn.nspname) || '.' || quote_ident(co.collname) FROM pg_catalog.pg_collation co
          JOIN pg_catalog.pg_namespace cn ON cn.oid = co.collnamespace
          WHERE co.oid = a.attcollation AND co.collname <> 'default'),
        'send', (SELECT t.typsend::regproc::text FROM pg_catalog.pg_type t WHERE t.oid = a.atttypid AND t.typsend <> 0),
        'binary_obstacles', {_BINARY_OBSTACLES})""",
    """pg_catalog.pg_attribute a LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped""",
    "a.attnum",
)
_CONSTRAINTS = _list(
    """json_build_object('name', k.conname, 'kind', k.contype, 'definition', pg_get_constraintdef(k.oid),
        'deferrable', k.condeferrable, 'references', nullif(k.confrelid, 0)::bigint)""",
    "pg_catalog.pg_constraint k WHERE k.conrelid = c.oid AND k.contype IN ('p', 'u', 'f', 'c', 'x')",
    "k.conname",
)
_INDEXES = _list(
    """json_build_object('name', ic.relname, 'definition', pg_get_indexdef(x.indexrelid), 'method', am.amname,
        'tablespace', ts.spcname, 'comment', obj_description(x.indexrelid, 'pg_class'), 'valid', x.indisvalid, 'clustered', x.indisclustered,
        'constraint', (SELECT k.conname FROM pg_catalog.pg_constraint k
          WHERE k.conindid = x.indexrelid AND k.conrelid = c.oid AND k.contype IN ('p', 'u', 'x')),
        'statistics', (SELECT coalesce(json_object_agg(a.attnum, a.attstattarget), '{}') FROM pg_catalog.pg_attribute a
          WHERE a.attrelid = x.indexrelid AND a.attstattarget >= 0))""",
    """pg_catalog.pg_index x JOIN pg_catalog.pg_class ic ON ic.oid = x.indexrelid JOIN pg_catalog.pg_am am ON am.oid = ic.relam
        LEFT JOIN pg_catalog.pg_tablespace ts ON ts.oid = ic.reltablespace WHERE x.indrelid = c.oid""",
    "ic.relname",
)
_SEQUENCES = _list(
    """json_build_object('schema', sn.nspname, 'name', s.relname, 'column', a.attname, 'last_value',
        CASE WHEN has_sequence_privilege(s.oid, 'USAGE, SELECT') THEN pg_sequence_last_value(s.oid) END,
        'options', format('INCREMENT BY %s MINVALUE %s MAXVALUE %s START WITH %s CACHE %s%s', q.seqincrement, q.seqmin, q.seqmax,
          q.seqstart, q.seqcache, CASE WHEN q.seqcycle THEN ' CYCLE' END))""",
    """pg_catalog.pg_depend d JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S'
        JOIN pg_catalog.pg_sequence q ON q.seqrelid = s.oid
        JOIN pg_catalog.pg_namespace sn ON sn.oid = s.relnamespace
        JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
        WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass
          AND d.refobjid = c.oid AND d.deptype IN ('a', 'i')""",
    "a.attnum",
)
_TABLE = f"""json_build_object(
    'oid', c.oid::bigint, 'schema', n.nspname, 'name', c.relname, 'kind', c.relkind,
    'access_method', (SELECT amname FROM pg_catalog.pg_am WHERE oid = c.relam),
    'heap_pages', pg_relation_size(c.oid) / current_setting('block_size')::bigint, 'owner', pg_get_userbyid(c.relowner),
    'comment', obj_description(c.oid, 'pg_class'), 'can_select', has_table_privilege(c.oid, 'SELECT'),
    'can_insert', has_table_privilege(c.oid, 'INSERT'), 'is_owner', pg_has_role(c.relowner, 'USAGE') AND has_schema_privilege(n.oid, 'CREATE'),
    'is_partition', c.relispartition, 'references', {_REFERENCES}, 'primary_key', {_PRIMARY_KEY},
    'can_truncate', has_table_privilege(c.oid, 'TRUNCATE'), 'row_security', row_security_active(c.oid),
    'estimated_rows', c.reltuples::bigint, 'total_bytes', pg_total_relation_size(c.oid), 'table_bytes', pg_table_size(c.oid),
    'children', {_CHILDREN}, 'foreign_partitions', {_FOREIGN_PARTITIONS}, 'foreign_keys', {_FOREIGN_KEYS}, 'publications', {_PUBLICATIONS},
    'truncate_triggers', {_TRUNCATE_TRIGGERS}, 'can_delete', has_table_privilege(c.oid, 'DELETE'),
    'delete_triggers', {_DELETE_TRIGGERS}, 'delete_rules', {_DELETE_RULES}, 'columns', {_COLUMNS}, 'constraints', {_CONSTRAINTS},
    'indexes', {_INDEXES}, 'sequences', {_SEQUENCES})"""
