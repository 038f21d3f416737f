"""How the programs are told where the database is: a conninfo string without secrets, and an environment with them.

libpq's rules: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from vecbak.config import LoadedConfig
from vecbak.errors import UsageError
from vecbak.postgres.environment import without_foreign_servers
from vecbak.postgres.instance import Instance
from vecbak.postgres.keepalive import keepalives_for

# https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS, without secrets and replication
KEYWORDS = frozenset(
    [
        "host",
        "hostaddr",
        "port",
        "dbname",
        "user",
        "password",
        "passfile",
        "require_auth",
        "channel_binding",
        "connect_timeout",
        "client_encoding",
        "options",
        "application_name",
        "fallback_application_name",
        "keepalives",
        "keepalives_idle",
        "keepalives_interval",
        "keepalives_count",
        "tcp_user_timeout",
        "gssencmode",
        "sslmode",
        "sslnegotiation",
        "sslcompression",
        "sslcert",
        "sslkey",
        "sslcertmode",
        "sslrootcert",
        "sslcrl",
        "sslcrldir",
        "sslsni",
        "requirepeer",
        "ssl_min_protocol_version",
        "ssl_max_protocol_version",
        "min_protocol_version",
        "max_protocol_version",
        "krbsrvname",
        "gsslib",
        "gssdelegation",
        "service",
        "servicefile",
        "target_session_attrs",
        "load_balance_hosts",
    ]
)

SECRET_KEYWORDS = frozenset({"sslpassword", "scram_client_key", "scram_server_key", "oauth_client_secret"})

_KEYWORD = re.compile(r"\s*([A-Za-z_]+)\s*=\s*")
_VALUE = re.compile(r"'((?:[^'\\]|\\.)*)'|((?:[^\s'\\]|\\.)*)", re.DOTALL)


@dataclass(frozen=True)
class Endpoint:
    """One database, as vecbak's programs reach it.

    Attributes:
        parameters: libpq's keywords and values; never a password.
        password: reaches programs as PGPASSWORD.
        bin_dir: where the programs must be taken from, if anywhere.
        container: the name of the container that they run in, if in any.
        instance: of a server of our own: the one that must answer. Its programs find no other server in their environment.
    """

    parameters: dict[str, str]
    password: str | None = field(default=None, repr=False)
    bin_dir: Path | None = None
    container: str | None = None
    instance: Instance | None = None

    @property
    def host(self) -> str | None:
        """Where the server is, for people; None if libpq's own default counts."""
        host = self.parameters.get("host") or self.parameters.get("hostaddr") or None
        if self.container is None:
            return host
        return f"{host} as seen from container {self.container}" if host else f"container {self.container}"

    @property
    def conninfo(self) -> str:
        """`host=localhost port=5432`: safe to print."""
        return " ".join(f"{key}={_quote(value)}" for key, value in self.parameters.items())

    @property
    def environment(self) -> dict[str, str | None]:
        """In what the programs' environment differs from our own."""
        changes = without_foreign_servers() if self.instance else {}
        if "service" in self.parameters:
            changes["PGHOSTADDR"] = (
                None  # the service says where its host is; `host=` alone can be overridden by a keyword
            )
        return changes if self.password is None else {**changes, "PGPASSWORD": self.password}

    def with_settings(self, settings: Mapping[str, str]) -> Endpoint:
        """The same, for a program that cannot SET: its session begins with these settings.

        Not for every run: poolers refuse startup options.
        """
        if not settings:
            return self
        before = self.parameters.get("options") or (
            "" if self.container or self.instance else os.environ.get("PGOPTIONS", "")
        )
        options = " ".join([*filter(None, [before]), *(f"-c {name}={value}" for name, value in settings.items())])
        return dataclasses.replace(self, parameters={**self.parameters, "options": options})

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must never be printed."""
        candidates = (self.password, os.environ.get("PGPASSWORD"))
        return tuple(secret for secret in candidates if secret)


def endpoint_from_config(loaded: LoadedConfig) -> Endpoint:
    """Turn the `connection:` of a config into libpq's terms (not for `embedded`).

    Raises:
        UsageError: a dsn that cannot be read, or that says the same thing as another key.
    """
    connection = loaded.config.connection
    parameters = parse_dsn(connection.dsn, loaded.path) if connection.dsn else {}
    password = parameters.pop("password", None)
    for key in ("host", "port", "dbname", "user", "passfile", "service", "sslmode"):
        value = getattr(connection, key)
        if value is None:
            continue
        if key in parameters:
            raise UsageError(f"{loaded.path}: connection.{key}: given twice, `dsn` has it too", "Keep one of the two.")
        parameters[key] = str(loaded.resolve(value)) if key == "passfile" else str(value)
    if connection.password is not None:
        if password is not None:
            raise UsageError(
                f"{loaded.path}: connection.password: given twice, `dsn` has one too", "Keep one of the two."
            )
        password = connection.password
    check_places(parameters, f"{loaded.path}: connection")
    if any("\0" in value for value in (*parameters.values(), password or "")):
        raise UsageError(f"{loaded.path}: connection: a value holds a NUL", "Remove it.")
    parameters.setdefault("connect_timeout", str(max(2, round(loaded.config.timeouts.connect_seconds))))
    parameters |= keepalives_for(parameters)
    bin_dir = loaded.resolve(connection.bin_dir) if connection.bin_dir else None
    return Endpoint(meaning_that_host(parameters), password, bin_dir)


def meaning_that_host(parameters: dict[str, str]) -> dict[str, str]:
    """The same, so that a named host is the one that is reached.

    Neither $PGHOSTADDR nor a service file's hostaddr, which libpq prefers to any host, can then put another in its place.
    """
    return {**parameters, "hostaddr": parameters.get("hostaddr", "")} if "host" in parameters else parameters


def endpoint_inside(endpoint: Endpoint, container: str, environment: Mapping[str, str]) -> Endpoint:
    """The endpoint for programs in a container, with the official image's names where the config gives none.

    Args:
        container: its name.
        environment: its own.
    """
    endpoint = dataclasses.replace(endpoint, container=container)
    named = endpoint.parameters
    if {"service", "host", "hostaddr"} & named.keys():
        return endpoint
    user = named.get("user") or environment.get("POSTGRES_USER") or "postgres"
    dbname = named.get("dbname") or environment.get("POSTGRES_DB") or user
    # its own server: on libpq's default socket, whatever PGHOST or PGSERVICE its environment has
    own = meaning_that_host({**named, "user": user, "dbname": dbname, "host": ""})
    return dataclasses.replace(endpoint, parameters=own)


def endpoint_from_dsn(dsn: str, loaded: LoadedConfig) -> Endpoint:
    """The endpoint of a DSN on the command line, where everybody on the machine could read a password.

    Raises:
        UsageError: it cannot be read, or holds a password.
    """
    parameters = _parse(dsn, "the DSN on the command line")
    if "password" in parameters:
        raise UsageError(
            "the DSN on the command line holds a password, which everybody on this machine can read there",
            "Take it out, and use ~/.pgpass or $PGPASSWORD.",
        )
    parameters.setdefault("connect_timeout", str(max(2, round(loaded.config.timeouts.connect_seconds))))
    parameters |= keepalives_for(parameters)
    return Endpoint(meaning_that_host(parameters))


def _holds_credentials(keyword: str, value: str) -> bool:
    if "://" in value and "@" in value:
        return True
    # a folder may have both in its name, and an abstract socket begins with an @
    return keyword in {"host", "hostaddr"} and not value.startswith("/") and bool(re.search(r".:.*@", value, re.DOTALL))


def parse_dsn(dsn: str, path: Path) -> dict[str, str]:
    """Take a libpq URI or key=value string apart.

    Args:
        dsn: the string; it may hold a password, so no error repeats it.
        path: the config file, for messages.

    Raises:
        UsageError: not a libpq connection string.
    """
    return _parse(dsn, f"{path}: connection.dsn")


def _parse(dsn: str, where: str) -> dict[str, str]:
    try:
        is_uri = re.match(r"postgres(?:ql)?(?:\+\w+)?://", dsn)
        parameters = _parse_uri(dsn) if is_uri else _parse_keywords(dsn)
        if secret := parameters.keys() & SECRET_KEYWORDS:
            raise ValueError(f"{', '.join(sorted(secret))} cannot be handed to psql without showing it")
        if parameters.keys() - KEYWORDS:
            raise ValueError(
                "it has a keyword that libpq does not know, or that vecbak cannot hand on without showing a secret"
            )
    except ValueError as error:
        raise UsageError(
            f"{where}: {error}",
            "Write postgresql://user@host:5432/dbname or host=… dbname=… (percent-encode @ : / in a URI's password:"
            " %40 %3A %2F).",
        ) from None
    check_places(parameters, where)
    return parameters


def check_places(parameters: Mapping[str, str], where: str) -> None:
    """Refuse what stands where programs show it, on their command lines and in their errors, and could be a password.

    Args:
        where: the place, for the message, which repeats nothing of it.

    Raises:
        UsageError: it could.
    """
    for keyword, value in parameters.items():
        if keyword != "password" and _holds_credentials(keyword, value):
            raise UsageError(
                f"{where}: `{keyword}` holds what may be a password: a URI, or user and password before an @",
                "Give each part its own key (host, port, dbname, user), and the password in `password` or a passfile.",
            )


def _parse_uri(dsn: str) -> dict[str, str]:
    """As libpq's conninfo_uri_parse_options does it, which is not as RFC 3986 does: # and ? may stand in a password."""
    rest = dsn.partition("://")[2]
    parameters: dict[str, str] = {}
    credentials = re.match(r"([^@/]*)@", rest)
    _check_unambiguous(rest[credentials.end() :] if credentials else rest, begun=credentials is not None)
    if credentials:
        user, colon, password = credentials.group(1).partition(":")
        parameters |= {"user": _decode(user)} if user else {}
        parameters |= {"password": _decode(password)} if colon else {}
        rest = rest[credentials.end() :]
    match = re.fullmatch(r"(?P<hosts>[^/?]*)(?:/(?P<dbname>[^?]*))?(?:\?(?P<query>.*))?", rest, re.DOTALL)
    if not match:
        raise ValueError("not a connection URI")
    parameters |= _parse_hosts(match["hosts"])
    if match["dbname"]:
        parameters["dbname"] = _decode(match["dbname"])
    for item in filter(None, (match["query"] or "").split("&")):
        key, equals, value = item.partition("=")
        if not equals:
            raise ValueError("what stands behind ? is not key=value&key=value")
        if (key, value) == ("ssl", "true"):
            key, value = "sslmode", "require"
        parameters[_decode(key)] = _decode(value)
    return parameters


