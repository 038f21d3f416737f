"""What came out of a command."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from vecbak.report.terminal import columns, mark, say, short, show_line, styled

if TYPE_CHECKING:
    from vecbak.operations.checks import Examination
    from vecbak.operations.pipeline import Loaded
    from vecbak.operations.workflow import WorkflowResult
    from vecbak.results import PrunedBackup, PruneResult, RestoreResult, Result, VerifyResult

_MARKS = {"ok": ("✓", "32"), "warning": ("!", "33"), "failed": ("✗", "1;31"), "skipped": ("-", "2")}


def show_result(result: Result, *, truncate_asked: bool, truncated_as: str = "truncated") -> None:
    """The closing summary of a backup or truncate."""
    from vecbak.results import human_size

    tables = result.tables_backed_up
    size = human_size(sum(item.size_bytes for item in tables.values()))
    rows = sum(item.row_count for item in tables.values())
    count = "1 table" if len(tables) == 1 else f"{len(tables)} tables"
    say(f"Backup {result.backup_id}: {count}, {rows:,} rows, {size}, {result.duration:.2f} s")
    width = max((len(name) for name in tables), default=0)
    for name, item in tables.items():
        say(
            f"  {mark(item.success)} {name:<{width}}  {item.row_count:>11,} rows  {item.file_size:>9}  {item.backup_file}"
        )
    if truncate_asked:
        for name, emptied in result.truncate_results.items():
            say(f"  {mark(emptied.success)} {name:<{width}}  {emptied.rows_before:>11,} rows  {truncated_as}")
    else:
        say("  - nothing was truncated (not asked for)")
    if result.pruned:
        say(f"  - removed by retention: {', '.join(result.pruned)}")
    say(f"  manifest: {result.manifest}")
    if result.durable is False:
        say(f"  {styled('!', '33', sys.stdout)} this place may not last; keep a copy of the backup elsewhere")


def show_verified(result: VerifyResult) -> None:
    """What verifying a backup found."""
    from vecbak.results import human_size

    for name, item in result.files.items():
        rows = "" if item.rows is None else f"{item.rows:>11,} rows"
        size = human_size(item.size_bytes) if item.size_bytes is not None else "missing"
        say(f"  {mark(item.success)} {name}  {rows:>16}  {size:>9}")
    if result.verified:
        size = human_size(result.size_bytes)
        say(f"Backup {result.backup_id} is intact: {result.rows:,} rows, {size}, {result.duration:.2f} s")
    if result.proof:
        proof = result.proof
        say(
            f"{mark(True)} proven restorable: restored in the {proof['place']} (PostgreSQL {proof['server']}, pgvector"
            f" {proof['vector']}) and exported again, byte for byte the same ({proof['duration']:.1f} s)"
        )


def show_restored(result: RestoreResult) -> None:
    """The closing summary of a restore."""
    say(f"Restored {result.backup_id} into {result.database} in {result.duration:.2f} s (mode {result.mode})")
    width = max((len(item.target) for item in result.tables_restored.values()), default=0)
    for item in result.tables_restored.values():
        skipped = f", {item.rows_skipped:,} there already" if item.rows_skipped else ""
        say(
            f"  {mark(item.success)} {item.target:<{width}}  {item.row_count:>11,} rows restored{skipped};"
            f" {item.rows_before:,} before, {item.rows_after:,} now"
        )
    for label, account in (result.migrated or {}).items():
        say(
            f"  {label}: {account['rows']:,} rows migrated, {account['ids_from_custom_id']:,} ids from custom_id,"
            f" {account['ids_from_uuid']:,} from uuid"
        )
    if result.indexes_rebuilt:
        say(f"  indexes built: {', '.join(result.indexes_rebuilt)}")
    if result.safety_backup:
        say(f"  what stood there before is backup {result.safety_backup}: {result.safety_manifest}")
    if result.skipped_bad_rows:
        say(f"  {result.skipped_bad_rows:,} rows could not be read and were left out")


def show_run(result: Result, loaded: Loaded) -> None:
    """The closing summary of `vecbak run`, on standard error: standard output is the command's."""
    _say_end(f"command {loaded.failure}" if loaded.failure else "command succeeded", result, loaded.restored)


def show_workflow(result: WorkflowResult) -> None:
    """The closing summary of `vecbak workflow`."""
    for step in result.steps:
        mark = {"done": "✓", "failed": "✗", "skipped": "-"}[step.status]
        say(f"  {mark} {step.name}: {step.status}{f' ({step.error})' if step.error else ''}, {step.duration:.1f} s")
    management = result.vector_management
    if note := management.get("note"):
        say(f"vector tables: {note}")
    else:
        item = management["summary"]
        say(
            f"vector tables: backup {'performed' if management['backup_performed'] else 'NOT performed'}, truncate"
            f" {'performed' if management['truncate_performed'] else 'not performed'}; {item['tables']} tables,"
            f" {item['rows']:,} rows, {item['files']} files, {item['size']}, {management['duration']:.2f} s"
        )
    if result.restored:
        say(f"the old vectors were brought back from backup {result.restored['backup_id']}")
    say(f"task {result.task_id}: {'succeeded' if result.success else 'FAILED'}, {result.duration:.1f} s")


def _say_end(command: str, result: Result, restored: RestoreResult | None) -> None:
    show_line(f"vecbak: {command}; {result.describe()}")
    if restored:
        safety = f"; what the load had left is backup {restored.safety_backup}" if restored.safety_backup else ""
        show_line(f"vecbak: the old vectors were brought back from backup {restored.backup_id}{safety}")


def show_pruned(result: PruneResult) -> None:
    """`vecbak prune`: by folder what stays, what goes, and why."""
    from vecbak.results import human_size

    if not result.backups:
        say("No backups found.")
        return
    say_pruned(result, sys.stdout)
    gone = result.of("remove", "removed")
    size = human_size(sum(item.size_bytes for item in gone))
    count = "1 backup" if len(gone) == 1 else f"{len(gone)} backups"
    say(f"{count} {'to remove' if result.dry_run else 'removed'}, {size}; {len(result.of('keep'))} kept")


def say_pruned(result: PruneResult, stream: TextIO) -> None:
    lines = [_pruned_line(item) for item in result.backups]
    folder = None
    for item, line in zip(result.backups, columns(lines, right={3, 4}), strict=True):
        if item.backup_directory != folder:
            folder = item.backup_directory
            say(styled(short(Path(folder)), "1", stream), stream)
        say(f"  {line if item.action == 'keep' else styled(line, '31', stream)}", stream)


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


def show_examination(examination: Examination) -> None:
    """`vecbak doctor`: a line for each check, and below what is not well how to mend it."""
    width = max(len(check.name) for check in examination.checks)
    for check in examination.checks:
        mark, color = _MARKS[check.status]
        say(f"{styled(mark, color, sys.stdout)} {check.name:<{width}}  {check.message}")
        if check.hint:
            say(f"  {'':<{width}}  {styled('→', '36', sys.stdout)} {check.hint}")
    count = {status: sum(check.status == status for check in examination.checks) for status in _MARKS}
    say()
    if examination.ok:
        say(f"Nothing would fail ({count['ok']} ok, {count['warning']} warnings).")
    else:
        say(f"{count['failed']} would fail: a run would end with exit code {examination.exit_code}.")


def examination_document(examination: Examination) -> dict[str, Any]:
    """`vecbak doctor --json`."""
    import msgspec

    document: dict[str, Any] = msgspec.to_builtins(examination)
    return document
