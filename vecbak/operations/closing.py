"""What a restore makes is open to nobody to whom it was not: the target's default privileges are taken back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from vecbak.errors import RestoreFailed
from vecbak.operations.targets import SourceTable
from vecbak.postgres.catalog import Grant, Table
from vecbak.postgres.guard import Guard
from vecbak.postgres.privileges import Made, grantees, lost, read_grants, revoke, too_open


class ClosedToOthers:
    """All that one restore has made. Until its COMMIT nobody else sees any of it."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._made: list[tuple[str, Made]] = []

    def add(self, label: str, made: Made) -> None:
        """Remember an object.

        Args:
            label: what a warning calls it, or the table that it belongs to.
        """
        self._made.append((label, made))

    def close(self, tables: Sequence[tuple[SourceTable, Table]]) -> list[str]:
        """Revoke what the backup does not record; before a row is loaded.

        Args:
            tables: those that were missing, and what the catalogs say of them now.

        Returns:
            Warnings: who might do more with what these were made from.
        """
        for source, table in tables:
            self._made += [(str(source.target), item) for item in _own_sequences(source, table)]
        found = self._read_grants()
        statements = [line for (_, item), now in zip(self._made, found, strict=True) for line in revoke(item, now)]
        if statements:
            self._guard.define(statements, "revoking what the backup does not record")
        roles = {str(source.target): _formerly_told(source) for source, _ in tables}
        for (label, item), now in zip(self._made, found, strict=True):
            roles.setdefault(label, set()).update(grantees(lost(now, item.recorded)))
        return [
            f"{label} was made without privileges for others; {', '.join(sorted(names))} had some"
            for label, names in roles.items()
            if names
        ]

    def check(self) -> None:
        """Look again, before COMMIT.

        Raises:
            RestoreFailed: somebody may do more than the backup records.
        """
        for (_, item), now in zip(self._made, self._read_grants(), strict=True):
            if opened := too_open(now, item.recorded):
                raise RestoreFailed(
                    f"{item.sql} was opened again to {', '.join(grantees(opened))}, and the backup does not record that; the"
                    " target is as it was before",
                    "An event trigger of the target does this (`\\dy` in psql lists them). Let a superuser ALTER EVENT"
                    " TRIGGER … DISABLE it while vecbak restores.",
                )

    def _read_grants(self) -> list[tuple[Grant, ...]]:
        if not self._made:
            return []
        query = read_grants([item for _, item in self._made])
        found = self._guard.query(query, "reading the privileges on what was made")
        return msgspec.convert(found, list[tuple[Grant, ...]])


def _own_sequences(source: SourceTable, table: Table) -> Iterator[Made]:
    """Those that were made with a table, whatever they are called now."""
    known = {item.column: item.access.grants for item in source.definition.sequences} if source.definition else {}
    for item in table.sequences:
        if item.kind != "used":
            yield Made("SEQUENCE", item.schema, item.name, known.get(item.column, ()))


def _formerly_told(source: SourceTable) -> set[str]:
    """Older manifests name who had privileges, and not which."""
    table = source.definition
    return set(table.grantees) if table and not table.access.grants else set()
