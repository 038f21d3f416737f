"""A server that must not be touched, and an environment in which everything that libpq knows leads there or breaks a session."""

from __future__ import annotations

import re
import time
from pathlib import Path

from tests.support.command import environment
from tests.support.server import SUPERUSER, SUPERUSER_PASSWORD, Database, Server, bin_folder

# what leads to another server, or breaks a session there, by name; whatever else there is gets NONSENSE
_HARMFUL = {
    "PGOPTIONS": "-c default_transaction_read_only=on -c search_path=evil -c statement_timeout=1 -c vecbak.instance=x",
    "PGCHANNELBINDING": "require",
    "PGREQUIREAUTH": "scram-sha-256",
    "PGSSLMODE": "verify-full",
    "PGREQUIRESSL": "1",
    "PGTARGETSESSIONATTRS": "standby",
    "PGREQUIREPEER": "nobody",
    "PGGSSENCMODE": "require",
    "PGSSLNEGOTIATION": "direct",
    "PGMINPROTOCOLVERSION": "3.2",
    "PGCLIENTENCODING": "EUC_JP",
    "PGDATESTYLE": "SQL, DMY",
    "PGTZ": "Asia/Kathmandu",
    "PG_COLOR": "always",
    "PSQL_PAGER": "false",
    "PAGER": "false",
    "LC_ALL": "xx_YY.UTF-8",
    "LANG": "xx_YY.UTF-8",
}
_BESIDE_LIBPQ = (
    "PGDATA",
    "PGLOCALEDIR",
    "PGCLUSTER",
    "PGSERVER_POSTGRES_VERSION",
    "PG_COLORS",
    "PSQLRC",
    "PSQL_HISTORY",
)
NONSENSE = "nonsense"


def libpq_variables() -> list[str]:
    """Every environment variable that PostgreSQL 18's libpq has in it."""
    wheel = bin_folder(18).parents[2]
    library = next(path for path in wheel.glob("*.libs/libpq*") if ".so.5.18" in path.name)
    found = set(re.findall(rb"\0(PG[A-Z_]{2,})(?=\0)", library.read_bytes()))
    names = sorted(name.decode() for name in found if not name.startswith(b"PGRES_"))
    assert {"PGHOSTADDR", "PGSERVICE", "PGLOADBALANCEHOSTS", "PGMAXPROTOCOLVERSION"} <= set(names)
    return names


ALL_NAMES = sorted({*libpq_variables(), *_HARMFUL, *_BESIDE_LIBPQ})


class Production:
    """A database with rows in it, to which all of PG* leads.

    Args:
        folder: for a service file.
    """

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        server = database.server
        assert isinstance(server, Server)
        self._reached_by = {
            "PGHOSTADDR": "127.0.0.1",
            "PGHOST": str(server.folder),
            "PGPORT": str(server.port),
            "PGDATABASE": database.name,
            "PGUSER": SUPERUSER,
            "PGPASSWORD": SUPERUSER_PASSWORD,
        }
        service = folder / "pg_service.conf"
        keys = {name.removeprefix("PG").lower().replace("database", "dbname"): name for name in self._reached_by}
        service.write_text(
            "[production]\n" + "".join(f"{key}={self._reached_by[name]}\n" for key, name in keys.items())
        )
        self._reached_by |= {"PGSERVICE": "production", "PGSERVICEFILE": str(service), "PGSYSCONFDIR": str(folder)}
        self._rows = self._content()
        self._sessions = self._sessions_so_far()

    def variables(self, *names: str) -> dict[str, str]:
        """These variables, leading here or breaking a session."""
        return {name: self._reached_by.get(name) or _HARMFUL.get(name, NONSENSE) for name in names}

    def environment(self, *names: str) -> dict[str, str]:
        """The environment of a run with these variables; without any: with all of them."""
        return environment(**self.variables(*(names or ALL_NAMES)))

    def leading(self) -> dict[str, str]:
        """Those alone that lead here, with which any program of PostgreSQL's reaches it."""
        return environment(**self.variables("PGHOSTADDR", "PGHOST", "PGPORT", "PGDATABASE", "PGUSER", "PGPASSWORD"))

    def assert_untouched(self) -> None:
        """Nobody has had a session in any database of this server since, and the rows and relations are what they were."""
        assert self._sessions_so_far() == self._sessions, "somebody has connected"
        assert self._content() == self._rows

    def _content(self) -> list[tuple[object, ...]]:
        return self.database.fetch(
            "SELECT count(*), md5(string_agg(e::text, '|' ORDER BY e.id)), (SELECT count(*) FROM pg_class)"
            " FROM langchain_pg_embedding e"
        )

    def _sessions_so_far(self) -> int:
        """In all databases but the one that is asked in."""
        with Database(self.database.server, "template1").connect() as connection:
            others = "SELECT 1 FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            deadline = time.monotonic() + 10
            while connection.execute(others).fetchall() and time.monotonic() < deadline:
                time.sleep(0.05)  # a session is counted for certain when it has ended
            counted = "SELECT sum(sessions) FROM pg_stat_database WHERE datname <> 'template1'"
            return int(connection.execute(counted).fetchall()[0][0])
