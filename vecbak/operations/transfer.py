"""Moving the rows: the tasks, the crew that does them, and pg_dump of the schema, all under one snapshot."""

from __future__ import annotations

import functools
import threading
from collections import Counter
from collections.abc import Callable, Mapping

from vecbak.backups.draft import Draft
from vecbak.backups.files import FinishedFile
from vecbak.backups.formats import file_ending
from vecbak.backups.manifest import CollectionEntry
from vecbak.backups.naming import data_name, schema_name
from vecbak.checkpoints import reach
from vecbak.operations.collections import find_pair
from vecbak.operations.copying import CopyCrew
from vecbak.operations.exporting import CopyExporter, CopyTask, DumpExporter, Exporter, outside_compression
from vecbak.operations.job import Job
from vecbak.operations.outcome import TableOutcome, outcomes_of
from vecbak.operations.parts import Part, cut
from vecbak.operations.schema_dump import SchemaDump
from vecbak.operations.tally import Tally
from vecbak.postgres.catalog import Table
from vecbak.postgres.collection_queries import census
from vecbak.postgres.connection import Endpoint
from vecbak.postgres.guard import Guard
from vecbak.postgres.programs import DUMP_ENVIRONMENT, Installation
from vecbak.postgres.settings import dump_options
from vecbak.postgres.worker import Worker, open_worker


class Transfer:
    """Copies the tables of a run into its draft.

    Args:
        tables: by label, locked and counted by the guard.
        counts: rows by label.

    Attributes:
        collections: LangChain's, counted under the snapshot; None if these are not its tables.
    """

    def __init__(
        self,
        job: Job,
        guard: Guard,
        installation: Installation,
        dump_installation: Installation,
        draft: Draft,
        tables: Mapping[str, Table],
        counts: Mapping[str, int],
    ) -> None:
        self._job = job
        self._guard = guard
        self._installation = installation
        self._dump_installation = dump_installation
        self._draft = draft
        self._tables = dict(tables)
        self._counts = counts
        self.collections: dict[str, CollectionEntry] | None = None
        self._census_lock = threading.Lock()
        self._counted = False
        self._outside = outside_compression(job.runner, job.config.backup, dump_installation)

    def run(self, on_poll: Callable[[], None]) -> tuple[list[TableOutcome], FinishedFile]:
        """Copy everything; one table failing does not stop the others.

        Args:
            on_poll: called every quarter of a second; what it raises ends the transfer.

        Returns:
            An outcome for each table, good or bad, and the schema file.

        Raises:
            VecbakError: the workers could not be opened, the guard is gone, or pg_dump failed.
        """
        snapshot = self._guard.export_snapshot()
        tasks = self._tasks()
        parts = Counter(task.label for task in tasks)
        tally = Tally(
            self._job.progress, self._counts, parts, {table.oid: label for label, table in self._tables.items()}
        )
        crew = CopyCrew(
            tasks,
            self._draft,
            self._exporter(snapshot),
            functools.partial(self._open_worker, snapshot),
            tally,
            jobs=self._job.config.backup.jobs,
            count_seconds=self._job.config.timeouts.copy_seconds,
        )
        names = [table.sql for table in self._tables.values()]
        schema = SchemaDump(
            self._job, self._dump_installation, self._draft, schema_name(self._draft.backup_id), names, snapshot
        )

        def poll() -> None:
            on_poll()
            self._draft.start_writeback()
            tally.update(self._guard.copy_progress(tally.processes, tally.oids))

        try:
            crew.open()
            reach("workers open")
            schema.start()
            return outcomes_of(crew.wait(poll), self._tables), schema.result(poll)
        except BaseException:
            crew.abort()
            self._job.runner.stop_all()
            raise
        finally:
            crew.join()
            schema.join()

    def _tasks(self) -> list[CopyTask]:
        ending = functools.partial(file_ending, self._job.config.backup.format, self._outside)
        return [
            CopyTask(
                label,
                table,
                part,
                data_name(label, self._draft.backup_id, ending(part.number)),
            )
            for label, table in self._tables.items()
            for part in self._parts(table)
        ]

    def _parts(self, table: Table) -> list[Part]:
        backup = self._job.config.backup
        if backup.format == "pg_dump":
            return [Part()]
        version = self._guard.server_version
        return cut(table, part_bytes=backup.part_bytes, jobs=backup.jobs, server_version=version)

    def _exporter(self, snapshot: str) -> Exporter:
        backup, timeouts = self._job.config.backup, self._job.config.timeouts
        if backup.format != "pg_dump":
            return CopyExporter(self._job.runner, backup.format, backup.compression, timeouts.copy_seconds)
        return DumpExporter(
            self._job.runner,
            self._dump_endpoint(),
            self._dump_installation,
            snapshot,
            backup.compression if self._outside == "none" else "none",
            self._outside,
            self._draft.folder,
            timeouts.copy_seconds,
            timeouts.lock_seconds,
        )

    def _dump_endpoint(self) -> Endpoint:
        endpoint = self._job.endpoint
        # a container's programs are not given our environment
        zone = {"TimeZone": DUMP_ENVIRONMENT["PGTZ"]} if endpoint.container else {}
        return endpoint.with_settings({**dump_options(self._guard.own), **zone})

    def _open_worker(self, snapshot: str) -> Worker:
        timeouts = self._job.config.timeouts
        worker = open_worker(
            self._job.runner,
            self._job.endpoint,
            self._installation,
            snapshot=snapshot,
            server_version=self._guard.server_version,
            settings=self._guard.settings,
            path=self._guard.own["search_path"],
            tables=list(self._tables.values()),
            connect_seconds=timeouts.connect_seconds,
            lock_seconds=timeouts.lock_seconds,
        )
        with self._census_lock:
            first, self._counted = not self._counted, True
        if first:
            self.collections = self._census(worker)
        return worker

    def _census(self, worker: Worker) -> dict[str, CollectionEntry] | None:
        pair = find_pair(self._tables)
        if pair is None:
            return None
        tables = [self._tables[label] for label in pair]
        seconds = self._job.config.timeouts.copy_seconds
        found = worker.ask_json(census(*tables), tables, step="counting the collections", timeout=seconds)
        return {item["name"]: CollectionEntry(uuid=item["uuid"], rows=item["rows"]) for item in found}
