"""A schema full of what could be called instead of PostgreSQL's own: functions, aggregates, operators, types and views.

Whatever is called writes `TRACE` into the server's log, which no ROLLBACK takes back, and fails.
"""

from __future__ import annotations

from tests.support.server import Database

TRACE = "vecbak was captured by"

SETUP = rf"""
SET search_path = pg_catalog;
SET check_function_bodies = off;
CREATE SCHEMA evil;
GRANT ALL ON SCHEMA evil TO PUBLIC;
CREATE FUNCTION evil.trapped() RETURNS boolean LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION '{TRACE} a type or view'; END$$;

CREATE PROCEDURE evil.try(statement text) LANGUAGE plpgsql AS $$
BEGIN EXECUTE statement; EXCEPTION WHEN OTHERS THEN NULL; END$$;

CREATE FUNCTION evil.make(name text, arguments text, result text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  CALL evil.try(format('CREATE FUNCTION evil.%I(%s) RETURNS %s LANGUAGE plpgsql AS %L', name, arguments, result,
    format('BEGIN RAISE EXCEPTION %L; END', '{TRACE} ' || replace(name, '%', '%%') || '(' || arguments || ')')));
END$$;

-- functions of the same name and arguments; what takes "any" takes anyelement here
DO $$ DECLARE p record; BEGIN
  FOR p IN
    SELECT proname, prokind, pronargs, format_type(prorettype, NULL) AS result, proretset, coalesce((
      SELECT string_agg(CASE WHEN a.type = provariadic AND a.n = pronargs THEN 'VARIADIC ' ELSE '' END ||
        CASE WHEN a.type IN ('"any"'::regtype) THEN CASE WHEN a.n = pronargs AND provariadic <> 0 THEN 'anyarray' ELSE 'anyelement' END
          ELSE format_type(a.type, NULL) END, ', ' ORDER BY a.n)
      FROM unnest(proargtypes) WITH ORDINALITY a(type, n)), '') AS arguments
    FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind IN ('f', 'w')
  LOOP
    PERFORM evil.make(p.proname, p.arguments, CASE WHEN p.proretset THEN 'SETOF ' ELSE '' END || p.result);
  END LOOP;
END$$;

-- the kind of CVE-2018-1058: better matches than what is variadic or polymorphic
DO $$ DECLARE name text; n int; BEGIN
  FOREACH name IN ARRAY ARRAY['json_build_object', 'json_build_array', 'concat', 'concat_ws', 'format', 'coalesce', 'greatest', 'least']
  LOOP
    PERFORM evil.make(name, 'VARIADIC anyarray', 'json'), evil.make(name, 'VARIADIC text[]', 'json'),
      evil.make(name, 'text, bigint, text, boolean', 'json');
    FOR n IN 1..20 LOOP
      PERFORM evil.make(name, concat_ws(', ', VARIADIC array_fill('text, anycompatible'::text, ARRAY[n])), 'json'),
        evil.make(name, concat_ws(', ', VARIADIC array_fill('text'::text, ARRAY[n])), 'json'),
        evil.make(name, concat_ws(', ', VARIADIC array_fill('oid'::text, ARRAY[n])), 'json');
    END LOOP;
  END LOOP;
END$$;

-- aggregates
SELECT evil.make('step', 'bigint', 'bigint'), evil.make('step', 'bigint, anyelement', 'bigint'),
  evil.make('step', 'bigint, anyelement, anycompatible', 'bigint');
DO $$ DECLARE p record; BEGIN
  FOR p IN
    SELECT proname, CASE WHEN pronargs = 0 THEN '*' ELSE replace(pg_get_function_identity_arguments(oid), '"any"', 'anyelement') END
      AS arguments FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind = 'a'
  LOOP
    CALL evil.try(format('CREATE AGGREGATE evil.%I(%s) (SFUNC = evil.step, STYPE = bigint, INITCOND = 0)', p.proname, p.arguments));
  END LOOP;
END$$;

-- operators, and for every name one that takes anything
DO $$ DECLARE o record; BEGIN
  FOR o IN
    SELECT oid::text AS id, oprname AS name, nullif(oprleft, 0)::regtype::text AS l, oprright::regtype::text AS r,
      oprresult::regtype::text AS result FROM pg_operator WHERE oprnamespace = 'pg_catalog'::regnamespace
    UNION ALL SELECT DISTINCT 'any' || md5(oprname), oprname, 'anyelement', 'anyelement', 'boolean' FROM pg_operator
      WHERE oprnamespace = 'pg_catalog'::regnamespace
    UNION ALL SELECT DISTINCT 'some' || md5(oprname), oprname, 'anycompatible', 'anycompatible', 'boolean' FROM pg_operator
      WHERE oprnamespace = 'pg_catalog'::regnamespace
  LOOP
    PERFORM evil.make('operator_' || o.id, concat_ws(', ', o.l, o.r), o.result);
    CALL evil.try(format('CREATE OPERATOR evil.%s (%s RIGHTARG = %s, FUNCTION = evil.%I)', o.name,
      'LEFTARG = ' || o.l || ',', o.r, 'operator_' || o.id));
  END LOOP;
END$$;

-- types whose every value is refused, and views that cannot be read
DO $$ DECLARE t record; BEGIN
  FOR t IN SELECT typname, oid::regtype::text AS type FROM pg_type
    WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype = 'b' AND typname NOT LIKE '\_%'
  LOOP
    CALL evil.try(format('CREATE DOMAIN evil.%I AS %s CHECK (evil.trapped())', t.typname, t.type));
  END LOOP;
  FOR t IN SELECT relname FROM pg_class WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind IN ('r', 'v')
  LOOP
    CALL evil.try(format('CREATE VIEW evil.%I AS SELECT * FROM pg_catalog.%I WHERE evil.trapped()', t.relname, t.relname));
  END LOOP;
END$$;
"""


def fill(database: Database) -> None:
    """Make the schema `evil`."""
    database.execute(SETUP)


def traces(database: Database, since: int) -> str:
    """What the server's log says of captures, from a place in it on."""
    log = log_of(database)[since:]
    return "\n".join(line for line in log.splitlines() if TRACE in line)


def log_of(database: Database) -> str:
    """The server's log."""
    folder = getattr(database.server, "folder")  # noqa: B009 - a server on this machine
    return str((folder / "log").read_text(errors="replace"))
