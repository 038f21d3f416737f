"""A user's folder with a config in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.support.command import Ended, vecbak
from tests.support.server import Database


class Workspace:
    """A folder, its vecbak.yaml, and short ways to run vecbak there."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.folder = folder
        self.database = database
        self.config: dict[str, Any] = {
            "connection": database.server.connection(database.name),
            "backup": {"min_free_bytes": 0, "min_free_percent": 0},
        }
        self.save()

    @property
    def out(self) -> Path:
        """The output directory."""
        return self.folder / "out"

    @property
    def backups(self) -> Path:
        """Where backups go."""
        return self.out / "vector_bak"

    def save(self, **sections: dict[str, Any]) -> None:
        """Write the config, after merging these sections into it."""
        for name, values in sections.items():
            self.config[name] = {**self.config.get(name, {}), **values} if isinstance(values, dict) else values
        (self.folder / "vecbak.yaml").write_text(yaml.safe_dump(self.config))

    def run(self, *arguments: object, **options: Any) -> Ended:
        """Run vecbak with --output-dir."""
        return vecbak(*arguments, "--output-dir", self.out, cwd=self.folder, **options)

    def files(self, pattern: str = "*") -> list[str]:
        """Names in the backup folder."""
        return sorted(path.name for path in self.backups.glob(pattern)) if self.backups.exists() else []
