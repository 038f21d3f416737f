r"""The SQL of a restore: names quoted, never CASCADE, `\copy` on one line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.examples import column, table
from tests.unit.postgres.test_definitions import NAME, an_index
from vecbak.postgres import restore_queries
from vecbak.postgres.catalog import Operator, Sequence, UserType
from vecbak.postgres.names import quote_identifier, quote_name


@given(st.lists(NAME, min_size=1, max_size=3), NAME)
def test_copies_are_one_line_with_quoted_names(columns, file):
    names, quoted = ", ".join(map(quote_identifier, columns)), file.replace("'", "''")
    assert restore_queries.copy_from('"s"."t"', columns, file, "format csv") == (
        f'\\copy "s"."t" ({names}) from \'{quoted}\' with (format csv)'
    )
    assert restore_queries.copy_out('"s"."t"', columns, file, "format binary") == (
        f'\\copy (SELECT {names} FROM ONLY "s"."t") to \'{quoted}\' with (format binary)'
    )


def test_an_index_is_never_dropped_with_what_depends_on_it():
    dropped = restore_queries.drop_index(table(schema='o"dd'), an_index("", name="i x"))
    assert dropped == 'DROP INDEX "o""dd"."i x" RESTRICT;'


def test_a_lock_is_asked_for_without_ending_psql():
    made = restore_queries.lock_exclusively([table("a"), table("b")], 0.1)
    assert 'LOCK TABLE "public"."a", "public"."b" IN ACCESS EXCLUSIVE MODE;' in made
    assert made.startswith("SET LOCAL lock_timeout = '100ms';\nSAVEPOINT vecbak_exclusive;\n\\set ON_ERROR_STOP off")


def test_rows_are_the_same_by_what_their_key_holds_to_be_equal():
    keyed = table(primary_key=("id",))
    assert restore_queries.drop_present("pg_temp.x", keyed, ("id", "text")) == (
        'DELETE FROM pg_temp.x s USING ONLY "public"."items" t WHERE s."id" OPERATOR(pg_catalog.=) t."id";'
    )
    own = table(primary_key=("id",), key_operators=(Operator(schema="t", name="=="),))
    assert 's."id" OPERATOR("t".==) t."id"' in restore_queries.same_key(own)
    forged = table(primary_key=("id",), key_operators=(Operator(schema="t", name="=) OR (1=1 --"),))
    assert restore_queries.same_key(forged) == 's."id" OPERATOR(pg_catalog.=) t."id"'


def test_what_is_left_is_inserted_without_a_comparison():
    made = restore_queries.insert_all("pg_temp.x", table(), ("id", "text"), skip_conflicts=True)
    assert made == (
        'INSERT INTO "public"."items" ("id", "text") OVERRIDING SYSTEM VALUE SELECT "id", "text" FROM pg_temp.x'
        " ON CONFLICT DO NOTHING;"
    )
    assert "ON CONFLICT" not in restore_queries.insert_all("pg_temp.x", table(), ("id",))


def test_equal_rows_without_a_key_are_counted():
    made = restore_queries.drop_present("pg_temp.x", table(), ("id",))
    assert 'row_number() OVER (PARTITION BY ROW(r."id")::pg_catalog.text)' in made
    assert "s.number OPERATOR(pg_catalog.<=) t.number" in made


@pytest.mark.parametrize(
    ("kind", "step", "bounds"),
    [
        ("smallint", 1, (-32768, 32766)),
        ("integer", 10, (-(2**31), 2**31 - 11)),
        ("bigint", 1, (-(2**63), 2**63 - 2)),
        ("bigint", -3, (-(2**63) + 3, 2**63 - 1)),
        ("numeric(6,1)", 1, (-99999, 99998)),
        ("numeric", 1, (-(2**63), 2**63 - 2)),
        ("public.score", 1, (-32768, 32766)),
    ],
)
def test_the_furthest_value_that_a_sequence_can_go_on_from(kind, step, bounds):
    sequence = Sequence(schema="public", name="s", column="id", last_value=None, increment=step)
    domain = UserType(sql="public.score", schema="public", name="score", kind="d", base="smallint")
    query = restore_queries.furthest_value(table(columns=(column("id", type=kind),), types=(domain,)), sequence)
    assert ("floor(pg_catalog.max(" if step > 0 else "ceil(pg_catalog.min(") in query
    low, high = bounds
    bounds = f">=) {max(low, -(10**19) + 1)} AND v.value OPERATOR(pg_catalog.<=) {high};\n"
    assert query.endswith(bounds)


def test_texts_have_no_furthest_value():
    sequence = Sequence(schema="public", name="s", column="id", last_value=None)
    assert "FROM" not in restore_queries.furthest_value(table(), sequence)


def test_a_foreign_key_is_deferred_and_brought_back():
    first = restore_queries.alter_foreign_key(table(), 'f"k', deferred=True)
    assert (
        first == f'ALTER TABLE {quote_name("public", "items")} ALTER CONSTRAINT "f""k" DEFERRABLE INITIALLY DEFERRED;'
    )
    assert restore_queries.alter_foreign_key(table(), "k", deferred=False).endswith('"k" NOT DEFERRABLE;')
