"""`vecbak list` as people see it."""

from __future__ import annotations

import pytest

from tests.end_to_end.test_terminal import on_terminal
from tests.support.command import environment
from tests.support.workspace import Workspace


@pytest.mark.needs("zstd")
def test_a_table_with_age_format_and_what_was_truncated(filled18, tmp_path):
    space = Workspace(tmp_path, filled18)
    made = [space.run("backup", "--json").json["backup_id"]]
    space.save(backup={"format": "binary", "compression": "zstd"})
    made.append(space.run("truncate", "--json").json["backup_id"])
    for kind in ("collection", "embedding"):
        (space.backups / f"langchain_pg_{kind}_20240101_000000.csv").write_text("id\n")
    (space.backups / "vector_backup_20240102_000000.json").write_text("{")
    lines = space.run("list").stdout.splitlines()
    titles = lines[0].split("  ")
    assert [title.strip() for title in titles if title.strip()] == [
        "BACKUP", "AGE", "CREATED (UTC)", "ROWS", "SIZE", "FORMAT", "TRUNCATED", "PROVEN", "COLLECTIONS", "FOLDER",
    ]  # fmt: skip
    assert [line.split()[0] for line in lines[1:]] == [made[1], made[0], "20240101_000000", "unusable:"]
    column = lines[0].index("FORMAT")
    assert [line[column:].split("  ")[0] for line in lines[1:4]] == ["binary zstd", "csv", "csv"]
    column = lines[0].index("TRUNCATED")
    assert [line[column:].split()[0] for line in lines[1:4]] == ["yes", "no", "?"]
    assert "no manifest" in lines[3]
    assert {line[lines[0].index("FOLDER") :] for line in lines[1:4]} == {"out/vector_bak"}
    assert "\x1b" not in "".join(lines)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_unicode(filled18, tmp_path, encoding):
    """What cannot be shown is spelt out; no run ends with another code because of it."""
    filled18.execute("UPDATE langchain_pg_collection SET name = '知识库 😀'")
    space = Workspace(tmp_path, filled18)
    env = environment(PYTHONIOENCODING=encoding)
    done = space.run("truncate", env=env)
    assert done.code == 0, done.stderr
    assert "ok langchain_pg_embedding" in done.stdout
    for command in ("doctor", "list"):
        assert space.run(command, env=env).code == 0
    assert "知识库 😀" in space.run("list", "--json", env=env).json[0]["collections"]
    assert space.run("restore", "no…such", env=env).code == 2


def test_show_and_list_say_whether_it_is_proven(filled18, tmp_path):
    space = Workspace(tmp_path, filled18)
    space.run("backup")
    assert "Proven:    no" in space.run("show", "latest").stdout
    assert space.run("list", "--json").json[0]["proven_restorable"] is False
    assert space.run("verify", "latest", "--restore").code == 0
    assert "Proven:    restorable" in space.run("show", "latest").stdout
    assert space.run("list", "--json").json[0]["proven_restorable"] is True


def test_colours_on_terminals_alone(filled18, tmp_path, monkeypatch):
    space = Workspace(tmp_path, filled18)
    space.run("backup")
    assert "\x1b[1mBACKUP" in on_terminal("list", "--output-dir", space.out, folder=tmp_path)[1]
    monkeypatch.setenv("NO_COLOR", "yes")
    assert "\x1b[" not in on_terminal("list", "--output-dir", space.out, folder=tmp_path)[1]
