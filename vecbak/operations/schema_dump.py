"""`vector_schema_….sql`: pg_dump of the tables' definitions, taken while the rows are copied."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from vecbak.backups.draft import Draft
from vecbak.backups.files import FileDamaged, FinishedFile
from vecbak.errors import BackupFailed, VecbakError
from vecbak.operations.copying import POLL_SECONDS
from vecbak.operations.job import Job
from vecbak.postgres.programs import Installation, schema_dump_command


class SchemaDump:
    """pg_dump in a thread of its own, under the guard's snapshot."""

    def __init__(
        self, job: Job, installation: Installation, draft: Draft, name: str, tables: Sequence[str], snapshot: str
    ) -> None:
        self._job = job
        self._installation = installation
        self._draft = draft
        self._name = name
        self._tables = list(tables)
        self._snapshot = snapshot
        self._thread = threading.Thread(target=self._run, name="schema", daemon=True)
        self._file: FinishedFile | None = None
        self._error: BaseException | None = None

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def result(self, on_poll: Callable[[], None]) -> FinishedFile:
        """Wait for the file.

        Args:
            on_poll: called every quarter of a second.

        Raises:
            BackupFailed: pg_dump failed, or the disk.
        """
        while self._thread.is_alive():
            self._thread.join(POLL_SECONDS)
            if self._thread.is_alive():
                on_poll()
        if self._file is None:
            raise self._error or BackupFailed("pg_dump of the schema did not run")
        return self._file

    def join(self) -> None:
        """Wait until it touches no file any more."""
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            self._file = self._dump()
        except (FileDamaged, OSError) as error:
            self._error = BackupFailed(
                f"the schema file could not be written: {error}", "Nothing was truncated. Check the disk."
            )
        except BaseException as error:  # noqa: BLE001 - raised in the main thread by `result`
            self._error = error

    def _dump(self) -> FinishedFile:
        timeouts = self._job.config.timeouts
        command = schema_dump_command(
            self._installation,
            self._job.endpoint.conninfo,
            tables=self._tables,
            snapshot=self._snapshot,
            lock_seconds=timeouts.lock_seconds,
            file=self._draft.create(self._name).path.name,
        )
        try:
            done = self._job.runner.run(
                command,
                timeout=timeouts.copy_seconds,
                folder=self._draft.folder,
                environment=self._job.endpoint.environment,
            )
        except VecbakError as error:
            raise BackupFailed(
                f"pg_dump of the schema failed: {error.message}", error.hint, output=error.output
            ) from None
        if done.exit_code != 0:
            raise BackupFailed(
                "pg_dump of the schema failed",
                "Nothing was truncated. See pg_dump's message above; a lock that was not granted in time means: try again.",
                output=done.stderr.strip(),
            )
        return self._draft.finish(self._name)
