import json

import msgspec
import pytest

from tests.unit.examples import column, facts, table
from vecbak.postgres.catalog import Index, Sequence, decode_facts
from vecbak.postgres.catalog_query import facts_query


def test_facts_survive_the_way_through_json():
    whole = facts(
        table(
            columns=(column("id", not_null=True, default="nextval('s')"), column("g", generated="s"), column("i", identity="a")),
            indexes=(
                Index(
                    name="x", definition="CREATE INDEX …", method="hnsw", tablespace="fast", comment="it's", statistics={"1": 500},
                    valid=True, constraint=None,
                ),
            ),
            sequences=(Sequence(schema="public", name="s", column="id", last_value=None),),
        ),
        in_recovery=True,
    )  # fmt: skip
    assert decode_facts(json.loads(msgspec.json.encode(whole))) == whole


def test_a_newer_query_may_say_more():
    document = msgspec.to_builtins(facts(table()))
    document["tables"][0]["something_new"] = 1
    assert decode_facts(document) == facts(table())


@pytest.mark.parametrize("document", [None, {}, [], {"server": {}, "tables": []}])
def test_half_an_answer_is_an_error(document):
    with pytest.raises(msgspec.ValidationError):
        decode_facts(document)


def test_generated_columns_are_not_copied():
    item = table(columns=(column("id"), column("g", generated="s"), column("V", generated="v"), column('a"b')))
    assert item.copied_columns == ("id", 'a"b')
    assert item.column_list == '"id", "a""b"'


def test_a_plain_table_is_read_without_its_children():
    assert table("T").source == 'ONLY "public"."T"'
    assert table("T", kind="p").source == '"public"."T"'


def test_the_query_asks_for_the_oids_in_their_order():
    query = facts_query([7, 4294967295, 3])
    assert "ARRAY[7,4294967295,3]::oid[]" in query
    assert "\n\n" not in query
