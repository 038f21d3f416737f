"""Fill a table, then run every way to get it out in turn, several rounds; print a Markdown table of medians and ratios.

Every way runs once in each round, so that what else the machine does falls on all of them alike. Before each the disk is
synced. Times are whole processes, start-up included; vecbak's include locks, checks, checksums and fsync.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from vecbak.postgres.connection import Endpoint
from vecbak.postgres.embedded import embedded_server

TABLE = "benchmark_vectors"
FILL = f"""
CREATE TABLE {TABLE} (id varchar PRIMARY KEY, collection_id uuid, embedding vector(%(dims)s), document varchar, cmetadata jsonb);
INSERT INTO {TABLE}
SELECT 'doc-' || g, '11111111-1111-1111-1111-111111111111',
  (SELECT array_agg((random() * 2 - 1)::real + 0 * x + 0 * d) FROM (VALUES (g)) v(x), generate_series(1, %(dims)s) d)::vector,
  'Document ' || g || ' says "hello", and goes on for a line' || chr(10) || 'or two: ' || repeat('lorem ipsum ', 20),
  jsonb_build_object('id', g::text, 'page', g %% 40, 'tags', jsonb_build_array('a', 'b'), 'author', NULL)
FROM generate_series(1, %(rows)s) g;
"""
PYTHON_LOOP = """
import csv, sys, psycopg
with psycopg.connect(sys.argv[1]) as connection, open(sys.argv[2], "w", newline="") as file:
    cursor = connection.execute(sys.argv[3])
    writer = csv.writer(file)
    writer.writerow([column.name for column in cursor.description])
    writer.writerows(cursor.fetchall())
"""


@dataclass
class Way:
    """One way to get the table out, and what was measured of it."""

    name: str
    baseline: str | None
    run: Callable[[Path], list[list[str]]]
    once: bool = False
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    size: int = 0
    memory: dict[str, int] = field(default_factory=dict)


class MemoryWatch:
    """Peak resident memory (VmHWM, KiB) of a process and all below it, by program."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.peaks: dict[str, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            for pid in self._tree(self._pid):
                self._read(pid)

    def _tree(self, pid: int) -> Iterator[int]:
        yield pid
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                children = path.read_text().split()
            except OSError:
                continue
            for child in children:
                yield from self._tree(int(child))

    def _read(self, pid: int) -> None:
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            return
        values = dict(line.split(":", 1) for line in lines if ":" in line)
        if "VmHWM" in values:
            name = values["Name"].strip()
            name = "python" if name.startswith(("python", "vecbak")) else name
            self.peaks[name] = max(self.peaks.get(name, 0), int(values["VmHWM"].split()[0]))


def main() -> None:
    """Parse the options and print the tables."""
    parser = argparse.ArgumentParser(prog="scripts/benchmark", description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dims", type=int, default=1536)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--growth", default="10000,30000,100000", help="row counts of the second table; empty for none")
    parser.add_argument(
        "--restore-rows", type=int, default=20_000, help="rows of the restore with an HNSW index; 0: none"
    )
    parser.add_argument("--only-restore", action="store_true", help="leave out everything else")
    parser.add_argument(
        "--container",
        action="store_true",
        help="instead: one server, psql here and in its container (a Docker engine runs)",
    )
    parser.add_argument("--directory", help="where server and files go [default: a temporary folder]")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vecbak-benchmark-", dir=options.directory) as name:
        folder = Path(name)
        if options.container:
            sys.path.insert(0, str(Path(__file__).parent.parent))
            from scripts.benchmark_container import print_container

            print_container(folder, options)
            return
        with embedded_server(folder / "pgdata", dbname=None, user=None, connect_seconds=10) as endpoint:
            if options.restore_rows:
                print_restore(endpoint, folder, options.restore_rows, options.dims)
            if options.only_restore:
                return
            fill(endpoint, options.rows, options.dims)
            ways = all_ways(endpoint, folder)
            for number in range(options.rounds):
                for way in ways:
                    if number == 0 or not way.once:
                        measure(way, folder)
            print_table(ways, options)
            growth = [int(text) for text in options.growth.split(",") if text]
            if growth:
                print_growth(endpoint, folder, growth, options.dims, options.rounds)


