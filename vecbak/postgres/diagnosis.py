"""What an error of the server means for the person who reads it: who is in the way, and what to do.

SQLSTATEs: https://www.postgresql.org/docs/current/errcodes-appendix.html.
"""

from __future__ import annotations

import msgspec

from vecbak.errors import Busy, Refused
from vecbak.postgres.names import TableName
from vecbak.postgres.session import Answer

LOCK_STATES = {"55P03", "40P01"}  # lock_not_available, deadlock_detected


class Blocker(msgspec.Struct, frozen=True):
    """Somebody who holds, or waits for, a lock in our way."""

    pid: int | None
    mode: str
    granted: bool
    user: str | None
    application: str | None
    client: str | None
    state: str | None
    seconds: float | None

    def __str__(self) -> str:
        if self.pid is None:
            return f"a prepared transaction ({self.mode}; see pg_prepared_xacts)"
        parts = [f'application "{self.application}"'] if self.application else []
        parts += [f"user {self.user}"] if self.user else []
        parts += [f"from {self.client}"] if self.client else []
        parts += (
            [f"{self.state}" + (f" for {self.seconds:.0f} s" if self.seconds is not None else "")] if self.state else []
        )
        parts.append(f"{'holds' if self.granted else 'waits for'} {self.mode}")
        return f"pid {self.pid} ({', '.join(parts)})"


def busy(table: TableName, timeout: float, blockers: list[Blocker], answer: Answer) -> Busy:
    """A lock that was not granted, with who holds it."""
    ours = any((blocker.application or "").startswith("vecbak") for blocker in blockers)
    return Busy(
        f"the table {table} is locked"
        + (" by another vecbak run" if ours else "")
        + (f", and was not free within {timeout:g} s" if answer.sqlstate == "55P03" else " (deadlock)"),
        "Wait for the sessions named above, or end them; timeouts.lock_seconds says how long vecbak waits.",
        output="\n".join(str(blocker) for blocker in blockers) or answer.messages,
    )


def lock_refused(table: TableName, mode: str, answer: Answer) -> Refused:
    """A LOCK that failed for another reason than waiting."""
    if answer.sqlstate in {"42P01", "3F000"}:
        hint = (
            "Check vector_tables in the config, the database, and the role's search_path; write schema.table if it is elsewhere,"
            ' and "Quotes" around a name with capitals.'
        )
        return Refused(f"the table {table} does not exist", hint, output=answer.messages)
    if answer.sqlstate == "42501":
        reads, inserts = mode == "ACCESS SHARE", mode == "ROW EXCLUSIVE"
        privilege = "SELECT" if reads else "SELECT, INSERT, DELETE" if inserts else "SELECT, TRUNCATE"
        return Refused(
            f"no privilege to {'read' if reads else 'change' if inserts else 'truncate'} the table {table}",
            f"Let its owner run: GRANT {privilege} ON {table} TO the role that vecbak logs in as"
            " (and GRANT USAGE on its schema).",
            output=answer.messages,
        )
    if answer.sqlstate == "42809":
        return Refused(
            f"{table} is not a table",
            "Name tables in vector_tables.supported_tables, not views or sequences.",
            output=answer.messages,
        )
    if answer.sqlstate == "25006":
        return Refused(
            f"the server is read-only, and {table} is to be truncated",
            "A standby cannot truncate: connect to the primary, or run `vecbak backup` without --truncate.",
            output=answer.messages,
        )
    return Refused(f"the table {table} cannot be locked", "See the server's message above.", output=answer.messages)


def truncate_hint(sqlstate: str) -> str:
    """What to do about a TRUNCATE that the server refused."""
    if sqlstate == "42501":
        return "The role lost its TRUNCATE privilege during the run; grant it again, then run vecbak again."
    return "See the server's message above; run `vecbak truncate` again when it is mended."


def copy_hint(message: str) -> str:
    """What to do about a table that could not be copied."""
    if 'invalid byte sequence for encoding "UTF8"' in message:
        return "The database's encoding is SQL_ASCII, and a text in it is no UTF-8. Correct it, then run vecbak again."
    return "Mend the cause, then run vecbak again."


def connection_hint(output: str) -> str:
    """What to do about what psql said of a connection."""
    hints = {
        "password authentication failed": "Check user and password (connection.password, $PGPASSWORD or ~/.pgpass).",
        "no password supplied": "Give a password: connection.password, $PGPASSWORD, or better a ~/.pgpass file.",
        "does not exist": "Check connection.dbname and connection.user (or $PGDATABASE and $PGUSER).",
        "Connection refused": "Is the server running, and do connection.host and port (or $PGHOST and $PGPORT) point at it?",
        "No such file or directory": "No server listens on that socket: is it running, and is connection.host right?",
        "could not translate host name": "Check connection.host (or $PGHOST).",
        "no pg_hba.conf entry": "The server's pg_hba.conf admits no such login from here; ask its administrator.",
        "SSL": "Check connection.sslmode; the embedded wheel's psql has no TLS (install postgresql-client for that).",
        "too many clients": "The server's max_connections are used up; try again later.",
        "timeout expired": "The server did not answer in time: check host, port and firewall; timeouts.connect_seconds says how long.",
    }
    for text, hint in hints.items():
        if text in output:
            return hint
    return "Check connection in the config, the PG* variables, and that the server is running."
