"""Secrets taken out of texts."""

from __future__ import annotations

import json
import shlex
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vecbak.masking import mask_of, masked, without_credentials


@given(st.text(min_size=4, alphabet=st.characters(blacklist_categories=["Cs"])))
def test_every_way_of_writing_a_secret_is_masked(secret):
    mask = mask_of([secret, ""])
    for text in (secret, quote(secret, safe=""), quote(secret, safe="").lower(), quote_plus(secret), json.dumps(secret), repr(secret)[1:-1],
                 secret.replace("'", "''"), secret.replace("\\", "\\\\").replace("'", "\\'")):  # fmt: skip
        if len(text) > 3 and not text.isspace():
            assert "***" in mask(f"<{text}>") or secret.lower() != secret


def test_no_secret_masks_nothing():
    assert mask_of(["", ""])("text") == "text"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://u:p@ss@h/db", "postgresql://u:***@h/db"), ("at https://user:tok@en@x.org/y and z", "at https://user:***@x.org/y and z"),
        ("password=abc host=h", "password=*** host=h"), ("sslpassword = 'a b' x", "sslpassword = *** x"), ("password='half", "password=***"),
        ("no password supplied", "no password supplied"), ("http://127.0.0.1:8484/docs", "http://127.0.0.1:8484/docs"),
        ("connection.password: given twice", "connection.password: given twice"), ("postgresql://user@host:5432/db", "postgresql://user@host:5432/db"),
    ],
)  # fmt: skip
def test_connection_strings_show_no_password(text, shown):
    assert without_credentials(text) == shown


def test_a_document_is_masked_throughout():
    assert masked({"a": ["x secret", {"b": "secret"}], "n": 1}, mask_of(["secret"])) == {
        "a": ["x ***", {"b": "***"}],
        "n": 1,
    }


def test_words_of_a_shell_are_masked():
    assert "it's" not in mask_of(["it's"])(shlex.join(["it's"])).replace("***", "")
