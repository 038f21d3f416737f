"""`scripts/load`: what backups cost those who search and write meanwhile, and whether anything grows. Printed, not judged."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from tests.conftest import prepared_folder
from tests.support import langchain
from tests.support.load import EMBEDDING, Traffic, back_up_often, quantiles
from tests.support.server import Server
from tests.support.workspace import Workspace


def main() -> None:
    """Fill, search alone, search while backups run, print."""
    parser = argparse.ArgumentParser(prog="scripts/load")
    parser.add_argument("--documents", type=int, default=5000)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--backups", type=int, default=50)
    parser.add_argument("--format", choices=["csv", "binary", "pg_dump"], default="csv")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vbl-", ignore_cleanup_errors=True) as name:
        folder = prepared_folder(Path(name))
        server = Server(folder / "server", 18)
        server.create()
        server.start()
        try:
            with server.new_database() as database:
                langchain.fill(database, chosen.documents, dimensions=chosen.dimensions)
                database.execute(f"CREATE INDEX ON {EMBEDDING} USING hnsw (embedding vector_l2_ops)")
                work = folder / "work"
                work.mkdir()
                workspace = Workspace(work, database)
                workspace.save(backup={"format": chosen.format})
                measure(workspace, chosen.dimensions, chosen.backups)
        finally:
            server.stop()


def measure(workspace: Workspace, dimensions: int, backups: int) -> None:
    """The table."""
    with Traffic(workspace, dimensions) as alone:
        time.sleep(10)
    with Traffic(workspace, dimensions) as beside:
        began = time.monotonic()
        used = back_up_often(workspace, backups)
        seconds = time.monotonic() - began
    print(
        "| searches (HNSW, LIMIT 5), one writer beside them | number | median ms | 95 % ms | longest ms | rows written |"
    )
    print("|---|---:|---:|---:|---:|---:|")
    for name, traffic in (("no backup", alone), (f"{backups} backups in a row", beside)):
        median, high, longest = quantiles(traffic.latencies)
        print(f"| {name} | {len(traffic.latencies)} | {median:.1f} | {high:.1f} | {longest:.1f} | {traffic.written} |")
    print(f"\n{backups} backups in {seconds:.1f} s; {len(alone.failures) + len(beside.failures)} errors of others")
    print("\n| after backup | peak memory MiB | descriptors | threads | connections left |\n|---:|---:|---:|---:|---:|")
    for number in sorted({1, 10, backups // 2, backups} & set(range(1, backups + 1))):
        item = used[number - 1]
        print(f"| {number} | {item.peak_kib / 1024:.1f} | {item.descriptors} | {item.threads} | {item.connections} |")


if __name__ == "__main__":
    main()
