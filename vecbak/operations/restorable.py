"""Whether what is about to be emptied could be restored, and by whom; judged before a byte is written.

What no role could restore is refused. What another role can supply is a warning that says which GRANT does it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from vecbak.errors import Refused
from vecbak.operations.extent import Chosen
from vecbak.operations.targets import cannot_wait
from vecbak.postgres import demand_queries
from vecbak.postgres.catalog import Demand, Server, Table
from vecbak.postgres.guard import Guard
from vecbak.postgres.names import quote_identifier
from vecbak.postgres.queries import if_possible


class Lack(msgspec.Struct, frozen=True):
    """What a restore by the same role would lack, and how another role supplies it."""

    message: str
    hint: str

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}"


def count_unmet(guard: Guard, table: Table, *, seconds: float) -> Table:
    """The same table; of each demand that its rows may not meet it is told how many do not.

    Args:
        seconds: for each.
    """
    if not table.demands:
        return table
    found = guard.ask_json(demand_queries.conditions(table), f"reading the constraints of {table.name}")
    known = {(item["kind"], item["schema"], item["table"], item["name"]): item for item in found}
    counted = []
    for demand in table.demands:
        item = known.get((demand.kind, demand.schema, demand.table, demand.name))
        source = item["source"] if item else table.source
        condition = item["condition"] if item else demand_queries.unreadable(table, demand, guard.server_version)
        rows = None
        if condition:
            query = if_possible("vecbak_demand", demand_queries.count(source, table.condition, condition))
            rows = guard.ask_json(query, f"looking for rows of {table.name} that break {demand.name}", timeout=seconds)
        counted.append(msgspec.structs.replace(demand, rows=rows))
    return msgspec.structs.replace(table, demands=tuple(counted))


def counted(guard: Guard, chosen: Chosen, *, seconds: float) -> Chosen:
    """The same tables; of those that lose rows it is told how many do not meet a demand.

    Args:
        seconds: for each demand.
    """
    tables = {
        label: count_unmet(guard, table, seconds=seconds) if label in chosen.emptied else table
        for label, table in chosen.tables.items()
    }
    return Chosen(tables, chosen.emptied)


def check_restorable(chosen: Chosen, server: Server, *, divided: bool) -> list[str]:
    """Judge whether the rows could come back.

    Args:
        chosen: the tables of the run, their unmet demands counted.
        divided: only some collections are meant.

    Returns:
        Warnings.

    Raises:
        Refused: no role could restore one of them.
    """
    emptied = list(chosen.to_empty.values())
    for table in emptied:
        for problem in restoring_problems(table, divided=divided):
            raise problem
    lacks = [
        lack
        for label, table in chosen.tables.items()
        for lack in table_lacks(table, server, emptied=label in chosen.emptied)
    ]
    return [
        str(lack) for lack in (*lacks, *server_lacks(emptied, list(chosen.tables.values()), server, divided=divided))
    ]


def restoring_problems(table: Table, *, divided: bool = False) -> Iterator[Refused]:
    """Why no role could restore the rows of a table that is emptied.

    Args:
        divided: only some of its rows go, and its indexes stay as they are.
    """
    for demand in table.demands:
        if problem := _unmet(table, demand):
            yield problem
    if table.unfit_indexes and not divided:
        names = ", ".join(table.unfit_indexes)
        yield Refused(
            f"{table.name} has an index that could not be built ({names}): TRUNCATE puts it to use, and the rows may not fit in",
            f"REINDEX INDEX CONCURRENTLY {table.unfit_indexes[0]}; where that fails: DROP INDEX {table.unfit_indexes[0]};",
        )


def _unmet(table: Table, demand: Demand) -> Refused | None:
    if demand.kind == "t":
        if demand.rows == 0:
            return None
        some = "values" if demand.rows is None else f"{demand.rows:,} values"
        return Refused(
            f"{some} of {table.name}.{demand.name} cannot be read again by their type {demand.definition}; no restore could load them",
            "They name what is gone or is there twice by now: mend them, or make the column text (ALTER TABLE … ALTER COLUMN … TYPE"
            " text).",
        )
    if not demand.rows:
        return None
    what = f"{demand.rows:,} rows of {table.name} break {_named(demand)}"
    if demand.inherited:
        return Refused(
            f"{what}, which it has from the table that it is a part of; no restore could load them here",
            "Mend the rows; or name the whole table in vector_tables instead of this part of it.",
        )
    if not demand.validated:
        return None
    kind, name = ("DOMAIN" if demand.kind == "d" else "TABLE"), quote_identifier(demand.name)
    return Refused(
        f"{what}, and PostgreSQL believes that none does; no restore could load them",
        f"Mend the rows; or say so to PostgreSQL: ALTER {kind} {demand.place} DROP CONSTRAINT {name}; ALTER {kind} {demand.place} ADD"
        f" CONSTRAINT {name} {demand.definition} NOT VALID;",
    )


def _named(demand: Demand) -> str:
    kinds = {"f": "the foreign key", "d": f"the domain {demand.place}'s constraint"}
    return f"{kinds.get(demand.kind, 'the constraint')} {demand.name}"


def table_lacks(table: Table, server: Server, *, emptied: bool) -> Iterator[Lack]:
    """What the same role would lack to restore a table.

    Args:
        emptied: its rows go, and not only some may have to be added.
    """
    user = quote_identifier(server.user)
    if not table.can_insert:
        yield Lack(
            f"the role {server.user} may not insert into {table.name}: it could not restore it",
            f"Let its owner {table.owner} run: GRANT INSERT ON {table.sql} TO {user}; or restore as {table.owner}",
        )
    acting = [item for item in table.reactions if item.would_act and not item.owned]
    if acting:
        names = ", ".join(item.name for item in acting)
        yield Lack(
            f"the role {server.user} may not keep the triggers or rules of {table.name} still ({names}): it could not restore it",
            _as_owner([item.owner for item in acting], server),
        )
    if not emptied:
        return
    for demand in table.demands:
        if demand.kind != "t" and not demand.validated and not demand.owned and demand.rows != 0:
            yield may_not_drop(table, demand, server)


def may_not_drop(table: Table, demand: Demand, server: Server) -> Lack:
    """A constraint that rows break and that must be dropped while they are loaded, which we may not do."""
    some = "rows" if demand.rows is None else f"{demand.rows:,} rows"
    message = (
        f"{some} of {table.name} {'may break' if demand.rows is None else 'break'} {_named(demand)} (NOT VALID), which the role"
        f" {server.user} may not drop and add again: it could not restore them"
    )
    if demand.inherited or table.children:
        return Lack(
            message, "Restore the whole table that it is a part of, or into another schema: --into-schema NAME --create"
        )
    if demand.kind == "f" and demand.referenced and table.is_owner:
        owner = quote_identifier(demand.owner)
        return Lack(
            message, f"Let the owner of {demand.referenced} run: GRANT REFERENCES ON {demand.referenced} TO {owner}"
        )
    return Lack(message, _as_owner([demand.owner], server))


def _as_owner(owners: Sequence[str], server: Server) -> str:
    names = list(dict.fromkeys(owners))
    grants = ", ".join(quote_identifier(name) for name in names)
    return f"Restore as {names[0]}, or let a superuser run: GRANT {grants} TO {quote_identifier(server.user)}"


def server_lacks(emptied: Sequence[Table], tables: Sequence[Table], server: Server, *, divided: bool) -> Iterator[Lack]:
    """What a restore of these tables together would lack."""
    there = {oid for table in tables for oid in table.relations}
    for table in emptied:
        for demand in table.demands:
            if demand.references is not None and demand.references not in {*there, *table.ancestors}:
                yield Lack(
                    f"{table.name} points at {demand.referenced} ({demand.name}), which is not backed up: while {table.name} is empty,"
                    f" nothing keeps its rows there",
                    "Put it into vector_tables.supported_tables too, or let nobody delete from it until the rows are back",
                )
        for name in cannot_wait(table, emptied):
            yield Lack(
                f"the foreign key {name} of {table.name} may have to wait for rows while they are loaded, which {server.user} may not"
                f" tell it: a restore could fail",
                _as_owner([table.owner], server),
            )
    if divided and not server.temporary:
        yield Lack(
            f"the role {server.user} may not make temporary tables, by way of which collections are restored",
            f"GRANT TEMPORARY ON DATABASE {quote_identifier(server.database)} TO {quote_identifier(server.user)}",
        )
    if server.event_triggers:
        yield Lack(
            f"event triggers ({', '.join(server.event_triggers)}) watch changes of tables; one that forbids them may keep a restore from"
            f" building indexes, or from keeping triggers still",
            "Let a superuser disable them while rows are restored: ALTER EVENT TRIGGER … DISABLE",
        )
