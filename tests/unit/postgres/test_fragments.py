"""Pieces of SQL in the positions that they take: what a server deparses fits, and nothing that is more than that."""

from __future__ import annotations

import pytest

from tests.unit.postgres.test_definitions import HOSTILE, WRITTEN_BY_POSTGRESQL
from vecbak.postgres import fragments
from vecbak.postgres.fragments import CONSTRAINTS_BY_KIND, index_of, misfit

POSITIONS = {name: value for name, value in vars(fragments).items() if isinstance(value, fragments.Position)}
POSITIONS |= {f"constraint {kind}": position for kind, position in CONSTRAINTS_BY_KIND.items()}
POSITIONS["index"] = index_of("i", "s", "t")

FITTING = {
    "EXPRESSION": ["1", "((a || ' '::text) || b)", "lower(a)", "(a IS NOT NULL)", "ROW(a, b)", "a[1:2]", "(b).c", "items.*", "now()",
                   "EXTRACT(year FROM a)", "('x'::text COLLATE \"C\")", "XMLELEMENT(NAME x, a)", "JSON_OBJECT('a' : 1)", "GREATEST(a, 1)",
                   "(a OPERATOR(public.<->) '[1,2]'::public.vector)", "CURRENT_USER", "\"substring\"(a, 1, 2)", "ts_rewrite(a, b, c)"],
    "DEFAULT": ["1", "'-1'::integer", "nextval('s.q'::regclass)", "gen_random_uuid()", "('a'::text || 'b'::text)", "(now() AT TIME ZONE 'UTC'::text)",
                "CURRENT_TIMESTAMP", "'{}'::jsonb", "ARRAY[]::integer[]", "true", "NULL::text"],
    "CONDITION": ["true", "(EXISTS ( SELECT 1\n   FROM o\n  WHERE (o.id = t.id)))", "(owner = CURRENT_USER)", "(id IN ( SELECT max(o.id) AS max FROM o))",
                  "( WITH x AS (SELECT 1 AS a) SELECT (count(*) > 1) FROM x, LATERAL f(x.a) g(b))", "pg_has_role(CURRENT_USER, 'x'::name, 'MEMBER'::text)",
                  "(current_setting('app.tenant'::text) = tenant)"],
    "TYPE": ["integer", "character varying(255)", "public.vector(3)", "timestamp(3) with time zone", "numeric(5,-2)", "interval day to second(3)",
             '"my; type"', 'a."b""c"[]', "bit varying(5)", '"char"', "public.geometry(Point,4326)", "double precision"],
    "COLLATION": ['pg_catalog."C"', '"x y"', "public.german"],
    "PARTITION_KEY": ["LIST (kind)", "RANGE (a, lower(b))", 'HASH ("My id" text_ops)', 'RANGE (((a)::date), b COLLATE "C")'],
    "PARTITION_BOUND": ["DEFAULT", "FOR VALUES IN ('a', 'it''s', NULL)", "FOR VALUES FROM (MINVALUE, 1) TO ('2020-01-01', MAXVALUE)",
                        "FOR VALUES WITH (modulus 4, remainder 0)", "FOR VALUES IN (true)", "FOR VALUES FROM ('-1') TO (1)"],
    "SEQUENCE_OPTIONS": ["INCREMENT BY -1 MINVALUE -9223372036854775808 MAXVALUE -1 START WITH -1 CACHE 1 CYCLE", "AS integer INCREMENT BY 1"],
    "constraint p": ["PRIMARY KEY (id)", "PRIMARY KEY (id, r WITHOUT OVERLAPS) INCLUDE (z) WITH (fillfactor='70') DEFERRABLE INITIALLY DEFERRED"],
    "constraint u": ["UNIQUE NULLS NOT DISTINCT (a)", 'UNIQUE ("a b", c)'],
    "constraint f": ["FOREIGN KEY (a) REFERENCES s.t(b) MATCH FULL ON DELETE SET NULL (a) DEFERRABLE NOT VALID",
                     "FOREIGN KEY (id, PERIOD r) REFERENCES s.t(id, PERIOD r)", "FOREIGN KEY (a) REFERENCES t(b) NOT ENFORCED"],
    "constraint c": ["CHECK ((a > 0)) NO INHERIT NOT VALID", "CHECK ((VALUE ~ '^\\d+$'::text))", "CHECK ((a > 0)) NOT ENFORCED"],
    "constraint n": ["NOT NULL id NOT VALID"],
    "constraint x": ["EXCLUDE USING gist (r WITH &&, id WITH =) WHERE ((id > 1))", "EXCLUDE USING btree (lower(a) WITH OPERATOR(pg_catalog.=))"],
    "index": ["CREATE INDEX i ON s.t USING hnsw (v public.vector_l2_ops) WITH (m='8')",
              "CREATE UNIQUE INDEX i ON ONLY s.t USING btree (lower(a) COLLATE \"C\" text_ops DESC NULLS LAST) INCLUDE (b) NULLS NOT DISTINCT WHERE (a > 1)",
              "CREATE INDEX i ON s.t USING gin (to_tsvector('english'::regconfig, a)) WITH (fastupdate='false')",
              "CREATE INDEX i ON s.t USING gist (a gist_trgm_ops (siglen='32'))"],
}  # fmt: skip
UNFIT = {
    "EXPRESSION": ["1)+(2", "1, 2", "1 AS x", "1 FROM x", "(SELECT 1)", "$1", "pg_read_file('x')", "1 UNION SELECT 2", "a := 1", "DEFAULT", "*"],
    "CONDITION": ["1)+(2", "(SELECT 1 INTO x)", "(WITH x AS (DELETE FROM t RETURNING 1) SELECT 1 FROM x)", "(SELECT lo_export(1, 'x'))",
                  "(SELECT 1 INTO x UNION SELECT 2)", "(SELECT * FROM pg_ls_dir('/'))"],
    "DEFAULT": ["1 NOT NULL", "1 COLLATE \"C\"", "1, d int", "1 REFERENCES x", "1 CHECK (true)", "1) WITH (fillfactor = 10"],
    "TYPE": ["int NOT NULL", "SETOF int", "int) , (y", "t.c%TYPE", "int DEFAULT 1", "int, y int", "int COLLATE \"C\"", "vector((SELECT 1))", "vector(f())"],
    "COLLATION": ['"C" DEFAULT 1', '"C" || 1', '"C", 2', '"C" AS x', ""],
    "PARTITION_KEY": ["LIST (a) WITH (x = 1)", "LIST (a) TABLESPACE x", "LIST (a) USING heap", "LIST (pg_sleep(1))", "LIST ((SELECT 1))"],
    "PARTITION_BOUND": ["DEFAULT PARTITION BY LIST (x)", "FOR VALUES IN ('a') WITH (x = 1)", "FOR VALUES IN (pg_read_file('x'))", "DEFAULT USING x"],
    "SEQUENCE_OPTIONS": ["OWNED BY x.y", "SEQUENCE NAME x.y", "RESTART WITH 1", "CYCLE) , d int GENERATED ALWAYS AS IDENTITY (CYCLE", "LOGGED"],
    "constraint p": ["UNIQUE (a)", "PRIMARY KEY USING INDEX i", "PRIMARY KEY (a), DROP COLUMN b", "CHECK (true)"],
    "constraint f": ["CHECK (true)", "FOREIGN KEY (a) REFERENCES b(c), ADD CHECK (true)"],
    "constraint c": ["CHECK (true), ALTER a TYPE text USING pg_read_file('x')", "CHECK (lo_import('x') > 0)", "CHECK ((SELECT true))", "NOT NULL a"],
    "index": ["CREATE INDEX j ON s.t USING btree (a)", "CREATE INDEX i ON s.u USING btree (a)", "CREATE INDEX i ON t USING btree (a)",
              "CREATE INDEX CONCURRENTLY i ON s.t USING btree (a)", "CREATE INDEX IF NOT EXISTS i ON s.t USING btree (a)",
              "CREATE INDEX i ON s.t USING btree (a) TABLESPACE x", "CREATE INDEX i ON s.t USING btree (pg_read_file('x'))", "DROP INDEX i",
              "CREATE INDEX i ON s.t USING btree (a); DROP TABLE x", "CREATE TABLE i AS SELECT 1"],
}  # fmt: skip


