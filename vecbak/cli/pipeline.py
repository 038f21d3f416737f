"""`vecbak run` and `vecbak workflow`: the vectors managed exactly once, just before what loads the new ones."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from vecbak.cli.boundary import Settings
from vecbak.cli.options import load, open_job, options

if TYPE_CHECKING:
    from vecbak.operations.pipeline import OnFailure

log = logging.getLogger(__name__)

_VECTOR_OPTIONS = (
    click.option("--backup-vector-tables", is_flag=True, help="Back up the vector tables before the load."),
    click.option("--truncate-vector-tables", is_flag=True, help="And empty truncate_tables; implies the backup."),
    click.option(
        "--on-failure",
        type=click.Choice(["keep", "restore"]),
        default="keep",
        show_default=True,
        help="What becomes of the tables when the load fails: keep them as it left them, or restore the old vectors.",
    ),
    click.option(
        "--allow-empty",
        is_flag=True,
        help="With --on-failure restore: a load that leaves a table empty has not failed.",
    ),
    click.option(
        "--collection",
        "collections",
        metavar="NAME",
        multiple=True,
        help="Only this one of LangChain's collections, and its embeddings; may be repeated.",
    ),
)


def _vector_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_VECTOR_OPTIONS):
        function = option(function)
    return function


def _check(managing: bool, on_failure: OnFailure, collections: tuple[str, ...]) -> None:
    if on_failure == "restore" and not managing:
        raise click.UsageError("--on-failure restore needs --backup-vector-tables or --truncate-vector-tables")
    if collections and not managing:
        raise click.UsageError("--collection needs --backup-vector-tables or --truncate-vector-tables")


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    short_help="Manage the vectors, then run a command.",
)
@_vector_options
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="Stop the command then."
)
@options("config", "task_id", "output_dir")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_obj
def run(
    settings: Settings,
    /,
    backup_vector_tables: bool,
    truncate_vector_tables: bool,
    on_failure: OnFailure,
    allow_empty: bool,
    collections: tuple[str, ...],
    timeout: float | None,
    config: str | None,
    task_id: str | None,
    output_dir: str | None,
    command: tuple[str, ...],
) -> None:
    """Manage the vectors, then run COMMAND with the terminal's own streams; its exit code is ours.

    If the vectors cannot be managed, the command is never started. With --on-failure restore, a command that fails,
    times out (exit code 124), is interrupted, or succeeds and leaves a table empty (exit code 1) brings the old
    vectors back.

    \b
    Example:
      vecbak run --truncate-vector-tables --on-failure restore -- python -m pipeline.load
      vecbak run --truncate-vector-tables --collection manuals -- python -m pipeline.load manuals
    """
    from vecbak import report
    from vecbak.operations.collections import extent_of
    from vecbak.operations.management import manage_vectors
    from vecbak.operations.pipeline import TIMED_OUT, check_command, load_and_watch
    from vecbak.operations.workflow import task_environment
    from vecbak.postgres.runner import ProgramTimeout

    settings.json = False  # a --json here is the command's
    _check(backup_vector_tables or truncate_vector_tables, on_failure, collections)
    check_command(command)
    loaded_config = load(config)
    extent = extent_of(collections, None, loaded_config.config)
    with open_job(settings, loaded_config, task_id, output_dir, as_json=False) as job:
        managed = manage_vectors(job, backup=backup_vector_tables, truncate=truncate_vector_tables, extent=extent)

        def execute() -> int:
            environment = {**task_environment(job), **managed.environment}
            try:
                return job.runner.attend(command, timeout=timeout, environment=environment)
            except ProgramTimeout as error:
                log.error(error.message)
                return TIMED_OUT

        loaded = load_and_watch(job, managed, execute, on_failure=on_failure, allow_empty=allow_empty, extent=extent)
    if settings.verbosity >= 0:
        report.show_run(managed.result, loaded)
    click.get_current_context().exit(loaded.exit_code)


@click.command(short_help="Run the config's steps; manage the vectors before the load.")
@_vector_options
@click.option(
    "--skip-training-load", is_flag=True, help="Do all but training_load; the vectors are managed all the same."
)
@click.option("--step", metavar="NAME", help="Run this step alone.")
@options("config", "task_id", "output_dir", "json")
@click.pass_obj
def workflow(
    settings: Settings,
    /,
    backup_vector_tables: bool,
    truncate_vector_tables: bool,
    on_failure: OnFailure,
    allow_empty: bool,
    collections: tuple[str, ...],
    skip_training_load: bool,
    step: str | None,
    config: str | None,
    task_id: str | None,
    output_dir: str | None,
    as_json: bool,
) -> None:
    """Run the steps of the configuration in order; the vectors are managed just before training_load.

    What the steps print is in data_pipeline.log; a failed step ends the run, and its exit code is ours. task_config.json
    and task_result.json in the output directory hold what was asked for and what came out.

    \b
    Example:
      vecbak workflow --task-id nightly --truncate-vector-tables --on-failure restore
      vecbak workflow --step training_load --backup-vector-tables
      vecbak workflow --truncate-vector-tables --collection manuals
    """
    from vecbak import report
    from vecbak.operations.workflow import WorkflowOptions, run_workflow

    _check(backup_vector_tables or truncate_vector_tables, on_failure, collections)
    settings.json = as_json
    asked = WorkflowOptions(
        execution_mode="complete" if step is None else "step",
        step_name=step,
        backup_vector_tables=backup_vector_tables,
        truncate_vector_tables=truncate_vector_tables,
        skip_training_load=skip_training_load,
        on_failure=on_failure,
        allow_empty=allow_empty,
        collections=collections,
    )
    with open_job(settings, load(config), task_id, output_dir, as_json=as_json) as job:
        result = run_workflow(job, asked)
    if as_json:
        report.show_document(result.to_dict())
    elif settings.verbosity >= 0:
        report.show_workflow(result)
    click.get_current_context().exit(result.exit_code)


COMMANDS = (run, workflow)
