"""The only place that prints: results as text or JSON, errors, questions."""

from __future__ import annotations

from vecbak.report.listing import backup_document, inventory_document, show_backup, show_inventory
from vecbak.report.outcomes import (
    examination_document,
    show_examination,
    show_pruned,
    show_restored,
    show_result,
    show_run,
    show_verified,
    show_workflow,
)
from vecbak.report.questions import ask_to_prune, ask_to_replace, ask_to_truncate, is_interactive
from vecbak.report.terminal import (
    show_commands,
    show_document,
    show_error,
    show_line,
    show_text,
)

__all__ = [
    "ask_to_prune",
    "ask_to_replace",
    "ask_to_truncate",
    "backup_document",
    "examination_document",
    "inventory_document",
    "is_interactive",
    "show_backup",
    "show_commands",
    "show_document",
    "show_error",
    "show_examination",
    "show_inventory",
    "show_line",
    "show_pruned",
    "show_restored",
    "show_result",
    "show_run",
    "show_text",
    "show_verified",
    "show_workflow",
]
