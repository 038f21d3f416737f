"""The judgements of `vecbak doctor`, as pure functions; what a backup refuses is judged by `vecbak.operations.preflight`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal

import humanize
import msgspec

from vecbak.backups.inventory import FoundBackup
from vecbak.backups.removal import damage
from vecbak.errors import ExitCode, VecbakError
from vecbak.operations.restorable import Lack
from vecbak.postgres.catalog import Table
from vecbak.postgres.names import quote_identifier
from vecbak.postgres.programs import Installation
from vecbak.postgres.surroundings import Link
from vecbak.results import human_size

PSQL_FOR_ANY_CSV = 18  # before it, a line that is \. ends a CSV
_ERROR = re.compile(r"\b(?:ERROR|FATAL|error):")
_BY_COLLECTION = re.compile(r" USING (?:btree|hash) \(collection_id\b(?!.* WHERE )")
MANY_ROWS = 10_000
MANY_BYTES = 64 << 20
_LOOPBACK = ("127.", "::1")


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at.

    Attributes:
        message: how it is; where it failed, what a backup would say.
        hint: how to mend it.
    """

    name: str
    status: Literal["ok", "warning", "failed", "skipped"]
    message: str
    hint: str = ""


class Examination(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was looked at, in the order in which a backup would; `exit_code` is the one it would end with."""

    ok: bool
    exit_code: int
    checks: tuple[Check, ...]


class Findings:
    """Checks as they are made; the first that fails decides the exit code."""

    def __init__(self) -> None:
        self.checks: list[Check] = []
        self.exit_code = ExitCode.DONE

    def ok(self, name: str, message: str) -> None:
        """Nothing to mend."""
        self.checks.append(Check(name=name, status="ok", message=message))

    def warn(self, name: str, message: str, hint: str = "") -> None:
        """A backup would go on."""
        self.checks.append(Check(name=name, status="warning", message=message, hint=hint))

    def skip(self, name: str, message: str) -> None:
        """It could not be looked at."""
        self.checks.append(Check(name=name, status="skipped", message=message))

    def fail(self, name: str, error: VecbakError) -> None:
        """A backup would end with this error."""
        self.checks.append(Check(name=name, status="failed", message=in_one_line(error), hint=error.hint))
        if self.exit_code == ExitCode.DONE:
            self.exit_code = error.exit_code

    def judge(self, name: str, problems: Iterable[VecbakError], message: str) -> bool:
        """Every problem fails; none is ok with this message. Returns whether there was none."""
        found = list(problems)
        for problem in found:
            self.fail(name, problem)
        if not found:
            self.ok(name, message)
        return not found

    def examination(self) -> Examination:
        """All of them."""
        done = self.exit_code == ExitCode.DONE
        return Examination(ok=done, exit_code=int(self.exit_code), checks=tuple(self.checks))


def in_one_line(error: VecbakError) -> str:
    """What failed, and what the program said of it: its first error, or else the last thing that it printed."""
    lines = [line.strip() for line in error.output.splitlines() if line.strip()]
    said = next((line for line in lines if _ERROR.search(line)), lines[-1] if lines else "")
    return f"{error.message}: {said}" if said else error.message


def describe_programs(installations: Sequence[Installation], format: str) -> str:
    """Where psql is, preferred first."""
    found = ", ".join(f"psql {item.major} in {item.place}" for item in installations)
    newest = max(item.major for item in installations)
    note = f" (a CSV in which a line is \\. is restored by psql {PSQL_FOR_ANY_CSV} alone)"
    return found + (note if format == "csv" and newest < PSQL_FOR_ANY_CSV else "")


def judge_tls(findings: Findings, link: Link) -> None:
    """Whether others could read what goes over the network."""
    if link.tls:
        findings.ok("tls", f"encrypted ({link.tls})")
    elif link.server_address is None:
        findings.ok("tls", "a Unix socket: nothing goes over the network")
    elif link.server_address.startswith(_LOOPBACK):
        findings.ok("tls", "not encrypted, but on this machine alone")
    else:
        findings.warn(
            "tls",
            f"the connection to {link.server_address} is not encrypted",
            "Set connection.sslmode: verify-full (and switch on ssl on the server).",
        )


def judge_pgvector(findings: Findings, link: Link) -> None:
    """Whether there are vectors at all."""
    if link.vector:
        findings.ok("pgvector", f"pgvector {link.vector}")
    else:
        findings.warn(
            "pgvector", "the database has no pgvector", "Is it the right database? CREATE EXTENSION vector makes it."
        )


def describe_table(table: Table, dimensions: Mapping[str, Sequence[int]]) -> str:
    """`embedding vector(1536); 867.0 MB with indexes (btree, hnsw)`."""
    vectors = [
        f"{name} {'/'.join(str(item) for item in found) or 'unknown'} dimensions" for name, found in dimensions.items()
    ]
    methods = ", ".join(sorted({index.method for index in table.indexes})) or "none"
    size = f"{human_size(table.total_bytes)} with indexes ({methods})"
    return "; ".join([f"{len(table.columns)} columns", *vectors, size])


def table_doubts(table: Table, dimensions: Mapping[str, Sequence[int]]) -> Iterator[tuple[str, str]]:
    """What a restore could stumble over: messages with their hints."""
    for name, found in dimensions.items():
        if len(found) > 1:
            text = " and ".join(str(item) for item in sorted(found))
            yield (
                f"{table.name}.{name} holds vectors of {text} dimensions",
                "No index can be built on such a column; two embedding models were mixed.",
            )
    for index in table.indexes:
        if not index.valid:
            yield f"the index {index.name} is not valid", f"REINDEX INDEX CONCURRENTLY {index.name}; or drop it."


def collection_doubts(embeddings: Table) -> Iterator[tuple[str, str]]:
    """Whether one of LangChain's collections is found without reading all the others: a message with its hint."""
    indexed = any(index.valid and _BY_COLLECTION.search(index.definition) for index in embeddings.indexes)
    if not indexed and (embeddings.estimated_rows >= MANY_ROWS or embeddings.table_bytes >= MANY_BYTES):
        yield (
            f"{embeddings.name} is large and has no index on collection_id: every --collection, and every deletion of a"
            " collection, reads all of it",
            f"CREATE INDEX CONCURRENTLY ON {embeddings.sql} (collection_id);",
        )


def judge_restore(findings: Findings, name: str, table: Table, lacks: Sequence[Lack], user: str) -> None:
    """Whether the rows could be put back by the same role.

    Args:
        lacks: what it would lack.
    """
    slow = [index.name for index in table.indexes if index.method in {"hnsw", "ivfflat", "gin"}]
    for lack in lacks:
        findings.warn(name, lack.message, lack.hint)
    if lacks:
        return
    if slow and not table.is_owner:
        findings.warn(
            name,
            f"the role {user} does not own {table.name}: a restore could not rebuild {', '.join(slow)}, and would be slow",
            f"Restore as {table.owner}.",
        )
    elif slow and not table.can_create:
        findings.warn(
            name,
            f"the role {user} may not build indexes in the schema {table.schema}: a restore would fill {', '.join(slow)} row by row,"
            " and be slow",
            f"GRANT CREATE ON SCHEMA {quote_identifier(table.schema)} TO {quote_identifier(user)}",
        )
    else:
        findings.ok(name, "may be restored")


def judge_last_backup(findings: Findings, newest: FoundBackup | None, now: datetime) -> None:
    """How old the last backup is, and whether its files are there."""
    name = "last backup"
    if newest is None:
        findings.warn(name, "there is no backup yet", "Run `vecbak backup`.")
        return
    item = newest.manifest
    age = humanize.naturaldelta(now - item.created_at.astimezone(UTC))
    emptied = f", then truncated {', '.join(item.truncated.rows_removed)}" if item.truncated else ", nothing truncated"
    proven = ", proven restorable" if item.proven_restorable else ", not proven by a restore"
    message = f"{item.backup_id}, {age} ago, {item.rows:,} rows{emptied}{proven} ({newest.path.parent})"
    if problem := damage(newest):
        findings.warn(name, f"{message}; it is damaged: {problem}", "Do not count on it: run `vecbak backup`.")
    else:
        findings.ok(name, message)
