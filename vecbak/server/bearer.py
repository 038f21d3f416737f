"""The bearer token: whether it can be one, and whether a request holds it."""

from __future__ import annotations

import hashlib
import hmac
import re

from vecbak.errors import UsageError

_SENDABLE = re.compile(r"[\x21-\x7e]{1,1024}")  # RFC 6750, and whatever else arrives in a header as it was sent
GUESSABLE = 16


class Bearer:
    """The server's token; empty: there is none, and no request holds it.

    Raises:
        UsageError: no request could send it.
    """

    def __init__(self, token: str) -> None:
        if token and not _SENDABLE.fullmatch(token):
            raise UsageError(
                "VECBAK_API_TOKEN cannot be a token: it is up to 1,024 visible ASCII characters without spaces",
                "export VECBAK_API_TOKEN=$(openssl rand -hex 32)",
            )
        self.exists = bool(token)
        self.is_guessable = 0 < len(token) < GUESSABLE
        self._digest = _digest(token.encode())

    def is_held_by(self, authorization: list[bytes]) -> bool:
        """Whether these headers, of which there must be one, hold the token; tells by its duration nothing of it."""
        if not self.exists or len(authorization) != 1:
            return False
        scheme, _, credentials = authorization[0].partition(b" ")
        matches = hmac.compare_digest(_digest(credentials.strip(b" ")), self._digest)
        return scheme.lower() == b"bearer" and matches


def _digest(text: bytes) -> bytes:
    """Of one length, so that comparing does not tell the token's."""
    return hashlib.sha256(text).digest()
