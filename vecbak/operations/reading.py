"""Reading a backup's files: decompressed, and dumps through pg_restore, piece by piece and in constant memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from vecbak.backups.files import FileDamaged, FinishedFile, examine_file
from vecbak.backups.formats import Compressor, compressor_of
from vecbak.errors import Refused, VecbakError
from vecbak.postgres.programs import Installation, restore_list_command, with_program
from vecbak.postgres.runner import Completed, Runner

Consumer = Callable[[bytes], None]


class FileReader(msgspec.Struct, frozen=True):
    """Decodes files of one backup.

    Attributes:
        format: csv, binary or pg_dump.
        pg_restore: where it is; needed for dumps alone.
        seconds: for one file.
    """

    runner: Runner
    folder: Path
    format: str
    pg_restore: Installation | None
    seconds: float

    def read(self, name: str, consume: Consumer) -> FinishedFile:
        """Read a file as it is, and hand its decoded bytes on.

        Args:
            consume: for dumps it gets what pg_restore prints.

        Returns:
            The file's size, checksum and identity.

        Raises:
            FileDamaged: it cannot be decoded to its end, or it changed meanwhile.
            OSError: it cannot be read.
        """
        if self.format != "pg_dump" and compressor_of(name) is None:
            return examine_file(self.folder / name, consume)
        found = examine_file(self.folder / name)
        self.decode(name, consume)
        found.check_untouched()
        return found

    def decode(self, name: str, consume: Consumer) -> None:
        """Hand the decoded bytes on without looking at the file's own.

        Raises:
            FileDamaged: it cannot be decoded to its end.
            OSError: it cannot be read.
        """
        compressor = compressor_of(name)
        if compressor is None and self.format != "pg_dump":
            examine_file(self.folder / name, consume)
            return
        for program, done in self._run(name, compressor, consume).items():
            if done.exit_code != 0:
                said = done.stderr.strip().splitlines()
                raise FileDamaged(f"{name} cannot be read by {program}: {said[0] if said else 'it said nothing'}")

    def _run(self, name: str, compressor: Compressor | None, consume: Consumer) -> dict[str, Completed]:
        try:
            if self.format != "pg_dump" and compressor:
                return {compressor.program: self._complete(decompress(compressor, name), consume)}
            command = restore_list_command(self._pg_restore())
            if compressor is None:
                with (self.folder / name).open("rb") as file:
                    return {"pg_restore": self._complete(command, consume, file.fileno())}
            first, second = self.runner.pipe(
                decompress(compressor, name), command, timeout=self.seconds, folder=self.folder, consume=consume
            )
            return {compressor.program: first, "pg_restore": second}
        except VecbakError as error:
            raise FileDamaged(f"{name} could not be read: {error.message}") from None

    def _complete(self, command: list[str], consume: Consumer, source: int | None = None) -> Completed:
        return self.runner.run(command, timeout=self.seconds, folder=self.folder, consume=consume, source=source)

    def _pg_restore(self) -> Installation:
        if self.pg_restore is None:
            raise Refused(
                "no pg_restore was found that can read this dump",
                "Install the client programs of the version that made it, or newer (Debian: postgresql-client).",
            )
        return self.pg_restore


def decompress(compressor: Compressor, name: str) -> list[str]:
    """The command line that prints a file of the current folder, whose name may begin as an option does."""
    return [compressor.program, *compressor.decompress, f"./{name}" if name.startswith("-") else name]


def pg_restore_for(installations: tuple[Installation, ...], made_by: int) -> Installation | None:
    """The oldest pg_restore that is not older than the pg_dump that made the files, which it could not read else.

    Args:
        made_by: pg_dump's major version.
    """
    able = [item for item in with_program(installations, "pg_restore") if item.major >= made_by]
    return min(able, key=lambda item: item.major, default=None)
