"""Named points of the guarded operations at which a test can make vecbak wait while it breaks something.

Where the environment does not ask for it, reaching one costs a comparison. `scripts/faults` and the fault matrix use them.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

BACKUP_STEPS = (
    "connected",
    "locked",
    "checked",
    "drafted",
    "workers open",
    "copying",
    "finishing",
    "copied",
    "published",
    "logged",
)
TRUNCATE_STEPS = (*BACKUP_STEPS, "truncated", "committed")
RESTORE_STEPS = ("restore connected", "restore locked", "saved", "emptied", "loading", "loaded", "built", "restored")

STOP_AT = "VECBAK_TEST_STOP_AT"  # a step's name
STOP_FILE = "VECBAK_TEST_STOP_FILE"  # made when it is reached; vecbak goes on when it is removed

_stop_at = os.environ.get(STOP_AT)


def reach(step: str) -> None:
    """Wait here, if the environment asks for it."""
    if step == _stop_at:
        _wait(Path(os.environ[STOP_FILE]))


def _wait(file: Path) -> None:
    global _stop_at
    _stop_at = None
    file.write_text(str(os.getpid()), encoding="utf-8")
    while file.exists():
        time.sleep(0.005)
