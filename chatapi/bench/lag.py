"""The lag of the event loop while detectors judge many audio streams beside a live conversation, in one process."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio
import numpy as np
from anyio.abc import TaskStatus

from chatapi.appliance import Appliance
from chatapi.audio import RATE, Samples
from chatapi.bench import Row, corpus
from chatapi.bench.live import scenarios
from chatapi.bench.live.harness import HISS
from chatapi.bench.live.in_process import InProcessTransport
from chatapi.bench.recognition import CORPUS
from chatapi.engines import VAD_FRAME, WAKE_WORD_FRAME
from chatapi.errors import BadInput
from chatapi.runtime import engine_selection
from chatapi.services.live import SessionOptions
from chatapi.settings import Settings

TICK = 0.005
"""Time between two looks at the event loop, in seconds."""
BLOCK_MS = (20, 32, 40, 60, 100)
"""Lengths of the blocks that clients send; each stream has one of them, in milliseconds."""
PAUSES = (0.3, 3.0)
"""Shortest and longest silence between two sentences of a stream, in seconds."""
LONGEST = 6.0
"""Duration of the longest sentence used, in seconds."""
AWAKE_SECONDS = 8.0
"""Time in which a woken session takes speech without the wake word, in seconds."""
TARGET_MS = 20.0
"""Greatest lag that a listener of the live conversation does not notice, in milliseconds."""


@dataclass(frozen=True)
class LagOptions:
    """Options of `lag`."""

    streams: int | None = None
    """Audio streams beside the conversation; None: 16."""
    seconds: float | None = None
    """Duration of each of the three measurements, in seconds; None: 20."""
    detector: str | None = None
    """Engine of voice activity detection; None: that of the settings."""
    asleep: bool = False
    """Whether the streams wait for the wake word, so that only its network runs."""


DEFAULTS = LagOptions()


@dataclass
class _Measured:
    """What one measurement found; times are in seconds."""

    lags: list[float] = field(default_factory=list)
    """How late the event loop came to each tick."""
    own: list[float] = field(default_factory=list)
    """The part of each lag in which the event loop or the detectors computed, at most; other programs and engines cause
    the rest."""
    delays: list[float] = field(default_factory=list)
    """Time from the arrival of each block that completes a frame to the detector's decision."""
    latencies: list[float] = field(default_factory=list)
    """Times from the end of a question to the first sound of its answer."""
    cpu: float = 0.0
    """Computing time of the process for each second."""


async def measure(settings: Settings, rounds: int, options: LagOptions = DEFAULTS) -> AsyncIterator[Row]:
    """Measure the streams alone, the conversation alone, and both. `rounds` is not used: `seconds` says how long.

    In the streams the client ends the turns, so that each frame is judged and nothing is transcribed. Raises BadInput.
    """
    del rounds
    streams = 16 if options.streams is None else options.streams
    seconds = 20.0 if options.seconds is None else options.seconds
    if not 0 <= streams < 64 or not 1 <= seconds <= 3600:
        raise BadInput("--streams must be 0 to 63, and --seconds 1 to 3600")
    tables: dict[str, Any] = {"live": settings.live.model_copy(update={"sessions": streams + 1})}
    if options.detector is not None:
        tables["vad"] = settings.vad.model_copy(update={"engine": options.detector})
    chosen = await engine_selection.resolve_engines_async(settings.model_copy(update=tables))
    clips = [clip for clip in corpus.read(CORPUS, "held-out", ["en"]) if not clip.noise and clip.seconds < LONGEST]
    sentences = [clip.samples for clip in clips]
    sounds = [sentences_in_silence(sentences, seconds, number) for number in range(streams)]
    async with Appliance(chosen).running() as appliance:
        await appliance.load()
        judge = chosen.wake_word.engine if options.asleep else chosen.vad.engine
        for name, fed, talks in (
            (f"{streams} streams", sounds, False),
            ("a conversation", [], True),
            (f"{streams} streams beside a conversation", sounds, True),
        ):
            bench = _LagBench(appliance, options.asleep)
            found = await bench.run(fed, clips if talks else [], seconds)
            for row in _rows(f"lag, {judge}", name, found):
                yield row


