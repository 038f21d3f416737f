"""Many backups in a row while others write and search: what grows, and what the searches feel of it."""

from __future__ import annotations

import resource
import statistics
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from tests.support.workspace import Workspace
from vecbak.config_file import load_config
from vecbak.operations.backup import back_up
from vecbak.operations.opening import open_job

EMBEDDING = "langchain_pg_embedding"
SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'vecbak%%' AND datname = %s"


@dataclass
class Traffic:
    """A writer and a search in threads of their own, for as long as the context lasts.

    Attributes:
        latencies: of the searches, in seconds, with the moment at which each began.
        failures: errors of either.
        written: rows that were committed.
    """

    workspace: Workspace
    dimensions: int
    latencies: list[tuple[float, float]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    written: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Traffic:
        self._threads = [threading.Thread(target=self._write), threading.Thread(target=self._search)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _write(self) -> None:
        with self.workspace.database.connect() as connection:
            while not self._stop.is_set():
                key = f"written-{self.written}"
                try:
                    connection.execute(f"INSERT INTO {EMBEDDING} (id, document) VALUES (%s, 'x')", [key])
                    self.written += 1
                except psycopg.Error as error:
                    self.failures.append(str(error))
                time.sleep(0.01)

    def _search(self) -> None:
        vector = "[" + ",".join(["0.1"] * self.dimensions) + "]"
        query = f"SELECT id FROM {EMBEDDING} ORDER BY embedding <-> %s LIMIT 5"
        with self.workspace.database.connect() as connection:
            while not self._stop.is_set():
                began = time.monotonic()
                try:
                    connection.execute(query, [vector]).fetchall()
                except psycopg.Error as error:
                    self.failures.append(str(error))
                self.latencies.append((began, time.monotonic() - began))
                time.sleep(0.005)


@dataclass(frozen=True)
class Usage:
    """Of this process and of the server, after one backup: descriptors, threads, peak memory in KiB, vecbak's connections."""

    descriptors: int
    threads: int
    peak_kib: int
    connections: int


def back_up_often(workspace: Workspace, count: int) -> list[Usage]:
    """That many backups, one after the other, in this process."""
    loaded = load_config(workspace.folder / "vecbak.yaml")
    database = workspace.database
    used = []
    for _ in range(count):
        with open_job(loaded, task_id="many", output_dir=workspace.out) as job:
            back_up(job, truncate=False)
        used.append(
            Usage(
                len(list(Path("/proc/self/fd").iterdir())),
                threading.active_count(),
                resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
                database.value(SESSIONS, [database.name]),
            )
        )
    return used


def quantiles(latencies: list[tuple[float, float]]) -> tuple[float, float, float]:
    """Median, 95th percentile and maximum, in milliseconds."""
    seconds = [duration for _, duration in latencies]
    return statistics.median(seconds) * 1000, statistics.quantiles(seconds, n=20)[-1] * 1000, max(seconds) * 1000
