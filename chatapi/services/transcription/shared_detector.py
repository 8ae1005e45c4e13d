"""Voice activity detection for files: the one way in which transcription uses the detector beside live audio."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import anyio.from_thread

from chatapi.audio import Samples
from chatapi.engines import SpeechStream, Stop, VoiceActivityDetector, never
from chatapi.engines.call import EngineCall
from chatapi.runtime.admission import Priority
from chatapi.runtime.workers import Worker

Wait = Callable[[Callable[[Samples], Coroutine[Any, Any, list[float]]], Samples], list[float]]
"""Runs a function on the event loop, waits for it in a thread, and returns its result."""


class SharedDetector:
    """The engines' voice activity detector, whose slot it holds for one part of a file at a time."""

    def __init__(
        self, worker: Worker[VoiceActivityDetector], priority: Priority, wait: Wait = anyio.from_thread.run
    ) -> None:
        """`wait`: for `probabilities`; by default in a thread of anyio."""
        self._worker, self._priority, self._wait = worker, priority, wait

    def stream(self) -> SpeechStream:
        return self._worker.engine.stream()

    async def judge(self, samples: Samples) -> list[float]:
        """The speech probability of each frame, 0 to 1. Raises what `Worker.collect` raises."""
        return await self._worker.collect(EngineCall.of(VoiceActivityDetector.probabilities, samples), self._priority)

    def probabilities(self, samples: Samples, stop: Stop = never) -> Iterator[float]:
        """As `judge`, for use from a thread; cancelled by `wait`."""
        return iter(self._wait(self.judge, samples))
