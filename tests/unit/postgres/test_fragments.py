"""No piece of a manifest may end its statement or command psql, whatever it defines."""

from __future__ import annotations

import msgspec
import pytest

from tests.unit.examples import table
from tests.unit.postgres.test_definitions import HOSTILE, WRITTEN_BY_POSTGRESQL
from tests.unit.postgres.test_protection import POLICY, reaction
from tests.unit.postgres.test_type_definitions import PAIR, SCORE
from vecbak.errors import RestoreFailed
from vecbak.postgres.catalog import Attribute, Constraint, Protection
from vecbak.postgres.definitions import create_table
from vecbak.postgres.fragments import fragment
from vecbak.postgres.protection import disable, protect
from vecbak.postgres.type_definitions import create_type


@pytest.mark.parametrize("text", WRITTEN_BY_POSTGRESQL)
def test_what_postgresql_writes_stays_as_it_is(text):
    assert fragment(text, "x") == text


@pytest.mark.parametrize("text", HOSTILE)
def test_policies_types_partitions_and_triggers(text):
    for change in ({"using": text}, {"check": text}, {"command": text}):
        policies = Protection(policies=(msgspec.structs.replace(POLICY, **change),))
        with pytest.raises(RestoreFailed):
            list(protect("s", "t", policies, policies=True))
    checks = (Constraint(name="c", kind="c", definition=f"CHECK {text}"),)
    for change in ({"base": text}, {"default": text}, {"collation": text}, {"constraints": checks}):
        with pytest.raises(RestoreFailed):
            create_type(msgspec.structs.replace(SCORE, **change))
    with pytest.raises(RestoreFailed):
        create_type(msgspec.structs.replace(PAIR, attributes=(Attribute(name="x", type=text),)))
    with pytest.raises(RestoreFailed):
        create_table(table(kind="p", partition_by=text), "s")
    with pytest.raises(RestoreFailed):
        disable([reaction(kind=text)])
