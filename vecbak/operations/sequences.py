"""Sequences after a restore: past every restored value, never back, so that the application's next INSERT works."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from vecbak.errors import Refused
from vecbak.operations.preflight import sequence_grant
from vecbak.operations.targets import Plan
from vecbak.postgres import restore_queries
from vecbak.postgres.catalog import Position, Table
from vecbak.postgres.catalog import Sequence as TableSequence
from vecbak.postgres.guard import Guard
from vecbak.postgres.names import quote_literal


def aim(
    sequence: TableSequence, now: Position, recorded: Position | None, furthest: int | None, *, new: bool
) -> Position:
    """Where a sequence has to stand, which may be where it stands now.

    It keeps its step: of two servers that share a table, one may count even numbers and the other odd ones. One that
    CYCLEs is at no end of its values, and so only what was recorded tells where it was.

    Args:
        now: where it stands.
        recorded: where it stood when the backup was made, if that is known.
        furthest: the value in its column that it must be past.
        new: it was made by this restore, and nobody has used it yet.
    """
    step = sequence.increment
    if recorded and sequence.minimum <= recorded.value <= sequence.maximum:
        same_values = (recorded.value - now.value) % step == 0 and _is_behind(sequence, now, recorded)
        if new or (not now.is_called and (same_values or (sequence.cycle and recorded.is_called))):
            now = recorded
    if sequence.cycle and (now.is_called or recorded):
        return now
    taken = [furthest] if furthest is not None else []
    taken += [_last_given(recorded, step)] if recorded else []
    for value in taken:
        upcoming = _last_given(now, step) + step
        steps = (value - upcoming) // step
        if steps >= 0:
            reached = min(max(upcoming + steps * step, sequence.minimum), sequence.maximum)
            now = Position(value=reached, is_called=True)
    return now


def _is_behind(sequence: TableSequence, now: Position, recorded: Position) -> bool:
    """Whether it would give values that it had given when the backup was made."""
    step = sequence.increment
    return (_last_given(recorded, step) - _last_given(now, step)) * step > 0


def _last_given(position: Position, step: int) -> int:
    return position.value if position.is_called else position.value - step


def check_movable(plan: Plan, user: str) -> None:
    """Refuse, before a row is loaded, where a sequence is known to be behind and the role may not move it.

    Raises:
        Refused: names the GRANT.
    """
    for sequence, before in _counting(plan):
        now = sequence.known_position
        recorded = before.known_position if before else None
        restarted = before and before.file and (before.oid, before.file) != (sequence.oid, sequence.file)
        if now is None and restarted and plan.source.rows:
            raise _may_not_move(plan.table, sequence, user, "may stand behind the restored rows")
        if now and recorded and not sequence.can_update and aim(sequence, now, recorded, None, new=False) != now:
            raise _may_not_move(plan.table, sequence, user, "stands behind the restored rows")


class Advances:
    """What has to be done to the sequences of some tables when their rows are in.

    Args:
        seconds: that looking for a column's furthest value may take.

    Attributes:
        warnings: about those of which nobody can tell where they stand.
    """

    def __init__(self, guard: Guard, user: str, seconds: float) -> None:
        self._guard = guard
        self._user = user
        self._seconds = seconds
        self._aims: dict[int, tuple[str, Position]] = {}
        self.warnings: list[str] = []

    def look(self, plan: Plan) -> None:
        """Look where the sequences of one table have to go; nothing is moved yet.

        Raises:
            Refused: one has to, and the role may not move it; nothing is committed.
        """
        fresh = self._guard.facts([plan.table.oid]).tables[0]
        for sequence, before in _counting(msgspec.structs.replace(plan, table=fresh)):
            if not _is_only_kept(fresh, sequence):
                recorded = before.known_position if before else None
                self._aim(plan, sequence, recorded, self._furthest(fresh, sequence))
            elif before and before.known_position:
                self._aim(plan, sequence, before.known_position, None)

    def _furthest(self, table: Table, sequence: TableSequence) -> int | None:
        query = restore_queries.furthest_value(table, sequence)
        step = f"looking how far the sequence {sequence.name} has to go"
        with self._guard.planning(table):
            found = self._guard.ask_json(query, step, timeout=self._seconds)
        return None if found is None else int(found)

    def _aim(self, plan: Plan, sequence: TableSequence, recorded: Position | None, furthest: int | None) -> None:
        _, now = self._aims.get(sequence.oid, ("", sequence.known_position))
        if now is None:
            if recorded or furthest is not None:
                self.warnings.append(_unknown(plan.table, sequence, self._user))
            return
        if recorded is None and furthest is None and plan.source.rows and not now.is_called:
            self.warnings.append(_not_recorded(plan.table, sequence))
        new = plan.new and sequence.kind != "used" and sequence.oid not in self._aims
        wanted = aim(sequence, now, recorded, furthest, new=new)
        if wanted == now:
            return
        if not sequence.can_update:
            raise _may_not_move(plan.table, sequence, self._user, "stands behind the restored rows")
        self._aims[sequence.oid] = (sequence.name, wanted)

    def move(self) -> None:
        """Move them. No ROLLBACK takes that back, so it comes last; a value that is never used harms nobody."""
        for oid, (name, position) in self._aims.items():
            self._guard.ask(restore_queries.set_sequence(oid, position), f"moving the sequence {name}")


def _counting(plan: Plan) -> Iterator[tuple[TableSequence, TableSequence | None]]:
    """Sequences that gave restored columns their values, each with what the backup says of it."""
    known: Sequence[TableSequence] = plan.source.definition.sequences if plan.source.definition else ()
    for sequence in plan.table.sequences:
        if sequence.column in plan.source.columns:
            of_column = [item for item in known if item.column == sequence.column]
            same_name = [item for item in of_column if item.name == sequence.name]
            found = same_name or (of_column if len(of_column) == 1 else [])
            yield sequence, found[0] if found else None


def _is_only_kept(table: Table, sequence: TableSequence) -> bool:
    """Whether a column owns it and has its values from its identity."""
    return sequence.kind == "owned" and any(item.name == sequence.column and item.identity for item in table.columns)


def _may_not_move(table: Table, sequence: TableSequence, user: str, what: str) -> Refused:
    return Refused(
        f"the sequence {sequence.name} of {table.name}.{sequence.column} {what}, and the role {user} may not move it; the"
        " target is as it was before",
        f"Let its owner run: {sequence_grant(sequence, user)}; or restore as {table.owner}.",
    )


def _unknown(table: Table, sequence: TableSequence, user: str) -> str:
    return (
        f"the sequence {sequence.name} of {table.name}.{sequence.column} was left where it stands, and the role {user} may not"
        f" see where that is; to have vecbak look: {sequence_grant(sequence, user)}"
    )


def _not_recorded(table: Table, sequence: TableSequence) -> str:
    return (
        f"nothing tells where the sequence {sequence.name} of {table.name}.{sequence.column} stood, and it stands at its start: if"
        f" restored values were made with it, SELECT setval({quote_literal(sequence.sql)}, …) past them"
    )