def pairs(texts):
    return [(position, text) for position, listed in texts.items() for text in listed]


def test_each_position_has_examples():
    assert set(POSITIONS) == set(FITTING)


@pytest.mark.parametrize(("position", "text"), pairs(FITTING))
def test_what_servers_write_fits(position, text):
    assert misfit(text, POSITIONS[position]) is None


@pytest.mark.parametrize(("position", "text"), pairs(UNFIT))
def test_what_is_more_does_not(position, text):
    assert misfit(text, POSITIONS[position])


@pytest.mark.parametrize("position", POSITIONS.values(), ids=POSITIONS.keys())
@pytest.mark.parametrize("text", HOSTILE)
def test_what_would_end_the_statement_fits_nowhere(position, text):
    assert misfit(text, position)
    assert misfit(f"{position.example} {text}", position)


@pytest.mark.parametrize("text", [item for item in WRITTEN_BY_POSTGRESQL if "(255)" not in item])
def test_expressions(text):
    assert misfit(text, fragments.EXPRESSION) is None
    assert misfit(text, fragments.DEFAULT) is None


@pytest.mark.parametrize("text", [
    "pg_read_file('x')", "pg_catalog.pg_read_file('x')", '"pg_read_file"(\'x\')', "U&\"pg_read_fil\\0065\"('x')", "PG_READ_FILE('x')",
    "upper(query_to_xml('SELECT 1', true, true, '')::text)", "ts_rewrite(a, 'SELECT 1')", "public.dblink_exec('x', 'y')", "cron.schedule('x')",
    "COALESCE(set_config('role', 'x', false), '')", "CASE WHEN true THEN lo_import('x') END", "ARRAY[setval('s', 1)]", "pg_terminate_backend(1)",
    "XMLELEMENT(NAME x, pg_ls_dir('/'))", "a[lo_create(1)]", "JSON_VALUE('{}', '$' PASSING pg_sleep(9) AS x)",
])  # fmt: skip
def test_functions_that_reach_beyond_their_row(text):
    for position in (fragments.EXPRESSION, fragments.DEFAULT, fragments.CONDITION):
        assert "calls" in (misfit(text, position) or "")