def _check_unambiguous(rest: str, *, begun: bool) -> None:
    """libpq ends the password at the first @, and ends its search for one at the first /: the rest would be host or database.

    Args:
        rest: what it would take for hosts, database and query.
        begun: whether user and password came before.
    """
    address, _, query = rest.partition("?")
    # in the query an @ may stand, as in host=@socket, unless a / of the password has led there
    if "@" in address or ("@" in query and not begun and ":" in address):
        raise ValueError("an @ stands where host and database are: one in the user or the password must be written %40")


def _parse_hosts(hosts: str) -> dict[str, str]:
    names, ports = [], []
    for host in hosts.split(","):
        match = re.fullmatch(r"(\[[^\]]+\]|[^:\[\]]*)(?::(\d*))?", host)
        if not match:
            raise ValueError("the host part of the URI cannot be read")
        names.append(_decode(match.group(1).strip("[]")))
        ports.append(match.group(2) or "")
    parameters = {"host": ",".join(names)} if any(names) else {}
    return parameters | ({"port": ",".join(ports)} if any(ports) else {})


def _decode(text: str) -> str:
    if "%00" in text:
        raise ValueError("it holds a NUL (%00)")
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise ValueError("a % is not followed by two hexadecimal digits (write %25 for a percent sign)")
    return unquote(text)


def _parse_keywords(dsn: str) -> dict[str, str]:
    parameters: dict[str, str] = {}
    position = 0
    while dsn[position:].strip():
        keyword = _KEYWORD.match(dsn, position)
        if not keyword:
            raise ValueError("neither a postgresql:// URI nor key=value pairs")
        value = _VALUE.match(dsn, keyword.end())
        if not value or (value.end() < len(dsn) and not dsn[value.end()].isspace()):
            known = keyword.group(1) in KEYWORDS | SECRET_KEYWORDS  # else it may be a piece of a password
            raise ValueError(f"the value of {f'`{keyword.group(1)}`' if known else 'a keyword'} cannot be read")
        text = value.group(1) if value.group(1) is not None else value.group(2)
        parameters[keyword.group(1)] = re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)
        position = value.end()
    return parameters


def _quote(value: str) -> str:
    if re.fullmatch(r"[\w./:@%+,-]+", value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
