"""Whether the server that answers is the one of a data folder of ours: it must know a secret that lies in there.

A name or a port can lead elsewhere, and a socket can be somebody else's; what stands in the folder only its own server has read.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vecbak.errors import ConnectionFailed

if TYPE_CHECKING:
    from vecbak.postgres.session import Session

SETTING = "vecbak.instance"
FILE = "vecbak.conf"
RELOAD_SECONDS = 5.0  # until a server that was told to read its configuration again has done so

_INCLUDE = f"include_if_exists '{FILE}'  # what vecbak knows this server by\n".encode()

# anybody may ask: what only a superuser is told (the data folder) is null for others
_ASK = f"""
SELECT pg_catalog.json_build_object('instance', pg_catalog.current_setting('{SETTING}', true),
  'port', pg_catalog.current_setting('port'),
  'folder', (SELECT s.setting FROM pg_catalog.pg_settings s WHERE s.name OPERATOR(pg_catalog.=) 'data_directory'));
"""


@dataclass(frozen=True)
class Instance:
    """The server of one data folder.

    Attributes:
        folder: its data folder.
        port: the number of its socket.
        secret: what its setting `vecbak.instance` says.
    """

    folder: Path
    port: str
    secret: str = field(repr=False)

    def check(self, session: Session) -> None:
        """Let the server prove that it is this one.

        Raises:
            ConnectionFailed: it is another one, or its folder is gone or was replaced; psql has been ended.
            SessionFailed: it did not answer.
        """
        deadline = time.monotonic() + RELOAD_SECONDS
        while True:
            told = session.ask_json(_ASK, timeout=RELOAD_SECONDS, step="asking the server who it is")
            if not (difference := self._difference(told)):
                return
            if told["instance"] == self.secret or time.monotonic() > deadline:
                session.kill()
                raise ConnectionFailed(
                    f"the server that answered is not the embedded one of {self.folder}: {difference}",
                    "End the server that answers there, and leave the data folder where it is while vecbak runs; then run vecbak again.",
                )
            time.sleep(0.1)

    def _difference(self, told: dict[str, Any]) -> str:
        if not is_of(self.secret, self.folder):
            return "its data folder was removed or replaced"
        if told["instance"] != self.secret:
            return "it does not know the secret that lies in its data folder"
        if told["port"] != self.port:
            return f"its port is {told['port']}, and not {self.port}"
        if told["folder"] is not None and not _same(Path(told["folder"]), self.folder):
            return f"its data folder is {told['folder']}"
        return ""


def known(folder: Path) -> str | None:
    """The secret that lies in a data folder; None if there is none, or only that of the folder which this is a copy of."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        for line in (folder / FILE).read_text().splitlines():
            secret = line.removeprefix(f"{SETTING} = '").removesuffix("'")
            if secret != line and is_of(secret, folder):
                return secret
    return None


def mark(folder: Path) -> str:
    """Lay a new secret into a data folder; a server knows it once it was started there, or has read its configuration again.

    Raises:
        OSError: the folder or its postgresql.conf cannot be written.
    """
    there = folder.stat()
    secret = f"{secrets.token_hex(16)}-{there.st_dev:x}-{there.st_ino:x}"
    new = folder / f"{FILE}.new"
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f"# written by vecbak, which knows the server of this folder by it\n{SETTING} = '{secret}'\n")
    if os.geteuid() == 0:
        os.chown(new, there.st_uid, there.st_gid)
    new.replace(folder / FILE)
    with (folder / "postgresql.conf").open("rb+") as file:
        text = file.read()
        if _INCLUDE not in text:
            file.write(_INCLUDE if text.endswith(b"\n") else b"\n" + _INCLUDE)
    return secret


def is_of(secret: str, folder: Path) -> bool:
    """Whether a secret was made for this very folder, and not for one that it is a copy of."""
    try:
        there = folder.stat()
    except OSError:
        return False
    return secret.endswith(f"-{there.st_dev:x}-{there.st_ino:x}")


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
