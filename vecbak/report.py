"""The only place that prints: results as text or JSON, errors, questions."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from vecbak.errors import VecbakError

if TYPE_CHECKING:
    from vecbak.backups.inventory import FoundBackup, Inventory
    from vecbak.backups.manifest import Manifest
    from vecbak.operations.checks import Examination
    from vecbak.operations.pipeline import Loaded
    from vecbak.operations.preview import Preview
    from vecbak.operations.workflow import WorkflowResult
    from vecbak.results import PrunedBackup, PruneResult, RestoreResult, Result, VerifyResult

LAST_LINES = 12


def is_interactive() -> bool:
    """Whether somebody sits at a terminal who sees standard error and can answer."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def _styled(text: str, code: str, stream: TextIO) -> str:
    plain = not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return text if plain else f"\x1b[{code}m{text}\x1b[0m"


def show_error(error: VecbakError, mask: Any = lambda text: text) -> None:
    """Three things: what failed, the last lines that the program printed, what to do now."""
    print(_styled("Error:", "1;31", sys.stderr), mask(error.message), file=sys.stderr)
    for line in mask(error.output).splitlines()[-LAST_LINES:]:
        print(f"  {line}", file=sys.stderr)
    if error.hint:
        print(_styled("Hint:", "1;36", sys.stderr), mask(error.hint), file=sys.stderr)


def show_line(text: str) -> None:
    """A line on standard error."""
    print(text, file=sys.stderr)


def show_document(document: Any) -> None:
    """The one JSON document of `--json`."""
    json.dump(document, sys.stdout, ensure_ascii=False, indent=2, default=str)
    sys.stdout.write("\n")
    sys.stdout.flush()


def show_text(text: str) -> None:
    """Text on standard output."""
    print(text)


def show_commands(commands: Sequence[str], *, as_json: bool) -> None:
    """`--dry-run`."""
    if as_json:
        show_document({"dry_run": True, "commands": list(commands)})
    else:
        show_text("\n\n".join(commands))


def show_result(result: Result, *, truncate_asked: bool, truncated_as: str = "truncated") -> None:
    """The closing summary of a backup or truncate."""
    from vecbak.results import human_size

    tables = result.tables_backed_up
    size = human_size(sum(item.size_bytes for item in tables.values()))
    rows = sum(item.row_count for item in tables.values())
    count = "1 table" if len(tables) == 1 else f"{len(tables)} tables"
    print(f"Backup {result.backup_id}: {count}, {rows:,} rows, {size}, {result.duration:.2f} s")
    width = max((len(name) for name in tables), default=0)
    for name, item in tables.items():
        print(
            f"  {_mark(item.success)} {name:<{width}}  {item.row_count:>11,} rows  {item.file_size:>9}  {item.backup_file}"
        )
    if truncate_asked:
        for name, emptied in result.truncate_results.items():
            print(f"  {_mark(emptied.success)} {name:<{width}}  {emptied.rows_before:>11,} rows  {truncated_as}")
    else:
        print("  - nothing was truncated (not asked for)")
    if result.pruned:
        print(f"  - removed by retention: {', '.join(result.pruned)}")
    print(f"  manifest: {result.manifest}")


def _mark(success: bool) -> str:
    return _styled("✓", "32", sys.stdout) if success else _styled("✗", "31", sys.stdout)


def ask_to_truncate(preview: Preview) -> bool:
    """Ask on the terminal whether these tables may be emptied."""
    if preview.collections:
        return _ask(
            f"About to back up, verify, and then DELETE the embeddings of {', '.join(preview.collections)}:",
            preview,
            "back up and DELETE",
            "Nobody waits for that, and all other collections stay as they are.",
        )
    return _ask(
        "About to back up, verify, and then TRUNCATE:",
        preview,
        "back up and EMPTY",
        f"Writers to the tables to be emptied wait meanwhile, about {preview.seconds:.0f} s; readers wait a moment at the end.",
    )


