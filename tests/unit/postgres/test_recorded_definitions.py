"""Every text of a recorded definition is judged, wherever it stands."""

from __future__ import annotations

import re
import typing

import msgspec
import pytest

from tests.unit.postgres.test_definitions import HOSTILE
from tests.unit.postgres.test_protection import POLICY
from tests.unit.postgres.test_type_definitions import MOOD, PAIR, SCORE
from tests.unit.postgres.test_untrusted import INDEX, WHOLE
from vecbak.errors import RestoreFailed
from vecbak.postgres import catalog
from vecbak.postgres.catalog import Constraint, Protection
from vecbak.postgres.recorded_definitions import check_tables, check_type_names, check_types

CONSTRAINTS = (
    Constraint(name="k", kind="f", definition="FOREIGN KEY (a) REFERENCES x.y(z)"),
    Constraint(name="c", kind="c", definition="CHECK ((a IS NOT NULL))"),
)
COLLATED = msgspec.structs.replace(WHOLE.columns[0], name="e", collation='pg_catalog."C"')
FULL = msgspec.structs.replace(
    WHOLE, columns=(*WHOLE.columns, COLLATED), constraints=CONSTRAINTS, indexes=(INDEX,), types=(MOOD, SCORE, PAIR),
    protection=Protection(enabled=True, policies=(msgspec.structs.replace(POLICY, check="true"),)),
)  # fmt: skip

# by struct: what is SQL; all other texts are names, which are judged when the manifest is read, or never become SQL
SQL = {
    "Column": {"type", "default", "collation", "storage"}, "Constraint": {"definition"}, "Index": {"definition"}, "Sequence": {"options", "type"},
    "Attribute": {"type"}, "UserType": {"base", "default", "collation"}, "Policy": {"command", "using", "check"},
    "Partition": {"bound", "partition_by"}, "Table": {"partition_by"},
}  # fmt: skip
NOT_SQL = {
    "Column": {"name", "generated", "identity", "send", "comment", "binary_obstacles"}, "Constraint": {"name", "kind"},
    "Index": {"name", "method", "tablespace", "comment", "constraint", "statistics"}, "Sequence": {"schema", "name", "column", "persistence"},
    "ForeignKey": {"name", "table"}, "Attribute": {"name"}, "UserType": {"sql", "schema", "name", "kind", "extension", "labels"},
    "Policy": {"name", "roles"}, "Reaction": {"kind", "name", "schema", "table", "state", "owner"},
    "Partition": {"schema", "name", "parent", "kind", "access_method", "persistence", "tablespace", "options"},
    # held against the target's own, and never said again
    "Grant": {"grantee", "privilege", "column"}, "Twin": {"schema", "table", "comment"},
    "Demand": {"kind", "schema", "table", "name", "definition", "owner", "comment", "columns", "referenced"},
    "Operator": {"schema", "name"},  # a dry run says it again, after a look at it
    "Table": {"unfit_indexes", "schema", "name", "kind", "access_method", "owner", "comment", "children", "publications", "truncate_triggers", "foreign_partitions",
              "primary_key", "delete_triggers", "delete_rules", "grantees", "persistence", "tablespace", "options", "condition"},
}  # fmt: skip


def test_what_servers_write_is_taken():
    check_tables([FULL])
    check_types([MOOD, SCORE, PAIR])
    check_type_names({"a": "integer"})


def test_every_text_of_a_definition_is_known():
    for struct in (
        item for item in vars(catalog).values() if isinstance(item, type) and issubclass(item, msgspec.Struct)
    ):
        if struct.__name__ in {"Server", "Facts", "Protection"}:
            continue
        texts = {name for name, kind in typing.get_type_hints(struct).items() if re.search(r"\bstr\b", str(kind))}
        name = struct.__name__
        assert texts <= SQL.get(name, set()) | NOT_SQL.get(name, set()), name


def check(table) -> None:
    check_types(table.types)
    check_tables([table])


def changed(item, struct: str, field: str, text: str):
    """Copies of a struct in each of which one such field, however deep, has another text."""
    if isinstance(item, tuple):
        for number, part in enumerate(item):
            yield from ((*item[:number], other, *item[number + 1 :]) for other in changed(part, struct, field, text))
    elif isinstance(item, msgspec.Struct):
        if type(item).__name__ == struct and getattr(item, field) is not None:
            yield msgspec.structs.replace(item, **{field: text})
        for name in item.__struct_fields__:
            yield from (
                msgspec.structs.replace(item, **{name: other})
                for other in changed(getattr(item, name), struct, field, text)
            )


@pytest.mark.parametrize("text", [*HOSTILE, "$$'$$ || '\\! id' || $$'$$ ; SELECT 1"])
@pytest.mark.parametrize(
    ("struct", "field"), [(struct, field) for struct, fields in SQL.items() for field in sorted(fields)]
)
def test_no_text_escapes_the_judge(struct, field, text):
    tables = list(changed(FULL, struct, field, text))
    assert tables
    for table in tables:
        with pytest.raises(RestoreFailed, match="none that PostgreSQL wrote"):
            check(table)


def test_an_error_is_short():
    with pytest.raises(RestoreFailed) as error:
        check_type_names({"a": "x " * 1_000_000})
    assert len(error.value.message) < 400


def test_a_constraint_of_no_known_kind():
    with pytest.raises(RestoreFailed):
        check_tables(
            [msgspec.structs.replace(FULL, constraints=(Constraint(name="x", kind="z", definition="CHECK (true)"),))]
        )
