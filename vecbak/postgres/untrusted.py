r"""Statements that hold text of a manifest: judged as wholes, and handed to the server past psql's own parser.

In psql's input `\!` runs a program, wherever psql's parser and ours read a quote in different ways. So such a statement
goes in as base64, the server decodes it, and psql's `\gexec` sends what comes back as it is
(https://www.postgresql.org/docs/current/app-psql.html#APP-PSQL-META-COMMAND-GEXEC). Several statements in it would run,
though: PostgreSQL's parser must find exactly one, of a kind that is expected.
"""

from __future__ import annotations

import base64
import re

from vecbak.errors import RestoreFailed
from vecbak.postgres import fragments
from vecbak.postgres.fragments import foreign_node
from vecbak.postgres.sql_parser import Node, NotSql, has_comment, parse

# by the type of the statement's node: the types of nodes that it may hold
DEFINITIONS: dict[str, frozenset[str]] = {
    "AlterDomainStmt": fragments.CONSTRAINTS,
    "AlterSeqStmt": fragments.OPTIONS | {"List"},
    "AlterTableStmt": fragments.CONSTRAINTS | {"AlterTableCmd"},
    "CommentStmt": frozenset({"List", "String", "TypeName"}),
    "CompositeTypeStmt": fragments.TYPES | {"ColumnDef"},
    "CreateDomainStmt": fragments.CONSTRAINTS,
    "CreateEnumStmt": frozenset({"String"}),
    "CreatePolicyStmt": fragments.QUERIES | {"RoleSpec"},
    "CreateSchemaStmt": frozenset(),
    "CreateSeqStmt": fragments.OPTIONS,
    "CreateStmt": fragments.PARTITIONS | {"ColumnDef", "Constraint", "DefElem", "RangeVar"},
    "GrantStmt": frozenset({"AccessPriv", "List", "RangeVar", "RoleSpec", "String"}),
    "IndexStmt": fragments.INDEXES,
    "VariableSetStmt": frozenset({"A_Const", "String"}),
}
# our own, in which names and values of a manifest stand in quotes
QUERIES = frozenset({"SelectStmt", "InsertStmt", "UpdateStmt", "DeleteStmt", "CreateTableAsStmt"})

_ALTERATIONS = (
    "AT_AddConstraint AT_ClusterOn AT_DisableRule AT_DisableTrig AT_EnableAlwaysRule AT_EnableAlwaysTrig AT_EnableRowSecurity"
    " AT_EnableRule AT_EnableTrig AT_ForceRowSecurity AT_SetStatistics AT_SetStorage AT_ValidateConstraint"
)
# what the judge takes for granted; a role's own setting may say otherwise
AS_JUDGED = "SET LOCAL standard_conforming_strings = on;"

_PLAIN = re.compile(r"[^\x00-\x1f\x7f-\x9f\\]*")


def definition(statement: str) -> str:
    """One that defines something, as a request to psql.

    Raises:
        RestoreFailed: it would do something else, or more.
    """
    return _judged(statement, frozenset(DEFINITIONS))


def query(statement: str) -> str:
    """One of our own that reads or writes rows, as a request to psql.

    Raises:
        RestoreFailed: it would do something else, or more.
    """
    return _judged(statement, QUERIES)


def telling(request: str) -> str:
    """A request after which psql says what the server did: `:ROW_COUNT` is that of the SELECT that asked for the statement."""
    return f"\\set QUIET off\n{request}\n\\set QUIET on"


def rows_told(answer: str) -> int:
    """The rows that the server says it has touched: `INSERT 0 7`; it tells none of a `CREATE TABLE AS` without data."""
    last = answer.rsplit(" ", 1)[-1]
    return int(last) if last.isdigit() else 0


def to_paste(statement: str) -> str:
    """One that defines or drops something, for a person to paste: as it is, where neither psql nor a shell can misread it.

    Raises:
        RestoreFailed: it would do something else, or more.
    """
    request = _judged(statement, frozenset({*DEFINITIONS, "DropStmt"}))
    return statement if _PLAIN.fullmatch(statement) else request


def _judged(statement: str, kinds: frozenset[str]) -> str:
    if problem := _problem(statement, kinds):
        raise RestoreFailed(
            f"the manifest would make vecbak run what it does not run: {statement[:60]!r} ({problem}); nothing was changed",
            "Do not use this manifest; find out where it comes from.",
        )
    data = base64.b64encode(statement.encode()).decode()
    return f"SELECT pg_catalog.convert_from(pg_catalog.decode('{data}', 'base64'), 'UTF8') \\gexec"


def _problem(statement: str, kinds: frozenset[str]) -> str | None:
    try:
        statements = parse(statement)
        if has_comment(statement):
            return "it holds a comment"
    except NotSql as error:
        return str(error)
    if len(statements) != 1:
        return f"it is {len(statements)} statements"
    ((kind, node),) = statements[0].items()
    if kind not in kinds:
        return f"it is a {kind}"
    return _foreign(kind, node) if kind in DEFINITIONS else None


def _foreign(kind: str, node: Node) -> str | None:
    if kind == "AlterTableStmt":
        done = [command["AlterTableCmd"]["subtype"] for command in node["cmds"]]
        if len(done) != 1 or done[0] not in _ALTERATIONS.split():
            return f"it would do {', '.join(done)}"
    if kind == "CreateStmt" and ("ofTypename" in node or ("inhRelations" in node) != ("partbound" in node)):
        return "its columns would be another table's"
    if kind == "AlterDomainStmt" and node["subtype"] != "C":  # ADD CONSTRAINT
        return "it would change a domain otherwise"
    if kind == "GrantStmt" and "is_grant" in node:
        return "it would grant something"
    if kind == "CreateSchemaStmt" and node.keys() != {"schemaname"}:
        return "it would make more than a schema"
    if kind == "VariableSetStmt" and (node["name"] != "default_tablespace" or "is_local" not in node):
        return "it would change a setting"
    return foreign_node(node, DEFINITIONS[kind])
