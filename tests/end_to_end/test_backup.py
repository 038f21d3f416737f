"""`vecbak backup`: the files are the tables, and say so truly."""

from __future__ import annotations

import hashlib
import json
import re
import stat
import subprocess
from urllib.parse import unquote

from tests.support import langchain
from tests.support.places import server, server18  # noqa: F401 - fixtures
from tests.support.server import bin_folder
from tests.support.workspace import Workspace

EMBEDDING = "langchain_pg_embedding"
COLLECTION = "langchain_pg_collection"


def test_files_manifest_and_result_agree(filled, tmp_path):
    space = Workspace(tmp_path, filled)
    done = space.run("backup", "--json", "--task-id", "first")
    assert done.code == 0, done.stderr
    result = done.json
    backup_id = result["backup_id"]
    assert re.fullmatch(r"\d{8}_\d{6}", backup_id)
    assert space.files() == sorted(
        [
            f"{COLLECTION}_{backup_id}.csv",
            f"{EMBEDDING}_{backup_id}.csv",
            f"vector_backup_{backup_id}.json",
            f"vector_schema_{backup_id}.sql",
            "vector_backup_log.txt",
        ]
    )
    assert result["backup_performed"] is True
    assert result["truncate_performed"] is False
    assert result["task_id"] == "first"
    assert result["database"] == filled.name
    assert result["errors"] == []
    assert result["truncate_results"] == {}
    table = result["tables_backed_up"][EMBEDDING]
    path = space.backups / table["backup_file"]
    assert table == {
        "success": True,
        "row_count": 62,
        "file_size": table["file_size"],
        "size_bytes": path.stat().st_size,
        "backup_file": f"{EMBEDDING}_{backup_id}.csv",
        "backup_files": [f"{EMBEDDING}_{backup_id}.csv"],
        "duration": table["duration"],
    }
    manifest = json.loads((space.backups / f"vector_backup_{backup_id}.json").read_text())
    for entry in manifest["tables"].values():
        for file in entry["files"]:
            by_sha256sum = subprocess.run(
                ["sha256sum", space.backups / file["name"]], capture_output=True, text=True, check=True
            ).stdout.split()[0]
            assert file["sha256"] == by_sha256sum
            assert file["size_bytes"] == (space.backups / file["name"]).stat().st_size
    assert manifest["tables"][EMBEDDING]["rows"] == 62
    assert manifest["tables"][COLLECTION]["rows"] == 1


def test_csv_loaded_by_bare_psql_gives_identical_rows(filled, tmp_path):
    space = Workspace(tmp_path, filled)
    assert space.run("backup").code == 0
    source = filled.server
    before = filled.fetch(f"SELECT t::text FROM {EMBEDDING} t ORDER BY id")
    with source.new_database() as other:
        schema = next(space.backups.glob("vector_schema_*.sql"))
        psql = [bin_folder(18) / "psql", "-X", "-v", "ON_ERROR_STOP=1", "-d", other.socket_dsn]
        subprocess.run([*psql, "-q", "-f", schema], check=True, capture_output=True)
        for table in (COLLECTION, EMBEDDING):
            path = next(space.backups.glob(f"{table}_*.csv"))
            columns = path.read_text().splitlines()[0]
            command = f"\\copy {table} ({columns}) from '{path}' with (format csv, header true)"
            subprocess.run([*psql, "-c", command], check=True, capture_output=True)
        assert other.fetch(f"SELECT t::text FROM {EMBEDDING} t ORDER BY id") == before
        assert other.count(COLLECTION) == 1


def test_log_has_the_promised_form_and_true_figures(filled18, tmp_path):
    space = Workspace(tmp_path, filled18)
    result = space.run("backup", "--json", "--task-id", "nightly_7").json
    tables = result["tables_backed_up"]
    expected = f"""=== Vector Table Backup Log ===
Backup Time: TIME
Task ID: nightly_7
Database: {filled18.name}
Duration: SECONDSs

Tables Backup Status:
✓ {COLLECTION}: 1 rows -> {tables[COLLECTION]["backup_file"]} ({tables[COLLECTION]["file_size"]})
✓ {EMBEDDING}: 62 rows -> {tables[EMBEDDING]["backup_file"]} ({tables[EMBEDDING]["file_size"]})

Truncate Status:
- Not performed

"""
    text = (space.backups / "vector_backup_log.txt").read_text()
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "TIME", text)
    assert re.sub(r"\d+\.\d\ds", "SECONDSs", text) == expected


