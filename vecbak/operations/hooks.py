"""Hooks: the user's own programs before and after a run, told the facts in environment variables."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import msgspec

from vecbak.errors import ExitCode, Interrupted, Refused, VecbakError, exit_code_of, reason_of
from vecbak.operations.job import Job
from vecbak.paths import path_of
from vecbak.results import Result
from vecbak.visible import visible_line

log = logging.getLogger(__name__)

INTERRUPTED_SECONDS = 10.0  # whoever interrupts does not want to wait
KEPT_BYTES = 1 << 16
ERROR_CHARACTERS = 4000


class _Problem(msgspec.Struct, frozen=True):
    """What failed, in words, and what the hook had printed."""

    what: str
    printed: str

    def __str__(self) -> str:
        return self.what


def run_before(job: Job) -> None:
    """Run the `before` hooks in order.

    Raises:
        Refused: one failed; the ones after it were not run.
    """
    for argv in job.config.hooks.before:
        problem = _run(job, "before", argv, _facts(job, Result(), None), job.config.hooks.timeout_seconds)
        if problem:
            raise Refused(
                f"the hook before the run failed: {problem}; nothing was done",
                "Mend what it complains about; hooks.before in the config names it.",
                output=problem.printed,
            )


def run_after(job: Job, result: Result) -> list[str]:
    """Run every `after` hook.

    Returns:
        What failed, in words; what they printed is in the log.
    """
    facts = _facts(job, result, None)
    seconds = job.config.hooks.timeout_seconds
    problems = [_run(job, "after", argv, facts, seconds) for argv in job.config.hooks.after]
    return [f"a hook after the run failed: {problem}" for problem in problems if problem]


def run_on_error(job: Job, error: BaseException) -> None:
    """Run every `on_error` hook; what fails is logged, for the run's own error is the one to be told."""
    interrupted = isinstance(error, Interrupted)
    seconds = min(job.config.hooks.timeout_seconds, INTERRUPTED_SECONDS if interrupted else float("inf"))
    result = getattr(error, "result", None)
    facts = _facts(job, result if isinstance(result, Result) else Result(), error)
    for argv in job.config.hooks.on_error:
        if problem := _run(job, "on_error", argv, facts, seconds):
            log.warning("a hook on error failed: %s", problem)


def program_path(folder: Path, program: str) -> str:
    """A hook's program: one with a slash is relative to the config's folder, another is found on PATH."""
    return str(folder / path_of(program)) if "/" in program else program


def _facts(job: Job, result: Result, error: BaseException | None) -> dict[str, str]:
    # every name is always there: none may come from an outer vecbak, whose hook we could be
    tables = result.tables_backed_up.values()
    return {
        "VECBAK_TASK_ID": job.task_id,
        "VECBAK_OUTPUT_DIRECTORY": str(job.output_dir),
        "VECBAK_BACKUP_DIRECTORY": str(job.backup_folder),
        "VECBAK_BACKUP_ID": result.backup_id or "",
        "VECBAK_MANIFEST": result.manifest or "",
        "VECBAK_DATABASE": result.database or job.endpoint.parameters.get("dbname", ""),
        "VECBAK_ROWS": str(sum(item.row_count for item in tables)) if result.backup_performed else "",
        "VECBAK_BYTES": str(sum(item.size_bytes for item in tables)) if result.backup_performed else "",
        "VECBAK_DURATION": f"{result.duration:.3f}",
        "VECBAK_TRUNCATED": "true" if result.truncate_performed else "false",
        "VECBAK_ERROR": visible_line(job.runner.mask(reason_of(error) if error else ""))[:ERROR_CHARACTERS],
        "VECBAK_EXIT_CODE": str(exit_code_of(error) if error else int(ExitCode.DONE)),
        "PGPASSWORD": "",  # to libpq the same as none; the config may have taken its password from there
    }


def _run(job: Job, event: str, argv: Sequence[str], facts: dict[str, str], seconds: float) -> _Problem | None:
    tail = bytearray()

    def keep_the_end(chunk: bytes) -> None:
        tail.extend(chunk)
        del tail[:-KEPT_BYTES]

    log.info("hook %s: %s", event, argv[0])  # not its other words: a token may have been filled in there
    what, errors = "", ""
    try:
        done = job.runner.run(
            [program_path(job.config_folder, argv[0]), *argv[1:]],
            timeout=seconds,
            folder=job.config_folder,
            environment={**facts, "VECBAK_EVENT": event},
            consume=keep_the_end,
        )
        errors = done.stderr
        if done.exit_code:
            what = f"{argv[0]} ended with exit code {done.exit_code}"
    except VecbakError as error:
        what, errors = error.message, error.output
    except OSError as error:  # e.g. no descriptor is left; after a truncate that must not keep the load from beginning
        what = f"{argv[0]} cannot be run: {error.strerror}"
    printed = job.runner.mask(tail.decode("utf-8", "replace")) + errors[-KEPT_BYTES:]
    for line in printed.splitlines():
        log.info("hook %s: | %s", event, line)
    return _Problem(job.runner.mask(what), printed) if what else None
