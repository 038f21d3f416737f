"""Which backups there are, and what one of them holds."""

from __future__ import annotations

import sys
from datetime import UTC
from typing import TYPE_CHECKING, Any

from vecbak.report.terminal import age, columns, say, short, show_text, styled

if TYPE_CHECKING:
    from vecbak.backups.inventory import FoundBackup, Inventory
    from vecbak.backups.manifest import Manifest, Proof

_TITLES = ("BACKUP", "AGE", "CREATED (UTC)", "ROWS", "SIZE", "FORMAT", "TRUNCATED", "PROVEN", "COLLECTIONS", "FOLDER")
LISTED_COLLECTIONS = 3


def show_inventory(inventory: Inventory) -> None:
    """`vecbak list` as text."""
    from vecbak.results import human_size

    if not inventory.backups and not inventory.pairs and not inventory.unreadable:
        say("No backups found.")
        return
    lines = [_TITLES, *(_inventory_line(found) for found in inventory.backups)]
    lines += [
        (
            pair.backup_id,
            "?",
            "no manifest",
            "?",
            human_size(pair.size_bytes),
            "csv",
            "?",
            "?",
            "?",
            short(pair.collection.parent),
        )
        for pair in inventory.pairs
    ]
    for number, line in enumerate(columns(lines, right={3, 4})):
        say(line if number else styled(line, "1", sys.stdout))
    for path, reason in inventory.unreadable:
        say(f"{styled('unusable:', '31', sys.stdout)} {short(path)}: {reason}")


def _inventory_line(found: FoundBackup) -> tuple[str, ...]:
    from vecbak.results import human_size

    item = found.manifest
    return (
        item.backup_id,
        age(item.created_at),
        f"{item.created_at.astimezone(UTC):%Y-%m-%d %H:%M:%S}",
        f"{item.rows:,}",
        human_size(item.size_bytes),
        item.format if item.compression == "none" else f"{item.format} {item.compression}",
        "yes" if item.truncated else "no",
        "yes" if item.proven_restorable else "no",
        _holdings(item),
        short(found.path.parent),
    )


def _proof(proof: Proof | None) -> str:
    if proof is None:
        return "no (`vecbak verify BACKUP --restore`)"
    return (
        f"restorable, {proof.proven_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC, {proof.place}, PostgreSQL {proof.server}"
    )


def _holdings(item: Manifest) -> str:
    """Which collections a backup holds, in a few words."""
    if item.scope == "where":
        return "some rows alone"
    names = sorted(item.collections or ())
    listed = ", ".join(names) if len(names) <= LISTED_COLLECTIONS else str(len(names))
    return f"{listed or '-'}{' alone' if item.scope else ''}"


def inventory_document(inventory: Inventory) -> list[dict[str, Any]]:
    """`vecbak list --json`: one object a backup, newest first; `status` is ok, no_manifest or unusable."""
    documents: list[dict[str, Any]] = [backup_document(found) for found in inventory.backups]
    documents += [
        {
            "status": "no_manifest",
            "backup_id": pair.backup_id,
            "backup_directory": str(pair.collection.parent),
            "files": [pair.collection.name, pair.embedding.name],
            "size_bytes": pair.size_bytes,
        }
        for pair in inventory.pairs
    ]
    documents += [
        {"status": "unusable", "manifest": str(path), "error": reason} for path, reason in inventory.unreadable
    ]
    return documents


def backup_document(found: FoundBackup) -> dict[str, Any]:
    """One backup, in short."""
    import msgspec

    item = found.manifest
    return {
        "status": "ok",
        "backup_id": item.backup_id,
        "task_id": item.task_id,
        "created_at": item.created_at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "database": item.database,
        "format": item.format,
        "compression": item.compression,
        "backup_directory": str(found.path.parent),
        "manifest": str(found.path),
        "rows": item.rows,
        "size_bytes": item.size_bytes,
        "tables": {name: {"rows": entry.rows, "size_bytes": entry.size_bytes} for name, entry in item.tables.items()},
        "scope": item.scope,
        "collections": msgspec.to_builtins(item.collections),
        "truncated": sorted(item.truncated.rows_removed) if item.truncated else [],
        "proven_restorable": item.proven_restorable is not None,
        "durable": item.durable,
    }


def show_backup(found: FoundBackup, log_entry: str) -> None:
    """`vecbak show` as text."""
    from vecbak.results import human_size

    item = found.manifest
    versions = ", ".join(f"{name} {version}" for name, version in item.server.extensions.items() if name == "vector")
    facts = {
        "Backup": item.backup_id,
        "Task": item.task_id,
        "Created": f"{item.created_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC, {age(item.created_at)} ago",
        "Database": f"{item.database} on {item.host or 'the default host'}, PostgreSQL {item.server.version} ({versions or 'no pgvector'})",
        "Server": item.server.name,
        "Format": f"{item.format}, compression {item.compression}",
        "Manifest": str(found.path),
        "Truncated": ", ".join(item.truncated.rows_removed) if item.truncated else "no",
        "Proven": _proof(item.proven_restorable),
    }
    if item.scope:
        meant = {"collections": "these collections alone", "where": "the rows of a condition alone"}[item.scope]
        facts["Holds"] = meant
    if not item.durable:
        facts["Place"] = "did not look as if it lasted: temporary, in memory, or a task's own"
    for name, value in facts.items():
        say(f"{name + ':':<11}{value}")
    for label, entry in item.tables.items():
        say()
        say(f"{label}: {entry.rows:,} rows, {human_size(entry.size_bytes)}")
        for file in entry.files:
            say(f"  {file.name}  {file.rows:,} rows  {human_size(file.size_bytes)}")
            say(f"    sha256 {file.sha256}")
        say(f"  columns: {', '.join(f'{column.name} {column.type}' for column in entry.table.columns)}")
        for index in entry.table.indexes:
            say(f"  index:   {index.definition}")
        if entry.table.condition:
            say(f"  only:    {entry.table.condition}")
    if item.collections:
        say()
    for collection, held in (item.collections or {}).items():
        say(f"collection {collection}: {held.rows:,} rows ({held.uuid})")
    if log_entry:
        show_text(f"\n{log_entry}", end="")
