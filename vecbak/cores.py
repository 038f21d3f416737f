"""No core dumps of what knows a password: its memory, written into a file for anybody to find, would hold it (core(5))."""

from __future__ import annotations

import contextlib
import resource

# 0 would still hand the memory to a program that core_pattern names; the kernel takes 1 byte to mean: not even that
_NONE = 1

_soft, _hard = resource.getrlimit(resource.RLIMIT_CORE)


def forbid() -> None:
    """For this process and those that it starts."""
    _set(_NONE if _hard != 0 else 0)


def allow() -> None:
    """As it was when this process began, for programs that are the user's own and are told no password."""
    _set(_soft)


def _set(soft: int) -> None:
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (soft, _hard))
