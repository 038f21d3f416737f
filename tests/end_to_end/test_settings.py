"""Whatever a role, a database or a server has set, what is backed up is what is there, and comes back as it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

import pytest

from tests.end_to_end.test_own_path import definitions
from tests.end_to_end.test_restore_shapes import make
from tests.support.server import Database
from tests.support.workspace import Workspace

SCRIPT = r"""
    SET standard_conforming_strings = on;
    CREATE TABLE "T able" (id int PRIMARY KEY, a text DEFAULT 'a\b' CHECK (a ~ '^\d*|.*$'), b bytea, m money, l text[], f float8,
      g real, i interval, ts timestamptz, tz time with time zone, d date DEFAULT '2024-02-01', r regclass, j jsonb, k tstzrange,
      n text GENERATED ALWAYS AS (a || '\d') STORED, v vector(2));
    CREATE INDEX "i x" ON "T able" (a) WHERE a ~ '\d+\\';
    CREATE POLICY p ON "T able" USING (a ~ '^\d+$' OR true);
    INSERT INTO "T able" (id, a, b, m, l, f, g, i, ts, tz, d, r, j, k, v) VALUES
      (1, '7\7', '\x00ff5c27', '-1234.56', ARRAY['NULL', NULL, 'null', 'a\"b'], 0.1::float8 / 3, 1e-40, '-1 mon 5 days -02:03:04.5',
       '2024-07-08 09:10:11.123456+05', '09:10:11+05', '2024-12-11', '"T able"', '{"a": "\\d"}', '[2024-01-01 00:00+00,)', '[0.1,1e-30]'),
      (2, '', '', '0.01', '{}', 'NaN', 'Infinity', '1 year -1 day', 'infinity', '00:00:00-12', '-infinity', 'pg_class', 'null', 'empty', NULL),
      (3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)"""

ADVERSE = (
    "standard_conforming_strings = off", "backslash_quote = off", "escape_string_warning = on", "quote_all_identifiers = on",
    "transform_null_equals = on", "array_nulls = off", "bytea_output = 'escape'", "lc_numeric = 'C.UTF-8'", "xmlbinary = 'hex'",
    "xmloption = 'document'", "DateStyle = 'SQL, DMY'", "IntervalStyle = 'sql_standard'", "TimeZone = 'Asia/Kathmandu'",
    "extra_float_digits = -5", "row_security = on", "synchronize_seqscans = on", "gin_fuzzy_search_limit = 1", "exit_on_error = on",
    "default_transaction_read_only = on", "default_transaction_isolation = 'serializable'", "default_transaction_deferrable = on",
    "session_replication_role = 'replica'", "zero_damaged_pages = on", "ignore_checksum_failure = on", "synchronous_commit = off",
    "client_min_messages = 'error'", "check_function_bodies = on", "statement_timeout = '2min'", "lock_timeout = '1ms'",
    "idle_in_transaction_session_timeout = '2s'", "enable_seqscan = off", "search_path = 'nowhere'",
)  # fmt: skip


@pytest.fixture(params=["role", "database"])
def adverse(request: pytest.FixtureRequest, database: Database) -> Iterator[Database]:
    """Everything set as it should not be, once what is to be saved is there."""
    database.execute(SCRIPT)
    whose = "ROLE postgres IN DATABASE" if request.param == "role" else "DATABASE"
    for setting in ADVERSE:
        adverse_execute(database, f"ALTER {whose} {database.name} SET {setting}")
    yield database
    if request.param == "role":
        adverse_execute(database, f"ALTER ROLE postgres IN DATABASE {database.name} RESET ALL")


def rows(database: Database) -> list[list[str]]:
    """As the server itself sends them, whatever is set."""
    with database.connect(options="-c bytea_output=hex -c DateStyle=ISO -c IntervalStyle=postgres -c TimeZone=UTC"
                          " -c quote_all_identifiers=off -c search_path=public -c extra_float_digits=3") as connection:  # fmt: skip
        return [sorted(row[0] for row in connection.execute('SELECT t::text FROM public."T able" t').fetchall())]


def recorded(space: Workspace, backup_id: str) -> object:
    """What the manifest says the table is, but for what grows and shrinks."""
    manifest = json.loads((space.backups / f"vector_backup_{backup_id}.json").read_text())
    table = manifest["tables"]['public."T able"']["table"]
    return {name: table[name] for name in ("columns", "constraints", "indexes", "protection", "types")}


@pytest.mark.parametrize("format", ["csv", "binary", "pg_dump"])
def test_the_same_whatever_is_set(adverse, tmp_path, format):
    """Files and definitions byte for byte as without any of it; rows come back, also into a new table; and it is proven."""
    space = make(tmp_path, adverse, "SET default_transaction_read_only = off", 'public."T able"')
    space.save(backup={"format": format})
    if format == "binary":
        adverse_execute(adverse, 'ALTER TABLE public."T able" DROP r')
    before = rows(adverse)
    hostile = space.run("backup", "--json")
    assert hostile.code == 0, hostile.stderr
    proof = space.run("verify", "latest", "--restore", "--on", adverse.socket_dsn)
    assert proof.code == 0, proof.stderr
    assert space.run("truncate").code == 0
    done = space.run("restore", "latest")
    assert done.code == 0, done.stderr
    assert rows(adverse) == before
    adverse_execute(adverse, 'DROP TABLE public."T able"')
    done = space.run("restore", "latest", "--create")
    assert done.code == 0, done.stderr
    assert rows(adverse) == before
    again = space.run("backup", "--json")
    for whose in (f"ROLE postgres IN DATABASE {adverse.name}", f"DATABASE {adverse.name}"):
        adverse_execute(adverse, f"ALTER {whose} RESET ALL")
    plain = space.run("backup", "--json")
    assert recorded(space, hostile.json["backup_id"]) == recorded(space, plain.json["backup_id"])
    if format != "pg_dump":  # which holds times and versions
        files = [
            space.backups / name
            for run in (again, plain)
            for name in run.json["tables_backed_up"]['public."T able"']["backup_files"]
        ]
        assert len({hashlib.sha256(path.read_bytes()).digest() for path in files}) == 1


def adverse_execute(database: Database, statement: str) -> None:
    """Something that the settings stand in the way of."""
    with database.connect(
        options="-c default_transaction_read_only=off -c standard_conforming_strings=on"
    ) as connection:
        connection.execute(statement)


@pytest.mark.parametrize(
    "setting", ["zero_damaged_pages = on", "ignore_checksum_failure = on", "session_replication_role = replica"]
)
def test_what_loses_rows_and_cannot_be_set_otherwise_refuses(filled, tmp_path, setting):
    role, name = f"plain_{filled.name}", setting.split(" = ")[0]
    filled.execute(
        f"CREATE ROLE {role} LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}; ALTER ROLE {role} SET {setting}"
    )
    try:
        space = Workspace(tmp_path, filled)
        space.save(connection=filled.server.connection(filled.name, role))
        done = space.run("truncate")
        assert done.code == 4, done.stderr
        assert name in done.stderr
        assert "ALTER ROLE" in done.stderr
        assert filled.count("langchain_pg_embedding") == 62
        filled.execute(f"ALTER ROLE {role} RESET {name}")
        assert space.run("truncate").code == 0
    finally:
        filled.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_an_older_backups_money_is_read_as_it_was_written(database18, tmp_path):
    """Nothing had pinned lc_monetary then: its files are read under the role's own, as they were written."""
    from vecbak.postgres.settings import as_recorded, pinned_settings

    pinned = pinned_settings(180000)
    assert "lc_monetary" not in as_recorded(pinned, {"TimeZone": "UTC"})
    assert as_recorded(pinned, pinned) == pinned


def test_definitions_are_what_they_were(adverse, tmp_path):
    space = make(tmp_path, adverse, "SET default_transaction_read_only = off", 'public."T able"')
    said = definitions(adverse)
    policy = adverse.fetch("SELECT pg_get_expr(polqual, polrelid) FROM pg_policy")
    assert space.run("backup").code == 0
    adverse_execute(adverse, 'DROP TABLE public."T able"')
    assert space.run("restore", "latest", "--create").code == 0
    assert definitions(adverse) == said
    assert adverse.fetch("SELECT pg_get_expr(polqual, polrelid) FROM pg_policy") == policy
