"""Row-level security, and triggers that keep still, as statements."""

from __future__ import annotations

import pytest

from vecbak.postgres.catalog import Policy, Protection, Reaction
from vecbak.postgres.protection import disable, enable, missing_roles, protect

POLICY = Policy(
    name='it "s', permissive=False, command="SELECT", roles=("Ann", "public role"), using="(id > 3)", check=None
)


def reaction(**changes) -> Reaction:
    fields = {"kind": "TRIGGER", "name": "t", "schema": "s", "table": "items", "state": "O", "on_load": True}
    return Reaction(**{**fields, **changes})


def test_a_protected_table():
    everyone = Policy(name="all", permissive=True, command="ALL", roles=(), using="true", check="(id < 9)")
    made = list(protect("s", "t", Protection(enabled=True, forced=True, policies=(POLICY, everyone)), policies=True))
    assert made == [
        'CREATE POLICY "it ""s" ON "s"."t" AS RESTRICTIVE FOR SELECT TO "Ann", "public role" USING ((id > 3));',
        'CREATE POLICY "all" ON "s"."t" AS PERMISSIVE FOR ALL TO PUBLIC USING (true) WITH CHECK ((id < 9));',
        'ALTER TABLE "s"."t" ENABLE ROW LEVEL SECURITY;',
        'ALTER TABLE "s"."t" FORCE ROW LEVEL SECURITY;',
    ]


def test_without_policies_it_is_closed():
    made = list(protect("s", "t", Protection(enabled=True, policies=(POLICY,)), policies=False))
    assert made == ['ALTER TABLE "s"."t" ENABLE ROW LEVEL SECURITY;']


def test_triggers_and_rules_are_switched_on_as_they_were():
    acting = [reaction(), reaction(name="a", state="A"), reaction(kind="RULE", name='r"', table="part")]
    assert disable(acting) == [
        'ALTER TABLE ONLY "s"."items" DISABLE TRIGGER "t";',
        'ALTER TABLE ONLY "s"."items" DISABLE TRIGGER "a";',
        'ALTER TABLE ONLY "s"."part" DISABLE RULE "r""";',
    ]
    assert enable(acting) == [
        'ALTER TABLE ONLY "s"."items" ENABLE TRIGGER "t";',
        'ALTER TABLE ONLY "s"."items" ENABLE ALWAYS TRIGGER "a";',
        'ALTER TABLE ONLY "s"."part" ENABLE RULE "r""";',
    ]


@pytest.mark.parametrize(("changes", "acts"), [({}, True), ({"state": "A"}, True), ({"state": "R"}, False), ({"state": "D"}, False), ({"on_load": False}, False)])  # fmt: skip
def test_which_would_act(changes, acts):
    assert reaction(**changes).would_act is acts


def test_roles_are_quoted():
    assert "('it''s')" in missing_roles(["it's"])
