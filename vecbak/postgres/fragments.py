"""Pieces of SQL from a manifest, which may come from anywhere: looked at before they become part of a statement."""

from __future__ import annotations

import re

from vecbak.errors import RestoreFailed

# what a server's own deparser writes: strings, quoted names, and no statement's end, comment or psql command between them
# (possessive: one way to read it, so that none takes exponential time)
_QUOTED = r"""[eE]'(?:[^'\\]|''|\\.)*+'|'(?:[^']|'')*+'|"(?:[^"]|"")*+\""""
_FRAGMENT = re.compile(rf"""(?:{_QUOTED}|-(?!-)|/(?!\*)|[^'"\\;/\0-])*+""", re.DOTALL)


def fragment(text: str, name: str) -> str:
    """The same text, if no part of it can end its statement or its parentheses, or be a command to psql.

    Args:
        text: what a server's deparser wrote, as the manifest has it.
        name: what it defines, for messages.

    Raises:
        RestoreFailed: it can.
    """
    outside = re.sub(_QUOTED, "", text, flags=re.DOTALL)
    depth = 0
    for mark in re.findall("[()]", outside):
        depth += 1 if mark == "(" else -1
        if depth < 0:
            break
    if depth or not _FRAGMENT.fullmatch(text):
        raise RestoreFailed(
            f"the manifest's definition of {name} is none that PostgreSQL wrote: {text[:60]!r}; nothing was changed",
            "Do not use this manifest; find out where it comes from.",
        )
    return text
