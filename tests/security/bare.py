"""A folder with a config whose operations leave a trace at once, and whose database nobody can reach."""

from __future__ import annotations

from pathlib import Path

import yaml

PATIENCE = 8  # seconds until an answer that waits for nothing must be there, on a busy machine; less than a connection's deadline


class Bare:
    """Its folder; `serving` needs no more."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.step("touch", str(folder / "stepped"))

    def step(self, *command: str) -> None:
        """What training_load runs."""
        config = {
            "connection": {"dsn": "postgresql://127.0.0.1:1/nowhere"},
            "tasks_directory": "tasks",
            "workflow": {"steps": [{"name": "training_load", "command": list(command)}]},
            "hooks": {"before": [["touch", str(self.folder / "hooked")]]},
        }
        (self.folder / "vecbak.yaml").write_text(yaml.safe_dump(config))


def tree(folder: Path) -> dict[str, int]:
    """All there is, with sizes; not the server's own log."""
    return {str(path): path.lstat().st_size for path in folder.rglob("*") if path.name != "server.log"}