def test_files_are_private_whatever_the_umask(filled18, tmp_path):
    space = Workspace(tmp_path, filled18)
    command = f"umask 000; exec {subprocess.list2cmdline([str(__import__('tests.support.command', fromlist=['VECBAK']).VECBAK)])} backup --output-dir deep/down/out"
    subprocess.run(["sh", "-c", command], cwd=space.folder, check=True, capture_output=True)
    for path in (tmp_path / "deep").rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


def test_two_runs_in_one_second_make_two_backups(filled18, tmp_path):
    space = Workspace(tmp_path, filled18)
    space.save(backup={"timestamp_format": "%Y%m%d_%H%M%S"})
    ids = {space.run("backup", "--json").json["backup_id"] for _ in range(3)}
    assert len(ids) == 3


def test_a_backup_alone_blocks_no_writer(filled18, tmp_path):
    """An uncommitted INSERT and an open reader are in nobody's way, and what is not committed is not in the backup."""
    space = Workspace(tmp_path, filled18)
    with filled18.connect(autocommit=False) as writer:
        writer.execute(f"INSERT INTO {EMBEDDING} (id, document) VALUES ('open', 'not committed')")
        result = space.run("backup", "--json")
        assert result.code == 0, result.stderr
        assert result.json["tables_backed_up"][EMBEDDING]["row_count"] == 62
        writer.rollback()


def test_an_empty_table_is_backed_up(database18, tmp_path):
    langchain.fill(database18, 0)
    space = Workspace(tmp_path, database18)
    result = space.run("truncate", "--json")
    assert result.code == 0, result.stderr
    assert result.json["truncate_results"][EMBEDDING]["rows_before"] == 0


def test_generated_and_identity_columns_and_odd_names(database18, tmp_path):
    database18.execute("""
        CREATE SCHEMA "My Schema";
        CREATE TABLE "My Schema"."Odd ""table"", (1): $x 'y' %20 é" (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            "select" text, "a,b(c)" vector(3), doubled int GENERATED ALWAYS AS (length("select") * 2) STORED, gone int);
        ALTER TABLE "My Schema"."Odd ""table"", (1): $x 'y' %20 é" DROP COLUMN gone;
        INSERT INTO "My Schema"."Odd ""table"", (1): $x 'y' %20 é" ("select", "a,b(c)") VALUES ('x', '[1,2,3]'), (NULL, NULL), ('', '[0,0,0]');
    """)
    space = Workspace(tmp_path, database18)
    name = '"My Schema"."Odd ""table"", (1): $x \'y\' %20 é"'
    space.save(vector_tables={"supported_tables": [name], "truncate_tables": [name]})
    result = space.run("truncate", "--json")
    assert result.code == 0, result.stderr
    (file,) = space.files("*.csv")
    assert re.fullmatch(r"[A-Za-z0-9_.%-]+\.csv", file)
    assert unquote(file).startswith(name + "_20"), "in file names a table stands as the config writes it"
    assert list(result.json["tables_backed_up"]) == [name]
    assert (space.backups / file).read_text() == 'id,select,"a,b(c)"\n1,x,"[1,2,3]"\n2,,\n3,"","[0,0,0]"\n'
    assert database18.count(name) == 0


