"""A backup that was verified: the only thing that the truncating function accepts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from vecbak.backups import manifest as manifests
from vecbak.backups.files import FileDamaged, FinishedFile
from vecbak.backups.manifest import Manifest
from vecbak.errors import UsageError

_KEY = object()


@final
class VerifiedBackup:
    """Proof that a published backup holds every row that is to be truncated; only `verify` makes one.

    Attributes:
        manifest: as it was read back from the disk.
    """

    def __init__(self, key: object, manifest: Manifest, files: tuple[FinishedFile, ...]) -> None:
        if key is not _KEY:
            raise TypeError("a VerifiedBackup comes from VerifiedBackup.verify alone")
        self.manifest = manifest
        self._files = files  # the manifest's own first

    @classmethod
    def verify(
        cls, published: FinishedFile, files: Mapping[str, tuple[FinishedFile, ...]], counts: Mapping[str, int]
    ) -> VerifiedBackup:
        """Read the manifest back and hold it against the files and against what the guard counts now.

        Args:
            published: the manifest's file.
            files: the finished data files by table; "" for the schema file.
            counts: rows in the guard now, for every table that is to be truncated.

        Raises:
            FileDamaged: a file or the manifest is not what was written.
        """
        manifest = _read(published)
        if not counts.keys() <= manifest.tables.keys() or manifest.tables.keys() != files.keys() - {""}:
            raise FileDamaged("the manifest does not name the tables that were backed up")
        for schema in files.get("", ()):
            recorded_schema = (manifest.schema_file.name, manifest.schema_file.size_bytes, manifest.schema_file.sha256)
            if recorded_schema != (schema.path.name, schema.size_bytes, schema.sha256):
                raise FileDamaged("the manifest does not name the schema file as it was written")
        for label, entry in manifest.tables.items():
            recorded = [(file.name, file.size_bytes, file.sha256) for file in entry.files]
            if recorded != [(file.path.name, file.size_bytes, file.sha256) for file in files[label]]:
                raise FileDamaged(f"the manifest does not name the files of {label} as they were written")
            if entry.rows != sum(file.rows for file in entry.files) or entry.rows != counts.get(label, entry.rows):
                raise FileDamaged(
                    f"{label} has {counts.get(label, entry.rows):,} rows now, and {entry.rows:,} in the backup"
                )
        backup = cls(_KEY, manifest, (published, *(file for group in files.values() for file in group)))
        backup.check_untouched()
        return backup

    def amended(self, published: FinishedFile) -> VerifiedBackup:
        """The same after its manifest was replaced by one that says more.

        Raises:
            FileDamaged: the new manifest names other files or rows.
        """
        manifest = _read(published)
        if manifest.tables != self.manifest.tables or manifest.backup_id != self.manifest.backup_id:
            raise FileDamaged(f"{published.path.name} does not name the files that were verified")
        return VerifiedBackup(_KEY, manifest, (published, *self._files[1:]))

    def check_untouched(self) -> None:
        """Look at every file again.

        Raises:
            FileDamaged: one is gone, was replaced, or was touched since its checksum was taken.
        """
        for file in self._files:
            file.check_untouched()


def _read(published: FinishedFile) -> Manifest:
    try:
        return manifests.read(published.path)
    except UsageError as error:
        raise FileDamaged(error.message) from None
