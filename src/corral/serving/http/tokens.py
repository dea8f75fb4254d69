"""Bearer tokens: who may ask."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

# Asked by machinery that has no token, and telling nothing.
OPEN_PATHS = {"/health", "/ready"}
FEWEST_CHARACTERS = 16


def read_tokens(text: str, source: str) -> tuple[str, ...]:
    """The tokens in a text, one a line; empty lines and lines that start with # are left out.

    Raises:
        ValueError: there is none, or one is too short, or holds what a header cannot.
    """
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1)]
    tokens = [(number, line) for number, line in lines if line and not line.startswith("#")]
    if not tokens:
        raise ValueError(f"{source}: holds no token; write one a line")
    for number, token in tokens:
        if len(token) < FEWEST_CHARACTERS or not token.isascii() or not token.isprintable() or " " in token:
            raise ValueError(
                f"{source}, line {number}: a token is at least {FEWEST_CHARACTERS} ASCII characters without spaces, "
                'e.g. from: python -c "import secrets; print(secrets.token_urlsafe())"'
            )
    return tuple(token for _, token in tokens)


class BearerTokens:
    """ASGI middleware that answers 401 to whoever has none of the tokens, before the body is read.

    Args:
        app: what is asked then.
        tokens: any of them will do.
    """

    def __init__(self, app: ASGIApp, tokens: Iterable[str]) -> None:
        self.app = app
        self._digests = [_digest(token.encode()) for token in tokens]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on requests with a token."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS or self._known(dict(scope["headers"])):
            await self.app(scope, receive, send)
            return
        headers = {"www-authenticate": "Bearer", "connection": "close"}
        await JSONResponse({"detail": "needs a bearer token"}, 401, headers)(scope, receive, send)

    def _known(self, headers: dict[bytes, bytes]) -> bool:
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        given = _digest(token.strip())
        # Digests of equal length, all compared: the time tells neither how much of a token is right nor of which.
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]
        return scheme.lower() == b"bearer" and any(matches)


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
