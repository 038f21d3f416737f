"""What a table computes by functions that look along the search_path comes back: rows are loaded under the role's own."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator

import psycopg
import pytest

from tests.end_to_end.test_restore_shapes import content, make
from tests.support.server import Database

# as people wrap unaccent, which is not IMMUTABLE by itself
FUNCTIONS = """
    CREATE SCHEMA tools;
    CREATE FUNCTION tools.plain(text) RETURNS text LANGUAGE sql IMMUTABLE AS $$SELECT pg_catalog.translate($1, 'äöü', 'aou')$$;
    CREATE FUNCTION tools.norm(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RETURN lower(plain($1)); END$$;
    CREATE FUNCTION tools.folded(text) RETURNS text LANGUAGE sql IMMUTABLE AS $$SELECT lower(plain($1))$$;
    CREATE FUNCTION tools.safe(text) RETURNS text LANGUAGE plpgsql IMMUTABLE SET search_path = tools, pg_temp
      AS $$BEGIN RETURN lower(plain($1)); END$$;
    CREATE FUNCTION tools.atomic(t text) RETURNS text LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT lower(t); END;"""

# indexes are made before the rows: from version 17 on PostgreSQL does not build them over any
TABLES = {
    "a generated column": ("CREATE TABLE t (id int PRIMARY KEY, doc text, n text GENERATED ALWAYS AS (norm(doc)) STORED)", set()),
    "a check": ("CREATE TABLE t (id int PRIMARY KEY, doc text CHECK (norm(doc) <> 'q'), CHECK (folded(doc) <> 'q'))", set()),
    "a domain's check": (
        "CREATE DOMAIN clean AS text CHECK (norm(VALUE) <> 'q'); CREATE TABLE t (id int PRIMARY KEY, doc clean)", set(),
    ),
    "a btree over an expression": (
        "CREATE TABLE t (id int PRIMARY KEY, doc text); CREATE INDEX e ON t (norm(doc)); CREATE UNIQUE INDEX u ON t (folded(doc))",
        set(),
    ),
    "a partial index": (
        "CREATE TABLE t (id int PRIMARY KEY, doc text); CREATE INDEX e ON t (id) WHERE norm(doc) <> 'q'", set(),
    ),
    "gin over an expression": (
        "CREATE TABLE t (id int PRIMARY KEY, doc text); CREATE INDEX e ON t USING gin (to_tsvector('simple', folded(doc)));"
        " COMMENT ON INDEX e IS 'kept'; CREATE INDEX f ON t USING gin (to_tsvector('simple', safe(doc)));"
        " CREATE INDEX g ON t USING gin (to_tsvector('simple', atomic(doc)))",
        {"f", "g"},
    ),
    "an operator": (
        "CREATE FUNCTION alike(text, text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN norm($1) = norm($2); END';"
        " CREATE OPERATOR === (LEFTARG = text, RIGHTARG = text, FUNCTION = alike);"
        " CREATE TABLE t (id int PRIMARY KEY, doc text CHECK (doc OPERATOR(public.===) doc));"
        " CREATE INDEX e ON t USING gin (to_tsvector('simple', doc)) WHERE doc OPERATOR(public.===) doc",
        set(),
    ),
    "an exclusion": (
        "CREATE TABLE t (id int PRIMARY KEY, doc text, EXCLUDE USING btree (norm(doc) WITH =) DEFERRABLE INITIALLY DEFERRED)",
        set(),
    ),
    "a partition key": (
        "CREATE TABLE t (id int, doc text) PARTITION BY LIST (norm(doc)); CREATE TABLE t1 PARTITION OF t FOR VALUES IN ('aerger 1');"
        " CREATE TABLE t2 PARTITION OF t DEFAULT; CREATE INDEX e ON t2 USING gin (to_tsvector('simple', norm(doc)))",
        set(),
    ),
    "a default of a column that came later": (
        "CREATE TABLE t (id int PRIMARY KEY, doc text)", set(),
    ),
    "a trigger, which keeps still": (
        "CREATE TABLE t (id int PRIMARY KEY, doc text, seen text);"
        " CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.seen := norm(NEW.doc) || now(); RETURN NEW; END';"
        " CREATE TRIGGER see BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION see()",
        set(),
    ),
    "a row-level policy": (
        "CREATE TABLE t (id int PRIMARY KEY, doc text); CREATE POLICY p ON t USING (norm(doc) <> 'q');"
        " ALTER TABLE t ENABLE ROW LEVEL SECURITY",
        set(),
    ),
}  # fmt: skip
ROWS = "INSERT INTO t (id, doc) SELECT n, 'Ärger ' || n FROM generate_series(1, 40) n"


@pytest.fixture
def with_tools(database: Database) -> Iterator[Database]:
    """Functions in a schema that is found along the database's search_path."""
    database.execute(f"ALTER DATABASE {database.name} SET search_path = public, tools")
    database.execute(FUNCTIONS)
    return database  # type: ignore[return-value]


def definitions(database: Database, schema: str = "public") -> object:
    """Constraints and indexes of a schema, as PostgreSQL says them, without the schema's name."""
    query = """
        SELECT conname, replace(pg_get_constraintdef(oid), %(s)s || '.', ''), convalidated FROM pg_constraint
        WHERE connamespace = %(s)s::regnamespace AND contype <> 'n'
        UNION ALL SELECT c.relname, replace(pg_get_indexdef(c.oid), %(s)s || '.', '') || coalesce(obj_description(c.oid), ''), indisvalid
        FROM pg_index JOIN pg_class c ON c.oid = indexrelid WHERE c.relnamespace = %(s)s::regnamespace ORDER BY 1, 2"""
    return database.fetch(query, {"s": schema})


def without_inlined(database: Database, script: str) -> str:
    """From version 17 on PostgreSQL refuses an index over a function in SQL that needs a path, even over no rows."""
    return (
        script
        if database.server.major < 17
        else re.sub(r"CREATE ([^;]*)INDEX ([^;]*)folded\(", r"CREATE \1INDEX \2norm(", script)
    )


@pytest.mark.parametrize("name", TABLES)
def test_rows_come_back(with_tools, tmp_path, name):
    script, rebuilt = TABLES[name]
    script = without_inlined(with_tools, script)
    space = make(tmp_path, with_tools, f"{script}; {ROWS}", "t")
    rows, defined = content(with_tools, "t"), definitions(with_tools)
    doctor = space.run("doctor")
    assert doctor.code == 0, doctor.stdout
    assert space.run("truncate").code == 0
    assert with_tools.count("t") == 0
    done = space.run("restore", "latest", "--json")
    assert done.code == 0, done.stderr
    assert set(done.json["indexes_rebuilt"]) == rebuilt
    assert (content(with_tools, "t"), definitions(with_tools)) == (rows, defined)
    assert with_tools.value("SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal AND tgenabled <> 'O'") == 0


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_made_anew(with_tools, tmp_path, name):
    script, rebuilt = TABLES[name]
    script = without_inlined(with_tools, script)
    space = make(tmp_path, with_tools, f"{script}; {ROWS}", "t")
    if "trigger" in name:
        with_tools.execute("ALTER TABLE t DISABLE TRIGGER see")
    rows, defined = content(with_tools, "t"), definitions(with_tools)
    assert space.run("backup").code == 0
    elsewhere = space.run("restore", "latest", "--into-schema", "other", "--create", "--json")
    assert elsewhere.code == 0, elsewhere.stderr
    assert content(with_tools, "other.t") == rows
    with_tools.execute("DROP TABLE t")
    done = space.run("restore", "latest", "--create", "--json")
    assert done.code == 0, done.stderr
    assert (content(with_tools, "t"), definitions(with_tools)) == (rows, defined)
    assert set(done.json["indexes_rebuilt"]) >= rebuilt


@pytest.mark.parametrize("mode", ["replace", "append", "skip-existing"])
def test_every_mode(with_tools, tmp_path, mode):
    script = """CREATE TABLE t (id int PRIMARY KEY, doc text CHECK (norm(doc) <> 'q'), n text GENERATED ALWAYS AS (norm(doc)) STORED);
        CREATE TABLE kept (id int PRIMARY KEY, doc text, n text GENERATED ALWAYS AS (folded(doc)) STORED);
        CREATE TABLE loose (doc text, n text GENERATED ALWAYS AS (folded(doc)) STORED);
        CREATE INDEX e ON t (norm(doc)); INSERT INTO kept VALUES (1, 'Ä'), (2, 'Ö'); INSERT INTO loose VALUES ('Ä'), ('Ä'), ('Ö');"""
    space = make(tmp_path, with_tools, script + ROWS, "t", "kept", "loose")
    space.save(vector_tables={"truncate_tables": ["t"]})
    rows = content(with_tools, "t", "kept", "loose")
    assert space.run("backup").code == 0
    if mode == "append":
        with_tools.execute("TRUNCATE t; DELETE FROM kept WHERE id = 1; DELETE FROM loose WHERE ctid = '(0,1)'")
    else:
        with_tools.execute(
            "DELETE FROM t WHERE id < 9; DELETE FROM kept WHERE id = 1; DELETE FROM loose WHERE ctid = '(0,1)'"
        )
    done = space.run("restore", "latest", "--mode", mode)
    assert done.code == 0, done.stderr
    assert content(with_tools, "t", "kept", "loose") == rows


def test_collections_have_such_columns_too(filled, tmp_path):
    from tests.support.workspace import Workspace

    filled.execute(f"ALTER DATABASE {filled.name} SET search_path = public, tools")
    filled.execute(FUNCTIONS)
    filled.execute(
        "ALTER TABLE langchain_pg_embedding ADD n text GENERATED ALWAYS AS (norm(document)) STORED;"
        " ALTER TABLE langchain_pg_collection ADD n text GENERATED ALWAYS AS (folded(name)) STORED"
    )
    space = Workspace(tmp_path, filled)
    name = filled.value("SELECT name FROM langchain_pg_collection LIMIT 1")
    rows = content(filled, "langchain_pg_embedding", "langchain_pg_collection")
    assert space.run("truncate", "--collection", name).code == 0
    filled.execute("UPDATE langchain_pg_collection SET cmetadata = '{\"other\": 1}'")
    done = space.run("restore", "latest", "--mode", "replace")
    assert done.code == 0, done.stderr
    assert content(filled, "langchain_pg_embedding", "langchain_pg_collection") == rows


def test_an_index_that_follows_the_path_is_told_of(with_tools, tmp_path):
    space = make(
        tmp_path, with_tools, f"{without_inlined(with_tools, TABLES['gin over an expression'][0])}; {ROWS}", "t"
    )
    assert space.run("truncate").code == 0
    done = space.run("restore", "latest", "--json")
    told = " ".join(done.json["warnings"])
    assert "e of t" in told
    assert "search_path" in told


def test_another_path_is_told_and_never_used(with_tools, tmp_path):
    """Neither does the manifest's path bring rows back, nor does it do harm."""
    space = make(tmp_path, with_tools, f"{TABLES['a generated column'][0]}; {ROWS}", "t")
    rows = content(with_tools, "t")
    done = space.run("truncate", "--json")
    manifest = json.loads((space.backups / f"vector_backup_{done.json['backup_id']}.json").read_text())
    assert manifest["search_path"] == "public, tools"
    with_tools.execute(f"ALTER DATABASE {with_tools.name} SET search_path = public")
    done = space.run("restore", "latest", "--json")
    assert done.code == 8
    assert "function plain(text) does not exist" in done.stderr
    assert "'public, tools'" in " ".join(done.json["warnings"])
    with_tools.execute(f"ALTER DATABASE {with_tools.name} SET search_path = tools, public")
    done = space.run("restore", "latest", "--json")
    assert done.code == 0
    assert "'tools, public'" in " ".join(done.json["warnings"])
    with_tools.execute(f"ALTER DATABASE {with_tools.name} SET search_path = public, tools")
    assert content(with_tools, "t") == rows


def test_a_key_is_compared_by_its_own_operator(database, tmp_path):
    """As citext's is: 'A' and 'a' are one key, although the = of the type below holds them to be two."""
    script = """
        CREATE SCHEMA types; CREATE DOMAIN types.name AS text;
        CREATE FUNCTION types.eq(text, text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT pg_catalog.lower($1) OPERATOR(pg_catalog.=) pg_catalog.lower($2)';
        CREATE FUNCTION types.lt(text, text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT pg_catalog.lower($1) OPERATOR(pg_catalog.<) pg_catalog.lower($2)';
        CREATE FUNCTION types.le(text, text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT pg_catalog.lower($1) OPERATOR(pg_catalog.<=) pg_catalog.lower($2)';
        CREATE FUNCTION types.gt(text, text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT pg_catalog.lower($1) OPERATOR(pg_catalog.>) pg_catalog.lower($2)';
        CREATE FUNCTION types.ge(text, text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT pg_catalog.lower($1) OPERATOR(pg_catalog.>=) pg_catalog.lower($2)';
        CREATE FUNCTION types.cmp(text, text) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT pg_catalog.bttextcmp(pg_catalog.lower($1), pg_catalog.lower($2))';
        CREATE OPERATOR types.= (LEFTARG = text, RIGHTARG = text, FUNCTION = types.eq);
        CREATE OPERATOR types.< (LEFTARG = text, RIGHTARG = text, FUNCTION = types.lt);
        CREATE OPERATOR types.<= (LEFTARG = text, RIGHTARG = text, FUNCTION = types.le);
        CREATE OPERATOR types.> (LEFTARG = text, RIGHTARG = text, FUNCTION = types.gt);
        CREATE OPERATOR types.>= (LEFTARG = text, RIGHTARG = text, FUNCTION = types.ge);
        CREATE OPERATOR CLASS types.folded FOR TYPE text USING btree AS OPERATOR 1 types.<, OPERATOR 2 types.<=, OPERATOR 3 types.=,
          OPERATOR 4 types.>=, OPERATOR 5 types.>, FUNCTION 1 types.cmp(text, text);
        CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE kept (id text NOT NULL, doc text);
        CREATE UNIQUE INDEX kept_key ON kept (id types.folded); INSERT INTO kept VALUES ('a', 'x');
        """
    space = make(tmp_path, database, script, "t", "kept")
    space.save(vector_tables={"truncate_tables": ["t"]})
    with contextlib.suppress(psycopg.Error):  # a primary key over an operator class of one's own can only be made so
        database.execute("ALTER TABLE kept ADD PRIMARY KEY USING INDEX kept_key")
    if not database.value("SELECT count(*) FROM pg_constraint WHERE contype = 'p' AND conrelid = 'kept'::regclass"):
        database.execute(
            "UPDATE pg_opclass SET opcdefault = false WHERE opcname = 'text_ops' AND opcmethod = 403;"
            " UPDATE pg_opclass SET opcdefault = true WHERE opcname = 'folded'; ALTER TABLE kept ADD PRIMARY KEY (id);"
            " UPDATE pg_opclass SET opcdefault = false WHERE opcname = 'folded';"
            " UPDATE pg_opclass SET opcdefault = true WHERE opcname = 'text_ops' AND opcmethod = 403"
        )
    assert space.run("backup").code == 0
    database.execute("UPDATE kept SET id = 'A'")
    done = space.run("restore", "latest")
    assert done.code == 4, done.stderr  # the same key and another content, not a key that is missing
    assert "another content" in done.stderr
    assert space.run("restore", "latest", "--mode", "skip-existing").code == 0
    assert database.fetch("SELECT id::text, doc FROM kept") == [("A", "x")]
