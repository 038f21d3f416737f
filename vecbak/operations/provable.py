"""Whether a backup could be proved on the embedded server; asked before a byte is written, for a proof comes late.

What can only be seen by trying (a server that does not start) ends the run when it is tried.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from vecbak.config import Config
from vecbak.errors import Refused
from vecbak.postgres.catalog import Table
from vecbak.postgres.embedded import require_extra
from vecbak.postgres.type_definitions import is_made_here
from vecbak.results import human_size

EMBEDDED_MAJORS = (16, 18)
WANTED_BY = "backup.verify_before_truncate: restore"


def wanted(config: Config) -> bool:
    """Whether TRUNCATE waits for a proof."""
    return config.backup.verify_before_truncate == "restore"


def nearest_major(version: str) -> int:
    """The embedded PostgreSQL nearest to a server's, the newer of two.

    Args:
        version: as the server says it: `16.4 (Debian 16.4-1)`, `18beta1`.
    """
    source = re.match(r"\d+", version)
    major = int(source.group()) if source else max(EMBEDDED_MAJORS)
    return min(EMBEDDED_MAJORS, key=lambda known: (abs(known - major), -known))


def check_provable(tables: Iterable[Table]) -> None:
    """Refuse what could never be proved.

    Raises:
        Refused: says what is missing.
    """
    for problem in proof_problems(tables):
        raise problem


def proof_problems(tables: Iterable[Table]) -> Iterator[Refused]:
    """Why these tables cannot be restored on the embedded server."""
    try:
        require_extra(WANTED_BY)
    except Refused as problem:
        yield problem
    yield from type_problems(tables)


def type_problems(tables: Iterable[Table], *, elsewhere: bool = False) -> Iterator[Refused]:
    """Why a backup of these tables could not be proven restorable.

    Args:
        elsewhere: on a server that the user named, which may have extensions of its own; else on the embedded one.
    """
    for table in tables:
        for item in table.types:
            if is_made_here(item) or (elsewhere and item.extension):
                continue
            origin = f"of the extension {item.extension}" if item.extension else "not an enum, domain or composite type"
            yield Refused(
                f"{table.name} has the type {item.sql} ({origin}), which a throw-away server cannot have",
                "Prove it on a server that has it: `vecbak verify BACKUP --restore --on DSN`; for that, leave"
                " backup.verify_before_truncate at checksum."
                if item.extension
                else "Set backup.verify_before_truncate to checksum, and try a restore into another schema of the database"
                " (--into-schema NAME --create).",
            )


def room_for_proof(tables: Sequence[Table]) -> str | None:
    """What is doubtful about the disk of the throw-away server; it holds the rows, without indexes."""
    try:
        place = Path(tempfile.gettempdir())
    except OSError:
        return "there is no temporary folder that may be written"
    free, needed = shutil.disk_usage(place).free, sum(table.table_bytes for table in tables)
    if needed <= free:
        return None
    return f"the throw-away server will have {human_size(free)} in {place}, and the rows take {human_size(needed)}"
