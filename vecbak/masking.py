"""Secrets taken out of texts, in every way in which programs and we write them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import quote, quote_plus

from vecbak.visible import visible_line

HIDDEN = "***"

# up to the last @: a password may hold one that nobody encoded; and one / is left where somebody took it for a path
_CREDENTIALS = re.compile(r"(\b[a-z][a-z0-9+.-]*:/+[^\s/:@'\"]*:)[^\s'\"]*(?=@)", re.IGNORECASE)
_ASSIGNED = re.compile(r"(\b(?:ssl)?password\s*=\s*)('(?:[^'\\]|\\.)*'?|\"[^\"]*\"?|[^\s'\"&]+)", re.IGNORECASE)


def mask_of(secrets: Iterable[str]) -> Callable[[str], str]:
    """What replaces these secrets by ***.

    Args:
        secrets: as they are; empty ones are none.
    """
    forms = {form for secret in secrets if secret for form in _forms(secret)}
    found = re.compile("|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True)))
    return (lambda text: found.sub(HIDDEN, text)) if forms else (lambda text: text)


def without_credentials(text: str) -> str:
    """A text in which no connection string shows a password, known or not; for what people read."""
    return _ASSIGNED.sub(rf"\1{HIDDEN}", _CREDENTIALS.sub(rf"\1{HIDDEN}", text))


def masked(document: Any, mask: Callable[[str], str]) -> Any:
    """A document of plain values with every text in it masked."""
    if isinstance(document, str):
        return mask(document)
    if isinstance(document, dict):
        return {key: masked(value, mask) for key, value in document.items()}
    return [masked(item, mask) for item in document] if isinstance(document, list) else document


def _forms(secret: str) -> Iterator[str]:
    yield secret
    yield visible_line(secret)
    yield repr(secret)[1:-1]
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    yield secret.replace("'", "''")
    yield secret.replace("\\", "\\\\").replace("'", "\\'")  # in a conninfo string
    for encoded in (quote(secret, safe="", errors="replace"), quote(secret, errors="replace"), quote_plus(secret, errors="replace")):  # fmt: skip
        yield encoded
        yield re.sub("%[0-9A-F]{2}", lambda match: match.group().lower(), encoded)
