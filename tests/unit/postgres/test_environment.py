"""What programs find in their environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vecbak.postgres.connection import Endpoint
from vecbak.postgres.environment import applied, without_foreign_servers
from vecbak.postgres.instance import Instance
from vecbak.postgres.runner import LocalRunner

OWN = Endpoint({}, instance=Instance(Path("/nowhere"), "5432", "secret"))


@pytest.mark.parametrize(
    "name", ["PGHOST", "PGWHATEVERCOMESNEXT", "PSQLRC", "PG_COLOR", "LC_ALL", "LC_MESSAGES", "LANG", "LANGUAGE"]
)
def test_a_server_of_our_own_is_told_nothing_of_ours(monkeypatch, name):
    monkeypatch.setenv(name, "evil")
    done = LocalRunner().run(["/usr/bin/env"], timeout=10, environment=OWN.environment)
    assert "evil" not in done.stdout
    assert "LC_ALL=C\n" in done.stdout
    assert f"PATH={os.environ['PATH']}\n" in done.stdout


def test_another_server_is_told_everything(monkeypatch):
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    done = LocalRunner().run(["/usr/bin/env"], timeout=10, environment=Endpoint({"host": "h"}).environment)
    assert "PGSSLMODE=verify-full\n" in done.stdout


def test_our_own_environment_stays_as_it_is(monkeypatch):
    monkeypatch.setenv("PGHOST", "h")
    before = dict(os.environ)
    changes = without_foreign_servers()
    assert changes["PGHOST"] is None
    assert "PGHOST" not in applied(changes)
    assert dict(os.environ) == before


def test_a_users_own_program_keeps_its_colours(monkeypatch):
    monkeypatch.setenv("PG_COLOR", "always")
    lines: list[str] = []
    LocalRunner().follow(["/usr/bin/env"], timeout=10, environment={}, on_line=lines.append)
    assert "PG_COLOR=always" in lines
