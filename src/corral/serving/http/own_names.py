"""OwnNames: a service without tokens answers no web page that came from elsewhere."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from corral.serving.http.tokens import OPEN_PATHS


class OwnNames:
    """ASGI middleware that answers 403 where a request is not addressed to this machine by a name of its own.

    To listen on the loopback address keeps other machines out, not the pages in a browser on this one: a name that its
    owner points at 127.0.0.1 makes the service part of his site, which may then read its answers, and any page may
    send requests that change something.

    Args:
        app: what is asked then.
        names: this machine's own, hosts without a port.
    """

    def __init__(self, app: ASGIApp, names: Collection[str]) -> None:
        self.app, self.names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on requests to, and from pages of, this machine."""
        headers = dict(scope["headers"]) if scope["type"] == "http" else {}
        host, origin = (headers.get(name, b"").decode("latin-1") for name in (b"host", b"origin"))
        if (
            scope["type"] != "http"
            or scope["path"] in OPEN_PATHS
            or (self._own(f"//{host}") and (not origin or self._own(origin)))
        ):
            await self.app(scope, receive, send)
            return
        detail = "without --tokens, only requests to 127.0.0.1 or localhost, and from their own pages, are answered"
        await JSONResponse({"detail": detail}, 403, {"connection": "close"})(scope, receive, send)

    def _own(self, address: str) -> bool:
        """Whether an address, ``//host:port`` or a whole origin, is of this machine."""
        try:
            return urlsplit(address).hostname in self.names
        except ValueError:
            return False
