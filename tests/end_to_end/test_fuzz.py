"""What comes from elsewhere: names, arguments, task ids, manifests, logs, environments. No traceback, no injection, nothing changed."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.command import environment, vecbak
from tests.support.server import Database, Server
from tests.support.workspace import Workspace
from vecbak.backups import log as backup_log
from vecbak.backups.inventory import FoundBackup, find_backup, take_inventory
from vecbak.backups.manifest import Manifest, encode, read
from vecbak.config import Retention
from vecbak.config_file import load_config
from vecbak.errors import UsageError, VecbakError
from vecbak.operations.opening import check_task_id, open_job, task_folder
from vecbak.operations.prove import file_reader
from vecbak.operations.prune import plan
from vecbak.operations.verify import verify

EMBEDDING = "langchain_pg_embedding"
PATIENT = {"deadline": None, "derandomize": True, "suppress_health_check": [HealthCheck.function_scoped_fixture]}

NAMES = [
    "x" * 63, "é" * 31, "🚿" * 15, "select", "table", "user", "-o", "--help", "-f/etc/passwd", ":x", ":'x'", ':"x"', ":{?x}", "\\! id",
    "\\q", "\\.", "%s", "%(a)s", "%%", "a'b", 'a"b', "''", '""', "a.b", ".", "..", "../x", "/etc", "a b", " ", "  lead", "trail ", "$(id)",
    "`id`", "|cat", ">x", "*", "~", "{}", "$HOME", "$1", ";", "--", "/*", "*/", "NULL", "null", "tab", "A", "a", "ä", "a\u0301", "ﬁ", "~/x",
    "con", ".tmp", "x.csv", "langchain_pg_embedding_20250720_121007.csv", "vector_backup_20250720_121007.json",
]  # fmt: skip


@pytest.fixture(scope="module")
def made(server18: Server, tmp_path_factory) -> Any:
    """A backup of a small table."""
    with server18.new_database() as database:
        database.execute(f"""CREATE TABLE {EMBEDDING} (id text PRIMARY KEY, n serial, embedding vector(2) DEFAULT '[0,0]');
            CREATE INDEX h ON {EMBEDDING} USING hnsw (embedding vector_l2_ops);
            INSERT INTO {EMBEDDING} (id) SELECT 'r' || g FROM generate_series(1, 9) g""")
        workspace = Workspace(tmp_path_factory.mktemp("made"), database)
        workspace.save(vector_tables={"supported_tables": [EMBEDDING], "truncate_tables": [EMBEDDING]})
        assert workspace.run("backup").code == 0
        yield workspace


def test_names_of_every_kind_in_one_run(database18: Database, tmp_path):
    quoted = ['"' + name.replace('"', '""') + '"' for name in NAMES]
    with database18.connect() as connection:
        for number, name in enumerate(quoted):
            connection.execute(
                f"CREATE TABLE {name} ({name} int, v vector(1)); INSERT INTO {name} VALUES ({number}, '[1]')".encode()
            )
    workspace = Workspace(tmp_path, database18)
    workspace.save(vector_tables={"supported_tables": quoted, "truncate_tables": quoted}, backup={"format": "binary"})
    before = set(tmp_path.iterdir())
    done = workspace.run("truncate", timeout=200)
    assert done.code == 0, done.stderr
    done = workspace.run("restore", "latest", timeout=200)
    assert done.code == 0, done.stderr
    with database18.connect() as connection:
        for number, name in enumerate(quoted):
            assert connection.execute(f"SELECT * FROM {name}".encode()).fetchall() == [(number, "[1]")], name
    assert set(tmp_path.iterdir()) - before == {workspace.out}
    assert all(path.parent == workspace.backups for path in workspace.backups.rglob("*"))


@given(text=st.text(max_size=150) | st.sampled_from(["../x", "a/../b", "a\0b", "x" * 10_000, ".", "..", "-", "a\n"]))
@settings(max_examples=200, **PATIENT)
def test_a_task_id_names_a_folder_below_the_tasks_or_nothing(made: Workspace, text):
    loaded = load_config(made.folder / "vecbak.yaml")
    try:
        check_task_id(text)
    except UsageError:
        with pytest.raises(UsageError):
            task_folder(loaded, text, None)
        return
    folder = task_folder(loaded, text, None)
    assert folder.parent == loaded.resolve(loaded.config.tasks_directory)
    assert folder.resolve().name == text


@given(
    text=st.text(max_size=60)
    | st.sampled_from(["\0", "a\0.json", "/" * 5000 + ".json", "/dev/stdin", "/dev/zero", "~nobody/x.json", "~\0/x"])
)
@settings(max_examples=200, **PATIENT)
def test_any_text_for_a_backup_is_one_or_an_error(made: Workspace, text):
    try:
        found = find_backup(text, [made.backups])
    except UsageError:
        return
    assert found.path.parent == made.backups


# manifests


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=20),
    st.sampled_from(["../../etc/passwd", "/etc/passwd", "x'); DROP TABLE t; --", "\\! touch hacked", "\n\\! touch hacked\n", "", "\0", "`id`", "$(id)"]),
)  # fmt: skip
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2)
)


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path, *(place for key, value in inner for place in places(value, (*path, key)))]


def put(document: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return value
    document = copy.deepcopy(document)
    node = document
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    return document


@given(data=st.data())
@settings(max_examples=120, **PATIENT)
def test_a_manifest_from_elsewhere_is_used_or_refused(made: Workspace, tmp_path_factory, data):
    """Each value in turn is another one, and the checksum agrees: whoever made it knew how."""
    original = next(made.backups.glob("vector_backup_*.json"))
    document = json.loads(original.read_text())
    forged = put(document, data.draw(st.sampled_from(places(document)[1:])), data.draw(JSON))
    try:
        content = encode(msgspec.convert({**forged, "checksum": ""}, Manifest))
    except (msgspec.ValidationError, TypeError, UnicodeEncodeError, ValueError, OverflowError):
        content = json.dumps(forged).encode("utf-8", "surrogatepass")
    folder = tmp_path_factory.getbasetemp() / "forged"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(made.backups, folder)
    path = folder / original.name
    path.write_bytes(content)
    before = sorted((item.name, item.read_bytes()) for item in folder.iterdir())
    take_inventory([folder])
    plan([folder], Retention()).preview()
    try:
        manifest = read(path)
        with open_job(load_config(made.folder / "vecbak.yaml"), task_id="t", output_dir=folder) as job:
            verify(FoundBackup(path, manifest), file_reader(job, manifest, folder), jobs=1, progress=job.progress)
    except VecbakError:
        pass
    assert sorted((item.name, item.read_bytes()) for item in folder.iterdir()) == before


def forge(made: Workspace, folder: Path, change: Any) -> Path:
    shutil.copytree(made.backups, folder)
    path = next(folder.glob("vector_backup_*.json"))
    document = json.loads(path.read_text())
    change(document["tables"][EMBEDDING]["table"])
    document["checksum"] = ""
    path.write_bytes(encode(msgspec.convert(document, Manifest)))
    return path


HOSTILE = [
    "int); DROP TABLE precious; --",
    "int \\! touch hacked",
    "int\n\\! touch hacked\n",
    "int); DROP TABLE precious; CREATE TABLE y (z int",
]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("where", ["type", "default", "collation", "options", "constraint", "index"])
def test_a_definition_from_elsewhere_runs_no_statement_and_no_program(
    made: Workspace, server18: Server, tmp_path, where, text
):
    def change(table: dict[str, Any]) -> None:
        if where in {"type", "default", "collation"}:
            table["columns"][1][where] = text
        elif where == "options":
            table["sequences"][0]["options"] = text
        elif where == "constraint":
            table["constraints"][0]["definition"] = f"PRIMARY KEY (id{text.removeprefix('int')}"
        else:
            next(item for item in table["indexes"] if not item["constraint"])["definition"] += text.removeprefix("int")

    path = forge(made, tmp_path / "forged", change)
    with server18.new_database() as database:
        database.execute("CREATE TABLE precious (a int)")
        workspace = Workspace(tmp_path, database)
        done = workspace.run("restore", path, "--create")
        assert done.code in {4, 5, 8}, done.stderr
        assert "Hint:" in done.stderr
        if where == "type":
            assert workspace.run("verify", path, "--restore", "--on", database.socket_dsn).code == 5
        assert database.fetch(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        ) == [("precious",)]
    assert not [item for folder in (tmp_path, Path.cwd(), made.folder) for item in folder.rglob("hacked")]


@given(data=st.binary(max_size=400) | st.text(max_size=400).map(lambda text: text.encode("utf-8", "surrogatepass")))
@settings(max_examples=60, **PATIENT)
def test_a_log_from_elsewhere_is_only_read(made: Workspace, tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "log"
    folder.mkdir(exist_ok=True)
    (folder / backup_log.LOG_NAME).write_bytes(data + b"\n=== Vector Table Backup Log ===\n" + data)
    backup_log.find_entry(folder, ["x_20250720_121007.csv"])
    backup_log.append(folder, "text\n")
    assert (folder / backup_log.LOG_NAME).read_bytes().endswith(b"text\n")


# the environment


VARIABLES = [
    "PGOPTIONS", "PGDATESTYLE", "PGTZ", "PGCLIENTENCODING", "PGAPPNAME", "PSQLRC", "PSQL_PAGER", "PAGER", "PSQL_EDITOR", "PSQL_HISTORY",
    "PG_COLOR", "PGTARGETSESSIONATTRS", "LC_ALL", "LANG", "COLUMNS", "NO_COLOR", "TERM", "TMPDIR", "HOME", "PGSYSCONFDIR", "PGGSSENCMODE",
]  # fmt: skip
VALUES = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=12) | st.sampled_from(
    [
        "-c statement_timeout=1 -c search_path=x",
        "German, DMY",
        "LATIN1",
        "SQL_ASCII",
        "tr_TR.UTF-8",
        "/nonexistent",
        "always",
        "any",
        "-1",
    ]
)


@given(changes=st.dictionaries(st.sampled_from(VARIABLES), VALUES, min_size=1, max_size=4))
@settings(max_examples=12, **PATIENT)
def test_an_odd_environment_changes_nothing_or_is_an_error(made: Workspace, tmp_path_factory, changes):
    out = tmp_path_factory.mktemp("env")
    done = vecbak("backup", "--json", "--output-dir", out, cwd=made.folder, env=environment(**changes))
    assert done.code in {0, 3, 4}, (changes, done.stderr)
    if done.code == 0:
        name = done.json["tables_backed_up"][EMBEDDING]["backup_file"]
        reference = next(made.backups.glob(f"{EMBEDDING}_*.csv"))
        assert (out / "vector_bak" / name).read_bytes() == reference.read_bytes()
    else:
        assert "Hint:" in done.stderr
        assert not list(out.rglob("*.json"))


@pytest.mark.parametrize(
    "arguments",
    [["show"], ["verify"], ["restore"], ["list", "--output-dir"], ["backup", "-c"], ["backup", "--output-dir"]],
)
def test_a_home_of_nobody_is_a_wrong_argument(made: Workspace, arguments):
    done = vecbak(*arguments, "~nobody-of-that-name/x.json", cwd=made.folder)
    assert done.code == 2, done.stderr
    assert "no such user" in done.stderr


def test_a_link_in_the_place_of_the_runs_log_is_not_written_through(made: Workspace, tmp_path):
    workspace = Workspace(tmp_path, made.database)
    workspace.save(vector_tables=made.config["vector_tables"])
    target = tmp_path / "elsewhere.log"
    target.write_text("precious")
    workspace.out.mkdir()
    (workspace.out / "data_pipeline.log").symlink_to(target)
    assert workspace.run("backup").code == 4
    assert target.read_text() == "precious"