def ask_to_replace(preview: Preview, backup_id: str, *, safety_backup: bool) -> bool:
    """Ask on the terminal whether what stands in these tables may be replaced."""
    what = f"the embeddings of {', '.join(preview.collections)}" if preview.collections else "what these tables hold"
    return _ask(
        f"About to REPLACE {what} by the backup {backup_id}:",
        preview,
        "back up and REPLACE" if safety_backup else "REPLACE without a safety backup",
        "Writers and, from the moment that the tables are emptied, readers wait until it is done, indexes included.",
    )


def _ask(title: str, preview: Preview, action: str, consequence: str) -> bool:
    from vecbak.results import human_size

    print(title, file=sys.stderr)
    print(f"  host      {preview.host}\n  database  {preview.database} (as {preview.user})", file=sys.stderr)
    for table in preview.tables:
        what = _styled(action, "1;31", sys.stderr) if table.truncate else "back up"
        print(
            f"  {table.name}: {'about ' if table.estimated else ''}{table.rows:,} rows, {human_size(table.bytes)}: {what}",
            file=sys.stderr,
        )
    print(consequence, file=sys.stderr)
    return _answered_yes()


def show_pruned(result: PruneResult) -> None:
    """`vecbak prune`: by folder what stays, what goes, and why."""
    from vecbak.results import human_size

    if not result.backups:
        print("No backups found.")
        return
    _print_pruned(result, sys.stdout)
    gone = result.of("remove", "removed")
    size = human_size(sum(item.size_bytes for item in gone))
    count = "1 backup" if len(gone) == 1 else f"{len(gone)} backups"
    print(f"{count} {'to remove' if result.dry_run else 'removed'}, {size}; {len(result.of('keep'))} kept")


def _print_pruned(result: PruneResult, stream: TextIO) -> None:
    lines = [_pruned_line(item) for item in result.backups]
    folder = None
    for item, line in zip(result.backups, _columns(lines, right={3, 4}), strict=True):
        if item.backup_directory != folder:
            folder = item.backup_directory
            print(_styled(_short(Path(folder)), "1", stream), file=stream)
        print(f"  {line if item.action == 'keep' else _styled(line, '31', stream)}", file=stream)


def _pruned_line(item: PrunedBackup) -> tuple[str, ...]:
    from vecbak.results import human_size

    when = item.created_at[:19].replace("T", " ")
    return (
        item.action,
        item.backup_id,
        when,
        f"{item.rows:,} rows",
        human_size(item.size_bytes),
        ", ".join(item.reasons),
    )


def ask_to_prune(result: PruneResult) -> bool:
    """Ask on the terminal whether these backups may be removed."""
    print("About to remove backups:", file=sys.stderr)
    _print_pruned(result, sys.stderr)
    return _answered_yes()


