"""Every format and compression: what is on disk, loaded again, is exactly the table."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import threading

import pytest

from tests.support import langchain
from tests.support.command import environment
from tests.support.programs import psql_filter
from tests.support.server import Database, bin_folder
from tests.support.workspace import Workspace

EMBEDDING = "langchain_pg_embedding"
COMPRESSORS = {".zst": ["zstd", "-dc"], ".lz4": ["lz4", "-dc"], ".gz": ["gzip", "-dc"]}
KINDS = [
    (name, compression) for name in ("csv", "binary", "pg_dump") for compression in ("none", "zstd", "lz4", "gzip")
]


def load(database, space, manifest, table=EMBEDDING, *, like=EMBEDDING):
    """Load a backup's files by bare psql and pg_restore, decompressed by the programs themselves."""
    psql = [bin_folder(18) / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", database.socket_dsn]
    entry = manifest["tables"][like]
    columns = ", ".join(f'"{name}"' for name in entry["columns"])
    for file in entry["files"]:
        path = space.backups / file["name"]
        plain = COMPRESSORS.get(path.suffix)
        data = subprocess.run([*plain, path], check=True, capture_output=True).stdout if plain else path.read_bytes()
        if manifest["format"] == "pg_dump":
            restored = subprocess.run(
                [bin_folder(18) / "pg_restore", "-f", "-"], input=data, check=True, capture_output=True
            )
            script = restored.stdout.replace(f"COPY public.{like} ".encode(), f"COPY public.{table} ".encode())
            subprocess.run([*psql, "-f", "-"], input=script, check=True, capture_output=True)
        else:
            options = {"csv": "format csv, header true", "binary": "format binary"}[manifest["format"]]
            command = f"\\copy {table} ({columns}) from pstdin with ({options})"
            subprocess.run([*psql, "-c", command], input=data, check=True, capture_output=True)


def manifest_of(space, backup_id):
    return json.loads((space.backups / f"vector_backup_{backup_id}.json").read_text())


@pytest.mark.parametrize(("name", "compression"), KINDS, ids=["-".join(kind) for kind in KINDS])
def test_every_format_comes_back_identical(filled18, tmp_path, name, compression):
    space = Workspace(tmp_path, filled18)
    space.save(backup={"format": name, "compression": compression})
    before = filled18.fetch(f"SELECT t::text FROM {EMBEDDING} t ORDER BY id")
    done = space.run("truncate", "--json")
    assert done.code == 0, done.stderr
    table = done.json["tables_backed_up"][EMBEDDING]
    assert table["row_count"] == 62
    ending = {"csv": ".csv", "binary": ".bin", "pg_dump": ".dump"}[name]
    suffix = {"none": "", "zstd": ".zst", "lz4": ".lz4", "gzip": ".gz"}[compression]
    if name == "pg_dump" and compression == "gzip":
        suffix = ""  # pg_dump does that inside
    assert table["backup_file"] == f"{EMBEDDING}_{done.json['backup_id']}{ending}{suffix}"
    assert filled18.count(EMBEDDING) == 0
    manifest = manifest_of(space, done.json["backup_id"])
    assert (manifest["format"], manifest["compression"]) == (name, compression)
    load(filled18, space, manifest)
    assert filled18.fetch(f"SELECT t::text FROM {EMBEDDING} t ORDER BY id") == before


@pytest.mark.parametrize("name", ["csv", "binary", "pg_dump"])
def test_another_encoding_of_the_server_or_the_client_changes_nothing(server18, database18, tmp_path, name):
    """A dump in Latin-1 is refused when it is loaded as UTF-8, or worse: Ã¼ comes back as ü."""
    latin = Database(server18, f"latin_{database18.name}")
    database18.execute(f"CREATE DATABASE {latin.name} ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    try:
        for database in (latin, database18):
            database.execute("CREATE TABLE notes (id int PRIMARY KEY, text text)")
            database.execute(r"INSERT INTO notes VALUES (1, U&'gr\00fc\00dfe'), (2, U&'\00c3\00bc'), (3, 'plain')")
            before = database.fetch("SELECT t::text FROM notes t ORDER BY id")
            space = Workspace(tmp_path, database)
            space.save(
                backup={"format": name}, vector_tables={"supported_tables": ["notes"], "truncate_tables": ["notes"]}
            )
            env = environment(PGCLIENTENCODING="LATIN1")
            assert space.run("truncate", env=env).code == 0
            restored = space.run("restore", "latest", env=env)
            assert restored.code == 0, restored.stderr
            assert database.fetch("SELECT t::text FROM notes t ORDER BY id") == before
    finally:
        database18.execute(f"DROP DATABASE {latin.name} WITH (FORCE)")


@pytest.mark.parametrize("name", ["csv", "binary"])
def test_parts_are_exactly_the_table(database, tmp_path, name):
    langchain.fill(database, 1500)
    space = Workspace(tmp_path, database)
    space.save(backup={"format": name, "part_bytes": 100_000, "jobs": 2})
    before = database.fetch(f"SELECT t::text FROM {EMBEDDING} t ORDER BY id")
    done = space.run("truncate", "--json")
    assert done.code == 0, done.stderr
    table = done.json["tables_backed_up"][EMBEDDING]
    ending = {"csv": "csv", "binary": "bin"}[name]
    expected = [
        f"{EMBEDDING}_{done.json['backup_id']}.part{n:04d}.{ending}" for n in range(1, len(table["backup_files"]) + 1)
    ]
    assert table["backup_files"] == expected
    assert len(expected) >= 8, "at least 4 × jobs parts"
    assert table["backup_file"] == expected[0]
    assert table["row_count"] == 1500
    manifest = manifest_of(space, done.json["backup_id"])
    files = manifest["tables"][EMBEDDING]["files"]
    assert sum(file["rows"] for file in files) == 1500
    assert all(re.fullmatch("[0-9a-f]{64}", file["sha256"]) for file in files)
    assert table["size_bytes"] == sum((space.backups / name).stat().st_size for name in expected)
    load(database, space, manifest)
    assert database.fetch(f"SELECT t::text FROM {EMBEDDING} t ORDER BY id") == before
    assert f"{expected[0]} and {len(expected) - 1} more" in (space.backups / "vector_backup_log.txt").read_text()


def test_parts_are_exact_while_writers_insert_and_rows_move_between_pages(database, tmp_path):
    """Each backup is one moment of the table: a row's version counter and the number of rows agree with a single transaction."""
    langchain.fill(database, 800)
    database.execute(
        f"CREATE TABLE ticks (n int); INSERT INTO ticks VALUES (0); ALTER TABLE {EMBEDDING} ADD tick int DEFAULT 0"
    )
    space = Workspace(tmp_path, database)
    space.save(
        backup={"format": "csv", "part_bytes": 50_000, "jobs": 3},
        vector_tables={"supported_tables": [EMBEDDING, "ticks"], "truncate_tables": []},
    )
    stop = threading.Event()
    failures = []

    def churn():
        try:
            with database.connect(autocommit=False) as connection:
                number = 0
                while not stop.is_set():
                    number += 1
                    # a new row, every row's new version (moved to other pages), and the count of both, in one transaction
                    connection.execute(
                        f"INSERT INTO {EMBEDDING} (id, document, tick) VALUES (%s, 'new', %s)", (f"n{number}", number)
                    )
                    connection.execute(f"UPDATE {EMBEDDING} SET tick = %s", (number,))
                    connection.execute("UPDATE ticks SET n = %s", (number,))
                    connection.commit()
                    if number % 5 == 0:
                        with database.connect() as other:
                            other.execute(f"VACUUM {EMBEDDING}")
        except Exception as error:  # noqa: BLE001 - raised below, in the main thread
            failures.append(error)

    thread = threading.Thread(target=churn)
    thread.start()
    moments = set()
    try:
        for _ in range(5):
            done = space.run("backup", "--json")
            assert done.code == 0, done.stderr
            manifest = manifest_of(space, done.json["backup_id"])
            tick = int((space.backups / manifest["tables"]["ticks"]["files"][0]["name"]).read_text().split()[1])
            moments.add(tick)
            assert manifest["tables"][EMBEDDING]["rows"] == 800 + tick
            with database.server.new_database() as scratch:
                scratch.execute(
                    f"CREATE TABLE {EMBEDDING} (id varchar PRIMARY KEY, collection_id uuid, embedding vector, document varchar, cmetadata jsonb, tick int)"
                )
                load(scratch, space, manifest)
                assert scratch.fetch(f"SELECT count(*), min(tick), max(tick) FROM {EMBEDDING}") == [
                    (800 + tick, tick, tick)
                ]
    finally:
        stop.set()
        thread.join()
    assert not failures
    assert len(moments) > 1, "nothing changed between the backups: the test proves nothing"


def test_partial_failure_publishes_nothing(database18, tmp_path):
    langchain.fill(database18, 1500)
    space = Workspace(tmp_path, database18)
    body = 'if line.startswith("\\\\copy") and "ctid OPERATOR(pg_catalog.>=)" in line and "ctid OPERATOR(pg_catalog.<)" in line:\n    child.kill()'
    space.save(
        backup={"format": "binary", "part_bytes": 100_000}, connection={"bin_dir": str(psql_filter(tmp_path, body))}
    )
    done = space.run("truncate", "--json")
    assert done.code == 5, done.stderr
    assert space.files() == ["vector_backup_log.txt"]
    assert database18.count(EMBEDDING) == 1500


@pytest.mark.parametrize("program", ["zstd", "lz4", "gzip"])
def test_a_compressor_that_fails_is_noticed(filled18, tmp_path, program):
    space = Workspace(tmp_path, filled18)
    fakes = tmp_path / "fakes"
    fakes.mkdir()
    fake = fakes / program
    fake.write_text("#!/bin/sh\nhead -c 1000\necho broken pipe dream >&2\nexit 7\n")
    fake.chmod(0o755)
    from tests.support.command import environment

    env = environment()
    env["PATH"] = f"{fakes}:{env['PATH']}"
    for name in ("csv", "binary"):
        space.save(backup={"format": name, "compression": program})
        done = space.run("truncate", "--json", env=env)
        assert done.code == 5, done.stderr
        assert filled18.count(EMBEDDING) == 62
        assert space.files() == ["vector_backup_log.txt"]


def test_a_compressor_that_lies_is_noticed(filled18, tmp_path):
    """It ends with 0, but its file is cut short: the compressor's own test finds that out."""
    space = Workspace(tmp_path, filled18)
    fakes = tmp_path / "fakes"
    fakes.mkdir()
    fake = fakes / "gzip"
    fake.write_text('#!/bin/sh\ncase "$*" in *-t*) exec /bin/gzip "$@";; esac\n/bin/gzip "$@" | head -c 5000\nexit 0\n')
    fake.chmod(0o755)
    from tests.support.command import environment

    env = environment()
    env["PATH"] = f"{fakes}:{env['PATH']}"
    space.save(backup={"compression": "gzip"})
    done = space.run("truncate", "--json", env=env)
    assert done.code == 5, done.stderr
    assert filled18.count(EMBEDDING) == 62


@pytest.mark.parametrize(("name", "program"), [("csv", "lz4"), ("binary", "lz4"), ("pg_dump", "lz4"), ("csv", "zstd")])
def test_a_compressor_that_writes_nothing_is_noticed(filled18, tmp_path, name, program):
    """lz4 itself takes an empty file for a complete one."""
    space = Workspace(tmp_path, filled18)
    fakes = tmp_path / "fakes"
    fakes.mkdir()
    fake = fakes / program
    fake.write_text(
        f'#!/bin/sh\ncase " $* " in *" -t "*|*" -d "*) exec /usr/bin/{program} "$@";; esac\ncat > /dev/null\n'
    )
    fake.chmod(0o755)
    from tests.support.command import environment

    env = environment()
    env["PATH"] = f"{fakes}:{env['PATH']}"
    space.save(backup={"format": name, "compression": program})
    done = space.run("truncate", "--json", env=env)
    assert done.code == 5, done.stderr
    assert filled18.count(EMBEDDING) == 62


def test_a_missing_compressor_is_found_in_preflight(filled18, tmp_path):
    from tests.support.command import environment

    space = Workspace(tmp_path, filled18)
    (tmp_path / "nothing").mkdir()
    space.save(backup={"compression": "zstd"}, connection={"bin_dir": str(bin_folder(18))})
    done = space.run("truncate", env=environment(PATH=str(tmp_path / "nothing")))
    assert done.code == 4, done.stderr
    assert "zstd was not found" in done.stderr
    assert "apt-get install zstd" in done.stderr
    assert not space.out.exists()


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        ("words tsvector", "tsvector"),
        ("source regclass", "regclass"),
        ("many vector(3)[]", "vector"),
        ("kind_of_row langchain_pg_collection", "json"),
        ("many_words tsvector[]", "tsvector"),
    ],
)
def test_binary_is_refused_for_types_that_are_not_safe_elsewhere(filled18, tmp_path, column, reason):
    filled18.execute(f"ALTER TABLE {EMBEDDING} ADD {column}")
    space = Workspace(tmp_path, filled18)
    space.save(backup={"format": "binary"})
    done = space.run("backup")
    if "kind_of_row" in column:
        assert done.code == 0, "built-in types alone are in that row"
        return
    assert done.code == 4, done.stderr
    assert column.split()[0] in done.stderr
    assert reason in done.stderr
    assert "csv" in done.stderr
    space.save(backup={"format": "csv"})
    assert space.run("backup").code == 0


