"""Fragments of the catalog query about the whole partition tree of a table: what points at it, acts on it and is asked of its rows.

In all of them `c` is the table's row in pg_class.
"""

from __future__ import annotations

# a plain table is in no tree
BELOW = "(SELECT tree.relid FROM pg_catalog.pg_partition_tree(c.oid) AS tree)"
ABOVE = "(SELECT tree.relid FROM pg_catalog.pg_partition_ancestors(c.oid) AS tree WHERE tree.relid <> c.oid)"

ANCESTORS = f"ARRAY(SELECT above.relid::pg_catalog.oid::bigint FROM {ABOVE} AS above(relid) ORDER BY 1)"

# A key onto a table is one onto each of its partitions, and one onto a partition takes rows of the whole along. The clones
# that PostgreSQL makes of it for partitions, of either side, say nothing more.
FOREIGN_KEYS = f"""(
        SELECT coalesce(json_agg(json_build_object('name', k.conname, 'table_oid', k.conrelid::bigint,
          'table', k.conrelid::regclass::text) ORDER BY k.oid), '[]')
        FROM pg_catalog.pg_constraint k WHERE k.contype = 'f' AND k.conparentid = 0
          AND (k.confrelid = c.oid OR k.confrelid IN {BELOW} OR k.confrelid IN {ABOVE}))"""
REFERENCES = f"""(
        SELECT coalesce(json_agg(DISTINCT k.confrelid::bigint), '[]') FROM pg_catalog.pg_constraint k
        WHERE k.contype = 'f' AND (k.conrelid = c.oid OR k.conrelid IN {BELOW}))"""

# PostgreSQL 13 and 14 call a partition's copy of a trigger internal; what checks keys is so too, and no trigger of anybody's
_ANYBODYS = """(NOT t.tgisinternal OR (t.tgparentid <> 0 AND NOT EXISTS (SELECT FROM pg_catalog.pg_proc f
            WHERE f.oid = t.tgfoid AND f.pronamespace = 'pg_catalog'::regnamespace
              AND (pg_catalog.starts_with(f.proname, 'RI_FKey_') OR f.proname = 'unique_key_recheck'))))"""
REACTIONS = f"""(
        SELECT coalesce(json_agg(json_build_object('kind', r.kind, 'name', r.name, 'schema', rn.nspname, 'table', rc.relname,
          'state', r.state, 'on_load', r.on_load, 'on_delete', r.on_delete, 'on_truncate', r.on_truncate, 'fires',
          r.state = 'A' OR r.state = CASE current_setting('session_replication_role') WHEN 'replica' THEN 'R' ELSE 'O' END,
          'owner', pg_get_userbyid(rc.relowner), 'owned', pg_has_role(rc.relowner, 'USAGE'))
          ORDER BY r.relation, r.kind, r.name), '[]')
        FROM (
          SELECT 'TRIGGER' AS kind, t.tgname AS name, t.tgrelid AS relation, t.tgenabled AS state, (t.tgtype & 20) <> 0 AS on_load,
            (t.tgtype & 8) <> 0 AS on_delete, (t.tgtype & 32) <> 0 AS on_truncate
          FROM pg_catalog.pg_trigger t WHERE {_ANYBODYS}
          UNION ALL SELECT 'RULE', rulename, ev_class, ev_enabled, ev_type IN ('2', '3'), ev_type = '4', false
          FROM pg_catalog.pg_rewrite) AS r
        JOIN pg_catalog.pg_class rc ON rc.oid = r.relation JOIN pg_catalog.pg_namespace rn ON rn.oid = rc.relnamespace
        WHERE r.relation = c.oid OR r.relation IN {BELOW})"""

# Not ready: a build of it failed. Not valid and unique: rows may be twice in it. (A partitioned index is never built itself.)
UNFIT_INDEXES = f"""(
        SELECT coalesce(json_agg(x.indexrelid::regclass::text ORDER BY x.indexrelid), '[]')
        FROM pg_catalog.pg_index x JOIN pg_catalog.pg_class ic ON ic.oid = x.indexrelid AND ic.relkind = 'i'
        WHERE (x.indrelid = c.oid OR x.indrelid IN {BELOW}) AND NOT x.indisvalid
          AND (NOT x.indisready OR NOT x.indislive OR x.indisunique OR x.indisexclusion))"""

# what depends on more than its row: functions that look elsewhere, and functions of somebody's, which may have changed since
_CHANGEABLE = """(pg_catalog.strpos(k.conbin::text, '{SQLVALUEFUNCTION') > 0 OR EXISTS (
            SELECT FROM pg_catalog.regexp_matches(k.conbin::text, ':(?:opfuncid|funcid) ([0-9]+)', 'g') AS called(groups)
            JOIN pg_catalog.pg_proc f ON f.oid = called.groups[1]::pg_catalog.oid
            WHERE f.provolatile <> 'i' OR (f.oid >= 16384 AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e
              WHERE e.classid = 'pg_catalog.pg_proc'::regclass AND e.objid = f.oid AND e.deptype = 'e'))))"""
# conenforced came with PostgreSQL 18; a key whose triggers somebody switched off is not asked of rows that come
DEMANDED = f"""pg_catalog.pg_constraint k JOIN pg_catalog.pg_class kc ON kc.oid = k.conrelid
          JOIN pg_catalog.pg_namespace kn ON kn.oid = kc.relnamespace
        WHERE k.contype IN ('c', 'f', 'n') AND coalesce(to_jsonb(k) ->> 'conenforced', 'true') = 'true'
          AND (k.conrelid = c.oid OR (k.conrelid IN {BELOW} AND k.coninhcount = 0 AND k.conparentid = 0))
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint whole WHERE whole.oid = k.conparentid AND whole.conrelid = k.conrelid)
          AND (NOT k.convalidated OR k.contype = 'f' OR (k.contype = 'c' AND {_CHANGEABLE}))
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger off WHERE off.tgconstraint = k.oid AND off.tgrelid = k.conrelid
            AND off.tgenabled = 'D')"""