class _LagBench:
    """One measurement."""

    def __init__(self, appliance: Appliance, asleep: bool) -> None:
        self._live = appliance.live
        self._asleep = asleep
        self._found = _Measured()

    async def run(self, sounds: Sequence[Samples], clips: Sequence[corpus.Clip], seconds: float) -> _Measured:
        """Feeds these streams in real time, beside a conversation that asks the clips, if there are any."""
        ready = anyio.Event()
        async with anyio.create_task_group() as group:
            if clips:
                await group.start(self._converse, clips)
            for number, sound in enumerate(sounds):
                await group.start(self._stream, number, sound, ready)
            started, cpu = time.perf_counter(), time.process_time()
            ready.set()
            await self._tick(seconds)
            self._found.cpu = (time.process_time() - cpu) / (time.perf_counter() - started)
            group.cancel_scope.cancel()
        return self._found

    async def _tick(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        computed = _computed()
        while (due := loop.time() + TICK) < end:
            await anyio.sleep_until(due)
            lag, before, computed = loop.time() - due, computed, _computed()
            self._found.lags.append(lag)
            self._found.own.append(min(lag, computed - before))

    async def _converse(self, clips: Sequence[corpus.Clip], *, task_status: TaskStatus[None]) -> None:
        async with InProcessTransport(self._live).open_harness() as harness:
            task_status.started()
            for clip in itertools.cycle(clips):
                result = await scenarios.question(harness, clip)
                if result.latency is not None:
                    self._found.latencies.append(result.latency)

    async def _stream(self, number: int, sound: Samples, ready: anyio.Event, *, task_status: TaskStatus[None]) -> None:
        options = SessionOptions(detect=False, answer=False, partials=False)
        size = RATE * BLOCK_MS[number % len(BLOCK_MS)] // 1000
        frame = WAKE_WORD_FRAME if self._asleep else VAD_FRAME
        # Clients do not send in step with each other.
        phase = float(np.random.default_rng(number).uniform(0, size / RATE))
        awake_seconds = AWAKE_SECONDS if self._asleep else None
        async with self._live.session(options, awake_seconds=awake_seconds) as (session, events):
            del events
            task_status.started()
            await ready.wait()
            begun = time.perf_counter() + phase
            for start in range(0, len(sound), size):
                end = start + size
                due = begun + end / RATE
                await anyio.sleep(max(0.0, due - time.perf_counter()))
                await session.feed(sound[start:end])
                if end // frame > start // frame:
                    self._found.delays.append(time.perf_counter() - due)


def _computed() -> float:
    """Computing time of the event loop's thread and the detectors' thread, in seconds."""
    detectors = [thread.ident for thread in threading.enumerate() if thread.name == "detectors"]
    clocks = [time.pthread_getcpuclockid(ident) for ident in detectors if ident is not None]
    return time.thread_time() + sum(map(time.clock_gettime, clocks))


def sentences_in_silence(sentences: Sequence[Samples], seconds: float, number: int) -> Samples:
    """Sentences with silence between them, in the noise of a quiet room, 16 kHz; each number has its own."""
    random = np.random.default_rng(number)
    sound = random.normal(0, HISS, round(seconds * RATE)).astype(np.float32)
    at = round(random.uniform(0, PAUSES[1]) * RATE)
    while at < len(sound):
        sentence = sentences[int(random.integers(len(sentences)))][: len(sound) - at]
        sound[at : at + len(sentence)] += sentence
        at += len(sentence) + round(random.uniform(*PAUSES) * RATE)
    return np.clip(sound, -1, 1)


def _rows(part: str, name: str, found: _Measured) -> Iterator[Row]:
    for label, times, target in (
        ("lag of the event loop", found.lags, TARGET_MS),
        ("the part that the loop and the detectors compute", found.own, TARGET_MS),
        ("decision after the arrival of its block", found.delays, None),
    ):
        if times:
            median, p95, p99, most = (1000 * float(each) for each in (*np.percentile(times, [50, 95, 99]), max(times)))
            note = f"median {median:.2f}, 95 % {p95:.2f}, maximum {most:.1f} ms, of {len(times)}"
            yield Row(part, f"{name}: {label}, 99th percentile", p99, "ms", target, note=note)
    if found.latencies:
        what = f"{name}: end of speech to first sound, median of {len(found.latencies)}"
        yield Row(part, what, statistics.median(found.latencies), "s")
    yield Row(part, f"{name}: computing time of the process for each second", found.cpu, "s")
