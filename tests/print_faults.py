"""`scripts/faults`: the fault matrix, tried and printed as a Markdown table; exit code 1 if a promise was broken."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.conftest import prepared_folder
from tests.support.faults import MATRIX, Outcome, try_case
from tests.support.server import Server


def main() -> int:
    """Try the cases that the arguments name, all without any."""
    cases = [case for case in MATRIX if all(word in str(case) for word in sys.argv[1:])]
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="vbf-", ignore_cleanup_errors=True) as name:
        folder = prepared_folder(Path(name))
        server = Server(folder / "server", 18)
        server.create()
        server.start()
        try:
            for number, case in enumerate(cases):
                place = folder / f"case{number}"
                place.mkdir()
                outcomes.append(try_case(case, server, place))
                print(f"{number + 1}/{len(cases)} {case}", file=sys.stderr, flush=True)
        finally:
            server.stop()
    return show(outcomes)


def show(outcomes: list[Outcome]) -> int:
    """The table."""
    print("| operation | step | fault | outcome | exit code | rows before | after | in backups | .tmp left |")
    print("|---|---|---|---|---:|---:|---:|---:|---:|")
    for item in outcomes:
        before, after, saved = item.rows
        verdict = "✗ " + "; ".join(item.problems) if item.problems else "✓"
        print(
            f"| {item.case.operation} | {item.case.step} | {item.case.fault} | {verdict} | {item.code} | {before} | {after} |"
            f" {saved} | {item.leftovers} |"
        )
    broken = [item for item in outcomes if item.problems]
    print(f"\n{len(outcomes)} cases, {len(broken)} broken promises")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
