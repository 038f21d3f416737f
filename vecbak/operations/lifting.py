"""Constraints that rows of a backup may break (NOT VALID, when older rows did): dropped while they are loaded, and added again.

All of it in the restore's transaction: nobody else ever sees the table without them. How many rows broke one was counted
when they were backed up; a restore that would leave more of them fails.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from vecbak.errors import Refused, RestoreFailed
from vecbak.operations.restorable import count_unmet, may_not_drop
from vecbak.operations.targets import Plan
from vecbak.postgres import demand_queries
from vecbak.postgres.catalog import Demand, Server
from vecbak.postgres.guard import Guard
from vecbak.postgres.queries import milliseconds


def lifted(plan: Plan) -> list[Demand]:
    """What is dropped while the rows of a table are loaded; what none of them broke stays."""
    return [
        demand
        for demand in plan.table.demands
        if _is_doubtful(plan, demand) and demand.owned and not demand.inherited and not plan.table.children
    ]


def check_lifted(plan: Plan, server: Server) -> None:
    """Refuse to load rows that break what may not be dropped.

    Raises:
        Refused: says who may.
    """
    for demand in plan.table.demands:
        if _is_doubtful(plan, demand) and recorded(plan, demand) and demand not in lifted(plan):
            lack = may_not_drop(plan.table, demand, server)
            raise Refused(f"{lack.message}; the target is as it was before", lack.hint)


def recorded(plan: Plan, demand: Demand) -> int | None:
    """How many rows of the backup break it; 0 for what was asked of all of them; None: nobody counted."""
    definition = plan.source.definition
    if definition is None:
        return 0
    for item in definition.demands:
        if (item.kind, item.table, item.name) == (demand.kind, demand.table, demand.name):
            return 0 if item.validated else item.rows
    # an older manifest has no demands, and one may have been made before the constraint was
    checks = [check for item in definition.types if item.name == demand.table for check in item.constraints]
    known = checks if demand.kind == "d" else definition.constraints
    unsaid = any(item.name == demand.name and item.definition.endswith(" NOT VALID") for item in known)
    return None if unsaid else 0


def _is_doubtful(plan: Plan, demand: Demand) -> bool:
    # a new table gets its own constraints when the rows are in; its domains may have been there before
    is_there = demand.kind == "d" or not plan.new
    return demand.kind != "t" and is_there and not demand.validated and recorded(plan, demand) != 0


class Lifting:
    """The constraints that one restore lifts.

    Args:
        lock_seconds: how long a lock may be waited for; the table that a foreign key points at is locked too.
        seconds: for looking at all rows of a table.
    """

    def __init__(self, guard: Guard, plans: Sequence[Plan], *, lock_seconds: float, seconds: float) -> None:
        self._guard = guard
        self._lock_seconds = lock_seconds
        self._seconds = seconds
        self._plans = [plan for plan in plans if lifted(plan)]
        self._before: dict[str, dict[Demand, int]] = {}

    def holds(self, place: str, name: str) -> bool:
        """Whether a constraint is not there for now."""
        return any((demand.place, demand.name) == (place, name) for demand in self._demands())

    def drop(self) -> None:
        """Before the rows are loaded."""
        for plan in self._plans:
            kept = 0 if plan.empty or not plan.rows_before else plan.rows_before
            self._before[plan.source.label] = self._counted(plan) if kept else {}
        for demand in self._demands():
            wait = f"SET LOCAL lock_timeout = '{milliseconds(self._lock_seconds)}ms';"
            self._guard.ask(f"{wait}\n{demand_queries.drop(demand)}", f"dropping the constraint {demand.name} for now")

    def add(self) -> None:
        """When all rows are there.

        Raises:
            RestoreFailed: more rows break one than did when they were backed up.
        """
        for demand in self._demands():
            statements = "\n".join(demand_queries.add(demand))
            self._guard.ask(statements, f"adding the constraint {demand.name} again", timeout=self._seconds)
        for plan in self._plans:
            for demand, rows in self._counted(plan).items():
                known = recorded(plan, demand)
                if known is not None and rows > known + self._before[plan.source.label].get(demand, 0):
                    raise RestoreFailed(
                        f"{rows:,} rows of {plan.table.name} would break the constraint {demand.name} ({demand.definition}), and when"
                        f" they were backed up only {known:,} did; the target is as it was before",
                        "If it is a foreign key, restore the table that it points at too, or first.",
                    )

    def _demands(self) -> Iterator[Demand]:
        """Each once: a domain may be in several tables."""
        return iter({(item.place, item.name): item for plan in self._plans for item in lifted(plan)}.values())

    def _counted(self, plan: Plan) -> dict[Demand, int]:
        wanted = {demand: demand for demand in lifted(plan) if recorded(plan, demand) is not None}
        table = msgspec.structs.replace(plan.table, demands=tuple(wanted), condition="")
        found = count_unmet(self._guard, table, seconds=self._seconds).demands
        return {demand: item.rows for demand, item in zip(wanted, found, strict=True) if item.rows is not None}
