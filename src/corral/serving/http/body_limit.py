"""BodyLimit: no request's body is larger, or slower, than allowed."""

from __future__ import annotations

import asyncio

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimit:
    """ASGI middleware that reads a body whole before anything else happens, within bytes and seconds.

    Args:
        app: what is asked then.
        most_bytes: longer bodies are answered 413; without reading them, where they say how long they are.
        seconds: slower ones are answered 408.
    """

    def __init__(self, app: ASGIApp, most_bytes: int, seconds: float) -> None:
        self.app, self.most_bytes, self.seconds = app, most_bytes, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on what is within the limits."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self.seconds):
                body = await self._read(scope, receive)
        except TimeoutError:
            await _refuse(408, f"the body took longer than {self.seconds:g} s")(scope, receive, send)
            return
        if body is None:
            await _refuse(413, f"the body is larger than {self.most_bytes} bytes")(scope, receive, send)
            return
        pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return pending.pop() if pending else await receive()

        await self.app(scope, replay, send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """The body; None where it is too large."""
        length = dict(scope["headers"]).get(b"content-length", b"")
        if length.isdigit() and int(length[:20]) > self.most_bytes:
            return None
        body = bytearray()
        while True:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > self.most_bytes:
                return None
            if message["type"] == "http.disconnect" or not message.get("more_body"):
                return bytes(body)


def _refuse(status: int, detail: str) -> JSONResponse:
    # What is still to come of the body is not read.
    return JSONResponse({"detail": detail}, status, {"connection": "close"})
