"""A reload that can take itself back: manage the vectors, run what loads the new ones, restore the old ones if it fails."""

from __future__ import annotations

import logging
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec

from vecbak import interrupts
from vecbak.backups.inventory import FoundBackup, find_backup
from vecbak.backups.removal import reading
from vecbak.errors import Busy, ExitCode, Interrupted, RestoreFailed, UsageError, VecbakError
from vecbak.operations.backup import WHOLE
from vecbak.operations.copying import explain
from vecbak.operations.extent import Extent
from vecbak.operations.job import Job
from vecbak.operations.management import Managed
from vecbak.operations.preview import count_rows
from vecbak.operations.prove import file_reader
from vecbak.operations.restore import RestoreOptions, restore
from vecbak.operations.sources import backup_source
from vecbak.results import RestoreResult

log = logging.getLogger(__name__)

OnFailure = Literal["keep", "restore"]
TIMED_OUT = 124  # as timeout(1)
LEFT_EMPTY = 1
_TRY_AGAIN_SECONDS = 1


class Loaded(msgspec.Struct, frozen=True):
    """How a load ended.

    Attributes:
        exit_code: for the shell: the command's own; 128 + n for a signal, 124 for a timeout.
        failure: why it counts as failed; None if it does not.
        restored: what was done about it.
    """

    exit_code: int
    failure: str | None = None
    restored: RestoreResult | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain dicts, lists, strings and numbers."""
        restored = self.restored.to_dict() if self.restored else None
        return {"exit_code": self.exit_code, "failure": self.failure, "restored": restored}


def load_and_watch(
    job: Job,
    managed: Managed,
    run: Callable[[], int],
    *,
    on_failure: OnFailure,
    allow_empty: bool,
    extent: Extent = WHOLE,
) -> Loaded:
    """Run what loads the new vectors; with `on_failure="restore"` a failure brings the old ones back.

    Args:
        run: runs it to its end and returns its exit code, negative for a signal, or TIMED_OUT.
        allow_empty: a load that succeeds and leaves a table empty has not failed.
        extent: what was managed: a load of some collections fails if it leaves these empty.

    Raises:
        Interrupted: we were; what was asked for in that case has been done.
        RestoreFailed: the old vectors could not be brought back; they are in the backup.
    """
    if on_failure == "keep" or not managed.result.backup_performed:
        return _load(job, managed, run, None, allow_empty, extent)
    found = _read_again(str(managed.result.manifest))
    with reading(found):  # another run's prune may come by while the load goes on
        return _load(job, managed, run, found, allow_empty, extent)


def _read_again(manifest: str) -> FoundBackup:
    try:
        return find_backup(manifest, [])
    except (VecbakError, OSError) as error:
        raise RestoreFailed(
            f"the load was not begun: its backup could not be read again: {explain(error)}",
            f"Every row is in it, and the tables are as the truncate left them: vecbak restore {manifest}",
        ) from None


def _load(
    job: Job, managed: Managed, run: Callable[[], int], old: FoundBackup | None, allow_empty: bool, extent: Extent
) -> Loaded:
    raised: BaseException | None = None
    try:
        interrupts.release()  # held since COMMIT: the load may be interrupted again
        code = run()
        failure = _failure(code)
        interrupts.hold()  # from here on the old vectors come back, or it is told why not
    except Interrupted as error:
        # held since it was raised
        raised, code, failure = error, 128 + error.signum, f"was interrupted by {error}"
    except Exception as error:  # noqa: BLE001 - raised again when the old vectors are back
        interrupts.hold()
        raised, code, failure = error, ExitCode.BUG, f"could not be run: {error}"
    code = 128 - code if code < 0 else code
    if old and failure is None and not allow_empty and (empty := _left_empty(job, managed, extent)):
        code, failure = LEFT_EMPTY, f"succeeded, but left {', '.join(empty)} empty"
    if failure is None:
        return Loaded(code)
    log.error("the command %s", failure)
    loaded = Loaded(code, failure, _bring_back(job, old) if old else None)
    if isinstance(raised, Interrupted):
        raised.result = loaded
    if raised:
        raise raised
    return loaded


def check_command(command: Sequence[str]) -> None:
    """Refuse what could not be run, before anything is done.

    Raises:
        UsageError: there is no such program.
    """
    if not command or shutil.which(command[0]) is None:
        raise UsageError(
            f"the command {command[0] if command else ''!r} cannot be run: no such program",
            "Check its name, and $PATH.",
        )


def _failure(code: int) -> str | None:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    if code == TIMED_OUT:
        return "did not end in time and was stopped (exit code 124)"
    return f"failed with exit code {code}" if code else None


def _left_empty(job: Job, managed: Managed, extent: Extent) -> list[str]:
    had_rows = {label for label, item in managed.result.truncate_results.items() if item.rows_before}
    try:
        return [label for label, rows in count_rows(job, extent).items() if label in had_rows and rows == 0]
    except UsageError as error:  # the load has removed a collection altogether
        log.warning("%s", error.message)
        return sorted(had_rows)


def _bring_back(job: Job, found: FoundBackup) -> RestoreResult:
    log.warning("bringing back the vectors of backup %s", found.manifest.backup_id)
    reader = file_reader(job, found.manifest, found.path.parent)
    try:
        source = backup_source(found, reader, tables=(), into_schema=None, jobs=job.config.backup.jobs)
        deadline = time.monotonic() + job.config.timeouts.truncate_seconds
        while True:
            try:
                return restore(job, source, found.manifest, RestoreOptions(mode="replace"))
            except Busy as error:  # a command that was killed leaves a backend, which holds its locks a while longer
                if time.monotonic() > deadline:
                    raise
                log.warning("%s; trying again", error.message)
                time.sleep(_TRY_AGAIN_SECONDS)
    except VecbakError as error:
        error.hint = f"The old vectors are in {found.path}: vecbak restore {found.path} --mode replace. {error.hint}"
        raise
