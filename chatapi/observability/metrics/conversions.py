"""Metrics of voice conversion."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from chatapi.audio import Audio
from chatapi.errors import Busy, ChatapiError

KINDS = ("request", "job", "live", "reply")
"""A recording, a part of a long recording, a microphone, a sentence of an answer."""
LAGS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 2, 5, 10)
"""Buckets of the lag of live conversion, in seconds."""


class ConversionMetrics:
    """How many conversions ended and how, how fast they are, and how many wait."""

    def __init__(
        self, registry: CollectorRegistry, seconds: tuple[float, ...], factor: Callable[[float], None]
    ) -> None:
        """`seconds`: buckets of durations; `factor` receives real-time factors."""
        self._factor = factor
        self.ended = Counter(
            "chatapi_conversions_total",
            "Ended voice conversions: recordings, parts of long ones, live conversions, and sentences of answers.",
            ["kind", "result"], registry=registry,
        )  # fmt: skip
        self.audio = Counter("chatapi_conversion_audio_seconds_total", "Converted audio.", ["kind"], registry=registry)
        self.first_audio = Histogram(
            "chatapi_conversion_first_audio_seconds",
            "Time from the begin of a conversion that is no live one to its first audio.",
            ["kind"], buckets=seconds, registry=registry,
        )  # fmt: skip
        self.lag = Histogram(
            "chatapi_conversion_lag_seconds",
            "Time from the last sample that a chunk of live conversion needs to its converted audio.",
            buckets=LAGS, registry=registry,
        )  # fmt: skip
        self.active = Gauge("chatapi_conversions_active", "Running conversions and new voices.", registry=registry)
        self.waiting = Gauge(
            "chatapi_conversions_waiting", "Conversions and new voices in the queue.", registry=registry
        )
        self.refused = Counter(
            "chatapi_conversions_refused_total", "Conversions and new voices rejected because there were too many.",
            registry=registry,
        )  # fmt: skip
        self.voices = Gauge("chatapi_voices", "Stored voices.", registry=registry)
        for kind in KINDS:
            self.ended.labels(kind, "ok")
            self.audio.labels(kind)

    async def counted(self, kind: str, chunks: AsyncGenerator[Audio, None]) -> AsyncGenerator[Audio, None]:
        """The chunks of a conversion, counted under one of KINDS; closes them."""
        waited = seconds = 0.0
        with self.ending(kind):
            async with aclosing(chunks):
                asked = time.monotonic()
                async for chunk in chunks:
                    waited += time.monotonic() - asked
                    if not seconds:
                        self.first_audio.labels(kind).observe(waited)
                    seconds += chunk.seconds
                    self.audio.labels(kind).inc(chunk.seconds)
                    yield chunk
                    asked = time.monotonic()
            if seconds:
                self._factor(waited / seconds)

    def live_chunk(self, waited: float, seconds: float) -> None:
        """Counts a chunk of live conversion of so many seconds, which came so many seconds after its last sample."""
        self.audio.labels("live").inc(seconds)
        self.lag.observe(waited)
        if seconds:
            self._factor(waited / seconds)

    @contextmanager
    def ending(self, kind: str) -> Iterator[None]:
        """Counts how the block ends."""
        result = "disconnected"
        try:
            yield
            result = "ok"
        except ChatapiError as error:
            result = error.code
            raise
        finally:
            self.ended.labels(kind, result).inc()

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """Counts Busy, which the block raises."""
        try:
            yield
        except Busy:
            self.refused.inc()
            raise
