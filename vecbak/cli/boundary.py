"""The error boundary: every way to fail becomes its message and its exit code; nothing leaves it as a traceback."""

from __future__ import annotations

import errno
import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vecbak import interrupts
from vecbak.errors import ExitCode, Interrupted, Refused, UsageError, VecbakError
from vecbak.masking import masked, without_credentials

if TYPE_CHECKING:
    from vecbak.logbook import LogBook


class Settings:
    """The options that every command shares, and the log.

    Attributes:
        nothing_done: the document, in the command's own shape, of a run that ended before it had one; given the reason.
    """

    def __init__(self) -> None:
        self.verbosity = 0
        self.log: LogBook | None = None
        self.json = False
        self.nothing_done: Callable[[str], Any] = _nothing_done

    def start_log(self, *, as_json: bool) -> LogBook:
        """From here on log lines go to standard error."""
        from vecbak.logbook import LogBook

        self.json = as_json
        self.log = LogBook(verbosity=self.verbosity, interactive=sys.stderr.isatty())
        return self.log

    def mask(self, text: str) -> str:
        """Without secrets, as far as they are known yet."""
        return self.log.mask(text) if self.log else without_credentials(text)


class Boundary(click.Group):
    """Turns every way to fail into its message and its exit code; nothing leaves it as a traceback."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the options that stand before the command."""
        # a command line that cannot be understood does not tell either whether JSON is wanted
        ctx.ensure_object(Settings).json = "--json" in takewhile(lambda word: word != "--", args)
        try:
            return super().parse_args(ctx, args)
        except click.exceptions.NoArgsIsHelpError:
            raise
        except click.UsageError as error:
            _show_failure(ctx.obj, _misused(error))
            ctx.exit(int(ExitCode.USAGE))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command inside the error boundary."""
        try:
            result = super().invoke(ctx)
        except VecbakError as error:
            _show_failure(ctx.obj, error)
            ctx.exit(int(error.exit_code))
        except Interrupted as interrupt:
            _show_interrupt(ctx.obj, interrupt)
            ctx.exit(128 + interrupt.signum)
        except click.exceptions.NoArgsIsHelpError:
            raise
        except click.UsageError as error:
            _show_failure(ctx.obj, _misused(error))
            ctx.exit(int(ExitCode.USAGE))
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except OSError as error:
            refused = _refused_by_the_system(error)
            _show_failure(ctx.obj, refused)
            ctx.exit(int(refused.exit_code))
        except Exception as error:  # noqa: BLE001 - the boundary: what nobody foresaw is a bug, and is reported as one
            _show_failure(ctx.obj, _bug(ctx.obj, error))
            ctx.exit(int(ExitCode.BUG))
        if interrupts.pending() is not None:  # it came while COMMIT was on its way; what was reported is done
            ctx.exit(128 + int(interrupts.pending() or 0))
        return result


def _show_failure(settings: Settings, error: VecbakError) -> None:
    from vecbak import report

    if settings.json:
        document = _failure_document(settings, error.result, error.message)
        report.show_document(masked(document, settings.mask))
    if settings.log:
        settings.log.record_failure(error)
    report.show_error(error, settings.mask)


def _show_interrupt(settings: Settings, interrupt: Interrupted) -> None:
    from vecbak import report

    document = _failure_document(settings, interrupt.result, f"interrupted by {interrupt}")
    if settings.json:
        report.show_document(document)
    text = f"Interrupted by {interrupt}: {_what_stands(document)}."
    if settings.log:
        settings.log.record(text)
    report.show_line(text)


def _what_stands(document: dict[str, Any]) -> str:
    """What an interrupted run leaves, told by its result."""
    if "restored" in document:  # a pipeline's: its load was ended
        restored = document["restored"]
        brought = f", and the old vectors were brought back from backup {restored['backup_id']}" if restored else ""
        return f"what ran was ended{brought}"
    if "restore_performed" in document:
        return "cleaned up, and every table is as it was before"
    kept = f"; the backup {document['backup_id']} is complete and kept" if document.get("backup_performed") else ""
    return f"cleaned up, and nothing was truncated{kept}"


def _failure_document(settings: Settings, result: object, message: str) -> dict[str, Any]:
    """The result so far, unless it is that of a step which the command does not hand out by itself."""
    nothing = settings.nothing_done(message)
    told = result if settings.nothing_done is _nothing_done or isinstance(result, type(nothing)) else None
    document: dict[str, Any] = (told if hasattr(told, "to_dict") else nothing).to_dict()
    return document


def _nothing_done(message: str) -> Any:
    from vecbak.results import Result

    return Result(errors=(message,))


def _misused(error: click.UsageError) -> UsageError:
    usage = " ".join(error.ctx.get_usage().split()) if error.ctx else "Usage: vecbak"
    path = error.ctx.command_path if error.ctx else "vecbak"
    return UsageError(error.format_message().rstrip("."), f"{usage}; `{path} --help` tells more.")


def _refused_by_the_system(error: OSError) -> VecbakError:
    """Of an error that no operation has made its own: before one began, or after it ended."""
    what = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
    if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN}:
        return Refused(
            f"the system gives no more of what vecbak needs: {what}", "Raise the limit (ulimit -a shows it)."
        )
    return Refused(f"the system refused something that vecbak needs: {what}", "Check that path and its permissions.")


def _bug(settings: Settings, error: Exception) -> VecbakError:
    text = settings.mask("".join(traceback.format_exception(error)))
    kind = f"this is probably a bug in vecbak: {type(error).__name__}"
    if settings.log and settings.log.path:
        settings.log.record(text, logging.ERROR)
        path: Path | None = settings.log.path
    else:
        path = _kept_elsewhere(text)
    if path is None:
        return VecbakError(kind, "Please send this to whoever looks after vecbak for you.", output=text)
    return VecbakError(kind, f"The details are in {path}; please send them to whoever looks after vecbak for you.")


def _kept_elsewhere(text: str) -> Path | None:
    """A new file in the temporary folder that holds this; None where there is none to be written."""
    try:
        descriptor, name = tempfile.mkstemp(prefix="vecbak-bug-", suffix=".log")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError:
        return None
    return Path(name)
