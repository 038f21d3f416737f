"""Keepalives are added, and never against what somebody said."""

from __future__ import annotations

import pytest

from vecbak.postgres.keepalive import CLIENT, keepalives_for

SERVICE = "# ours\n[mine]\nhost=h\nkeepalives_idle=7\ntcp_user_timeout = 1\n[other]\nkeepalives=0\n"


def test_all_of_them_where_nothing_is_said():
    assert keepalives_for({"host": "h"}) == CLIENT


@pytest.mark.parametrize("name", CLIENT)
def test_what_the_dsn_says_stays(name):
    assert name not in keepalives_for({"host": "h", name: "0"})


@pytest.mark.parametrize("how", ["parameter", "environment"])
def test_what_the_service_says_stays(tmp_path, monkeypatch, how):
    (tmp_path / "services").write_text(SERVICE)
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    if how == "environment":
        monkeypatch.setenv("PGSERVICE", "mine")
    found = keepalives_for({"service": "mine"} if how == "parameter" else {})
    assert set(CLIENT) - set(found) == {"keepalives_idle", "tcp_user_timeout"}


@pytest.mark.parametrize("content", [None, "", "no section\n", "[another]\nkeepalives=0\n", "[mine\n"])
def test_a_service_that_cannot_be_read_says_nothing(tmp_path, monkeypatch, content):
    if content is not None:
        (tmp_path / "services").write_text(content)
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    monkeypatch.setenv("PGSYSCONFDIR", str(tmp_path / "none"))
    assert keepalives_for({"service": "mine"}) == CLIENT
