"""Thousands of hostile texts before the judge alone: what it takes holds nothing but literals and names of a definition."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from postgast import scan

from tests.security.hostile import ATTEMPTS, MARK, TEXTS
from tests.unit.postgres.test_fragments import FITTING, POSITIONS
from vecbak.errors import RestoreFailed
from vecbak.postgres.fragments import misfit
from vecbak.postgres.untrusted import definition, query

EXAMPLES = 2_000
NEVER = {"touch", "program", "copy", "do", "gexec", "setenv", "connect"}  # as a word of its own

cases = st.tuples(st.sampled_from(sorted(POSITIONS)), ATTEMPTS)


def words_outside_literals(text: str) -> set[str]:
    """The words of a text that are neither literals nor quoted names."""
    data = text.encode()
    words = (data[token.start : token.end].decode() for token in scan(text).tokens)
    return {word.lower() for word in words if word[:1] not in {"'", '"', "$"} and word[:2].lower() not in {"e'", "b'", "x'", "n'"} and word[:3].lower() not in {"u&'", 'u&"'}}  # fmt: skip


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases)
def test_what_the_judge_takes_is_no_command(case):
    position, (how, text) = case
    text = text.replace(MARK, "/tmp/m")
    there = FITTING[position][0]
    text = {"instead": text, "before": text + there, "behind": there + text}[how]
    if misfit(text, POSITIONS[position]) is not None:
        return
    words = words_outside_literals(text)
    assert not words & NEVER, (position, text)
    assert not {word for word in words if ";" in word or "\\" in word or "--" in word or "/*" in word}, (position, text)


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TEXTS)
def test_a_statement_that_reaches_psql_holds_no_text_of_a_manifest(text):
    for judged, statement in ((definition, f"CREATE TABLE t (a int DEFAULT {text});"), (query, f"SELECT {text};")):
        try:
            request = judged(statement)
        except RestoreFailed:
            continue
        assert set(request) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=()', ._8\\")
        assert request.count("\\") == 1
        assert request.count("'") == 6


@pytest.mark.parametrize(
    "text", ["$$'$$ || '\\! touch x' || $$'$$", "$$'$$ \\! touch x $$'$$", "'open", "E'\\' \\! id"]
)
def test_the_inputs_that_were_found_first(text):
    found = misfit(text, POSITIONS["EXPRESSION"])
    assert found or not words_outside_literals(text) & NEVER
