"""Whether a request is meant for this server: by one of its own names, and from no web page of another site."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable
from typing import NamedTuple

from vecbak.errors import UsageError
from vecbak.server.problems import Problem, Rejected

_NAME = r"\[[0-9a-f:.]+\]|[a-z0-9._-]+"
_AUTHORITY = re.compile(rf"({_NAME})(?::([0-9]{{1,5}}))?")
_ORIGIN = re.compile(rf"(https?)://((?:{_NAME})(?::[0-9]{{1,5}})?)")
_DEFAULT_PORTS = {"http": "80", "https": "443"}
_OWN_SITE = {b"same-origin", b"none"}  # none: typed by a person

Headers = Iterable[tuple[bytes, bytes]]


class _Authority(NamedTuple):
    host: str
    port: str


def values(headers: Headers, name: bytes) -> list[bytes]:
    """A header's values: more than one if it was sent more than once."""
    return [value for key, value in headers if key == name]


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine alone."""
    if host.lower() == "localhost":
        return True
    address = _address(host)
    return address is not None and address.is_loopback


def own_names(host: str, allowed: Iterable[str]) -> frozenset[str]:
    """The names by which the server may be called, beside the addresses of its connections.

    Args:
        host: that it listens on.
        allowed: further names, as a proxy's.

    Raises:
        UsageError: one of `allowed` is no name.
    """
    names = {"localhost", socket.gethostname().lower()} | (set() if _address(host) else {host.lower()})
    for name in allowed:
        found = _authority(name)
        if not found or found.port:
            raise UsageError(
                f"--allowed-host {name[:100]!r} is no host's name", "Give the name alone: --allowed-host db.example.org"
            )
        names.add(found.host.removesuffix("."))
    return frozenset(names)


def check_origin(headers: Headers, local_address: str, names: frozenset[str]) -> None:
    """Let only those in who know whom they are talking to.

    A web page can make a browser on this machine send requests here, also under a name of the page's own that it points
    here (DNS rebinding). It can change neither Host nor Origin nor Sec-Fetch-Site (fetch.spec.whatwg.org, forbidden headers).

    Args:
        local_address: that the connection was made to.

    Raises:
        Rejected: the Host is not this server's, or the request comes from a page of another origin.
    """
    hosts = values(headers, b"host")
    host = _authority(hosts[0].decode("latin-1")) if len(hosts) == 1 else None
    if host is None or not _is_ours(host.host, local_address, names):
        raise Rejected(
            Problem(
                403,
                "the Host header is not a name of this server",
                "Call it by its address or as localhost; another name is let in by: vecbak serve --allowed-host NAME",
                "forbidden",
            )
        )
    sites, origins = values(headers, b"sec-fetch-site"), values(headers, b"origin")
    if not set(sites) <= _OWN_SITE or len(origins) > 1 or any(not _is_same(origin, host) for origin in origins):
        raise Rejected(
            Problem(
                403,
                "the request comes from a web page of another site",
                "Call the API from a program, without the headers Origin and Sec-Fetch-Site.",
                "forbidden",
            )
        )


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def _authority(text: str) -> _Authority | None:
    match = _AUTHORITY.fullmatch(text.lower())
    return _Authority(match[1].strip("[]"), match[2] or "") if match else None


def _is_ours(host: str, local_address: str, names: frozenset[str]) -> bool:
    """By name, or by an address: no name server makes a page's name look like one."""
    if host.removesuffix(".") in names:
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or not is_loopback(
        local_address
    )  # from elsewhere: an address may be translated on the way


def _is_same(origin: bytes, host: _Authority) -> bool:
    match = _ORIGIN.fullmatch(origin.decode("latin-1").lower())
    found = _authority(match[2]) if match else None
    if (
        not match or not found or (match[1] == "https" and is_loopback(found.host))
    ):  # TLS is a proxy's, under its own name
        return False
    default = _DEFAULT_PORTS[match[1]]
    return (found.host, found.port or default) == (host.host, host.port or default)
