"""File descriptors: how many connections and operations the process can hold, so that the one never starves the other."""

from __future__ import annotations

import resource

import msgspec

from vecbak.errors import UsageError

_MOST_CONNECTIONS = 128
_MOST_OPERATIONS = 16
_OWN = 64  # the listener, logs, and the files that reading requests have open, 40 at once
_OPERATION = 64  # pipes to psql and pg_dump, files: at most 58 were seen with 2 workers
_WORKER = 8


class Capacity(msgspec.Struct, frozen=True):
    """What is served at once.

    Attributes:
        connections: open ones.
        waiting: those that the kernel may hand over in one go, and that are then closed again.
        operations: that run.
    """

    connections: int
    waiting: int
    operations: int


def take_capacity(jobs: int) -> Capacity:
    """Raise this process's limit of open files as far as needed and allowed, and divide it.

    Args:
        jobs: workers of one operation.

    Raises:
        UsageError: it is too low for one operation.
    """
    needed = _OWN + _MOST_CONNECTIONS * 3 // 2 + _MOST_OPERATIONS * _descriptors(jobs)
    return divide(_raised_limit(needed), jobs)


def divide(limit: int, jobs: int) -> Capacity:
    """What a limit of open files allows.

    Raises:
        UsageError: not one operation.
    """
    connections = min(_MOST_CONNECTIONS, limit // 8)
    waiting = connections // 2
    operations = min(_MOST_OPERATIONS, (limit - _OWN - connections - waiting) // _descriptors(jobs))
    if operations < 1:
        raise UsageError(
            f"the limit of open files, {limit}, is too low to serve and to back up at once", "Raise it: ulimit -n 1024"
        )
    return Capacity(connections, waiting, operations)


def _descriptors(jobs: int) -> int:
    return _OPERATION + _WORKER * jobs


def _raised_limit(needed: int) -> int:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return needed
    raised = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
    return raised