def _answered_yes() -> bool:
    print("Go on? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def show_verified(result: VerifyResult) -> None:
    """What verifying a backup found."""
    from vecbak.results import human_size

    for name, item in result.files.items():
        rows = "" if item.rows is None else f"{item.rows:>11,} rows"
        size = human_size(item.size_bytes) if item.size_bytes is not None else "missing"
        print(f"  {_mark(item.success)} {name}  {rows:>16}  {size:>9}")
    if result.verified:
        size = human_size(result.size_bytes)
        print(f"Backup {result.backup_id} is intact: {result.rows:,} rows, {size}, {result.duration:.2f} s")
    if result.proof:
        proof = result.proof
        print(
            f"{_mark(True)} proven restorable: restored in the {proof['place']} (PostgreSQL {proof['server']}, pgvector"
            f" {proof['vector']}) and exported again, byte for byte the same ({proof['duration']:.1f} s)"
        )


def show_run(result: Result, loaded: Loaded) -> None:
    """The closing summary of `vecbak run`, on standard error: standard output is the command's."""
    _say_end(f"command {loaded.failure}" if loaded.failure else "command succeeded", result, loaded.restored)


def show_workflow(result: WorkflowResult) -> None:
    """The closing summary of `vecbak workflow`."""
    for step in result.steps:
        mark = {"done": "✓", "failed": "✗", "skipped": "-"}[step.status]
        print(f"  {mark} {step.name}: {step.status}{f' ({step.error})' if step.error else ''}, {step.duration:.1f} s")
    management = result.vector_management
    if note := management.get("note"):
        print(f"vector tables: {note}")
    else:
        item = management["summary"]
        print(
            f"vector tables: backup {'performed' if management['backup_performed'] else 'NOT performed'}, truncate"
            f" {'performed' if management['truncate_performed'] else 'not performed'}; {item['tables']} tables,"
            f" {item['rows']:,} rows, {item['files']} files, {item['size']}, {management['duration']:.2f} s"
        )
    if result.restored:
        print(f"the old vectors were brought back from backup {result.restored['backup_id']}")
    print(f"task {result.task_id}: {'succeeded' if result.success else 'FAILED'}, {result.duration:.1f} s")


def flush() -> None:
    """What was printed so far comes before what a command prints."""
    sys.stdout.flush()
    sys.stderr.flush()


def _say_end(command: str, result: Result, restored: RestoreResult | None) -> None:
    print(f"vecbak: {command}; {result.describe()}", file=sys.stderr)
    if restored:
        safety = f"; what the load had left is backup {restored.safety_backup}" if restored.safety_backup else ""
        print(f"vecbak: the old vectors were brought back from backup {restored.backup_id}{safety}", file=sys.stderr)


def show_restored(result: RestoreResult) -> None:
    """The closing summary of a restore."""
    print(f"Restored {result.backup_id} into {result.database} in {result.duration:.2f} s (mode {result.mode})")
    width = max((len(item.target) for item in result.tables_restored.values()), default=0)
    for item in result.tables_restored.values():
        skipped = f", {item.rows_skipped:,} there already" if item.rows_skipped else ""
        print(
            f"  {_mark(item.success)} {item.target:<{width}}  {item.row_count:>11,} rows restored{skipped};"
            f" {item.rows_before:,} before, {item.rows_after:,} now"
        )
    for label, account in (result.migrated or {}).items():
        print(
            f"  {label}: {account['rows']:,} rows migrated, {account['ids_from_custom_id']:,} ids from custom_id,"
            f" {account['ids_from_uuid']:,} from uuid"
        )
    if result.indexes_rebuilt:
        print(f"  indexes built: {', '.join(result.indexes_rebuilt)}")
    if result.safety_backup:
        print(f"  what stood there before is backup {result.safety_backup}: {result.safety_manifest}")
    if result.skipped_bad_rows:
        print(f"  {result.skipped_bad_rows:,} rows could not be read and were left out")


def show_inventory(inventory: Inventory) -> None:
    """`vecbak list` as text."""
    from vecbak.results import human_size

    if not inventory.backups and not inventory.pairs and not inventory.unreadable:
        print("No backups found.")
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
            _short(pair.collection.parent),
        )
        for pair in inventory.pairs
    ]
    for number, line in enumerate(_columns(lines, right={3, 4})):
        print(line if number else _styled(line, "1", sys.stdout))
    for path, reason in inventory.unreadable:
        print(f"{_styled('unusable:', '31', sys.stdout)} {_short(path)}: {reason}")


_TITLES = ("BACKUP", "AGE", "CREATED (UTC)", "ROWS", "SIZE", "FORMAT", "TRUNCATED", "PROVEN", "COLLECTIONS", "FOLDER")


def _inventory_line(found: FoundBackup) -> tuple[str, ...]:
    from vecbak.results import human_size

    item = found.manifest
    return (
        item.backup_id,
        _age(item.created_at),
        f"{item.created_at.astimezone(UTC):%Y-%m-%d %H:%M:%S}",
        f"{item.rows:,}",
        human_size(item.size_bytes),
        item.format if item.compression == "none" else f"{item.format} {item.compression}",
        "yes" if item.truncated else "no",
        "yes" if item.proven_restorable else "no",
        _holdings(item),
        _short(found.path.parent),
    )


