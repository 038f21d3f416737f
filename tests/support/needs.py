"""What tests need of the machine beyond Python and the wheels: `@pytest.mark.needs("zstd")`, or a parameter of that name.

Where it is missing, the test is skipped with the command that installs it; in CI that is a failure.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

PROGRAMS = ("zstd", "lz4", "jq", "shellcheck", "pgbouncer", "zsh", "fish")  # Debian's packages have the same names


def program(name: str) -> str | None:
    """Where it is; Debian has daemons outside a user's PATH."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin")


def check(item: pytest.Item) -> None:
    """Skip a test that cannot run here, or in CI fail it."""
    lacking = sorted(name for name in set(_wanted(item)) if not _present(name))
    if not lacking:
        return
    packages = [name for name in lacking if name in PROGRAMS]
    reasons = [f"not installed: apt-get install {' '.join(packages)}"] if packages else []
    reasons += ["it must run as root"] if "root" in lacking else []
    reason = "; ".join(reasons)
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def _present(name: str) -> bool:
    return os.geteuid() == 0 if name == "root" else program(name) is not None


def _wanted(item: pytest.Item) -> Iterator[str]:
    for marker in item.iter_markers("needs"):
        yield from marker.args
    if "end_to_end" in item.path.parts:  # unit tests only speak of programs
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        for value in parameters.values():
            for part in value if isinstance(value, tuple) else (value,):
                if isinstance(part, str) and part in PROGRAMS:
                    yield part
