"""How the programs are told where the database is: a conninfo string without secrets, and an environment with them.

libpq's rules: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from vecbak.config import LoadedConfig
from vecbak.errors import UsageError

_KEYWORD = re.compile(r"\s*([A-Za-z_]+)\s*=\s*")
_VALUE = re.compile(r"'((?:[^'\\]|\\.)*)'|((?:[^\s'\\]|\\.)*)", re.DOTALL)


@dataclass(frozen=True)
class Endpoint:
    """One database, as vecbak's programs reach it.

    Attributes:
        parameters: libpq's keywords and values; never a password.
        password: reaches programs as PGPASSWORD.
        bin_dir: where the programs must be taken from, if anywhere.
    """

    parameters: dict[str, str]
    password: str | None = field(default=None, repr=False)
    bin_dir: Path | None = None

    @property
    def conninfo(self) -> str:
        """`host=localhost port=5432`: safe to print."""
        return " ".join(f"{key}={_quote(value)}" for key, value in self.parameters.items())

    @property
    def environment(self) -> dict[str, str]:
        """What the programs' environment has beyond our own."""
        return {} if self.password is None else {"PGPASSWORD": self.password}

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
    if "sslpassword" in parameters:
        raise UsageError(
            f"{loaded.path}: connection.dsn: sslpassword cannot be handed to psql without showing it",
            "Use an unencrypted key with sslkey, readable by you alone.",
        )
    if any("\0" in value for value in (*parameters.values(), password or "")):
        raise UsageError(f"{loaded.path}: connection: a value holds a NUL", "Remove it.")
    parameters.setdefault("connect_timeout", str(max(2, round(loaded.config.timeouts.connect_seconds))))
    bin_dir = loaded.resolve(connection.bin_dir) if connection.bin_dir else None
    return Endpoint(parameters, password, bin_dir)


def parse_dsn(dsn: str, path: Path) -> dict[str, str]:
    """Take a libpq URI or key=value string apart.

    Args:
        dsn: the string; it may hold a password, so no error repeats it.
        path: the config file, for messages.

    Raises:
        UsageError: not a libpq connection string.
    """
    try:
        if re.match(r"postgres(?:ql)?(?:\+\w+)?://", dsn):
            return _parse_uri(dsn)
        return _parse_keywords(dsn)
    except ValueError as error:
        raise UsageError(
            f"{path}: connection.dsn: {error}",
            "Write postgresql://user@host:5432/dbname or host=… dbname=… (percent-encode @ : / in a URI's password).",
        ) from None


def _parse_uri(dsn: str) -> dict[str, str]:
    try:
        uri = urlsplit(dsn)
    except ValueError:
        raise ValueError("not a connection URI") from None
    login, _, hosts = uri.netloc.rpartition("@")
    user, colon, password = login.partition(":")
    parameters = {"user": unquote(user)} if user else {}
    if colon:
        parameters["password"] = unquote(password)
    names, ports = [], []
    for host in filter(None, hosts.split(",")):
        match = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::(\d*))?", host)
        if not match:
            raise ValueError("the host part of the URI cannot be read")
        names.append(unquote(match.group(1).strip("[]")))
        ports.append(match.group(2) or "")
    if any(names):
        parameters["host"] = ",".join(names)
    if any(ports):
        parameters["port"] = ",".join(ports)
    if uri.path.strip("/"):
        parameters["dbname"] = unquote(uri.path[1:])
    for key, value in parse_qsl(uri.query, keep_blank_values=True, strict_parsing=bool(uri.query)):
        parameters[{"ssl": "sslmode"}.get(key, key)] = "require" if (key, value) == ("ssl", "true") else value
    return parameters


def _parse_keywords(dsn: str) -> dict[str, str]:
    parameters: dict[str, str] = {}
    position = 0
    while dsn[position:].strip():
        keyword = _KEYWORD.match(dsn, position)
        if not keyword:
            raise ValueError("neither a postgresql:// URI nor key=value pairs")
        value = _VALUE.match(dsn, keyword.end())
        if not value or (value.end() < len(dsn) and not dsn[value.end()].isspace()):
            raise ValueError(f"the value of `{keyword.group(1)}` cannot be read")
        text = value.group(1) if value.group(1) is not None else value.group(2)
        parameters[keyword.group(1)] = re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)
        position = value.end()
    return parameters


def _quote(value: str) -> str:
    if re.fullmatch(r"[\w./:@%+,-]+", value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
