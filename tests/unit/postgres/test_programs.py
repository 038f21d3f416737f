import itertools
from pathlib import Path

import pytest

from tests.unit.examples import ScriptedRunner
from vecbak.errors import Refused
from vecbak.extras import install_hint
from vecbak.postgres import programs
from vecbak.postgres.programs import (
    Installation,
    data_dump_command,
    dump_compresses,
    dump_compression,
    find_installations,
    fitting_installation,
    pg_dump_installation,
    psql_command,
    restore_list_command,
    schema_dump_command,
)
from vecbak.postgres.runner import Completed


def installation(major: int, origin: str = "Debian", folder: Path = Path("/pg")) -> Installation:
    return Installation(folder / str(major) / "bin", major, origin)


def make_programs(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    return folder


def version_of(folder: Path) -> tuple[str, ...]:
    return (str(folder / "psql"), "--version")


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """No client programs anywhere."""
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setattr(programs, "DEBIAN_FOLDERS", tmp_path / "debian")
    monkeypatch.setattr(programs.importlib.util, "find_spec", lambda name: None)
    return tmp_path


def test_psqls_command_line():
    assert psql_command(installation(18), "host=h dbname='a b'") == [
        "/pg/18/bin/psql", "-XAtqw", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose", "--dbname=host=h dbname='a b'", "-f", "-",
    ]  # fmt: skip


def test_psql_without_a_conninfo_asks_libpq():
    assert "--dbname=" not in psql_command(installation(18), "")


def test_pg_dumps_command_line():
    command = schema_dump_command(
        installation(18), "host=h", tables=['"public"."a"', '"s"."B"'], snapshot="0-1-1", lock_seconds=2.5
    )  # fmt: skip
    assert command == [
        "/pg/18/bin/pg_dump", "--no-password", "--encoding=UTF8", "--schema-only", "--strict-names", "--snapshot=0-1-1",
        "--lock-wait-timeout=2500", '--table="public"."a"', '--table="s"."B"', "--dbname=host=h",
    ]  # fmt: skip


def test_pg_dump_of_one_tables_rows():
    command = data_dump_command(
        installation(18),
        "host=h",
        table='"s"."B"',
        snapshot="0-1-1",
        compression="zstd",
        lock_seconds=5,
    )
    assert command == [
        "/pg/18/bin/pg_dump", "--no-password", "--encoding=UTF8", "--data-only", "--format=custom", "--strict-names", "--compress=zstd:1",
        "--snapshot=0-1-1", "--lock-wait-timeout=5000", '--table="s"."B"', "--dbname=host=h",
    ]  # fmt: skip


def test_pg_restore_prints_a_dump():
    assert restore_list_command(installation(18)) == ["/pg/18/bin/pg_restore", "--file=-"]


@pytest.mark.parametrize(
    ("major", "compression", "word"),
    [
        (18, "none", "none"),
        (16, "gzip", "gzip:1"),
        (17, "lz4", "lz4"),
        (18, "zstd", "zstd:1"),
        (15, "none", "0"),
        (13, "gzip", "1"),
    ],
)
def test_pg_dumps_words_for_compression(major, compression, word):
    assert dump_compression(installation(major), compression) == word


def test_what_pg_dump_surely_compresses_is_not_asked():
    for major in (13, 18):
        for compression in ("none", "gzip"):
            assert dump_compresses(ScriptedRunner({}), installation(major), compression)
    for compression in ("zstd", "lz4"):
        assert not dump_compresses(ScriptedRunner({}), installation(15), compression)


@pytest.mark.parametrize(
    ("stderr", "supported"),
    [
        ('pg_dump: error: connection to server on socket "/dev/null/none/.s.PGSQL.5432" failed: Not a directory', True),
        ("pg_dump: error: this build does not support compression with ZSTD", False),
    ],
)
def test_pg_dump_is_asked_whether_it_was_built_with_zstd(stderr, supported):
    probe = (
        "/pg/18/bin/pg_dump", "--no-password", "--format=custom", "--dbname=host=/dev/null/none", "--compress=zstd:1",
    )  # fmt: skip
    runner = ScriptedRunner({probe: Completed(1, "", stderr)})
    assert dump_compresses(runner, installation(18), "zstd") == supported


def test_a_short_lock_timeout_is_not_none_at_all():
    command = schema_dump_command(installation(18), "", tables=[], snapshot="x", lock_seconds=0.0004)
    assert "--lock-wait-timeout=1" in command


def test_bin_dir_alone_is_looked_at(nowhere):
    make_programs(nowhere / "debian" / "18" / "bin", "psql")
    mine = make_programs(nowhere / "mine", "psql")
    runner = ScriptedRunner({version_of(mine): "psql (PostgreSQL) 16.9\n"})
    assert find_installations(runner, mine) == (Installation(mine, 16, "bin_dir"),)


def test_path_comes_before_debians_folders_newest_first(nowhere, monkeypatch):
    on_path = make_programs(nowhere / "path", "psql")
    monkeypatch.setenv("PATH", str(on_path))
    folders = [make_programs(nowhere / "debian" / name / "bin", "psql") for name in ("9.6", "16", "18")]
    answers = {version_of(on_path): "psql (PostgreSQL) 17.2 (Debian 17.2-1)\n"}
    answers |= {version_of(folder): f"psql (PostgreSQL) {folder.parent.name}\n" for folder in folders}
    runner = ScriptedRunner(answers)
    found = find_installations(runner, None)
    assert [(item.major, item.origin) for item in found] == [(17, "PATH"), (18, "Debian"), (16, "Debian")]
    assert not runner.answers


def test_debians_wrapper_is_not_taken(nowhere, monkeypatch):
    wrapper = make_programs(nowhere / "share", "pg_wrapper") / "pg_wrapper"
    (nowhere / "usr").mkdir()
    (nowhere / "usr" / "psql").symlink_to(wrapper)
    monkeypatch.setenv("PATH", str(nowhere / "usr"))
    real = make_programs(nowhere / "debian" / "18" / "bin", "psql")
    runner = ScriptedRunner({version_of(real): "psql (PostgreSQL) 18.1\n"})
    assert find_installations(runner, None) == (Installation(real, 18, "Debian"),)


def test_none_found_says_what_to_install(nowhere):
    with pytest.raises(Refused, match="psql 13 or newer was not found on PATH") as caught:
        find_installations(ScriptedRunner({}), None)
    assert "apt-get install postgresql-client" in caught.value.hint
    assert install_hint("embedded") in caught.value.hint


def test_an_empty_bin_dir_is_named(nowhere):
    with pytest.raises(Refused, match=f"not found in {nowhere}/bin"):
        find_installations(ScriptedRunner({}), nowhere / "bin")


@pytest.mark.parametrize("answer", ["psql (PostgreSQL) 12.9\n", "psql (EnterpriseDB) 18\n", ""])
def test_what_is_too_old_or_something_else_is_not_taken(nowhere, answer):
    folder = make_programs(nowhere / "bin", "psql")
    with pytest.raises(Refused):
        find_installations(ScriptedRunner({version_of(folder): answer}), folder)


def test_a_file_that_cannot_be_executed_is_not_run(nowhere):
    (nowhere / "bin").mkdir()
    (nowhere / "bin" / "psql").write_text("x")
    with pytest.raises(Refused):
        find_installations(ScriptedRunner({}), nowhere / "bin")


@pytest.mark.parametrize(
    ("majors", "server", "chosen"),
    [((13, 14, 15), 14, 14), ((18, 16), 15, 16), ((13,), 14, None), ((), 14, None), ((18,), 18, 18)],
)
def test_the_nearest_that_is_not_older_fits(majors, server, chosen):
    for order in itertools.permutations(installation(major) for major in majors):
        found = fitting_installation(order, server)
        assert (found.major if found else None) == chosen


def test_the_embedded_wheel_comes_last():
    embedded, debian = installation(16, "embedded"), installation(18)
    assert fitting_installation((embedded, debian), 16) is debian
    assert fitting_installation((embedded, installation(15)), 16) is embedded


def test_pg_dump_is_never_older_than_the_server(tmp_path):
    old, new = installation(16, folder=tmp_path), installation(18, folder=tmp_path)
    make_programs(old.folder, "pg_dump")
    make_programs(new.folder, "psql")
    with pytest.raises(Refused, match=rf"PostgreSQL 17, .*found: 16 in {old.folder}") as caught:
        pg_dump_installation((old, new), 17)
    assert caught.value.hint.startswith("Install postgresql-client-17 ")
    assert pg_dump_installation((old, new), 16) is old


def test_no_pg_dump_at_all(tmp_path):
    with pytest.raises(Refused, match="found: none"):
        pg_dump_installation((installation(18, folder=tmp_path),), 17)
