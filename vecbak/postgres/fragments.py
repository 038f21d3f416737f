"""Pieces of SQL from a manifest, which may come from anybody: PostgreSQL's parser judges each in the position that it takes.

A position is a skeleton with a hole. A text fits if the skeleton with the text in it is the same tree as the skeleton
with an example in it, but for what stands in the hole; so no text can end, add or begin anything else.
"""

from __future__ import annotations

import functools
from typing import Any

import msgspec

from vecbak.postgres.dangerous_functions import dangerous_call
from vecbak.postgres.sql_parser import Node, NotSql, entries, has_comment, has_semicolon, parse, without_places

_EXPRESSION_NODES = (
    "A_ArrayExpr A_Const A_Expr A_Indices A_Indirection A_Star BitString BoolExpr Boolean BooleanTest CaseExpr CaseWhen"
    " CoalesceExpr CollateClause ColumnRef Float FuncCall Integer JsonArgument JsonArrayConstructor JsonBehavior JsonFormat"
    " JsonFuncExpr JsonIsPredicate JsonKeyValue JsonObjectConstructor JsonOutput JsonParseExpr JsonReturning JsonScalarExpr"
    " JsonSerializeExpr JsonValueExpr List MinMaxExpr NamedArgExpr NullTest ResTarget RowExpr SQLValueFunction String TypeCast"
    " TypeName XmlExpr XmlSerialize"
)
# of a policy alone: in no other expression may a sub-select stand (https://www.postgresql.org/docs/current/sql-createtable.html)
_QUERY_NODES = (
    "Alias CTECycleClause CTESearchClause CommonTableExpr GroupingFunc GroupingSet JoinExpr JsonArrayAgg JsonArrayQueryConstructor"
    " JsonObjectAgg JsonTable JsonTableColumn JsonTablePathSpec LockingClause RangeFunction RangeSubselect RangeTableFunc"
    " RangeTableFuncCol RangeTableSample RangeVar SelectStmt SortBy SubLink WindowDef WithClause"
)
EXPRESSIONS = frozenset(_EXPRESSION_NODES.split())
QUERIES = EXPRESSIONS | frozenset(_QUERY_NODES.split())
TYPES = frozenset({"A_Const", "ColumnRef", "Float", "Integer", "String", "TypeName"})
INDEXES = EXPRESSIONS | {"IndexElem", "DefElem"}
CONSTRAINTS = INDEXES | {"Constraint"}
PARTITIONS = EXPRESSIONS | {"PartitionElem"}
OPTIONS = TYPES | {"DefElem", "Boolean"}

_SEQUENCE_OPTIONS = frozenset({"as", "increment", "minvalue", "maxvalue", "start", "cache", "cycle"})
_FOREIGN_FIELDS = frozenset({"intoClause", "setof", "pct_type"})


class Position(msgspec.Struct, frozen=True):
    """Where a piece of SQL stands.

    Attributes:
        skeleton: a statement with a hole, `{}`.
        example: of what stands there.
        hole: the way to it through the statement's tree.
        allowed: types of the nodes that it may hold.
        required: what the node in the hole must be like: fields with their values, None for none.
    """

    skeleton: str
    example: str
    hole: tuple[str | int, ...]
    allowed: frozenset[str]
    required: tuple[tuple[str, str | None], ...] = ()


_TARGET = ("SelectStmt", "targetList", 0, "ResTarget", "val")
_PROPERTY = ("CreateStmt", "tableElts", 0, "ColumnDef", "constraints", 0, "Constraint")
_ADDED = ("AlterTableStmt", "cmds", 0, "AlterTableCmd", "def", "Constraint")

