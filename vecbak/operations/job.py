"""What an operation is given: the configuration, the way to the database, and the folders."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from vecbak.config import Config
from vecbak.errors import Refused
from vecbak.extras import install_hint
from vecbak.paths import here
from vecbak.postgres.connection import Endpoint
from vecbak.postgres.guard import Guard, open_guard
from vecbak.postgres.programs import Installation, fitting_installation
from vecbak.postgres.runner import Runner
from vecbak.progress import NoProgress, Progress


def _now() -> datetime:
    return datetime.now(UTC)


class Job(msgspec.Struct, frozen=True):
    """One run's surroundings.

    Attributes:
        installations: usable client programs, preferred first.
        output_dir: the task's folder.
        config_folder: the config file's; hooks run there.
        folder_ready: called with the output directory as soon as it may be written.
        clock: the time, with a zone.
    """

    config: Config
    endpoint: Endpoint
    installations: tuple[Installation, ...]
    runner: Runner
    output_dir: Path
    task_id: str
    progress: Progress = msgspec.field(default_factory=NoProgress)
    folder_ready: Callable[[Path], None] = lambda _: None
    clock: Callable[[], datetime] = _now
    config_folder: Path = msgspec.field(default_factory=here)

    @property
    def backup_folder(self) -> Path:
        """Where the backups of this task are."""
        return self.output_dir / self.config.backup.backup_directory

    def connect(self, oldest_psql: int | None = None) -> tuple[Guard, Installation]:
        """Open a guard with the psql that fits the server.

        Args:
            oldest_psql: a major version that psql must have at least.

        Raises:
            ConnectionFailed: no connection or no login.
            Refused: no psql is new enough.
        """
        able = tuple(item for item in self.installations if item.major >= (oldest_psql or 0))
        if not able:
            raise Refused(
                f"psql {oldest_psql} or newer is needed here, and was not found",
                "Older versions stop to read a CSV file at a line that is `\\.`. Install postgresql-client-18,"
                f" or run: {install_hint('embedded')}",
            )
        seconds = self.config.timeouts.connect_seconds
        guard = open_guard(self.runner, self.endpoint, able[0], connect_seconds=seconds)
        if able[0].major >= guard.server_major:
            return guard, able[0]
        fitting = fitting_installation(able, guard.server_major)
        if fitting is None:
            return guard, able[0]  # an older psql speaks to newer servers; only pg_dump does not
        guard.close()
        return open_guard(self.runner, self.endpoint, fitting, connect_seconds=seconds), fitting
