"""The HTTP interface: its overhead per request, and many clients at once."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import httpx

from chatapi.appliance import Appliance
from chatapi.bench import Row, Stopwatch, in_turns, ratio
from chatapi.bench.process import served
from chatapi.engines import registry
from chatapi.interfaces.http.app import create_app, run_server, server
from chatapi.interfaces.http.listening import listening_socket
from chatapi.runtime import engine_selection
from chatapi.services.turns.completion import Turn
from chatapi.settings import Settings

REQUESTS = 100
CLIENTS = 8
QUESTIONS = ("What is the capital of France?", "What colour is the sky?", "Name a fruit.", "Say good morning.")


async def measure(settings: Settings, rounds: int) -> AsyncIterator[Row]:
    echo = settings.model_copy(update={role.name: role.settings(engine="fake") for role in registry.SHIPPED})
    async with _serving(echo) as (appliance, client):

        async def through_http() -> float:
            watch = Stopwatch()
            for _ in range(REQUESTS):
                (await client.post("/completion", json={"prompt": "hello"})).raise_for_status()
            return watch.seconds / REQUESTS * 1000

        async def without() -> float:
            watch = Stopwatch()
            for _ in range(REQUESTS):
                async with appliance.completions.run(Turn(prompt="hello")) as events:
                    async for _event in events:
                        pass
            return watch.seconds / REQUESTS * 1000

        ours, bare = await in_turns(rounds, through_http, without)
    overhead = statistics.median(one - other for one, other in zip(ours, bare, strict=True))
    yield Row("http", "added to a turn, client included", overhead, "ms", 3)
    with served(settings) as (url, _):
        async with httpx.AsyncClient(base_url=url, timeout=120) as client:
            one, many, waits = await _throughput(client, rounds)
    yield Row("http", f"answers a second with {CLIENTS} clients, times those with one", ratio(many, one), "", 1.0, True)
    yield Row("http", f"longest wait of {CLIENTS} clients", max(waits), "s")


async def _throughput(client: httpx.AsyncClient, rounds: int) -> tuple[list[float], list[float], list[float]]:
    """Answers per second with one client and with many, and the waiting times of the many, in seconds."""
    waits: list[float] = []

    async def ask(number: int) -> float:
        watch = Stopwatch()
        body = {"prompt": QUESTIONS[number % len(QUESTIONS)], "temperature": 0, "max_tokens": 40}
        reply = await client.post("/completion", json=body)
        reply.raise_for_status()
        if not reply.json()["reply"]:
            raise RuntimeError("an answer is empty")
        return watch.seconds

    async def alone() -> float:
        return CLIENTS / sum([await ask(number) for number in range(CLIENTS)])

    async def together() -> float:
        watch = Stopwatch()
        waits.extend(await asyncio.gather(*(ask(number) for number in range(CLIENTS))))
        return CLIENTS / watch.seconds

    await alone()
    one, many = await in_turns(rounds, alone, together)
    return one, many, waits


@asynccontextmanager
async def _serving(settings: Settings) -> AsyncIterator[tuple[Appliance, httpx.AsyncClient]]:
    """The server on a free port of this machine, in this process."""
    with listening_socket("127.0.0.1", 0) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        made = Appliance(await engine_selection.resolve_engines_async(settings))
        async with made.running() as appliance, anyio.create_task_group() as group:
            await appliance.load()
            web = server(create_app(appliance))

            group.start_soon(run_server, web, listening, settings)
            async with httpx.AsyncClient(base_url=url, timeout=120) as client:
                yield appliance, client
            web.should_exit = True
