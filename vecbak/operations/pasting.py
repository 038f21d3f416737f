"""A guard's session as shell commands to paste: SQL that it runs, and between it commands of the shell."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from itertools import groupby

import msgspec

from vecbak.postgres.programs import Installation

_SNAPSHOT = r"^[0-9A-F]+-[0-9A-F]+-[0-9]+$"


class Shell(msgspec.Struct, frozen=True):
    """A line for the shell, with the snapshot's name in $SNAPSHOT."""

    line: str


def session(installation: Installation, psql: Sequence[str], lines: Sequence[str | Shell]) -> list[str]:
    """The commands.

    Args:
        psql: the guard's.
        lines: SQL, one statement of which may be `EXPORT_SNAPSHOT`, and shell commands in between.
    """
    if not installation.prefix:
        return [f"{shlex.join(psql)} <<'VECBAK'\n" + "\n".join(_for_psql(lines)) + "\nVECBAK"]
    return list(_beside_psql(psql, lines))


EXPORT_SNAPSHOT = "SELECT pg_export_snapshot() AS snapshot"


def load_elsewhere(installation: Installation, copy: str, path: str, decode: str) -> Iterator[str | Shell]:
    """Lines that load a file of ours with a psql that cannot see it: through a FIFO beside it.

    Args:
        copy: psql's `\\copy` from `path`.
        decode: the shell command that prints the rows.
    """
    there = shlex.join(installation.prefix)
    yield Shell(f"{there} mkfifo -m 600 {path}")
    yield copy
    yield Shell(f"{decode} | {there} sh -c 'exec cat > {path}' && {there} rm {path}")


def _for_psql(lines: Sequence[str | Shell]) -> Iterator[str]:
    """psql itself runs the shell's lines."""
    for line in lines:
        if isinstance(line, Shell):
            yield f"\\! {line.line}"
        elif line == EXPORT_SNAPSHOT:
            yield f"{line} \\gset"
            yield "\\setenv SNAPSHOT :snapshot"
        else:
            yield line


def _beside_psql(psql: Sequence[str], lines: Sequence[str | Shell]) -> Iterator[str]:
    """psql is elsewhere, where the shell's lines would not find our files: it gets its orders through a FIFO."""
    yield "rm -f guard.fifo guard.out && mkfifo -m 600 guard.fifo && exec 3<>guard.fifo"
    yield f"{shlex.join(psql)} <guard.fifo >guard.out 3>&- &"
    for is_shell, group in groupby(lines, key=lambda line: isinstance(line, Shell)):
        if is_shell:
            # what we are pasted into has a standard input of its own
            yield "{\n" + "\n".join(line.line for line in group if isinstance(line, Shell)) + "\n} </dev/null"
            continue
        statements = [f"{line};" if line == EXPORT_SNAPSHOT else str(line) for line in group]
        yield "cat >&3 <<'VECBAK'\n" + "\n".join(statements) + "\nVECBAK"
        if statements[-1] == f"{EXPORT_SNAPSHOT};":
            wait = "kill -0 $! && sleep 0.1 || break"
            yield f"until SNAPSHOT=$(grep -E '{_SNAPSHOT}' guard.out); do {wait}; done"
    yield "exec 3>&-; wait $!; cat guard.out; rm guard.fifo guard.out"
