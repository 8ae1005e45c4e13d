"""A registered version of a model: its options, its workers, and the queue in front of them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio

from chatapi.errors import Busy, Unprocessable

DEFAULT = "default"
"""The name in a registration of whatever model is in use."""
ALL = "all"
"""The entry of `torchserve.models` for every archive of the model store."""
FIRST_VERSION = "1.0"
FIRST_WORKER = 9000
"""Id of the first worker, as TorchServe numbers them."""
MOST_WORKERS = 64
"""Most workers of one model."""
MOST_SECONDS = 24 * 3600
"""Longest timeout of a registration, in seconds."""


@dataclass(frozen=True)
class ModelOptions:
    """What a registration says of a model; the box's engine forms its batches itself."""

    batch_size: int = 1
    max_batch_delay: int = 100
    """Milliseconds."""
    response_timeout: int = 120
    """Seconds; 0: none beyond that of every transcription."""
    startup_timeout: int = 120
    """Seconds."""

    def check(self) -> None:
        """Raises Unprocessable naming an option that is out of range."""
        ranges = {
            "batch_size": (1, 1024),
            "max_batch_delay": (0, 60_000),
            "response_timeout": (0, MOST_SECONDS),
            "startup_timeout": (0, MOST_SECONDS),
        }
        for name, (least, most) in ranges.items():
            if not least <= getattr(self, name) <= most:
                message = f"{name} is {getattr(self, name)}; it must be from {least} to {most}"
                raise Unprocessable(message, details={"param": name})


@dataclass
class ServedModel:
    """One version of a registered model. All methods belong to one event loop."""

    name: str
    version: str
    url: str
    role: str
    """Name of its role in the box, such as asr."""
    model: str
    """Name of the box's model, or DEFAULT."""
    options: ModelOptions
    queue_size: int
    """Predictions that may wait for a worker."""
    loaded_at_startup: bool = False
    min_workers: int = 0
    max_workers: int = 0
    running: int = 0
    """Predictions that a worker processes."""
    waiting: int = 0
    """Predictions in the queue."""
    load_seconds: float = 0.0
    """Time that loading its model took, in seconds; 0: it was loaded already."""
    started_at: list[float] = field(default_factory=list)
    """When each worker started, in seconds since 1970."""
    _changed: anyio.Event = field(default_factory=anyio.Event)

    def scale(self, least: int, most: int) -> None:
        """Set the numbers of workers. Raises Unprocessable."""
        if not 0 <= least <= MOST_WORKERS or not 0 <= most <= MOST_WORKERS:
            raise Unprocessable(f"min_worker and max_worker must be from 0 to {MOST_WORKERS}")
        if most < least:
            raise Unprocessable("max_worker cannot be less than min_worker.")
        self.min_workers, self.max_workers = least, most
        now = time.time()
        self.started_at = [*self.started_at[:least], *(now for _ in range(least - len(self.started_at)))]
        self._wake()

    def require_worker(self) -> None:
        """Raises Busy when it has no workers, or when its queue is full."""
        if not self.max_workers:
            raise Busy(
                f'Model "{self.name}" Version {self.version} has no worker to serve inference request. Please use '
                "scale workers API to add workers.",
                code="no_worker",
            )
        if self.running >= self.max_workers and self.waiting >= self.queue_size:
            raise Busy(f'the queue of model "{self.name}" is full: {self.waiting} predictions wait', code="queue_full")

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[None]:
        """Holds a worker inside the context. Raises Busy when there is none, or when too many wait for one."""
        self.require_worker()
        self.waiting += 1
        try:
            while self.running >= self.max_workers:
                await self._changed.wait()
                if not self.max_workers:
                    self.require_worker()
        finally:
            self.waiting -= 1
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
