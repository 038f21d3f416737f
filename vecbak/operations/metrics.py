"""The Prometheus textfile: how the last run went, for an alert when nobody reads the log.

The format: https://prometheus.io/docs/instrumenting/exposition_formats/. node_exporter's textfile collector reads `*.prom`
at any moment, so the file is replaced as a whole; the temporary one has another ending.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from vecbak.own_files import open_regular, replace_file

MAXIMUM_BYTES = 1 << 20

LAST_SUCCESS = "vecbak_last_success_timestamp_seconds"
FAILURES = "vecbak_failures_total"
_OF_THE_LAST_SUCCESS = ("vecbak_rows", "vecbak_bytes")
_METRICS = {  # name: (type, help)
    LAST_SUCCESS: ("gauge", "When a backup or truncate last succeeded, as Unix time."),
    "vecbak_last_run_timestamp_seconds": ("gauge", "When the last run ended, as Unix time."),
    "vecbak_last_run_success": ("gauge", "Whether the last run succeeded: 1 or 0."),
    "vecbak_duration_seconds": ("gauge", "How long the last run took."),
    "vecbak_rows": ("gauge", "Rows in the last good backup, by table."),
    "vecbak_bytes": ("gauge", "Bytes of the data files of the last good backup, by table."),
    FAILURES: ("counter", "Runs that failed, since this file was begun."),
}
_SAMPLE = re.compile(r"(?P<series>(?P<name>vecbak_[a-z_]+)(?:\{.*\})?) (?P<value>[0-9.e+-]+)", re.IGNORECASE)


class LastRun(msgspec.Struct, frozen=True):
    """One run that ended.

    Attributes:
        ended: Unix time.
        seconds: how long it took.
        tables: rows and bytes by table; looked at only after success.
    """

    ended: float
    success: bool
    seconds: float
    tables: Mapping[str, tuple[int, int]] = msgspec.field(default_factory=dict)


def record(path: Path, run: LastRun) -> None:
    """Write the file anew, atomically and readable by everybody; what only a success can tell is carried over.

    Raises:
        OSError: it cannot be written, or something else stands in its place.
    """
    replace_file(path, render(run, _read(path)), mode=0o644)  # the collector is another user


def render(run: LastRun, previous: str) -> str:
    """The file's text.

    Args:
        previous: the text that it had before.
    """
    before = [match for line in previous.split("\n") if (match := _SAMPLE.fullmatch(line.strip()))]
    samples = dict(_samples(run, {match["series"]: match["value"] for match in before}))
    if not run.success:
        samples |= {match["series"]: match["value"] for match in before if match["name"] in _OF_THE_LAST_SUCCESS}
    lines: list[str] = []
    for name, (kind, description) in _METRICS.items():
        found = [f"{series} {value}" for series, value in samples.items() if series.partition("{")[0] == name]
        lines += [f"# HELP {name} {description}", f"# TYPE {name} {kind}", *found] if found else []
    return "\n".join(lines) + "\n"


def _samples(run: LastRun, before: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    if run.success:
        yield LAST_SUCCESS, f"{run.ended:.3f}"
    elif LAST_SUCCESS in before:
        yield LAST_SUCCESS, before[LAST_SUCCESS]
    yield "vecbak_last_run_timestamp_seconds", f"{run.ended:.3f}"
    yield "vecbak_last_run_success", str(int(run.success))
    yield "vecbak_duration_seconds", f"{run.seconds:.3f}"
    yield FAILURES, str(_count(before.get(FAILURES, "0")) + (not run.success))
    if run.success:
        for table, (rows, size) in run.tables.items():
            yield f'vecbak_rows{{table="{_escape(table)}"}}', str(rows)
            yield f'vecbak_bytes{{table="{_escape(table)}"}}', str(size)


def _count(value: str) -> int:
    return int(value) if value.isdigit() else 0


def _escape(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _read(path: Path) -> str:
    try:
        descriptor = open_regular(path, os.O_RDONLY)
    except FileNotFoundError:
        return ""
    with os.fdopen(descriptor, "rb") as file:
        return file.read(MAXIMUM_BYTES).decode("utf-8", "replace")
