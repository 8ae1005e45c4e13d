"""A WebSocket whose application falls behind: pings are answered meanwhile, and what waits is limited."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace

import anyio
import pytest
import websockets
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from chatapi.interfaces.http.app import further_server, prepare, run_server
from chatapi.interfaces.http.websocket_protocol import AHEAD_BYTES
from chatapi.runtime.byte_budget import ByteBudget
from chatapi.runtime.drain import Drain
from chatapi.settings import Settings
from conftest import TIMEOUT

PACE = 0.05
"""Seconds that the application takes for each message."""


async def slow(websocket: WebSocket) -> None:
    """Answers each message with its length, late."""
    await websocket.accept()
    async for text in websocket.iter_text():
        await anyio.sleep(PACE)
        await websocket.send_text(str(len(text)))


@asynccontextmanager
async def served(budget: ByteBudget, ping_seconds: float = 20.0) -> AsyncIterator[str]:
    """The address of the slow application. `ping_seconds`: of the server's own pings, and of the wait for an answer."""
    app, settings = Starlette(routes=[WebSocketRoute("/", slow)]), Settings()
    prepare(app, SimpleNamespace(settings=settings, drain=Drain()), budget)  # type: ignore[arg-type]
    server = further_server(app)
    server.config.ws_ping_interval = server.config.ws_ping_timeout = ping_seconds
    with socket.create_server(("127.0.0.1", 0)) as listening:
        async with anyio.create_task_group() as group:
            group.start_soon(run_server, server, listening, settings)
            yield f"ws://127.0.0.1:{listening.getsockname()[1]}/"
            server.should_exit = True
            group.cancel_scope.cancel()


@pytest.mark.anyio
async def test_pings_are_answered_while_messages_wait() -> None:
    count = 60
    async with served(ByteBudget(1 << 30), 0.5) as url:
        with anyio.fail_after(TIMEOUT):
            async with websockets.connect(url, proxy=None, ping_interval=0.2, ping_timeout=1.0) as client:
                for _ in range(count):
                    await client.send("x" * 1000)
                # The answer to the last message takes three times as long as a ping may.
                assert [await client.recv() for _ in range(count)] == ["1000"] * count


@pytest.mark.anyio
async def test_no_more_is_read_than_may_wait() -> None:
    budget = ByteBudget(1 << 30)
    async with served(budget) as url:
        with anyio.fail_after(TIMEOUT):
            async with websockets.connect(url, proxy=None, ping_interval=None) as client:
                count = 40
                async with anyio.create_task_group() as group:
                    group.start_soon(_send_all, client, count)
                    for number in range(count):
                        assert await client.recv() == str(1 << 18)
                        # What waits, what is processed, and a message that has begun to arrive.
                        assert budget.held <= AHEAD_BYTES + (3 << 18), number


async def _send_all(client: websockets.ClientConnection, count: int) -> None:
    for _ in range(count):
        await client.send("x" * (1 << 18))
