"""Many clients at once, each with a request on its way: every refusal has Retry-After, and health is answered."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import closing

from fuzz.box import Box, Usage
from fuzz.client import HANDSHAKE, Client, Outcome
from fuzz.inputs import JSON, Input, as_json, request
from fuzz.judge import fault_of

HEALTH = 10.0
"""Seconds in which `/health` is to answer while the crowd is there; a busy machine is slow."""
PATIENCE = 60.0
"""Seconds until everybody has an answer or was refused."""
QUESTION = request("POST", "/completion", as_json({"prompt": "one two three four five", "max_tokens": 8}), JSON)
HALF = request("POST", "/completion", bytes(100_000), {"Content-Type": "audio/wav"})[:50_000]


class Crowd:
    """So many clients on one server."""

    def __init__(self, box: Box, clients: int) -> None:
        self._box, self._number = box, clients
        self.outcomes: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.health: list[float] = []
        """Seconds of each look at `/health` meanwhile."""
        self._before: Usage | None = None
        self._after: Usage | None = None
        self._holding = asyncio.Event()

    async def run(self) -> None:
        """All connect at once and ask; a third sends only half, or nothing, until the others are answered."""
        self._before = await self._box.settled(8)
        watching = asyncio.create_task(self._watch())
        try:
            everybody = [asyncio.create_task(self._one(number)) for number in range(self._number)]
            asking = [task for number, task in enumerate(everybody) if number % 3]
            await asyncio.wait(asking, timeout=PATIENCE)
            self._holding.set()
            _, late = await asyncio.wait(everybody, timeout=PATIENCE)
            for task in late:
                task.cancel()
            if late:
                self.faults["hang"] += len(late)
        finally:
            watching.cancel()
        await self._judge_after()

    async def _one(self, number: int) -> None:
        if number % 3:
            given = Input("http", "crowd", "question", (QUESTION,))
            with closing(Client(self._box.port, self._box.wyoming)) as client:
                self._count(given, await client.send(given))
        else:
            await self._hold(number)

    def _count(self, given: Input, outcome: Outcome) -> None:
        told = f"{outcome.status} {outcome.code}".strip() if outcome.status else outcome.end
        self.outcomes[told] += 1
        if fault := fault_of(given, outcome):
            self.faults[fault] += 1

    async def _hold(self, number: int) -> None:
        """A connection that is kept: half a body, a WebSocket, or nothing at all."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._box.port)
            writer.write((HALF, HANDSHAKE, b"")[number // 3 % 3])
        except OSError:
            self.outcomes["not connected"] += 1
            return
        try:
            await self._holding.wait()
            told = await asyncio.wait_for(reader.read(65536), 0.5)
        except (asyncio.TimeoutError, OSError):
            told = b""
        finally:
            writer.transport.abort()
        self._judge_held(told)

    def _judge_held(self, told: bytes) -> None:
        """What a kept connection was told; a refusal among it must be a whole one."""
        status = told[9:12].decode("latin-1") if told.startswith(b"HTTP/1.1") else "silent"
        self.outcomes[f"held: {status}"] += 1
        if status in ("429", "503"):
            if b"retry-after:" not in told.lower():
                self.faults[f"status {status} without Retry-After (held)"] += 1
            if b'"code"' not in told:
                self.faults[f"status {status} without a code (held)"] += 1

    async def _watch(self) -> None:
        """`/health`, again and again, each time on a connection of its own."""
        given = Input("http", "crowd", "/health", (request("GET", "/health", None, {"Connection": "close"}),))
        while True:
            begun = time.monotonic()
            with closing(Client(self._box.port, 0)) as client:
                outcome = await client.send(given)
            self.health.append(time.monotonic() - begun)
            if outcome.status != 200:
                self.faults[f"/health answered {outcome.status or outcome.end}"] += 1
            elif self.health[-1] > HEALTH:
                self.faults["/health took too long"] += 1
            await asyncio.sleep(0.2)

    async def _judge_after(self) -> None:
        """Everybody has gone: the box answers, and holds no more than before."""
        self._after = await self._box.settled(20)
        given = Input("http", "crowd", "afterwards", (QUESTION,))
        with closing(Client(self._box.port, 0)) as client:
            outcome = await client.send(given)
        if outcome.status != 200:
            self.faults[f"afterwards: {outcome.status or outcome.end}"] += 1
        if not self._box.alive:
            self.faults[f"death {self._box.ending}"] += 1
        elif self._before is not None and self._after.descriptors > self._before.descriptors:
            self.faults[f"descriptors {self._before.descriptors} to {self._after.descriptors}"] += 1
        for trouble in self._box.troubles():
            self.faults[trouble.signature] += 1

    def table(self) -> str:
        """For people."""
        before, after = self._before, self._after
        lines = [f"{self._number} clients at once", *(f"  {count:5} x {name}" for name, count in self.outcomes.items())]
        slowest = max(self.health, default=0.0)
        lines.append(f"  /health: {len(self.health)} times, slowest {slowest:.2f} s; log {self._box.logged} bytes")
        if before is not None and after is not None:
            lines.append(f"  memory {before.pss >> 20} to {after.pss >> 20} MiB PSS; "
                         f"descriptors {before.descriptors} to {after.descriptors}")  # fmt: skip
        lines.append(f"{len(self.faults)} kinds of faults")
        return "\n".join([*lines, *(f"  {count:5} x {name}" for name, count in self.faults.items())])
