"""`vecbak doctor`: every precondition looked at, in a backup's own order, and none left out because another one fails.

Nothing is locked, and nothing is written. Where a look could end the session, it has a session of its own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from vecbak.backups.inventory import take_inventory
from vecbak.config import Backup, LoadedConfig
from vecbak.errors import ConnectionFailed, Refused, UsageError, VecbakError
from vecbak.operations import checks, durability, preflight, provable, restorable
from vecbak.operations.checks import Examination, Findings
from vecbak.operations.collections import find_pair
from vecbak.operations.hooks import program_path
from vecbak.operations.job import Job
from vecbak.operations.preview import BYTES_PER_SECOND, COUNT_SECONDS, missing, rows_of
from vecbak.postgres.catalog import Facts, Table
from vecbak.postgres.guard import Guard, same_table
from vecbak.postgres.names import TableName
from vecbak.postgres.programs import pg_dump_installation
from vecbak.postgres.session import SessionFailed
from vecbak.postgres.surroundings import Link, read_link, vector_dimensions
from vecbak.results import human_size

FORMATS = ("csv", "binary", "pg_dump")
LOCK_SECONDS = 2.0  # nobody who waits behind us shall wait long


def unreadable(error: UsageError) -> Examination:
    """Of a configuration that cannot be read: nothing else can be looked at."""
    findings = Findings()
    findings.fail("config", error)
    findings.skip("connection", "needs a configuration")
    return findings.examination()


def examine(
    loaded: LoadedConfig, open_job: Callable[[], AbstractContextManager[Job]], folders: Sequence[Path]
) -> Examination:
    """Look at everything.

    Args:
        open_job: opens the job that a backup would have.
        folders: where the last backup is looked for.
    """
    findings = Findings()
    findings.ok("config", str(loaded.path))
    if not loaded.config.backup.backup_enabled:
        findings.fail("config", Refused("backups are switched off (backup.backup_enabled: false)", "Set it to true."))
    _judge_hooks(findings, loaded)
    _judge_metrics(findings, loaded)
    if empty := _embedded_without_data(loaded):
        findings.fail("connection", empty)
        findings.skip("tables", "needs a connection")
    else:
        try:
            with open_job() as job:
                _look_through(job, findings)
        except VecbakError as error:  # no psql, an embedded server that does not start, a dsn that cannot be read
            kinds = {ConnectionFailed: "connection", UsageError: "config"}
            findings.fail(kinds.get(type(error), "programs"), error)
            findings.skip("tables", "needs a connection")
    inventory = take_inventory(folders)
    checks.judge_last_backup(findings, next(iter(inventory.backups), None), datetime.now(UTC))
    return findings.examination()


def _look_through(job: Job, findings: Findings) -> None:
    findings.ok("programs", checks.describe_programs(job.installations, job.config.backup.format))
    place = durability.place_of(job)
    truncates = bool(job.config.vector_tables.truncate_tables)
    problems = [*preflight.folder_problems(job.backup_folder), *(durability.problems(place) if truncates else ())]
    findings.judge("folder", problems, place.warning or str(job.backup_folder))
    try:
        guard, _ = job.connect()
    except VecbakError as error:
        findings.fail("connection", error)
        for name in ("pooler", "tls", "pgvector", "pg_dump", *_table_names(job), "disk"):
            findings.skip(name, "needs a connection")
    else:
        with contextlib.closing(guard):
            _Server(job, findings, guard).look()


def _embedded_without_data(loaded: LoadedConfig) -> Refused | None:
    # opening the job would make it, and nothing is to be written
    embedded = loaded.config.connection.embedded
    if not embedded or (loaded.resolve(embedded) / "PG_VERSION").exists():
        return None
    return Refused(
        f"the embedded server's folder {loaded.resolve(embedded)} does not exist yet, and so there are no tables",
        "Check connection.embedded; the first run makes an empty server there.",
    )


def _table_names(job: Job) -> list[str]:
    return [f"table {label}" for label in job.config.vector_tables.labels().values()]


def _judge_hooks(findings: Findings, loaded: LoadedConfig) -> None:
    hooks = loaded.config.hooks
    for event, commands in (("before", hooks.before), ("after", hooks.after), ("on_error", hooks.on_error)):
        for argv in commands:
            path = program_path(loaded.path.parent, argv[0])
            if shutil.which(path):
                findings.ok(f"hook {event}", path)
                continue
            problem = Refused(f"{path} cannot be run", f"Install it, make it executable, or change hooks.{event}.")
            if event == "before":
                findings.fail("hook before", problem)
            else:
                findings.warn(f"hook {event}", problem.message, problem.hint)


def _judge_metrics(findings: Findings, loaded: LoadedConfig) -> None:
    if not loaded.config.metrics_textfile:
        return
    path = loaded.resolve(loaded.config.metrics_textfile)
    if os.access(path.parent, os.W_OK | os.X_OK) and (path.is_file() or not os.path.lexists(path)):
        findings.ok("metrics", str(path))
    else:
        findings.warn("metrics", f"{path} cannot be written", "Make its folder, or change metrics_textfile.")


class _Server:
    """The looks that need a connection.

    Args:
        guard: a session outside any transaction, which stays open: a pooler shows itself beside it.
    """

    def __init__(self, job: Job, findings: Findings, guard: Guard) -> None:
        self._job = job
        self._findings = findings
        self._guard = guard
        self._tables: dict[TableName, Facts] = {}

    def look(self) -> None:
        try:
            link = read_link(self._guard)
        except SessionFailed as error:
            self._findings.fail("connection", ConnectionFailed(error.message, "See above.", output=error.output))
            return
        role = f"{link.user}{' (superuser)' if link.superuser else ''}"
        kind = "standby" if link.in_recovery else "PostgreSQL"
        where = link.server_address or "a Unix socket"
        self._findings.ok("connection", f"{kind} {link.version} at {where}, database {link.database}, role {role}")
        checks.judge_tls(self._findings, link)
        checks.judge_pgvector(self._findings, link)
        if not self._look_at_pooler(link):
            for name in (*_table_names(self._job), "disk"):
                self._findings.skip(name, "needs transactions")
            return
        for table, label in self._job.config.vector_tables.labels().items():
            self._look_at_table(table, label)
        self._look_at_truncate()
        self._look_at_collections()
        self._look_at_proof()
        self._look_at_format()
        self._look_at_disk()

    def _look_at_pooler(self, beside: Link) -> bool:
        """Whether transactions hold together."""
        try:
            with self._transaction() as guard:
                first, second = read_link(guard), read_link(guard)
        except VecbakError as error:
            problem = Refused(
                "a second session could not open a transaction",
                "A pooler in statement mode does not allow transactions: connect to the server itself, or let the pooler"
                " use pool_mode = transaction or session.",
                output=error.output or error.message,
            )
            self._findings.fail("pooler", problem)
            return False
        if first.pid != second.pid or first.application != "vecbak guard":
            problem = Refused(
                "a transaction does not stay on one server process: a pooler in statement mode is in the way",
                "Connect to the server itself, or let the pooler use pool_mode = transaction or session.",
            )
            self._findings.fail("pooler", problem)
            return False
        shared = first.pid == beside.pid  # two sessions of ours, one server process
        text = "a pooler in transaction mode, which works" if shared else "none that gets in the way"
        self._findings.ok("pooler", text)
        return True

    def _look_at_table(self, name: TableName, label: str) -> None:
        check = f"table {label}"
        try:
            with self._transaction() as guard:
                oid = guard.find([name])[0]
                if oid is None:
                    raise missing(name)
                if holders := [str(item) for item in guard.blockers(name, "ACCESS SHARE") if item.granted]:
                    self._findings.warn(
                        check,
                        f"it is locked: {'; '.join(holders)}",
                        "A backup would wait timeouts.lock_seconds for it, and then end with exit code 7.",
                    )
                    return
                self._judge_table(guard, name, label, guard.facts([oid]))
        except SessionFailed as error:
            hint = "Let its owner grant USAGE on the schema and SELECT on the table."
            self._findings.fail(check, Refused(error.message, hint, output=error.output))
        except VecbakError as error:
            self._findings.fail(check, error)

    def _judge_table(self, guard: Guard, name: TableName, label: str, facts: Facts) -> None:
        check, table, findings = f"table {label}", facts.tables[0], self._findings
        for other, found in self._tables.items():
            if found.tables[0].oid == table.oid:
                findings.fail(check, same_table(other, name))
                return
        problems = list(preflight.reading_problems(table, facts.server.user))
        emptied = name in self._job.config.vector_tables.truncated()
        if emptied and not problems:
            table = restorable.count_unmet(guard, table, seconds=COUNT_SECONDS)
        self._tables[name] = Facts(server=facts.server, tables=(table,))
        dimensions = {} if problems else vector_dimensions(guard, table)
        readable = findings.judge(check, problems, checks.describe_table(table, dimensions))
        for warning in preflight.table_warnings(table):
            findings.warn(check, warning)
        for doubt, hint in checks.table_doubts(table, dimensions):
            findings.warn(check, doubt, hint)
        if readable:
            lacks = list(restorable.table_lacks(table, facts.server, emptied=emptied))
            checks.judge_restore(findings, f"restore {label}", table, lacks, facts.server.user)
            for doubt, hint in preflight.sequence_doubts(table, facts.server.user, emptied=True):
                findings.warn(f"restore {label}", doubt, hint)

    def _look_at_truncate(self) -> None:
        config = self._job.config
        tables = [facts.tables[0] for facts in self._tables.values()]
        for problem in preflight.overlap_problems(tables):
            self._findings.fail("tables", problem)
        truncated = [name for name in config.vector_tables.truncated() if name in self._tables]
        emptied = [self._tables[name].tables[0] for name in truncated]
        oids = preflight.emptied_together(emptied)
        for name in truncated:
            facts = self._tables[name]
            allowed = config.allow_replicated_truncate
            problems = preflight.truncating_problems(
                facts.tables[0], oids, facts.server.user, allow_replicated_truncate=allowed
            )
            found = [
                *preflight.standby_problems(facts.server),
                *problems,
                *restorable.restoring_problems(facts.tables[0]),
            ]
            self._findings.judge(f"truncate {config.vector_tables.labels()[name]}", found, "may be truncated")
        if truncated:
            server = self._tables[truncated[0]].server
            for lack in restorable.server_lacks(
                emptied, tables, server, divided=find_pair(self._by_label()) is not None
            ):
                self._findings.warn("restore", lack.message, lack.hint)

    def _by_label(self) -> dict[str, Table]:
        labels = self._job.config.vector_tables.labels()
        return {labels[name]: facts.tables[0] for name, facts in self._tables.items()}

    def _look_at_collections(self) -> None:
        tables = self._by_label()
        if pair := find_pair(tables):
            for doubt, hint in checks.collection_doubts(tables[pair.embeddings]):
                self._findings.warn(f"table {pair.embeddings}", doubt, hint)

    def _look_at_proof(self) -> None:
        if not provable.wanted(self._job.config) or not self._job.config.vector_tables.truncate_tables:
            return
        tables = [facts.tables[0] for facts in self._tables.values()]
        try:
            with self._transaction() as guard:
                problems = list(provable.proof_problems(tables))
                major = provable.nearest_major(guard.facts([]).server.version)
        except VecbakError as error:
            self._findings.fail("proof", error)
            return
        message = f"TRUNCATE waits until the backup was restored on an embedded PostgreSQL {major}"
        if self._findings.judge("proof", problems, message) and (doubt := provable.room_for_proof(tables)):
            self._findings.warn("proof", doubt, "Point TMPDIR at a larger disk.")

    def _look_at_format(self) -> None:
        tables = [facts.tables[0] for facts in self._tables.values()]
        backup = self._job.config.backup
        try:
            dump = pg_dump_installation(self._job.installations, self._guard.server_major)
        except Refused as error:
            self._findings.fail("pg_dump", error)
            return
        self._findings.ok("pg_dump", f"pg_dump {dump.major} in {dump.place}")
        problems = preflight.format_problems(self._job, tables, dump)
        self._findings.judge("format", problems, f"{backup.format}, compression {backup.compression}")

    def _look_at_disk(self) -> None:
        backup = self._job.config.backup
        totals = dict.fromkeys(FORMATS, 0)
        tables = [facts.tables[0] for facts in self._tables.values()]
        rows = 0
        for table in tables:
            try:
                with self._transaction() as guard:
                    count = rows_of(guard, table)[0]
                    rows += count
                    for format in FORMATS:
                        totals[format] += _estimate(guard, table, count, msgspec.structs.replace(backup, format=format))
            except VecbakError as error:
                self._findings.warn("disk", f"the size of {table.name} is not known: {checks.in_one_line(error)}")
        wanted = totals[backup.format]
        sizes = ", ".join(f"{name} about {human_size(size)}" for name, size in totals.items())
        seconds = max(1.0, wanted / BYTES_PER_SECOND)
        message = (
            f"{rows:,} rows: {sizes}, compression {backup.compression}; {backup.format} within about {seconds:.0f} s"
        )
        others = {"binary": totals["binary"]} if backup.format != "binary" and totals["binary"] else {}
        problems = preflight.space_problems(self._job.backup_folder, backup, wanted, tables, lambda: others)
        self._findings.judge("disk", problems, f"{_free(self._job.backup_folder)} free; {message}")

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Guard]:
        guard, _ = self._job.connect()
        try:
            guard.begin(writes=False, lock_seconds=min(LOCK_SECONDS, self._job.config.timeouts.lock_seconds))
            yield guard
        finally:
            guard.close()


def _estimate(guard: Guard, table: Table, rows: int, backup: Backup) -> int:
    if not table.copied_columns or not table.can_select:
        return 0
    if backup.format == "binary" and any(not column.send for column in table.columns):
        return 0
    width = guard.row_bytes(table, rows, binary=backup.format == "binary", timeout=60)
    return preflight.estimate_bytes(backup, rows, width)


def _free(folder: Path) -> str:
    existing = next(path for path in (folder, *folder.parents) if os.path.exists(path))  # noqa: PTH110 - an error is no
    return human_size(shutil.disk_usage(existing).free)
