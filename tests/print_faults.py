"""`scripts/faults`: the fault matrix, tried and printed as a Markdown table; exit code 1 if a promise was broken."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from tests.conftest import prepared_folder
from tests.support.fault_cases import Outcome, try_case
from tests.support.faults import FAULTS, MATRIX, template
from tests.support.server import Server


def main() -> int:
    """Try the cases that the arguments name, all without any; those that take a minute only with `--all`."""
    words = [word for word in sys.argv[1:] if word != "--all"]
    cases = [
        case
        for case in MATRIX
        if all(word in str(case) for word in words) and ("--all" in sys.argv or not FAULTS[case.fault].slow)
    ]
    outcomes = []
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="vbf-", ignore_cleanup_errors=True) as name:
        folder = prepared_folder(Path(name))
        server = Server(folder / "server", 18)
        server.create()
        server.start()
        try:
            with template(server) as filled:
                for number, case in enumerate(cases):
                    place = folder / f"case{number}"
                    place.mkdir()
                    outcomes.append(_tried(case, server, filled, place))
                    print(f"{number + 1}/{len(cases)} {case}", file=sys.stderr, flush=True)
        finally:
            server.stop()
    return show(outcomes, time.monotonic() - began)


def _tried(case, server: Server, filled: str, place: Path) -> Outcome:
    try:
        return try_case(case, server, filled, place)
    except Exception as error:  # noqa: BLE001 - one case that could not be tried is a broken promise, and the others go on
        return Outcome(case, 0, (0, 0, 0), 0, 0, (f"{type(error).__name__}: {str(error)[-300:]}",))


def show(outcomes: list[Outcome], seconds: float) -> int:
    """The table. `✓` says too: within 10 s no session, lock, process or temporary file was left, and the next run succeeded."""
    print(
        "| operation | step | fault | outcome | exit code | rows before | after | in backups | .tmp for the next run | left after 10 s |"
    )
    print("|---|---|---|---|---:|---:|---:|---:|---:|---:|")
    for item in outcomes:
        before, after, saved = item.rows
        verdict = "✗ " + " ".join("; ".join(item.problems).split()) if item.problems else "✓"
        print(
            f"| {item.case.operation} | {item.case.step} | {item.case.fault} | {verdict} | {item.code} | {before} | {after} |"
            f" {saved} | {item.leftovers} | {item.left} |"
        )
    broken = [item for item in outcomes if item.problems]
    print(f"\n{len(outcomes)} cases, {len(broken)} broken promises, {seconds:.0f} s")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
