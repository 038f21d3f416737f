"""The same server reached from this machine and from inside its container, in one run: what streaming through Docker costs."""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from pathlib import Path

from scripts.benchmark import TABLE, Way, fill, measure
from tests.support.container import container_server, docker
from tests.support.server import SUPERUSER, SUPERUSER_PASSWORD, bin_folder
from vecbak.postgres.connection import Endpoint

PROGRAM = str(Path(sys.executable).parent / "vecbak")


def print_container(folder: Path, options: argparse.Namespace) -> None:
    """Backup and restore, csv and binary; needs a Docker engine."""
    os.environ["PGPASSWORD"] = SUPERUSER_PASSWORD
    with container_server(18) as server:
        address = docker("inspect", "--format", "{{.NetworkSettings.IPAddress}}", server.name)
        here = Endpoint({"host": address, "user": SUPERUSER, "dbname": "postgres"})
        connections = {
            "here": f"{{dsn: '{here.conninfo}', bin_dir: '{bin_folder(18)}'}}",
            "container": f"{{container: {server.name}}}",
        }
        fill(here, options.rows, options.dims)
        ways = {
            (kind, place): backup(folder, kind, place, connection)
            for kind in ("csv", "binary")
            for place, connection in connections.items()
        }
        for _ in range(options.rounds):
            for way in ways.values():
                measure(way, folder)
    print(
        f"{options.rows:,} rows × {options.dims:,} dimensions, {options.rounds} rounds, medians; {os.cpu_count()} cores.\n"
    )
    print("| `vecbak backup` | psql on this machine (s) | MB/s | psql in the container (s) | MB/s | ratio |")
    print("|---|---:|---:|---:|---:|---:|")
    for kind in ("csv", "binary"):
        seconds = [statistics.median(ways[kind, place].seconds) for place in connections]
        size = ways[kind, "here"].size / 1e6
        cells = " | ".join(f"{each:.2f} | {size / each:.0f}" for each in seconds)
        print(f"| {kind}, 2 jobs | {cells} | {seconds[1] / seconds[0]:.2f} |")


def backup(folder: Path, kind: str, place: str, connection: str) -> Way:
    """`vecbak backup` of the table."""
    config = folder / f"{kind}-{place}.yaml"
    config.write_text(
        f"connection: {connection}\n"
        f"vector_tables: {{supported_tables: [{TABLE}], truncate_tables: []}}\n"
        f"backup: {{format: {kind}, jobs: 2, min_free_bytes: 0, min_free_percent: 0}}\n"
    )
    name = f"vecbak {kind}, {place}"
    return Way(name, None, lambda out: [[PROGRAM, "-q", "backup", "-c", str(config), "--output-dir", str(out)]])
