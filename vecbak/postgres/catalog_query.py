"""The one query that fills the structs of `vecbak.postgres.catalog`, put together from a fragment for each fact.

Catalogs: https://www.postgresql.org/docs/current/catalogs.html.
"""

from __future__ import annotations

from vecbak.postgres.tree_query import ANCESTORS, DEMANDS, FOREIGN_KEYS, REACTIONS, REFERENCES, UNFIT_INDEXES


def facts_query(oids: list[int]) -> str:
    """One JSON document with everything about these tables (https://www.postgresql.org/docs/current/catalogs.html)."""
    array = "ARRAY[" + ",".join(str(oid) for oid in oids) + "]::oid[]"
    return f"""
SELECT json_build_object(
  'server', json_build_object(
    'database', current_database(), 'user', current_user, 'version', current_setting('server_version'),
    'address', pg_catalog.host(pg_catalog.inet_server_addr()),
    'port', coalesce(pg_catalog.inet_server_port(), pg_catalog.current_setting('port')::int),
    'database_oid', (SELECT oid::bigint FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()),
    'in_recovery', pg_is_in_recovery(), 'encoding', current_setting('server_encoding'),
    'extensions', (SELECT json_object_agg(extname, extversion ORDER BY extname) FROM pg_catalog.pg_extension),
    'extension_schemas', (SELECT json_object_agg(extname, extnamespace::regnamespace::text) FROM pg_catalog.pg_extension),
    'tablespaces', (SELECT json_agg(spcname ORDER BY spcname) FROM pg_catalog.pg_tablespace),
    'temporary', has_database_privilege(current_database(), 'TEMPORARY'),
    'event_triggers', (SELECT coalesce(json_agg(evtname ORDER BY evtname), '[]') FROM pg_catalog.pg_event_trigger WHERE evtenabled IN ('O', 'A')
      AND evtevent <> 'login')),
  'tables', (SELECT coalesce(json_agg({_TABLE} ORDER BY wanted.position), '[]')
    FROM unnest({array}) WITH ORDINALITY AS wanted(oid, position)
    JOIN pg_catalog.pg_class c ON c.oid = wanted.oid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace));
""".replace("\n\n", "\n")


# who may not ask for these gets none: `facts_query` has to work without
CONTROL_DATA = """
SELECT pg_catalog.json_build_object('system_identifier', s.system_identifier::text, 'timeline',
  CASE WHEN pg_catalog.pg_is_in_recovery() THEN c.timeline_id
    ELSE ('x' || pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8))::bit(32)::int END)
FROM pg_catalog.pg_control_system() AS s, pg_catalog.pg_control_checkpoint() AS c;
"""


def _list(item: str, source: str, order: str) -> str:
    return f"(SELECT coalesce(json_agg({item} ORDER BY {order}), '[]') FROM {source})"


# What an index calls, however deep as far as the catalogs tell: functions in C, those that set their own path and those
# whose body was parsed when they were made (prosqlbody, PostgreSQL 14+) look for nothing along the path.
_FOLLOWS_PATH = """EXISTS (
          WITH RECURSIVE called(oid) AS (
            SELECT coalesce(o.oprcode, m.amproc, d.refobjid)::oid FROM pg_catalog.pg_depend d
              LEFT JOIN pg_catalog.pg_operator o ON d.refclassid = 'pg_catalog.pg_operator'::regclass AND o.oid = d.refobjid
              LEFT JOIN pg_catalog.pg_opclass oc ON d.refclassid = 'pg_catalog.pg_opclass'::regclass AND oc.oid = d.refobjid
              LEFT JOIN pg_catalog.pg_amproc m ON m.amprocfamily = oc.opcfamily
            WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = x.indexrelid AND (o.oid IS NOT NULL
              OR m.oid IS NOT NULL OR d.refclassid = 'pg_catalog.pg_proc'::regclass)
            UNION SELECT d.refobjid FROM called JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_proc'::regclass
              AND d.objid = called.oid AND d.refclassid = 'pg_catalog.pg_proc'::regclass)
          SELECT FROM called JOIN pg_catalog.pg_proc p ON p.oid = called.oid JOIN pg_catalog.pg_language l ON l.oid = p.prolang
          WHERE l.lanname NOT IN ('internal', 'c') AND to_jsonb(p) ->> 'prosqlbody' IS NULL
            AND NOT EXISTS (SELECT FROM unnest(p.proconfig) AS s(setting) WHERE s.setting LIKE 'search_path=%'))"""