def fill(endpoint: Endpoint, rows: int, dims: int) -> None:
    """Make the table anew."""
    say(f"filling {rows:,} rows × {dims:,} dimensions")
    with psycopg.connect(endpoint.conninfo, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        connection.execute(f"DROP TABLE IF EXISTS {TABLE}")
        for statement in (FILL % {"rows": rows, "dims": dims}).split(";\n"):
            if statement.strip():
                connection.execute(statement)
        connection.execute(f"VACUUM ANALYZE {TABLE}")
        connection.execute("CHECKPOINT")


def all_ways(endpoint: Endpoint, folder: Path) -> list[Way]:
    """Everything that is compared."""
    bin_dir, conninfo = endpoint.bin_dir, endpoint.conninfo

    def psql(command: str) -> list[str]:
        return [f"{bin_dir}/psql", "-XAtq", f"--dbname={conninfo}", "-c", command]

    def bare(options: str) -> Callable[[Path], list[list[str]]]:
        return lambda out: [psql(f"\\copy {TABLE} to '{out}/bare' with ({options})")]

    def by_hand(options: str) -> Callable[[Path], list[list[str]]]:
        return lambda out: [
            psql(f"\\copy {TABLE} to '{out}/bare' with ({options})"),
            ["sync", f"{out}/bare"],
            ["sha256sum", f"{out}/bare"],
        ]

    def floor(options: str) -> Callable[[Path], list[list[str]]]:
        half = middle_page(endpoint)
        copies = [
            shlex.join(
                psql(f"\\copy (SELECT * FROM {TABLE} WHERE ctid {side} '({half},0)') to /dev/null with ({options})")
            )
            for side in ("<", ">=")
        ]
        return lambda out: [["sh", "-c", f"{copies[0]} & {copies[1]} && wait $!"]]

    def pg_dump(*options: str) -> Callable[[Path], list[list[str]]]:
        command = [f"{bin_dir}/pg_dump", f"--dbname={conninfo}", "--data-only", f"--table={TABLE}", "-Fc", *options]
        return lambda out: [[*command, f"--file={out}/dump"]]

    def loop(out: Path) -> list[list[str]]:
        return [[sys.executable, "-c", PYTHON_LOOP, conninfo, f"{out}/loop.csv", f"SELECT * FROM {TABLE}"]]

    def vecbak(kind: str, jobs: int, compression: str = "none") -> Way:
        config = folder / f"{kind}-{jobs}-{compression}.yaml"
        config.write_text(
            f"connection: {{dsn: \"{conninfo}\", bin_dir: '{bin_dir}'}}\n"
            f"vector_tables: {{supported_tables: [{TABLE}], truncate_tables: []}}\n"
            f"backup: {{format: {kind}, jobs: {jobs}, compression: {compression}, min_free_bytes: 0, min_free_percent: 0}}\n"
        )
        name = f"vecbak {kind}{'' if compression == 'none' else ' + ' + compression}, {jobs} job{'s' * (jobs > 1)}"
        baseline = {"csv": "`\\copy` csv", "binary": "`\\copy` binary", "pg_dump": "`pg_dump -Fc -Z0`"}[kind]
        program = str(Path(sys.executable).parent / "vecbak")
        return Way(name, baseline, lambda out: [[program, "-q", "backup", "-c", str(config), "--output-dir", str(out)]])

    ways = [
        Way("`\\copy` csv", "`\\copy` csv", bare("format csv")),
        vecbak("csv", 1),
        vecbak("csv", 2),
        vecbak("csv", 2, "zstd"),
        Way(
            "two `\\copy` csv at once, half the table each, to /dev/null: the floor",
            "`\\copy` csv",
            floor("format csv"),
        ),
        Way("`\\copy` binary", "`\\copy` binary", bare("format binary")),
        vecbak("binary", 1),
        vecbak("binary", 2),
        vecbak("binary", 2, "zstd"),
        Way(
            "two `\\copy` binary at once, half the table each, to /dev/null: the floor",
            "`\\copy` binary",
            floor("format binary"),
        ),
        Way("`\\copy` binary, `sync`, `sha256sum` by hand", "`\\copy` binary", by_hand("format binary")),
        Way("`\\copy` csv, `sync`, `sha256sum` by hand", "`\\copy` csv", by_hand("format csv")),
        Way("psycopg fetch + csv.writer", "`\\copy` csv", loop),
        Way("`pg_dump -Fc -Z0`", "`pg_dump -Fc -Z0`", pg_dump("-Z0")),
        vecbak("pg_dump", 2),
        Way("`pg_dump -Fc` (its default gzip)", "`\\copy` binary", pg_dump(), once=True),
    ]
    return [way for way in ways if "zstd" not in way.name or shutil.which("zstd")]


def middle_page(endpoint: Endpoint) -> int:
    """The table's page that has half of the pages before it."""
    with psycopg.connect(endpoint.conninfo) as connection:
        found = connection.execute("SELECT relpages / 2 FROM pg_class WHERE relname = %s", [TABLE]).fetchone()
        assert found
        return int(found[0])


def measure(way: Way, folder: Path) -> None:
    """Run it once, alone, on a synced disk."""
    with output_folder(folder) as out:
        began, cpu_before = time.monotonic(), cpu_seconds()
        for command in way.run(out):
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            with MemoryWatch(process.pid) as watch:
                if process.wait() != 0:
                    raise SystemExit(f"{way.name} failed: {command[0]} ended with {process.returncode}")
            for name, peak in watch.peaks.items():
                way.memory[name] = max(way.memory.get(name, 0), peak)
        way.seconds.append(time.monotonic() - began)
        way.cpu_seconds.append(cpu_seconds() - cpu_before)
        way.size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    say(f"{way.name}: {way.seconds[-1]:.2f} s")


def cpu_seconds() -> float:
    """What all of this machine's cores have worked so far, the server's part included (proc_stat(5))."""
    user, nice, system, _idle, _iowait, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


@contextmanager
def output_folder(folder: Path) -> Iterator[Path]:
    """An empty folder, removed afterwards."""
    out = folder / "out"
    out.mkdir()
    os.sync()
    try:
        yield out
    finally:
        shutil.rmtree(out)


def print_table(ways: list[Way], options: argparse.Namespace) -> None:
    """The comparison."""
    medians = {way.name: statistics.median(way.seconds) for way in ways}
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / 2**20
    print(
        f"{options.rows:,} rows × {options.dims:,} dimensions, {options.rounds} rounds, {datetime.date.today()};"  # noqa: DTZ011
        f" {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.machine()}; PostgreSQL 18, server and client on"
        " one machine. Medians; ratios are within this run; CPU is what all cores worked, the server's part included.\n"
    )
    print("| what | seconds | ratio | to | CPU (s) | size (MB) | peak memory (MB) |\n|---|---:|---:|---|---:|---:|---|")
    for way in ways:
        peaks = ", ".join(f"{name} {peak / 1024:.0f}" for name, peak in sorted(way.memory.items()) if name != "sync")
        ratio = medians[way.name] / medians[str(way.baseline)]
        print(
            f"| {way.name} | {medians[way.name]:.2f} | {ratio:.2f} | {way.baseline} |"
            f" {statistics.median(way.cpu_seconds):.1f} | {way.size / 1e6:,.0f} | {peaks} |"
        )


def print_growth(endpoint: Endpoint, folder: Path, growth: list[int], dims: int, rounds: int) -> None:
    """Cost per row over the number of rows."""
    print("\n| rows | vecbak csv (s) | µs per row | vecbak binary (s) | µs per row | Python's peak memory (MB) |")
    print("|---:|---:|---:|---:|---:|---:|")
    for rows in growth:
        fill(endpoint, rows, dims)
        csv, binary = (
            way for way in all_ways(endpoint, folder) if way.name in {"vecbak csv, 2 jobs", "vecbak binary, 2 jobs"}
        )
        for _ in range(rounds):
            measure(csv, folder)
            measure(binary, folder)
        medians = [statistics.median(way.seconds) for way in (csv, binary)]
        peak = max(way.memory["python"] for way in (csv, binary)) / 1024
        cells = " | ".join(f"{seconds:.2f} | {seconds / rows * 1e6:.0f}" for seconds in medians)
        print(f"| {rows:,} | {cells} | {peak:.0f} |")


def print_restore(endpoint: Endpoint, folder: Path, rows: int, dims: int) -> None:
    """Bringing vectors back into a table with an HNSW index: by hand into the live index, and by `vecbak restore`."""
    fill(endpoint, rows, dims)
    program = str(Path(sys.executable).parent / "vecbak")
    config = folder / "restore.yaml"
    config.write_text(
        f"connection: {{dsn: \"{endpoint.conninfo}\", bin_dir: '{endpoint.bin_dir}'}}\n"
        f"vector_tables: {{supported_tables: [{TABLE}], truncate_tables: [{TABLE}]}}\n"
        "backup: {min_free_bytes: 0, min_free_percent: 0}\n"
    )
    with psycopg.connect(endpoint.conninfo, autocommit=True) as connection:
        connection.execute(f"ALTER TABLE {TABLE} ALTER COLUMN embedding TYPE vector({dims})")
        connection.execute("SET maintenance_work_mem = '1GB'")
        connection.execute(f"CREATE INDEX ON {TABLE} USING hnsw (embedding vector_l2_ops)")
    psql = [f"{endpoint.bin_dir}/psql", "-XAtq", f"--dbname={endpoint.conninfo}", "-c"]
    with output_folder(folder) as out:
        vecbak = [program, "-q"]
        subprocess.run([*vecbak, "truncate", "-c", config, "--output-dir", out], check=True)
        seconds = timed([*vecbak, "restore", "latest", "-c", str(config), "--output-dir", str(out)])
        subprocess.run([*psql, f"TRUNCATE {TABLE}"], check=True)
        files = sorted(out.rglob("*.csv"))
        live = timed([*psql[:-1], *(f"-c\\copy {TABLE} from '{file}' with (format csv, header)" for file in files)])
        with psycopg.connect(endpoint.conninfo) as connection:
            found = connection.execute(f"SELECT count(*) FROM {TABLE}").fetchone()
            assert found == (rows,), f"{found} rows were loaded by hand"
    print(f"{rows:,} rows × {dims:,} dimensions back into a table with an HNSW index, one round:\n")
    print("| what | seconds | ratio |\n|---|---:|---:|")
    print(f"| `\\copy` into the live index | {live:.1f} | 1.00 |")
    print(
        f"| `vecbak restore` (files verified, index dropped and built again, ANALYZE) | {seconds:.1f} | {seconds / live:.2f} |\n"
    )


def timed(command: list[str]) -> float:
    """Run it once; seconds."""
    os.sync()
    began = time.monotonic()
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    say(f"{command[0].rpartition('/')[2]}: {time.monotonic() - began:.2f} s")
    return time.monotonic() - began


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