LISTED_COLLECTIONS = 3


def _holdings(item: Manifest) -> str:
    """Which collections a backup holds, in a few words."""
    if item.scope == "where":
        return "some rows alone"
    names = sorted(item.collections or ())
    listed = ", ".join(names) if len(names) <= LISTED_COLLECTIONS else str(len(names))
    return f"{listed or '-'}{' alone' if item.scope else ''}"


def _columns(lines: Sequence[Sequence[str]], *, right: Collection[int] = ()) -> list[str]:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return [
        "  ".join(
            text.rjust(width) if column in right else text.ljust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


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
    }


def show_examination(examination: Examination) -> None:
    """`vecbak doctor`: a line for each check, and below what is not well how to mend it."""
    width = max(len(check.name) for check in examination.checks)
    for check in examination.checks:
        mark, color = _MARKS[check.status]
        print(f"{_styled(mark, color, sys.stdout)} {check.name:<{width}}  {check.message}")
        if check.hint:
            print(f"  {'':<{width}}  {_styled('→', '36', sys.stdout)} {check.hint}")
    count = {status: sum(check.status == status for check in examination.checks) for status in _MARKS}
    if examination.ok:
        print(f"\nNothing would fail ({count['ok']} ok, {count['warning']} warnings).")
    else:
        print(f"\n{count['failed']} would fail: a run would end with exit code {examination.exit_code}.")


_MARKS = {"ok": ("✓", "32"), "warning": ("!", "33"), "failed": ("✗", "1;31"), "skipped": ("-", "2")}


def examination_document(examination: Examination) -> dict[str, Any]:
    """`vecbak doctor --json`."""
    import msgspec

    document: dict[str, Any] = msgspec.to_builtins(examination)
    return document


def show_backup(found: FoundBackup, log_entry: str) -> None:
    """`vecbak show` as text."""
    from vecbak.results import human_size

    item = found.manifest
    versions = ", ".join(f"{name} {version}" for name, version in item.server.extensions.items() if name == "vector")
    facts = {
        "Backup": item.backup_id,
        "Task": item.task_id,
        "Created": f"{item.created_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC, {_age(item.created_at)} ago",
        "Database": f"{item.database} on {item.host or 'the default host'}, PostgreSQL {item.server.version} ({versions or 'no pgvector'})",
        "Format": f"{item.format}, compression {item.compression}",
        "Manifest": str(found.path),
        "Truncated": ", ".join(item.truncated.rows_removed) if item.truncated else "no",
    }
    if item.scope:
        meant = {"collections": "these collections alone", "where": "the rows of a condition alone"}[item.scope]
        facts["Holds"] = meant
    for name, value in facts.items():
        print(f"{name + ':':<11}{value}")
    for label, entry in item.tables.items():
        print(f"\n{label}: {entry.rows:,} rows, {human_size(entry.size_bytes)}")
        for file in entry.files:
            print(f"  {file.name}  {file.rows:,} rows  {human_size(file.size_bytes)}\n    sha256 {file.sha256}")
        print(f"  columns: {', '.join(f'{column.name} {column.type}' for column in entry.table.columns)}")
        for index in entry.table.indexes:
            print(f"  index:   {index.definition}")
        if entry.table.condition:
            print(f"  only:    {entry.table.condition}")
    if item.collections:
        print()
    for collection, held in (item.collections or {}).items():
        print(f"collection {collection}: {held.rows:,} rows ({held.uuid})")
    if log_entry:
        print(f"\n{log_entry}", end="")


def _age(moment: datetime) -> str:
    import humanize

    return humanize.naturaldelta(datetime.now(UTC) - moment)


def _short(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd())) or "."
    except ValueError:
        return str(path)