def test_binary_takes_all_of_pgvectors_types(database18, tmp_path):
    database18.execute("""
        CREATE TABLE things (id int GENERATED ALWAYS AS IDENTITY, v vector(3), h halfvec(3), s sparsevec(5), b bit(4), j json, jb jsonb,
          t text, by bytea, a int[], ts timestamptz, n numeric, d date, u uuid, g int GENERATED ALWAYS AS (7) STORED);
        INSERT INTO things (v, h, s, b, j, jb, t, by, a, ts, n, d, u) VALUES
          ('[1,2,3]', '[0.1,0.2,0.3]', '{1:1.5,3:-2}/5', '1010', '{"a" :  1}', '{"b": null}', E'a\\n"b"\\\\', '\\xdeadbeef', '{1,NULL,3}',
           '2024-01-02 03:04:05.678901+02', 1.10, '2024-02-29', gen_random_uuid()),
          (NULL, NULL, NULL, NULL, NULL, NULL, '', '', '{}', NULL, 'NaN', NULL, NULL)""")
    space = Workspace(tmp_path, database18)
    for name in ("csv", "binary", "pg_dump"):
        space.save(
            backup={"format": name}, vector_tables={"supported_tables": ["things"], "truncate_tables": ["things"]}
        )
        before = database18.fetch("SELECT t::text FROM things t ORDER BY id")
        done = space.run("truncate", "--json")
        assert done.code == 0, done.stderr
        assert database18.count("things") == 0
        database18.execute("ALTER TABLE things ALTER id SET GENERATED BY DEFAULT")
        load(database18, space, manifest_of(space, done.json["backup_id"]), "things", like="things")
        assert database18.fetch("SELECT t::text FROM things t ORDER BY id") == before


def test_free_space_is_estimated_per_format(filled18, tmp_path):
    space = Workspace(tmp_path, filled18)
    sizes = {}
    for name in ("csv", "binary"):
        space.save(backup={"format": name, "min_free_bytes": 1 << 60})
        message = space.run("backup").stderr
        found = re.search(r"estimated at ([\d.]+) KB", message)
        assert found, message
        space.save(backup={"min_free_bytes": 0})
        real = sum(item["size_bytes"] for item in space.run("backup", "--json").json["tables_backed_up"].values())
        sizes[name] = float(found.group(1)) * 1024
        assert 0.9 * real < sizes[name] < 1.6 * real
    assert sizes["binary"] < sizes["csv"]


def test_gzip_files_are_plain_gzip_files(filled18, tmp_path):
    space = Workspace(tmp_path, filled18)
    space.save(backup={"compression": "gzip"})
    done = space.run("backup", "--json")
    text = gzip.decompress((space.backups / done.json["tables_backed_up"][EMBEDDING]["backup_file"]).read_bytes())
    assert text.startswith(b"id,collection_id,embedding,document,cmetadata\n")
