"""What nobody could see is spelt out."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vecbak.visible import visible, visible_json, visible_line

ANY = st.text(alphabet=st.characters())


@given(ANY)
def test_nothing_unseen_is_left(text):
    for letter in visible_line(text):
        assert unicodedata.category(letter) not in {"Cc", "Cs", "Zl", "Zp"}
    assert set(visible(text)) & set(map(chr, range(32))) <= {"\n", "\t"}
    assert visible_line(visible_line(text)) == visible_line(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", "\\x1b[2J"), ("a\nb", "a\\nb"), ("\x9b", "\\x9b"), ("\u202e", "\\u202e"), ("\u2066x\u2069", "\\u2066x\\u2069"),
        ("\udcff", "\\udcff"), ("\U000e0041", "\\U000e0041"), ("a\u200db", "a\\u200db"), ("\r", "\\r"), ("\x7f", "\\x7f"),
        ("é 中 ✓ ק", "é 中 ✓ ק"), ("👩🏽\u200d🔧", "👩🏽\u200d🔧"), ("E'\\\\d'", "E'\\\\d'"),
    ],
)  # fmt: skip
def test_examples(text, shown):
    assert visible_line(text) == shown


@given(st.recursive(ANY, lambda inner: st.lists(inner) | st.dictionaries(ANY, inner)), st.booleans())
def test_json_says_the_same(document, ascii_only):
    text = visible_json(document, ascii_only=ascii_only)
    assert json.loads(text) == json.loads(json.dumps(document))
    assert visible(text) == text
    text.encode("ascii" if ascii_only else "utf-8")
