"""Enums, domains and composite types as statements, as they were and bare."""

from __future__ import annotations

from tests.unit.examples import table
from vecbak.postgres.catalog import Attribute, Constraint, UserType
from vecbak.postgres.type_definitions import bare_types, create_type, is_made_here, renamed, types_of

MOOD = UserType(sql='public."Mood"', schema="public", name="Mood", kind="e", labels=("it's", "b\\d"))
SCORE = UserType(
    sql="public.score", schema="public", name="score", kind="d", base="numeric(3,1)", not_null=True, default="0", collation='pg_catalog."C"',
    constraints=(Constraint(name="c", kind="c", definition="CHECK ((VALUE > 0))"),),
)  # fmt: skip
PAIR = UserType(
    sql="a.pair", schema="a", name="pair", kind="c",
    attributes=(Attribute(name="x y", type='public."Mood"[]'), Attribute(name="z", type="public.score")),
)  # fmt: skip


def test_as_they_were():
    assert create_type(MOOD) == """CREATE TYPE "public"."Mood" AS ENUM ('it''s', E'b\\\\d');"""
    assert create_type(SCORE) == (
        'CREATE DOMAIN "public"."score" AS numeric(3,1) COLLATE pg_catalog."C" DEFAULT 0 NOT NULL CONSTRAINT "c" CHECK ((VALUE > 0));'
    )
    assert create_type(PAIR) == 'CREATE TYPE "a"."pair" AS ("x y" public."Mood"[], "z" public.score);'


def test_bare_in_another_schema():
    made, names = bare_types([MOOD, SCORE, PAIR], "scratch")
    assert [create_type(item) for item in made[1:]] == [
        'CREATE DOMAIN "scratch"."type_1" AS numeric(3,1);',
        'CREATE TYPE "scratch"."type_2" AS ("x y" "scratch"."type_0"[], "z" "scratch"."type_1");',
    ]
    assert renamed("a.pair[]", names) == '"scratch"."type_2"[]'
    assert renamed("numeric(3,1)", names) == "numeric(3,1)"


def test_each_type_once_and_what_it_is_made_of_before_it():
    assert types_of([table(types=(MOOD,)), table(types=(MOOD, SCORE, PAIR))]) == [MOOD, SCORE, PAIR]


def test_what_can_be_made():
    assert is_made_here(MOOD)
    for changes in ({"kind": "r"}, {"kind": "t"}, {"extension": "citext"}):
        assert not is_made_here(UserType(sql="t", schema="s", name="t", **{"kind": "d", **changes}))