def _indexes(table: str, also: str = "") -> str:
    """Its indexes.

    Args:
        table: an alias of pg_class.
        also: another condition.
    """
    return _list(
        f"""json_build_object('name', ic.relname, 'definition', pg_get_indexdef(x.indexrelid), 'method', am.amname,
        'tablespace', ts.spcname, 'comment', obj_description(x.indexrelid, 'pg_class'), 'valid', x.indisvalid, 'clustered', x.indisclustered,
        'constraint', (SELECT k.conname FROM pg_catalog.pg_constraint k
          WHERE k.conindid = x.indexrelid AND k.conrelid = {table}.oid AND k.contype IN ('p', 'u', 'x')),
        'statistics', (SELECT coalesce(json_object_agg(a.attnum, a.attstattarget), '{{}}') FROM pg_catalog.pg_attribute a
          WHERE a.attrelid = x.indexrelid AND a.attstattarget >= 0), 'follows_path', {_FOLLOWS_PATH})""",
        f"""pg_catalog.pg_index x JOIN pg_catalog.pg_class ic ON ic.oid = x.indexrelid JOIN pg_catalog.pg_am am ON am.oid = ic.relam
        LEFT JOIN pg_catalog.pg_tablespace ts ON ts.oid = ic.reltablespace WHERE x.indrelid = {table}.oid{also}""",
        "ic.relname",
    )


def _protection(table: str) -> str:
    policies = _list(
        """json_build_object('name', p.polname, 'permissive', p.polpermissive, 'command',
        CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
        'roles', ARRAY(SELECT pg_get_userbyid(r.oid) FROM unnest(p.polroles) r(oid) WHERE r.oid <> 0 ORDER BY 1),
        'using', pg_get_expr(p.polqual, p.polrelid), 'check', pg_get_expr(p.polwithcheck, p.polrelid))""",
        f"pg_catalog.pg_policy p WHERE p.polrelid = {table}.oid",
        "p.polname",
    )
    return f"json_build_object('enabled', {table}.relrowsecurity, 'forced', {table}.relforcerowsecurity, 'policies', {policies})"


def _storage(table: str) -> str:
    return f"""'persistence', {table}.relpersistence, 'options', coalesce({table}.reloptions, ARRAY[]::text[]),
    'tablespace', (SELECT spcname FROM pg_catalog.pg_tablespace WHERE oid = {table}.reltablespace),
    'access_method', (SELECT amname FROM pg_catalog.pg_am WHERE oid = {table}.relam),
    'heap_pages', pg_relation_size({table}.oid) / current_setting('block_size')::bigint"""


def grants_on(acl: str, kind: str, owner: str, of_columns: str = "") -> str:
    """What others than the owner may do with an object.

    Args:
        acl: None means what PostgreSQL grants by itself.
        kind: as acldefault wants it.
        of_columns: a relation whose columns' own privileges are to be listed too.
    """
    source = f"SELECT NULL::name AS attname, x.* FROM pg_catalog.aclexplode(coalesce({acl}, pg_catalog.acldefault('{kind}', {owner}))) x"
    if of_columns:
        source += f""" UNION ALL SELECT ga.attname, x.* FROM pg_catalog.pg_attribute ga, pg_catalog.aclexplode(ga.attacl) x
          WHERE ga.attrelid = {of_columns} AND NOT ga.attisdropped"""
    return _list(
        """json_build_object('grantee', CASE WHEN g.grantee <> 0 THEN pg_catalog.pg_get_userbyid(g.grantee) END,
        'privilege', g.privilege_type, 'grantable', g.is_grantable, 'column', g.attname)""",
        f"({source}) AS g WHERE g.grantee <> {owner}",
        "g.grantee, g.attname, g.privilege_type",
    )


