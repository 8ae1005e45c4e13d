"""HEAD: the response to GET without its body."""

from __future__ import annotations

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send


async def respond(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Responds as to GET, but ends with the headers: a body may have no end."""
    with anyio.CancelScope() as running:

        async def send_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                running.cancel()

        await app({**scope, "method": "GET"}, receive, send_headers)
