"""How much of the tables a run is about: all of them, or (see `vecbak.operations.collections`) some rows alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal, Protocol

import msgspec

from vecbak.backups.verified import VerifiedBackup
from vecbak.config import Config
from vecbak.errors import Refused, UsageError
from vecbak.operations import preflight
from vecbak.operations.job import Job
from vecbak.operations.truncate import empty_tables
from vecbak.postgres.catalog import Facts, Table
from vecbak.postgres.guard import Guard, Truncated
from vecbak.postgres.names import has_control_characters


class Chosen(msgspec.Struct, frozen=True):
    """The tables of a run by label, with the rows that are meant, and the labels of those that are to lose them."""

    tables: Mapping[str, Table]
    emptied: frozenset[str]

    @property
    def to_empty(self) -> dict[str, Table]:
        """The tables that are to lose these rows."""
        return {label: table for label, table in self.tables.items() if label in self.emptied}


class Extent(Protocol):
    """What a run backs up, and how it empties that.

    Attributes:
        isolation: of the guard's transaction.
        lock: on a table that is to be emptied; on the others it is ACCESS SHARE.
        writers_wait: whether that lock keeps writers waiting.
        attempts: how often the whole run may be begun.
        scope: for the manifest; None if the whole tables are meant.
        wanted: names for whoever asks what is meant.
    """

    @property
    def isolation(self) -> str: ...
    @property
    def lock(self) -> str: ...
    @property
    def writers_wait(self) -> bool: ...
    @property
    def attempts(self) -> int: ...
    @property
    def scope(self) -> Literal["collections", "where"] | None: ...
    @property
    def wanted(self) -> tuple[str, ...]: ...

    def choose(self, guard: Guard, tables: Mapping[str, Table], emptied: Collection[str]) -> Chosen:
        """Which of the config's tables, and of them which rows.

        Args:
            tables: of the config, by label.
            emptied: labels of those that the config would empty; none in a backup alone.

        Raises:
            UsageError: what was asked for does not exist.
            Refused: these tables cannot be divided so.
        """

    def check(self, facts: Facts, chosen: Chosen, config: Config) -> list[str]:
        """Judge whether the chosen rows can be saved and, if they are to be, removed.

        Returns:
            Warnings.

        Raises:
            Refused: says what stands in the way.
        """

    def empty(self, job: Job, guard: Guard, backup: VerifiedBackup, tables: Mapping[str, Table]) -> Truncated:
        """Remove the chosen rows; not committed yet.

        Raises:
            VecbakError: they are still there.
        """


class Whole(msgspec.Struct, frozen=True):
    """All rows of the tables of the config."""

    isolation: str = "READ COMMITTED"
    lock: str = "SHARE ROW EXCLUSIVE"
    writers_wait: bool = True
    attempts: int = 1
    scope: Literal["collections", "where"] | None = None
    wanted: tuple[str, ...] = ()

    def choose(self, guard: Guard, tables: Mapping[str, Table], emptied: Collection[str]) -> Chosen:
        """All of them."""
        return Chosen(tables, frozenset(emptied))

    def check(self, facts: Facts, chosen: Chosen, config: Config) -> list[str]:
        """As TRUNCATE wants it."""
        emptied = list(chosen.to_empty.values())
        return preflight.check_tables(facts, emptied, allow_replicated_truncate=config.allow_replicated_truncate)

    def empty(self, job: Job, guard: Guard, backup: VerifiedBackup, tables: Mapping[str, Table]) -> Truncated:
        """TRUNCATE."""
        return empty_tables(job, guard, backup, tables)


class Where(Whole, frozen=True):
    """Of the tables that the config would empty the rows that a condition names, of the others all: an export.

    Attributes:
        condition: SQL.
        labels: of the tables that it is about.
    """

    scope: Literal["collections", "where"] | None = "where"
    condition: str = "true"
    labels: frozenset[str] = frozenset()

    def choose(self, guard: Guard, tables: Mapping[str, Table], emptied: Collection[str]) -> Chosen:
        """The condition goes to its tables."""
        if emptied:
            raise Refused("rows chosen by a condition are never deleted", "Use --where with `vecbak backup` alone.")
        chosen = {
            label: table.rows_asked_for(self.condition) if label in self.labels else table
            for label, table in tables.items()
        }
        return Chosen(chosen, frozenset())


def where(text: str, config: Config) -> Where:
    r"""What `--where` means.

    Raises:
        UsageError: it cannot stand in psql's \copy, or there is no table that it could be about.
    """
    if has_control_characters(text) or not text.strip() or any(mark in text for mark in (";", "\\", "--", "/*")):
        raise UsageError(
            f"--where {text!r} cannot be used: one condition on one line, without ; \\ and comments",
            "For example: --where \"cmetadata->>'language' = 'de'\"",
        )
    tables = config.vector_tables
    if not tables.truncate_tables:
        raise UsageError("--where is about truncate_tables, and there are none", "Name them in vector_tables.")
    labels = tables.labels()
    return Where(condition=text, labels=frozenset(labels[name] for name in tables.truncated()))
