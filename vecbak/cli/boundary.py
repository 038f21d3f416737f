"""The error boundary: every way to fail becomes its message and its exit code; nothing leaves it as a traceback."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vecbak import interrupts
from vecbak.errors import ExitCode, Interrupted, VecbakError

if TYPE_CHECKING:
    from vecbak.logbook import LogBook


class Settings:
    """The options that every command shares, and the log."""

    def __init__(self) -> None:
        self.verbosity = 0
        self.log: LogBook | None = None
        self.json = False

    def start_log(self, *, as_json: bool) -> LogBook:
        """From here on log lines go to standard error."""
        from vecbak.logbook import LogBook

        self.json = as_json
        self.log = LogBook(verbosity=self.verbosity, interactive=sys.stderr.isatty())
        return self.log

    def mask(self, text: str) -> str:
        """Without secrets, as far as they are known yet."""
        return self.log.mask(text) if self.log else text


class Boundary(click.Group):
    """Turns every way to fail into its message and its exit code; nothing leaves it as a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command inside the error boundary."""
        ctx.ensure_object(Settings)
        try:
            result = super().invoke(ctx)
        except VecbakError as error:
            _show_failure(ctx.obj, error)
            ctx.exit(int(error.exit_code))
        except Interrupted as interrupt:
            _show_interrupt(ctx.obj, interrupt)
            ctx.exit(128 + interrupt.signum)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except BrokenPipeError:
            # whoever read our output went away; Python must not complain about it at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(141)
        except Exception as error:  # noqa: BLE001 - the boundary: what nobody foresaw is a bug, and is reported as one
            _show_failure(ctx.obj, _bug(ctx.obj, error))
            ctx.exit(int(ExitCode.BUG))
        if interrupts.pending() is not None:  # it came while COMMIT was on its way; what was reported is done
            ctx.exit(128 + int(interrupts.pending() or 0))
        return result


def _show_failure(settings: Settings, error: VecbakError) -> None:
    from vecbak import report

    if settings.json:
        report.show_document(_failure_document(error.result, error.message))
    if settings.log:
        settings.log.record_failure(error)
    report.show_error(error, settings.mask)


def _show_interrupt(settings: Settings, interrupt: Interrupted) -> None:
    from vecbak import report

    document = _failure_document(interrupt.result, f"interrupted by {interrupt}")
    if settings.json:
        report.show_document(document)
    kept = f" The backup {document['backup_id']} is complete and kept." if document.get("backup_performed") else ""
    undone = "every table is as it was before" if "restore_performed" in document else "nothing was truncated"
    text = f"Interrupted by {interrupt}: cleaned up, and {undone}.{kept}"
    if settings.log:
        settings.log.record(text)
    report.show_line(text)


def _failure_document(result: object, message: str) -> dict[str, Any]:
    from vecbak.results import Result

    return result.to_dict() if hasattr(result, "to_dict") else Result(errors=(message,)).to_dict()


def _bug(settings: Settings, error: Exception) -> VecbakError:
    text = settings.mask("".join(traceback.format_exception(error)))
    path = settings.log.path if settings.log else None
    if path is None:
        descriptor, name = tempfile.mkstemp(prefix="vecbak-bug-", suffix=".log")
        os.close(descriptor)
        path = Path(name)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)
    return VecbakError(
        f"this is probably a bug in vecbak: {type(error).__name__}",
        f"The details are in {path}; please send them to whoever looks after vecbak for you.",
    )
