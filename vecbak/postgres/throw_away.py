"""A folder for an embedded server that is needed once: it and the server are gone afterwards, whoever is killed."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from vecbak.errors import Refused
from vecbak.postgres.environment import applied, without_foreign_servers
from vecbak.postgres.process import Process

SERVER_FOLDER = "pgdata"
_CLEANING_SECONDS = 30

# It waits until we close our end of its input, or are dead. Then it works inside the folder that it was started in, by no
# name that could mean another one by now, and on no server but one whose working directory, as every postmaster's, is the
# data folder in there. That one is asked to end at once (SIGQUIT: immediate shutdown).
_JANITOR = f"""
trap '' INT TERM HUP
cat >/dev/null
rounds=0
while [ "$(ls -A .)" ] && [ $((rounds += 1)) -le 300 ]; do
    read -r pid <{SERVER_FOLDER}/postmaster.pid && [ "/proc/$pid/cwd" -ef {SERVER_FOLDER} ] && kill -QUIT "$pid" && sleep 0.3
    rm -rf -- ./* ./.[!.]* ./..?* || sleep 0.3
done 2>/dev/null
[ "$1" -ef . ] && rmdir -- "$1"
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
        folder = Path(tempfile.mkdtemp(prefix=f"vecbak-{purpose}-"))
    except OSError as error:
        raise Refused(
            f"there is no temporary folder for a throw-away server: {error.strerror or error}",
            "Point TMPDIR at a folder that may be written.",
        ) from None
    janitor = Process(
        ["/bin/sh", "-c", _JANITOR, "vecbak-janitor", str(folder)],
        applied(without_foreign_servers()),
        folder,
        outlives_us=True,
    )
    try:
        yield folder
    finally:
        janitor.close_descriptor(janitor.stdin)
        janitor.wait(_CLEANING_SECONDS)
        janitor.close()
