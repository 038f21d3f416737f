"""A search_path is read as PostgreSQL reads it."""

from __future__ import annotations

import pytest

from vecbak.postgres.search_path import elements, follow


@pytest.mark.parametrize(
    ("told", "names"),
    [
        ('"$user", public', ["$user", "public"]),
        ("$user,Public", ["$user", "public"]),
        ("", []),
        ('""', [""]),
        ('"a ""b"", c",d', ['a "b", c', "d"]),
        ('"It\'s\nodd\\"', ["It's\nodd\\"]),
    ],
)
def test_elements(told, names):
    assert elements(told) == names


def test_following_says_each_name_as_a_constant():
    assert follow('"$user", "it\'s", "b\\s"') == "SET LOCAL search_path = '$user', 'it''s', E'b\\\\s';"
    assert follow("") == "SET LOCAL search_path = '';"
    assert follow("evil, pg_catalog", behind_postgresqls=True) == "SET LOCAL search_path = 'pg_catalog', 'evil';"


def test_what_is_no_path_is_not_followed():
    with pytest.raises(ValueError, match="no search_path"):
        elements('a"b')
