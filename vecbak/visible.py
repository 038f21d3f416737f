"""Text from outside made harmless to look at: what a terminal would obey, or nobody could see, is spelt out.

A manifest, a file name, a database or a server's message may hold escape sequences that rewrite the screen, marks that turn
the reading direction round, or line ends that forge a line (CWE-150; Unicode TR36).
"""

from __future__ import annotations

import json
import re
from typing import Any

# C0, DEL and C1; marks of direction and of no width; separators that end a line; tags; halves of a surrogate pair
_UNSEEN = (
    r"\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200c\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    r"\ud800-\udfff\U000e0000-\U000e007f"
)
_JOINER = r"(?<![\u2600-\u27bf\ufe0f\U0001f000-\U0001faff])\u200d"  # between two emoji it makes one of them
_IN_TEXT = re.compile(f"[{_UNSEEN}]|{_JOINER}")
_IN_A_LINE = re.compile(f"[{_UNSEEN}\t\n]|{_JOINER}")
_SHORT = {"\t": "\\t", "\n": "\\n", "\r": "\\r"}


def visible(text: str) -> str:
    """Several lines: line ends and tabs stay."""
    return _IN_TEXT.sub(_spelt_out, text)


def visible_line(text: str) -> str:
    """One line, which stays one."""
    return _IN_A_LINE.sub(_spelt_out, text)


def visible_json(document: Any, *, ascii_only: bool = False) -> str:
    """A JSON document in which nothing is unseen; it says the same.

    Args:
        ascii_only: for a stream whose encoding is not UTF-8: another would not be JSON.
    """
    text = json.dumps(document, ensure_ascii=ascii_only, indent=2, default=str)
    return _IN_TEXT.sub(lambda match: json.dumps(match.group())[1:-1], text)


def _spelt_out(match: re.Match[str]) -> str:
    letter = match.group()
    number = ord(letter)
    if letter in _SHORT:
        return _SHORT[letter]
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