# in its place it stands in parentheses: a text that fits into brackets as well has no closing mark of its own for either
EXPRESSION = Position("SELECT ARRAY[{}]", "1", (*_TARGET, "A_ArrayExpr", "elements", 0), EXPRESSIONS)
CONDITION = msgspec.structs.replace(EXPRESSION, allowed=QUERIES)
DEFAULT = Position("CREATE TABLE t (c int DEFAULT {})", "1", (*_PROPERTY, "raw_expr"), EXPRESSIONS)
TYPE = Position("SELECT CAST(NULL AS {})", "int", (*_TARGET, "TypeCast", "typeName"), TYPES)
COLLATION = Position("SELECT NULL COLLATE {}", '"C"', (*_TARGET, "CollateClause", "collname"), frozenset({"String"}))
PARTITION_KEY = Position("CREATE TABLE t (c int) PARTITION BY {}", "LIST (c)", ("CreateStmt", "partspec"), PARTITIONS)
PARTITION_BOUND = Position("CREATE TABLE t PARTITION OF p {}", "DEFAULT", ("CreateStmt", "partbound"), EXPRESSIONS)
SEQUENCE_OPTIONS = Position(
    "CREATE TABLE t (c int GENERATED ALWAYS AS IDENTITY ({}))", "CYCLE", (*_PROPERTY, "options"), OPTIONS
)
CONSTRAINTS_BY_KIND = {
    letter: Position(
        "ALTER TABLE t ADD CONSTRAINT n {}",
        example,
        _ADDED,
        CONSTRAINTS,
        (("contype", kind), ("conname", "n"), ("indexname", None)),
    )
    for letter, kind, example in (
        ("p", "CONSTR_PRIMARY", "PRIMARY KEY (a)"),
        ("u", "CONSTR_UNIQUE", "UNIQUE (a)"),
        ("f", "CONSTR_FOREIGN", "FOREIGN KEY (a) REFERENCES b(c)"),
        ("c", "CONSTR_CHECK", "CHECK (a)"),
        ("x", "CONSTR_EXCLUSION", "EXCLUDE USING gist (a WITH =)"),
        ("n", "CONSTR_NOTNULL", "NOT NULL a"),
    )
}


def index_of(name: str, schema: str, table: str) -> Position:
    """The position of an index's definition, which is a statement: that of this very index on this very table."""
    meant = (("idxname", name), ("relation.schemaname", schema), ("relation.relname", table))
    plain = (("concurrent", None), ("if_not_exists", None), ("tableSpace", None))
    return Position("{}", "CREATE INDEX i ON s.t USING btree (a)", ("IndexStmt",), INDEXES, (*meant, *plain))


def misfit(text: str, position: Position) -> str | None:
    """Why a text cannot stand in a position; None if it can."""
    try:
        if has_comment(text) or has_semicolon(text):
            return "it holds a comment or a semicolon"
        node, around = _split(parse(position.skeleton.format(text)), position.hole)
    except NotSql as error:
        return str(error)
    if around != _around(position):
        return "it is more than that"
    return foreign_node(node, position.allowed) or _unlike(node, position)


def foreign_node(tree: object, allowed: frozenset[str]) -> str | None:
    """What a tree holds that nobody's definition of a table holds."""
    for name, node in entries(tree):
        if name in _FOREIGN_FIELDS or (name[0].isupper() and name not in allowed):
            return f"it holds {name}"
        if name == "FuncCall" and (function := dangerous_call(node)):
            return f"it calls {function}"
    return None


@functools.cache
def _around(position: Position) -> Any:
    return _split(parse(position.skeleton.format(position.example)), position.hole)[1]


def _split(statements: list[Node], hole: tuple[str | int, ...]) -> tuple[Any, Any]:
    """What stands in the hole, and the statements without it."""
    if len(statements) != 1:
        raise NotSql(f"it makes {len(statements)} statements")
    place: Any = statements[0]
    *way, last = hole
    try:
        for step in way:
            place = place[step]
        return place.pop(last), without_places(statements)
    except (KeyError, IndexError, TypeError):
        raise NotSql("it is something else") from None


def _unlike(node: Any, position: Position) -> str | None:
    for path, wanted in position.required:
        found = functools.reduce(lambda place, field: place.get(field, {}), path.split("."), node)
        if (found or None) != wanted:
            return f"its {path} is {found or 'not there'}"
    if position is SEQUENCE_OPTIONS and not {item["DefElem"]["defname"] for item in node} <= _SEQUENCE_OPTIONS:
        return "it holds what no sequence has of its own"
    return None
