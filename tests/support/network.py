"""Two machines with a router between them that can fall silent, in network namespaces of our own; needs root and `ip`."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

CLIENT, ROUTER, SERVER = "client", "router", "server"
SERVER_ADDRESS = "10.213.2.2"
_NEW_NETWORK = 0x40000000  # CLONE_NEWNET: setns takes nothing else
_libc = ctypes.CDLL(None, use_errno=True)


class Network:
    """While the router is silent every packet is dropped without a word: no RST, no FIN, no ICMP."""

    def __init__(self) -> None:
        self._mark = uuid.uuid4().hex[:8]

    def __enter__(self) -> Network:
        try:
            for machine in (CLIENT, ROUTER, SERVER):
                _ip("netns", "add", self._name(machine))
                _ip("-n", self._name(machine), "link", "set", "lo", "up")
            self._cable(CLIENT, 1)
            self._cable(SERVER, 2)
            self.speak()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()

    def remove(self) -> None:
        """The kernel takes the cables along."""
        for machine in (CLIENT, ROUTER, SERVER):
            subprocess.run(["ip", "netns", "delete", self._name(machine)], check=False, capture_output=True)

    def fall_silent(self) -> None:
        """From now on nothing gets through, in either direction."""
        self._forward("0")

    def speak(self) -> None:
        """Everything gets through (again)."""
        self._forward("1")

    @contextlib.contextmanager
    def on(self, machine: str) -> Iterator[None]:
        """What this thread starts, and connects to, is on that machine."""
        with Path("/proc/thread-self/ns/net").open() as here:
            _enter(Path("/run/netns", self._name(machine)))
            try:
                yield
            finally:
                _enter(here.fileno())

    def _name(self, machine: str) -> str:
        return f"vecbak-{self._mark}-{machine}"

    def _cable(self, machine: str, subnet: int) -> None:
        end, router = self._name(machine), self._name(ROUTER)
        _ip("link", "add", "cable", "netns", end, "type", "veth", "peer", "name", f"to{subnet}", "netns", router)
        for name, link, host in ((end, "cable", 2), (router, f"to{subnet}", 1)):
            _ip("-n", name, "address", "add", f"10.213.{subnet}.{host}/30", "dev", link)
            _ip("-n", name, "link", "set", link, "up")
        _ip("-n", end, "route", "add", "default", "via", f"10.213.{subnet}.1")

    def _forward(self, value: str) -> None:
        with self.on(ROUTER):
            Path("/proc/sys/net/ipv4/ip_forward").write_text(value)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def _enter(namespace: Path | int) -> None:
    with contextlib.ExitStack() as stack:
        descriptor = namespace if isinstance(namespace, int) else stack.enter_context(namespace.open()).fileno()
        if _libc.setns(descriptor, _NEW_NETWORK) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
