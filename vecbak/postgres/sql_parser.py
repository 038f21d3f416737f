"""PostgreSQL's own parser (libpg_query, by `postgast`): text that may come from anybody becomes a tree, or is no SQL.

The tree is libpg_query's JSON: `{"ColumnRef": {"fields": […]}}`, node types with a capital letter, fields with a small one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

Node = dict[str, Any]

# Its C code recurses once for each level of the tree, and would overrun the stack: 8 MiB end between 30,000 and 100,000 levels.
MAXIMUM_DEPTH = 8000
_PLACES = frozenset(
    {"location", "list_start", "list_end", "stmt_location", "stmt_len", "rexpr_list_start", "rexpr_list_end"}
)
_LONGEST_REASON = 80  # the parser quotes what it read last, which may be megabytes
_COMMENTS = frozenset({275, 276})  # libpg_query's SQL_COMMENT and C_COMMENT
_OPENING, _CLOSING, _COMMA = frozenset(b"(["), frozenset(b")]"), ord(",")


class NotSql(Exception):
    """Text that PostgreSQL's parser does not take; the message says why, in few words."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason if len(reason) <= _LONGEST_REASON else f"{reason[:_LONGEST_REASON]}…")


def parse(text: str) -> list[Node]:
    """The statements in a text, as trees.

    Raises:
        NotSql: it has a syntax error, or is nested more deeply than any definition.
    """
    from postgast.errors import PgQueryError, check_error  # 0.1 s, which most commands need not spend
    from postgast.native import lib

    if "\0" in text:  # C would not see what stands behind it
        raise NotSql("it holds a character of code 0")
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise NotSql("it holds half of a surrogate pair") from None
    if len(data) > 2 * MAXIMUM_DEPTH and _deepest(text) > MAXIMUM_DEPTH:  # a level takes two bytes at least
        raise NotSql("it is nested too deeply")
    result = lib.pg_query_parse(data)
    try:
        check_error(result)
        return [item["stmt"] for item in msgspec.json.decode(result.parse_tree).get("stmts", [])]
    except PgQueryError as error:
        raise NotSql(error.message) from None
    except RecursionError:
        raise NotSql("it is nested too deeply") from None
    except ValueError:  # of the decoder, or a message that ends within a letter
        raise NotSql("the parser's answer cannot be read") from None
    finally:
        lib.pg_query_free_parse_result(result)


def has_comment(text: str) -> bool:
    """Whether a text holds a comment, which could hide what comes after it; not every such mark begins one.

    Raises:
        NotSql: it does not even consist of words.
    """
    if "--" not in text and "/*" not in text:
        return False
    return any(token.token in _COMMENTS for token in _words(text))


def has_semicolon(text: str) -> bool:
    """Whether a text holds the end of a statement.

    Raises:
        NotSql: it does not even consist of words.
    """
    return ";" in text and any(token.token == ord(";") for token in _words(text))


def entries(tree: object) -> Iterator[tuple[str, Any]]:
    """Every field and every node in a tree, by its name; those of nodes begin with a capital letter."""
    waiting = [tree]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting += item
        elif isinstance(item, dict):
            waiting += item.values()
            yield from item.items()


def without_places(tree: Any) -> Any:
    """The same tree without the offsets in the text."""
    if isinstance(tree, list):
        return [without_places(item) for item in tree]
    if isinstance(tree, dict):
        return {name: without_places(item) for name, item in tree.items() if name not in _PLACES}
    return tree


def _words(text: str) -> Iterable[Any]:
    from postgast.errors import PgQueryError
    from postgast.scan import scan

    try:
        tokens: Iterable[Any] = scan(text).tokens
    except PgQueryError as error:
        raise NotSql(error.message) from None
    except UnicodeError:
        raise NotSql("it holds half of a surrogate pair") from None
    return tokens


def _deepest(text: str) -> int:
    """No tree of this text has more levels: along one item of a list every word may add one, and each bracket its inside."""
    outer: list[list[int]] = []
    words, inside, longest = (
        0,
        0,
        0,
    )  # of this item: its words, the deepest of its brackets; of this list: its deepest item
    for token in _words(text):
        longest = max(longest, words + inside)
        if token.token in _OPENING:
            outer.append([words + 1, inside, longest])
            words, inside, longest = 0, 0, 0
        elif token.token in _CLOSING and outer:
            depth = longest
            words, inside, longest = outer.pop()
            inside = max(inside, depth)
        elif token.token == _COMMA:
            words, inside = 0, 0
        else:
            words += 1
    return max(longest, words + inside) + sum(item[0] for item in outer)