def test_hostile_role_settings_change_nothing_in_the_files(filled18, tmp_path):
    filled18.execute(
        f"ALTER TABLE {EMBEDDING} ADD f float8 DEFAULT 0.1::float8 / 3, ADD t timestamptz DEFAULT '2024-02-03 04:05:06.789+01', ADD i interval DEFAULT '1 day 02:03:04'"
    )
    # enough rows that copying them takes longer than the role's statement_timeout
    filled18.execute(
        f"INSERT INTO {EMBEDDING} (id, embedding) SELECT 'x' || g, array_fill(0.1234567, ARRAY[1024])::vector"
        " FROM generate_series(1, 6000) g"
    )
    space = Workspace(tmp_path, filled18)
    assert space.run("backup").code == 0
    plain = {
        path.name.split("_20")[0]: hashlib.sha256(path.read_bytes()).digest() for path in space.backups.glob("*.csv")
    }
    role = f"hostile_{filled18.name}"
    filled18.execute(f"CREATE ROLE {role} SUPERUSER LOGIN")
    try:
        for setting in (
            "extra_float_digits = 0", "DateStyle = 'SQL, DMY'", "IntervalStyle = 'sql_standard'", "TimeZone = 'Asia/Tokyo'",
            "statement_timeout = '100ms'", "idle_in_transaction_session_timeout = '50ms'", "transaction_timeout = '100ms'",
            "lock_timeout = '1ms'", 'search_path = "$user", pg_catalog, public', "bytea_output = 'escape'",
            "default_transaction_read_only = on", "default_transaction_isolation = 'serializable'", "client_min_messages = 'error'",
        ):  # fmt: skip
            filled18.execute(f"ALTER ROLE {role} SET {setting}")
        from tests.support.command import environment

        space.save(connection=filled18.server.connection(filled18.name, role))
        hostile = environment(
            PGCLIENTENCODING="LATIN1", PGDATESTYLE="German", PGTZ="America/New_York", PG_COLOR="always"
        )
        done = space.run("truncate", "--json", env=hostile)
        assert done.code == 0, done.stderr
        assert done.json["truncate_performed"] is True
        backup_id = done.json["backup_id"]
        found = {
            path.name.split("_20")[0]: hashlib.sha256(path.read_bytes()).digest()
            for path in space.backups.glob(f"*_{backup_id}.csv")
        }
        assert found == plain
    finally:
        filled18.execute(f"DROP ROLE {role}")


def test_list_and_show(filled18, tmp_path):
    space = Workspace(tmp_path, filled18)
    first = space.run("backup", "--json").json["backup_id"]
    second = space.run("truncate", "--json", "--task-id", "wipe").json["backup_id"]
    listed = space.run("list", "--json").json
    assert [item["backup_id"] for item in listed] == [second, first]
    assert listed[0]["truncated"] == [EMBEDDING]
    text = space.run("list").stdout
    assert text.index(second) < text.index(first)
    shown = space.run("show", "latest", "--json").json
    assert shown["backup_id"] == second
    assert shown["task_id"] == "wipe"
    assert f"✓ {EMBEDDING}: TRUNCATED (62 rows removed)" in shown["log"]
    assert "Task ID: wipe" in space.run("show", second).stdout
    by_path = space.run("show", space.backups / f"vector_backup_{first}.json", "--json")
    assert by_path.json["backup_id"] == first
    assert space.run("show", "20010101_000000").code == 2


def test_list_looks_below_the_tasks_directory(filled18, tmp_path):
    from tests.support.command import vecbak

    space = Workspace(tmp_path, filled18)
    assert vecbak("backup", "--task-id", "one", cwd=tmp_path).code == 0
    folder = tmp_path / "data_pipeline" / "training_data"
    assert list(folder.glob("one/vector_bak/vector_backup_*.json"))
    legacy = folder / "old_task" / "vector_bak"
    legacy.mkdir(parents=True)
    for table in ("collection", "embedding"):
        (legacy / f"langchain_pg_{table}_20240102_030405.csv").write_text("a\n1\n")
    listed = vecbak("list", "--json", cwd=tmp_path).json
    assert [item["status"] for item in listed] == ["ok", "no_manifest"]
    assert "20240102_030405" in vecbak("list", cwd=tmp_path).stdout
    assert vecbak("show", "latest", "--json", cwd=tmp_path).json["task_id"] == "one"
    assert space.folder == tmp_path


def test_dry_run_prints_commands_that_work_and_touches_nothing(filled18, tmp_path):
    space = Workspace(tmp_path, filled18)
    done = space.run("truncate", "--dry-run")
    assert done.code == 0, done.stderr
    assert not space.out.exists()
    assert "TRUNCATE TABLE" in done.stdout
    pasted = subprocess.run(["sh", "-e"], input=done.stdout, text=True, capture_output=True, cwd=tmp_path, check=False)
    assert pasted.returncode == 0, pasted.stderr
    assert filled18.count(EMBEDDING) == 62, "pasting a dry run must not lose a row"
    (csv,) = space.backups.glob("langchain_pg_embedding_*.csv.tmp")
    assert csv.stat().st_size > 10_000
    (schema,) = space.backups.glob("vector_schema_*.sql.tmp")
    assert "CREATE TABLE" in schema.read_text()
