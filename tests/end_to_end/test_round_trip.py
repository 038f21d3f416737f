"""Whatever a column can hold comes back as it was: property-tested over types, formats and server versions."""

from __future__ import annotations

import json
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.server import SYSTEM_USER, Database, Server
from tests.support.workspace import Workspace

TEXT = st.one_of(
    st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=30),
    st.sampled_from(
        ["", "\\.", "\\N", "NULL", '"', "'", ",", "\n", "\r\n", "\t", "a\n\\.\nb", "\\", " ", "\ufeff", "☃"]
    ),
)
FLOAT = st.floats(allow_nan=False, allow_infinity=False, width=32, min_value=-(2.0**99), max_value=2.0**99)
HALF = st.floats(allow_nan=False, allow_infinity=False, width=16)

# column type → values as PostgreSQL reads them
TYPES: dict[str, st.SearchStrategy[Any]] = {
    "text": TEXT,
    "varchar(40)": TEXT,
    "vector(3)": st.lists(FLOAT, min_size=3, max_size=3).map(str),
    "vector": st.lists(FLOAT, min_size=1, max_size=5).map(str),
    "halfvec(2)": st.lists(HALF, min_size=2, max_size=2).map(str),
    "sparsevec(5)": st.sampled_from(["{}/5", "{1:1.5}/5", "{2:-3e-07,5:1}/5"]),
    "bit(5)": st.integers(0, 31).map("{:05b}".format),
    "jsonb": TEXT.map(lambda text: json.dumps({"k": [text, None, 1.5]})),
    "json": TEXT.map(lambda text: json.dumps({"b": text,  "a": 1})),
    "bytea": st.binary(max_size=20).map(lambda data: "\\x" + data.hex()),
    "text[]": st.lists(st.one_of(st.none(), TEXT), max_size=3),
    "float8": st.floats(allow_nan=True, allow_infinity=True),
    "timestamptz": st.datetimes().map(lambda t: f"{t.isoformat()}+05:30"),
    "numeric": st.decimals(allow_nan=False, allow_infinity=False, places=7, min_value=-10**20, max_value=10**20).map(str),
    "boolean": st.booleans(),
    "interval": st.sampled_from(["1 year -3 days 04:05:06.789", "0", "-5 mons"]),
    "uuid": st.uuids().map(str),
}  # fmt: skip
COLUMNS = {f"c{number}": type for number, type in enumerate(TYPES)}
ROW = st.tuples(*(st.one_of(st.none(), TYPES[type]) for type in COLUMNS.values()))
ALL = "SELECT t::text FROM t ORDER BY serial"


def create(database: Database) -> None:
    columns = ", ".join(f"{name} {type}" for name, type in COLUMNS.items())
    database.execute(f"""
        CREATE TABLE t (serial int PRIMARY KEY, always int GENERATED ALWAYS AS IDENTITY,
          "Odd ""name" text GENERATED ALWAYS AS (coalesce(c0, '') || '!') STORED, {columns})""")


def fill(database: Database, rows: list[tuple[Any, ...]]) -> None:
    names, marks = ", ".join(COLUMNS), ", ".join(f"%s::{type}" for type in COLUMNS.values())
    with database.connect() as connection:
        connection.execute("TRUNCATE t RESTART IDENTITY")
        for number, row in enumerate(rows):
            connection.execute(f"INSERT INTO t (serial, {names}) VALUES (%s, {marks})", [number, *row])


@pytest.fixture(scope="module", params=["csv", "binary", "pg_dump"])
def workspace(request, server18: Server, tmp_path_factory):
    with server18.new_database() as database:
        create(database)
        workspace = Workspace(tmp_path_factory.mktemp("trip"), database)
        workspace.save(
            vector_tables={"supported_tables": ["t"], "truncate_tables": ["t"]}, backup={"format": request.param}
        )
        yield workspace


@given(rows=st.lists(ROW, max_size=4))
@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_truncated_comes_back(workspace: Workspace, rows):
    database = workspace.database
    shutil.rmtree(workspace.out, ignore_errors=True)
    fill(database, rows)
    before = database.fetch(ALL)
    assert workspace.run("truncate").code == 0
    done = workspace.run("restore", "latest")
    assert done.code == 0, done.stderr
    assert database.fetch(ALL) == before


@pytest.mark.parametrize("format", ["csv", "binary", "pg_dump"])
def test_from_16_to_18(server16: Server, server18: Server, tmp_path, format):
    awkward = [
        tuple(None for _ in COLUMNS),
        ("a\n\\.\nb", "", "[1,2,3]", "[1]", "[0.5,65504]", "{1:1}/5", "10101", '{"a": null}', '{"b":  1}', "\\x00ff", ["", None, 'a"b'],
         "nan", "0044-03-15 12:00:00+00 BC", "1.10", True, "-5 mons", str(uuid.uuid4())),
    ]  # fmt: skip
    with server16.new_database() as old, server18.new_database() as new:
        create(old)
        fill(old, awkward)
        workspace = Workspace(tmp_path, old)
        workspace.save(vector_tables={"supported_tables": ["t"], "truncate_tables": ["t"]}, backup={"format": format})
        assert workspace.run("backup").code == 0
        workspace.save(connection={"dsn": new.socket_dsn})
        done = workspace.run("restore", "latest", "--create")
        assert done.code == 0, done.stderr
        assert new.fetch(ALL) == old.fetch(ALL)
        assert (
            new.value("SELECT attidentity FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = 'always'")
            == "a"
        )


@pytest.mark.needs("root")
def test_a_small_shared_memory(server_folder: Path, tmp_path):
    """A parallel HNSW build that runs out of /dev/shm, as in a container, is done again by one process."""
    server = Server(server_folder / f"s{uuid.uuid4().hex[:6]}", 18, {"dynamic_shared_memory_type": "posix"})
    server.create()
    start = f"exec setpriv --reuid={SYSTEM_USER} --regid={SYSTEM_USER} --clear-groups {server.bin}/pg_ctl -w -D {server.data} -l {server.folder}/log start"
    subprocess.run(
        ["unshare", "-m", "sh", "-c", f"mount -t tmpfs -o size=8m,mode=1777 tmpfs /dev/shm && {start}"],
        check=True, cwd="/", timeout=60, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        with server.new_database() as database:
            database.execute("""
                CREATE TABLE t (id int PRIMARY KEY, v vector(8)) WITH (parallel_workers = 2);
                INSERT INTO t SELECT n, (SELECT array_agg(sin(n * k)) FROM generate_series(1, 8) k)::vector FROM generate_series(1, 3000) n;
                SET max_parallel_maintenance_workers = 0; CREATE INDEX h ON t USING hnsw (v vector_l2_ops)""")
            workspace = Workspace(tmp_path, database)
            workspace.save(vector_tables={"supported_tables": ["t"], "truncate_tables": ["t"]})
            assert workspace.run("truncate").code == 0
            done = workspace.run("restore", "latest", "--json")
            assert done.code == 0, done.stderr
            assert "building it with one process" in done.stderr
            assert done.json["indexes_rebuilt"] == ["h"]
            assert database.count("t") == 3000
            assert database.value("SELECT indisvalid FROM pg_index WHERE indexrelid = 'h'::regclass")
    finally:
        server.stop()
