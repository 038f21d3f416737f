"""`vecbak prune`: remove the backups that no rule keeps, in each folder on its own.

Only what a manifest names is ever removed. What is damaged stays and keeps nothing else alive; what has no manifest, or one
that cannot be read, is not touched.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from datetime import UTC
from pathlib import Path

import msgspec

from vecbak.backups.inventory import FoundBackup, Inventory, take_inventory
from vecbak.backups.manifest import Manifest
from vecbak.backups.removal import InUse, damage, names_of_others, remove_backup
from vecbak.backups.retention import Moment, kept
from vecbak.config import Retention
from vecbak.postgres.collection_queries import REFERENCE
from vecbak.postgres.names import TableName
from vecbak.results import PrunedBackup, PruneResult

log = logging.getLogger(__name__)


class Decision(msgspec.Struct, frozen=True):
    """One backup, and why it stays; no reason: it goes."""

    found: FoundBackup
    reasons: tuple[str, ...]

    def to_result(self, action: str, *reasons: str) -> PrunedBackup:
        """For the result.

        Args:
            action: `keep`, `remove` or `removed`.
            reasons: beside those that the rules gave.
        """
        item = self.found.manifest
        return PrunedBackup(
            backup_id=item.backup_id,
            backup_directory=str(self.found.path.parent),
            manifest=str(self.found.path),
            created_at=item.created_at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
            rows=item.rows,
            size_bytes=item.size_bytes,
            action=action,
            reasons=(*self.reasons, *reasons),
        )


class Plan(msgspec.Struct, frozen=True):
    """What was found, and what is to become of it; by folder, newest first."""

    inventory: Inventory
    decisions: tuple[Decision, ...]

    def preview(self) -> PruneResult:
        """What would be done."""
        backups = (item.to_result("keep" if item.reasons else "remove") for item in self.decisions)
        return PruneResult(dry_run=True, backups=tuple(backups))


def plan(folders: Iterable[Path], rules: Retention) -> Plan:
    """Judge every backup in these folders, each folder on its own; nothing is changed."""
    inventory = take_inventory(dict.fromkeys(folder.resolve() for folder in folders))
    for path, reason in inventory.unreadable:
        log.warning("not touched: %s (%s)", path, reason)
    by_folder: dict[Path, list[FoundBackup]] = {}
    for found in inventory.backups:
        by_folder.setdefault(found.path.parent, []).append(found)
    decisions = [decision for group in by_folder.values() for decision in _judge(group, rules)]
    return Plan(inventory, tuple(decisions))


def prune(planned: Plan, *, suffix: str) -> PruneResult:
    """Remove what nothing keeps; what somebody still works with stays.

    Args:
        suffix: the config's backup_temp_suffix.

    Returns:
        What was done; `errors` name what could not be removed.
    """
    done: list[PrunedBackup] = []
    errors: list[str] = []
    freed = 0
    for decision in planned.decisions:
        if decision.reasons:
            done.append(decision.to_result("keep"))
            continue
        if not _a_good_one_stays(decision, planned.decisions):
            errors.append(
                f"{decision.found.path} was not removed: the backups that were to be kept are not good any more"
            )
            done.append(decision.to_result("keep", "nothing else is good any more"))
            continue
        theirs = names_of_others(decision.found, planned.inventory)
        try:
            freed += remove_backup(decision.found, theirs, suffix)
        except InUse as error:
            done.append(decision.to_result("keep", str(error)))
        except OSError as error:
            errors.append(f"{decision.found.path} could not be removed: {error.strerror}")
            gone = not decision.found.path.exists()
            done.append(decision.to_result("removed") if gone else decision.to_result("keep", str(error.strerror)))
        else:
            log.info("removed the backup %s", decision.found.path)
            done.append(decision.to_result("removed"))
    return PruneResult(dry_run=False, backups=tuple(done), freed_bytes=freed, errors=tuple(errors))


def _judge(group: list[FoundBackup], rules: Retention) -> list[Decision]:
    problems = {found.path: damage(found) for found in group}
    reasons = kept([_moment(found) for found in group if not problems[found.path]], rules)
    return [
        Decision(found, (f"damaged: {problem}",) if (problem := problems[found.path]) else reasons[_moment(found)])
        for found in group
    ]


def _a_good_one_stays(leaving: Decision, decisions: tuple[Decision, ...]) -> bool:
    # somebody may have thought long about the question
    folder = leaving.found.path.parent
    return any(
        item.reasons and item.found.path.parent == folder and item.found.path.exists() and not damage(item.found)
        for item in decisions
    )


def _moment(found: FoundBackup) -> Moment:
    item = found.manifest
    full = {label for label, entry in item.tables.items() if entry.rows}
    if item.truncated:
        lost = {label for label, rows in item.truncated.rows_removed.items() if rows and label in item.tables}
    else:  # its run may have been killed before it could say so
        lost = full.intersection(item.removing)
    return Moment(
        item.created_at,
        found.path.name,
        holding=_holdings(item, full),
        emptied=_holdings(item, lost, whole=False),
        certain=item.truncated is not None,
    )


def _holdings(item: Manifest, labels: Collection[str], *, whole: bool = True) -> frozenset[str]:
    """Whose rows these are: whole tables, and collections; rows that a condition chose count for nothing.

    Args:
        whole: a whole table counts for each of its collections too.
    """
    collections = [name for name, entry in (item.collections or {}).items() if entry.rows]
    held: set[str] = set()
    for label in labels:
        table = item.tables[label].table
        name = f"{item.database}.{TableName(table.schema, table.name)}"
        if not table.condition:
            held.add(name)
        if any(column.name == REFERENCE for column in table.columns) and item.scope != "where":
            held |= {f"{name} ({one})" for one in collections} if whole or table.condition else set()
    return frozenset(held)