_TWINS = """(SELECT coalesce(json_agg(json_build_object('schema', wn.nspname, 'table', wc.relname, 'validated', w.convalidated,
            'comment', pg_catalog.obj_description(w.oid, 'pg_constraint')) ORDER BY w.oid), '[]')
          FROM pg_catalog.pg_partition_tree(k.conrelid) below JOIN pg_catalog.pg_constraint w ON w.conrelid = below.relid
          JOIN pg_catalog.pg_class wc ON wc.oid = w.conrelid JOIN pg_catalog.pg_namespace wn ON wn.oid = wc.relnamespace
          WHERE below.level > 0 AND w.conname = k.conname AND w.contype = k.contype
            AND (w.convalidated <> k.convalidated OR pg_catalog.obj_description(w.oid, 'pg_constraint') IS NOT NULL))"""
_MAY_DROP = """(pg_has_role(kc.relowner, 'USAGE') AND NOT EXISTS (
            SELECT FROM pg_catalog.pg_partition_tree(k.conrelid) below JOIN pg_catalog.pg_class bc ON bc.oid = below.relid
            WHERE NOT pg_has_role(bc.relowner, 'USAGE'))
          AND (k.contype <> 'f' OR has_table_privilege(k.confrelid, 'REFERENCES')))"""
# the types that columns are made of, however deep
_MADE_OF = """made_of(oid, number) AS (
          SELECT a.atttypid, a.attnum FROM pg_catalog.pg_attribute a
          WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
          UNION
          SELECT inner_type.oid, made_of.number FROM made_of JOIN pg_catalog.pg_type t ON t.oid = made_of.oid, LATERAL (
            SELECT t.typbasetype AS oid WHERE t.typtype = 'd'
            UNION ALL SELECT t.typelem WHERE t.typelem <> 0 AND t.typlen = -1 AND t.typcategory = 'A'
            UNION ALL SELECT ra.atttypid FROM pg_catalog.pg_attribute ra
              WHERE t.typtype = 'c' AND ra.attrelid = t.typrelid AND ra.attnum > 0 AND NOT ra.attisdropped) AS inner_type)"""
_NAMES = "(SELECT a.attname FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum = m.number)"
_OF_DOMAINS = f"""
          SELECT json_build_object('kind', 'd', 'schema', tn.nspname, 'table', t.typname, 'name', k.conname,
            'definition', pg_get_constraintdef(k.oid), 'validated', k.convalidated, 'inherited', false,
            'owner', pg_get_userbyid(t.typowner), 'owned', pg_has_role(t.typowner, 'USAGE'),
            'comment', pg_catalog.obj_description(k.oid, 'pg_constraint'),
            'columns', ARRAY(SELECT {_NAMES} FROM made_of m WHERE m.oid = t.oid ORDER BY m.number))
          FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_type t ON t.oid = k.contypid
          JOIN pg_catalog.pg_namespace tn ON tn.oid = t.typnamespace
          WHERE k.contype = 'c' AND t.oid IN (SELECT m.oid FROM made_of m) AND (NOT k.convalidated OR {_CHANGEABLE})"""
# they name what may be gone or have a namesake by now, or cannot be read at all
_OF_TYPES = f"""
          SELECT DISTINCT ON (m.number) json_build_object('kind', 't', 'schema', n.nspname, 'table', c.relname, 'name', {_NAMES},
            'definition', format_type(a.atttypid, a.atttypmod), 'validated', true, 'inherited', false, 'owner', '', 'owned', false,
            'columns', ARRAY[{_NAMES}])
          FROM made_of m JOIN pg_catalog.pg_type t ON t.oid = m.oid
          JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = m.number
          WHERE t.typnamespace = 'pg_catalog'::regnamespace AND (pg_catalog.starts_with(t.typname, 'reg')
            OR t.typname IN ('aclitem', 'pg_node_tree', 'pg_ndistinct', 'pg_dependencies', 'pg_mcv_list', 'pg_ddl_command',
              'pg_brin_bloom_summary', 'pg_brin_minmax_multi_summary'))"""
DEMANDS = f"""(
        WITH RECURSIVE {_MADE_OF} SELECT coalesce(json_agg(found.demand), '[]') FROM (
          SELECT json_build_object('kind', k.contype, 'schema', kn.nspname, 'table', kc.relname, 'name', k.conname,
            'definition', pg_get_constraintdef(k.oid), 'validated', k.convalidated,
            'inherited', k.coninhcount > 0 OR k.conparentid <> 0, 'owner', pg_get_userbyid(kc.relowner), 'owned', {_MAY_DROP},
            'comment', pg_catalog.obj_description(k.oid, 'pg_constraint'), 'references', nullif(k.confrelid, 0)::bigint,
            'deferrable', k.condeferrable, 'referenced', (SELECT pg_catalog.format('%I.%I', fn.nspname, fc.relname) FROM pg_catalog.pg_class fc
              JOIN pg_catalog.pg_namespace fn ON fn.oid = fc.relnamespace WHERE fc.oid = k.confrelid), 'twins', {_TWINS})
          FROM {DEMANDED}
          UNION ALL {_OF_DOMAINS}
          UNION ALL SELECT * FROM ({_OF_TYPES}) AS of_types) AS found(demand))"""