def _access(grants: str, namespace: str) -> str:
    schema = grants_on(f"{namespace}.nspacl", "n", f"{namespace}.nspowner")
    return f"json_build_object('grants', {grants}, 'schema', {schema})"


def _relation_access(relation: str, namespace: str, kind: str = "r") -> str:
    """Of a table or sequence.

    Args:
        relation: an alias of pg_class.
        namespace: an alias of pg_namespace.
    """
    return _access(grants_on(f"{relation}.relacl", kind, f"{relation}.relowner", f"{relation}.oid"), namespace)


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
_PRIMARY_KEY = _list(
    "a.attname",
    """pg_catalog.pg_constraint k, unnest(k.conkey) WITH ORDINALITY AS key(number, position), pg_catalog.pg_attribute a
        WHERE k.conrelid = c.oid AND k.contype = 'p' AND a.attrelid = c.oid AND a.attnum = key.number""",
    "key.position",
)
_KEY_OPERATORS = _list(
    "json_build_object('schema', opn.nspname, 'name', o.oprname)",
    """pg_catalog.pg_constraint k JOIN pg_catalog.pg_index x ON x.indexrelid = k.conindid,
        unnest(x.indclass::oid[]) WITH ORDINALITY AS key(opclass, position)
        JOIN pg_catalog.pg_opclass oc ON oc.oid = key.opclass
        JOIN pg_catalog.pg_am am ON am.oid = oc.opcmethod AND am.amname = 'btree'
        JOIN pg_catalog.pg_amop ao ON ao.amopfamily = oc.opcfamily AND ao.amopstrategy = 3 AND ao.amoppurpose = 's'
          AND ao.amoplefttype = oc.opcintype AND ao.amoprighttype = oc.opcintype
        JOIN pg_catalog.pg_operator o ON o.oid = ao.amopopr JOIN pg_catalog.pg_namespace opn ON opn.oid = o.oprnamespace
        WHERE k.conrelid = c.oid AND k.contype = 'p'""",
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
# PostgreSQL 18 has NOT NULL that holds for new rows alone
_NOT_NULL = """a.attnotnull AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint k
          WHERE k.conrelid = a.attrelid AND k.contype = 'n' AND k.conkey = ARRAY[a.attnum] AND NOT k.convalidated)"""
_COLUMNS = _list(
    f"""json_build_object('name', a.attname, 'type', format_type(a.atttypid, a.atttypmod), 'not_null', {_NOT_NULL},
        'default', pg_get_expr(d.adbin, d.adrelid), 'generated', a.attgenerated, 'identity', a.attidentity,
        'collation', (SELECT quote_ident(cn.nspname) || '.' || quote_ident(co.collname) FROM pg_catalog.pg_collation co
          JOIN pg_catalog.pg_namespace cn ON cn.oid = co.collnamespace
          WHERE co.oid = a.attcollation AND co.collname <> 'default'),
        'send', (SELECT quote_ident(pn.nspname) || '.' || quote_ident(p.proname) FROM pg_catalog.pg_type t
          JOIN pg_catalog.pg_proc p ON p.oid = t.typsend JOIN pg_catalog.pg_namespace pn ON pn.oid = p.pronamespace WHERE t.oid = a.atttypid),
        'binary_obstacles', {_BINARY_OBSTACLES}, 'comment', col_description(a.attrelid, a.attnum),
        'storage', (SELECT CASE a.attstorage WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' WHEN 'x' THEN 'EXTENDED' ELSE 'MAIN' END
          FROM pg_catalog.pg_type t WHERE t.oid = a.atttypid AND t.typstorage <> a.attstorage))""",
    """pg_catalog.pg_attribute a LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped""",
    "a.attnum",
)
_CONSTRAINTS = _list(
    """json_build_object('name', k.conname, 'kind', k.contype, 'definition', pg_get_constraintdef(k.oid),
        'deferrable', k.condeferrable, 'references', nullif(k.confrelid, 0)::bigint)""",
    "pg_catalog.pg_constraint k WHERE k.conrelid = c.oid AND (k.contype IN ('p', 'u', 'f', 'c', 'x') OR (k.contype = 'n' AND NOT k.convalidated))",
    "k.conname",
)
# what a column's default leads to: by its own expression, by that of its type (a domain), or through functions whose
# bodies are known (BEGIN ATOMIC)
_LEADING_TO = """
        WITH RECURSIVE reached(attname, attnum, class, oid) AS (
          SELECT a.attname, a.attnum, from_.class, from_.oid FROM pg_catalog.pg_attribute a
            LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum,
            LATERAL (VALUES ('pg_catalog.pg_attrdef'::regclass::oid, d.oid), ('pg_catalog.pg_type'::regclass::oid, a.atttypid)) AS from_(class, oid)
          WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
          UNION
          SELECT r.attname, r.attnum, p.refclassid, p.refobjid FROM reached r
            JOIN pg_catalog.pg_depend p ON p.classid = r.class AND p.objid = r.oid AND p.deptype = 'n'
            LEFT JOIN pg_catalog.pg_class s ON p.refclassid = 'pg_catalog.pg_class'::regclass AND s.oid = p.refobjid
          WHERE s.relkind = 'S' OR p.refclassid IN ('pg_catalog.pg_proc'::regclass, 'pg_catalog.pg_type'::regclass))"""
# a partition counts with the identity of the table that it is a partition of
_COUNTED = f"""(
        SELECT d.objid AS oid, a.attname, a.attnum, CASE d.deptype WHEN 'i' THEN 'identity' ELSE 'owned' END AS kind
        FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
        WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.deptype IN ('a', 'i')
          AND (d.refobjid = c.oid OR d.deptype = 'i' AND d.refobjid IN (SELECT relid FROM pg_catalog.pg_partition_ancestors(c.oid)))
        UNION ALL
        ({_LEADING_TO}
        SELECT r.oid, r.attname, r.attnum, 'used' FROM reached r WHERE r.class = 'pg_catalog.pg_class'::regclass
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = r.class AND d.objid = r.oid
            AND d.refclassid = r.class AND d.refobjid = c.oid AND d.refobjsubid = r.attnum AND d.deptype IN ('a', 'i'))))"""
# an unlogged one cannot be read on a standby
_AT_HAND = "NOT (s.relpersistence = 'u' AND pg_catalog.pg_is_in_recovery())"
_SEQUENCES = _list(
    f"""json_build_object('schema', sn.nspname, 'name', s.relname, 'column', k.attname, 'oid', s.oid::bigint, 'kind', k.kind,
        'type', pg_catalog.format_type(q.seqtypid, NULL), 'persistence', s.relpersistence,
        'increment', q.seqincrement, 'minimum', q.seqmin, 'maximum', q.seqmax, 'cycle', q.seqcycle, 'file', pg_catalog.pg_relation_filenode(s.oid)::bigint, 'access', {_relation_access("s", "sn", "s")},
        'can_enter', pg_catalog.has_schema_privilege(sn.oid, 'USAGE'), 'can_read', pg_catalog.has_sequence_privilege(s.oid, 'SELECT') AND {_AT_HAND},
        'can_update', pg_catalog.has_sequence_privilege(s.oid, 'UPDATE'), 'last_value',
        CASE WHEN pg_catalog.has_sequence_privilege(s.oid, 'USAGE, SELECT') AND {_AT_HAND} THEN pg_catalog.pg_sequence_last_value(s.oid) END,
        'options', format('INCREMENT BY %s MINVALUE %s MAXVALUE %s START WITH %s CACHE %s%s', q.seqincrement, q.seqmin, q.seqmax,
          q.seqstart, q.seqcache, CASE WHEN q.seqcycle THEN ' CYCLE' END))""",
    f"""{_COUNTED} AS k JOIN pg_catalog.pg_class s ON s.oid = k.oid AND s.relkind = 'S'
        JOIN pg_catalog.pg_sequence q ON q.seqrelid = s.oid JOIN pg_catalog.pg_namespace sn ON sn.oid = s.relnamespace""",
    "k.attnum, k.kind, sn.nspname, s.relname",
)
# what columns are made of, however deep: of domains, arrays and composite types; deepest first
_TYPES = (
    """(
          WITH RECURSIVE needed(oid, depth) AS (
            SELECT a.atttypid, 0 FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
            UNION
            SELECT next.oid, needed.depth + 1 FROM needed JOIN pg_catalog.pg_type t ON t.oid = needed.oid,
            LATERAL (
              SELECT t.typbasetype AS oid WHERE t.typtype = 'd'
              UNION ALL SELECT t.typelem WHERE t.typelem <> 0 AND t.typlen = -1 AND t.typcategory = 'A'
              UNION ALL SELECT ra.atttypid FROM pg_catalog.pg_attribute ra
                WHERE t.typtype = 'c' AND ra.attrelid = t.typrelid AND ra.attnum > 0 AND NOT ra.attisdropped) AS next
            WHERE needed.depth < 30)
          SELECT coalesce(json_agg(json_build_object('sql', format_type(t.oid, NULL), 'schema', tn.nspname, 'name', t.typname,
            'kind', CASE WHEN tc.relkind <> 'c' THEN 't' ELSE t.typtype END, 'extension', e.extname, 'access', """
    + _access(grants_on("t.typacl", "T", "t.typowner"), "tn")
    + """,
            'labels', ARRAY(SELECT l.enumlabel FROM pg_catalog.pg_enum l WHERE l.enumtypid = t.oid ORDER BY l.enumsortorder),
            'base', CASE WHEN t.typtype = 'd' THEN format_type(t.typbasetype, t.typtypmod) END, 'not_null', t.typnotnull,
            'default', pg_get_expr(t.typdefaultbin, 0), 'collation', (SELECT quote_ident(cn.nspname) || '.' || quote_ident(co.collname)
              FROM pg_catalog.pg_collation co JOIN pg_catalog.pg_namespace cn ON cn.oid = co.collnamespace
              WHERE t.typtype = 'd' AND co.oid = t.typcollation AND co.collname <> 'default'),
            'attributes', coalesce((SELECT json_agg(json_build_object('name', ra.attname, 'type', format_type(ra.atttypid, ra.atttypmod))
              ORDER BY ra.attnum) FROM pg_catalog.pg_attribute ra WHERE t.typtype = 'c' AND ra.attrelid = t.typrelid
              AND ra.attnum > 0 AND NOT ra.attisdropped), '[]'),
            'constraints', coalesce((SELECT json_agg(json_build_object('name', k.conname, 'kind', k.contype, 'definition',
              pg_get_constraintdef(k.oid)) ORDER BY k.conname) FROM pg_catalog.pg_constraint k WHERE k.contypid = t.oid
              AND k.contype = 'c'), '[]')) ORDER BY d.depth DESC, t.oid), '[]')
          FROM (SELECT oid, max(depth) AS depth FROM needed GROUP BY oid) d JOIN pg_catalog.pg_type t ON t.oid = d.oid
          JOIN pg_catalog.pg_namespace tn ON tn.oid = t.typnamespace LEFT JOIN pg_catalog.pg_class tc ON tc.oid = t.typrelid
          LEFT JOIN pg_catalog.pg_depend m ON m.classid = 'pg_catalog.pg_type'::regclass AND m.objid = t.oid AND m.deptype = 'e'
          LEFT JOIN pg_catalog.pg_extension e ON e.oid = m.refobjid
          WHERE tn.nspname NOT IN ('pg_catalog', 'information_schema') AND e.extname IS DISTINCT FROM 'vector'
            AND NOT (t.typelem <> 0 AND t.typlen = -1 AND t.typcategory = 'A'))"""
)
_GRANTEES = """ARRAY(
        SELECT DISTINCT CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(acl.grantee)::text END
        FROM aclexplode(c.relacl) acl WHERE acl.grantee <> c.relowner ORDER BY 1)"""
# by its own name a partition is read with its own privileges and its own row-level security
_PARTITIONS = _list(
    f"""json_build_object('oid', pc.oid::bigint, 'schema', pn.nspname, 'name', pc.relname, 'kind', pc.relkind,
        'parent', (SELECT relname FROM pg_catalog.pg_class WHERE oid = pt.parentrelid), 'bound', pg_get_expr(pc.relpartbound, pc.oid),
        'partition_by', pg_get_partkeydef(pc.oid), 'table_bytes', pg_table_size(pc.oid), 'can_copy', has_table_privilege(pc.oid, 'SELECT')
          AND has_schema_privilege(pn.oid, 'USAGE') AND NOT row_security_active(pc.oid), 'protection', {_protection("pc")},
        'access', {_relation_access("pc", "pn")},
        'indexes', {_indexes("pc", " AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits xi WHERE xi.inhrelid = x.indexrelid)")},
        {_storage("pc")})""",
    """pg_catalog.pg_partition_tree(c.oid) pt JOIN pg_catalog.pg_class pc ON pc.oid = pt.relid
        JOIN pg_catalog.pg_namespace pn ON pn.oid = pc.relnamespace WHERE pt.level > 0""",
    "pt.level, pc.oid",
)


def _size(function: str) -> str:
    """Of a table; of a partitioned one that of its partitions, for it has nothing of its own."""
    return (
        f"coalesce((SELECT sum({function}(relid)) FROM pg_catalog.pg_partition_tree(c.oid)), {function}(c.oid))::bigint"
    )


_TABLE = f"""json_build_object(
    'oid', c.oid::bigint, 'schema', n.nspname, 'name', c.relname, 'kind', c.relkind,
    {_storage("c")}, 'owner', pg_get_userbyid(c.relowner),
    'comment', obj_description(c.oid, 'pg_class'), 'can_select', has_table_privilege(c.oid, 'SELECT'),
    'can_insert', has_table_privilege(c.oid, 'INSERT'), 'is_owner', pg_has_role(c.relowner, 'USAGE'), 'can_create', has_schema_privilege(n.oid, 'CREATE'),
    'is_partition', c.relispartition, 'references', {REFERENCES}, 'primary_key', {_PRIMARY_KEY}, 'key_operators', {_KEY_OPERATORS},
    'can_truncate', has_table_privilege(c.oid, 'TRUNCATE'), 'row_security', row_security_active(c.oid),
    'estimated_rows', c.reltuples::bigint, 'total_bytes', {_size("pg_total_relation_size")}, 'table_bytes', {_size("pg_table_size")},
    'can_alter', pg_has_role(c.relowner, 'USAGE'), 'types', {_TYPES}, 'protection', {_protection("c")}, 'reactions', {REACTIONS},
    'grantees', {_GRANTEES}, 'access', {_relation_access("c", "n")}, 'partition_by', pg_get_partkeydef(c.oid), 'partitions', {_PARTITIONS},
    'children', {_CHILDREN}, 'foreign_partitions', {_FOREIGN_PARTITIONS}, 'foreign_keys', {FOREIGN_KEYS}, 'publications', {_PUBLICATIONS},
    'truncate_triggers', {_TRUNCATE_TRIGGERS}, 'can_delete', has_table_privilege(c.oid, 'DELETE'),
    'columns', {_COLUMNS}, 'constraints', {_CONSTRAINTS},
    'indexes', {_indexes("c")}, 'sequences', {_SEQUENCES},
    'ancestors', {ANCESTORS}, 'demands', {DEMANDS}, 'unfit_indexes', {UNFIT_INDEXES})"""
