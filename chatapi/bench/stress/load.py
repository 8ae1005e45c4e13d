"""Sends the requests of a stress test, so many at once, and measures."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx

from chatapi.bench.stress.inputs import StressInputs, StressRequest
from chatapi.bench.stress.target import StressTarget, memory_of

MEMORY_SECONDS = 1.0
"""Time between two measurements of the server's memory."""
MOST_RETRIES, MOST_WAIT = 1000, 60.0
"""Attempts of a request that gets a Retry-After, and the longest wait that a server can ask for, in seconds."""


@dataclass(frozen=True)
class Sample:
    """One request that has ended."""

    number: int
    at: float
    """When it ended, in seconds from the beginning."""
    seconds: float
    """Duration of its last attempt."""
    status: int
    """Of HTTP; 0: the connection failed."""
    error: str
    """The code or the message of an answer that is no success; empty: it was one."""
    retries: int
    size: int
    """Of the answer, in bytes."""


@dataclass
class StressResult:
    """What was measured so far."""

    requests: int
    """That will be sent in all."""
    samples: list[Sample] = field(default_factory=list)
    memory: list[tuple[float, int]] = field(default_factory=list)
    """Seconds from the beginning, and bytes."""
    busy: int = 0
    """Answers with 503."""
    busy_without_wait: int = 0
    """Of these, those without Retry-After."""
    seconds: float = 0.0

    @property
    def succeeded(self) -> list[Sample]:
        return [each for each in self.samples if not each.error]

    def latency(self, share: float) -> float:
        """The latency in seconds that this share of the successes keeps; NaN without any."""
        found = sorted(each.seconds for each in self.succeeded)
        return found[min(len(found) - 1, int(share * len(found)))] if found else float("nan")

    def growth(self) -> float | None:
        """Memory at the end over that after the first quarter, as medians of a tenth of the run; None: not measured.
        Models are loaded in the first quarter."""
        if len(self.memory) < 20:
            return None
        sizes, tenth = [each for _, each in self.memory], max(1, len(self.memory) // 10)
        begun = len(sizes) // 4
        return statistics.median(sizes[-tenth:]) / statistics.median(sizes[begun : begun + tenth])

    def document(self) -> dict[str, Any]:
        """All figures, in plain values."""
        return {
            "requests": self.requests,
            "answered": len(self.samples),
            "succeeded": len(self.succeeded),
            "errors": dict(Counter(f"{each.status} {each.error}".strip() for each in self.samples if each.error)),
            "busy": self.busy,
            "busy_without_retry_after": self.busy_without_wait,
            "seconds": round(self.seconds, 2),
            "requests_per_second": round(len(self.succeeded) / self.seconds, 3) if self.seconds else 0.0,
            "latency_seconds": {f"p{share}": round(self.latency(share / 100), 3) for share in (50, 90, 95, 99)}
            if self.succeeded
            else {},
            "memory_bytes": {"first": self.memory[0][1], "last": self.memory[-1][1],
                             "most": max(each for _, each in self.memory)} if self.memory else {},
            "memory_growth_after_warm_up": self.growth(),
        }  # fmt: skip


@dataclass(frozen=True)
class StressPlan:
    """What is sent, where to, and how."""

    target: StressTarget
    inputs: StressInputs
    requests: int
    concurrency: int
    memory: str = ""
    """Source of the server's memory, as `memory_of` takes it; empty: it is not measured."""
    outputs: Path | None = None
    """Folder for the answers; None: they are not saved."""


class StressRun:
    """A running stress test."""

    def __init__(self, client: httpx.AsyncClient, plan: StressPlan, show: Callable[[StressResult], None]) -> None:
        """`show` is called after each request."""
        self._client, self._plan, self._show = client, plan, show
        self.result = StressResult(plan.requests)
        self._begun, self._next = time.monotonic(), 0

    async def run(self) -> StressResult:
        """Sends all requests; returns when each has ended."""
        self._begun = time.monotonic()
        async with anyio.create_task_group() as group:
            if self._plan.memory:
                group.start_soon(self._watch_memory)
            async with anyio.create_task_group() as clients:
                for _ in range(min(self._plan.concurrency, self._plan.requests)):
                    clients.start_soon(self._client_loop)
            group.cancel_scope.cancel()
        self.result.seconds = self._now()
        return self.result

    def _now(self) -> float:
        return time.monotonic() - self._begun

    async def _client_loop(self) -> None:
        while self._next < self._plan.requests:
            number, self._next = self._next, self._next + 1
            request = await anyio.to_thread.run_sync(self._plan.inputs.request, number)
            await self._send(request)
            self._show(self.result)

    async def _send(self, request: StressRequest) -> None:
        arguments = self._plan.target.arguments(request)
        for retries in range(MOST_RETRIES):
            since, content, headers = time.monotonic(), b"", dict[str, str]()
            try:
                answer = await self._client.post(**arguments)
                status, content, headers = answer.status_code, answer.content, dict(answer.headers)
                error = "" if answer.is_success else _code(answer)
            except httpx.HTTPError as failed:
                status, error = 0, type(failed).__name__
            seconds = time.monotonic() - since
            if status == httpx.codes.SERVICE_UNAVAILABLE and retries < MOST_RETRIES - 1:
                await anyio.sleep(self._wait(headers))
                continue
            self.result.samples.append(
                Sample(request.number, self._now(), seconds, status, error, retries, len(content))
            )
            if self._plan.outputs is not None and not error:
                suffix = ".wav" if content[:4] == b"RIFF" else ".txt"
                await anyio.Path(self._plan.outputs / f"{request.number:05}{suffix}").write_bytes(content)
            return

    def _wait(self, headers: Mapping[str, str]) -> float:
        """Time until the next attempt, in seconds."""
        self.result.busy += 1
        try:
            return min(MOST_WAIT, max(0.05, float(headers["retry-after"])))
        except (KeyError, ValueError):
            self.result.busy_without_wait += 1
            return 1.0

    async def _watch_memory(self) -> None:
        while True:
            found = await memory_of(self._client, self._plan.memory)
            if found is not None:
                self.result.memory.append((self._now(), found))
            await anyio.sleep(MEMORY_SECONDS)


def _code(answer: httpx.Response) -> str:
    """The code of an error, else the beginning of its text."""
    try:
        document = answer.json()
        inner = document.get("error", document) if isinstance(document, dict) else {}
        found = inner.get("code") if isinstance(inner, dict) else None
        return str(found if isinstance(found, str) else inner.get("message", ""))[:100] or "error"
    except ValueError:
        return answer.text[:100] or "error"
