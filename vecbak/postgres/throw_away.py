"""A folder for an embedded server that is needed once: it and the server are gone afterwards, whoever is killed."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from vecbak.errors import Refused
from vecbak.postgres.process import Process

SERVER_FOLDER = "pgdata"
_CLEANING_SECONDS = 30

# It waits until we close our end of its input, or are dead. The server is asked to end at once (SIGQUIT: immediate shutdown).
_JANITOR = f"""
trap '' INT TERM HUP
cat >/dev/null
while [ -d "$1" ]; do
    read -r pid <"$1/{SERVER_FOLDER}/postmaster.pid" && grep -qF -- "$1" "/proc/$pid/cmdline" && kill -QUIT "$pid" && sleep 0.3
    rm -rf -- "$1" && sleep 0.3
done 2>/dev/null
"""


@contextlib.contextmanager
def throw_away_folder(purpose: str) -> Iterator[Path]:
    """A new folder in the system's temporary one, in which a server may have its data folder, `pgdata`.

    Args:
        purpose: for its name.

    Raises:
        ProgramMissing: there is no shell.
        Refused: there is no temporary folder.
    """
    try:
        folder = tempfile.mkdtemp(prefix=f"vecbak-{purpose}-")
    except OSError as error:
        raise Refused(
            f"there is no temporary folder for a throw-away server: {error.strerror or error}",
            "Point TMPDIR at a folder that may be written.",
        ) from None
    janitor = Process(["/bin/sh", "-c", _JANITOR, "vecbak-janitor", folder], os.environ, None, outlives_us=True)
    try:
        yield Path(folder)
    finally:
        janitor.close_descriptor(janitor.stdin)
        janitor.wait(_CLEANING_SECONDS)
        janitor.close()
