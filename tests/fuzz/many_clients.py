"""Many clients at once: every rejection has Retry-After, and `/health` still answers."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import closing

from fuzz.client import HANDSHAKE, Client, Outcome
from fuzz.inputs import JSON, Input, as_json, request
from fuzz.judge import fault_of
from fuzz.server_process import ServerProcess, Usage

HEALTH_TIMEOUT = 10.0
"""Seconds within which `/health` must answer under this load; a busy machine is slow."""
TIMEOUT = 60.0
"""Seconds until every client is answered or rejected."""
QUESTION = request("POST", "/completion", as_json({"prompt": "one two three four five", "max_tokens": 8}), JSON)
HALF = request("POST", "/completion", bytes(100_000), {"Content-Type": "audio/wav"})[:50_000]


class ManyClients:
    """Connects this many clients to one server."""

    def __init__(self, server: ServerProcess, clients: int) -> None:
        self._server, self._number = server, clients
        self.outcomes: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.health: list[float] = []
        """Response times of `/health` meanwhile, in seconds."""
        self._before: Usage | None = None
        self._after: Usage | None = None
        self._release = asyncio.Event()

    async def run(self) -> None:
        """Connects all clients at once; a third of them only hold connections until the others are answered."""
        self._before = await self._server.idle_usage(8)
        polling = asyncio.create_task(self._poll_health())
        try:
            clients = [asyncio.create_task(self._run_client(number)) for number in range(self._number)]
            requests = [task for number, task in enumerate(clients) if number % 3]
            await asyncio.wait(requests, timeout=TIMEOUT)
            self._release.set()
            _, late = await asyncio.wait(clients, timeout=TIMEOUT)
            for task in late:
                task.cancel()
            if late:
                self.faults["hang"] += len(late)
        finally:
            polling.cancel()
        await self._judge_after()

    async def _run_client(self, number: int) -> None:
        if number % 3:
            given = Input("http", "many clients", "question", (QUESTION,))
            with closing(Client(self._server.port, self._server.wyoming)) as client:
                self._count(given, await client.send(given))
        else:
            await self._hold_connection(number)

    def _count(self, given: Input, outcome: Outcome) -> None:
        name = f"{outcome.status} {outcome.code}".strip() if outcome.status else outcome.end
        self.outcomes[name] += 1
        if fault := fault_of(given, outcome):
            self.faults[fault] += 1

    async def _hold_connection(self, number: int) -> None:
        """Holds a connection open: half a body, a WebSocket, or nothing at all."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._server.port)
            writer.write((HALF, HANDSHAKE, b"")[number // 3 % 3])
        except OSError:
            self.outcomes["not connected"] += 1
            return
        try:
            await self._release.wait()
            received = await asyncio.wait_for(reader.read(65536), 0.5)
        except (asyncio.TimeoutError, OSError):
            received = b""
        finally:
            writer.transport.abort()
        self._judge_held_connection(received)

    def _judge_held_connection(self, received: bytes) -> None:
        """Checks what a held connection received; a rejection must be complete."""
        status = received[9:12].decode("latin-1") if received.startswith(b"HTTP/1.1") else "silent"
        self.outcomes[f"held: {status}"] += 1
        if status in ("429", "503"):
            if b"retry-after:" not in received.lower():
                self.faults[f"status {status} without Retry-After (held)"] += 1
            if b'"code"' not in received:
                self.faults[f"status {status} without a code (held)"] += 1

    async def _poll_health(self) -> None:
        """Polls `/health`, each time on a new connection."""
        given = Input("http", "many clients", "/health", (request("GET", "/health", None, {"Connection": "close"}),))
        while True:
            started = time.monotonic()
            with closing(Client(self._server.port, 0)) as client:
                outcome = await client.send(given)
            self.health.append(time.monotonic() - started)
            if outcome.status != 200:
                self.faults[f"/health answered {outcome.status or outcome.end}"] += 1
            elif self.health[-1] > HEALTH_TIMEOUT:
                self.faults["/health took too long"] += 1
            await asyncio.sleep(0.2)

    async def _judge_after(self) -> None:
        """Checks that the server answers and uses no more than before, once all clients are gone."""
        self._after = await self._server.idle_usage(20)
        given = Input("http", "many clients", "afterwards", (QUESTION,))
        with closing(Client(self._server.port, 0)) as client:
            outcome = await client.send(given)
        if outcome.status != 200:
            self.faults[f"afterwards: {outcome.status or outcome.end}"] += 1
        if not self._server.alive:
            self.faults[f"death {self._server.ending}"] += 1
        elif self._before is not None and self._after.descriptors > self._before.descriptors:
            self.faults[f"descriptors {self._before.descriptors} to {self._after.descriptors}"] += 1
        for log_error in self._server.new_log_errors():
            self.faults[log_error.signature] += 1

    def table(self) -> str:
        """The results as text."""
        before, after = self._before, self._after
        lines = [f"{self._number} clients at once", *(f"  {count:5} x {name}" for name, count in self.outcomes.items())]
        slowest = max(self.health, default=0.0)
        lines.append(f"  /health: {len(self.health)} times, slowest {slowest:.2f} s; log {self._server.logged} bytes")
        if before is not None and after is not None:
            lines.append(f"  memory {before.pss >> 20} to {after.pss >> 20} MiB PSS; "
                         f"descriptors {before.descriptors} to {after.descriptors}")  # fmt: skip
        lines.append(f"{len(self.faults)} kinds of faults")
        return "\n".join([*lines, *(f"  {count:5} x {name}" for name, count in self.faults.items())])
