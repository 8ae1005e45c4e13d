"""Devices transport: `chatapi talk` in a process of its own on virtual audio devices, measured by recording."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio.to_thread
import numpy as np
import soxr

from chatapi.audio import INAUDIBLE, RATE, Samples
from chatapi.bench import Row
from chatapi.bench.live.acoustics import Walls
from chatapi.bench.live.harness import HISS, MAX_TOKENS, ContinuousHarness, Harness, Track, blocks_of
from chatapi.bench.live.recording import MODULES, RoomRecording, looped
from chatapi.bench.live.talk import talking
from chatapi.bench.sound_card import Daemon
from chatapi.errors import InternalError, collapse_exception_group
from chatapi.events import Failed, Interrupted, LiveEvent, ResponseStarted, Transcript, TurnEnded
from chatapi.settings import Settings

HANGOVER = 0.6
"""Silence after which an answer has ended, in seconds; voices pause for less between sentences."""
AUDIBLE = 0.004
"""Amplitude above the room's noise."""
NEAR = 0.3
"""Time around the expected time of a sound in which it is searched, in seconds."""
CLICK = 0.01
"""Amplitude of a click of one millisecond: well above the noise, and too short for speech."""
CLICKS = 5
"""Number of measurements of the devices' own delay."""


class Recorded(Track):
    """The recorded loudspeaker."""

    def __init__(self) -> None:
        super().__init__(RoomRecording.rate)
        self.expected = 0.0
        """Time until which an answer counts as playing, even in silence, in seconds."""

    @property
    def busy(self) -> bool:
        newest = self.track[-round(50 * HANGOVER) :]
        return len(self.track) / 50 < self.expected or any(np.abs(block).max() > INAUDIBLE for block in newest)

    @property
    def remaining(self) -> None:
        """Not known from a recording."""


class DevicesHarness(ContinuousHarness):
    """A microphone that is always on; the clock counts the recorded samples of microphone and speaker."""

    def __init__(self, echo: Walls | None, random: np.random.Generator) -> None:
        super().__init__()
        self.ahead = 0.0
        """Delay from writing audio to the microphone to its recording, in seconds."""
        self.shifts: list[float] = []
        """Delay of each utterance's start against the plan, in seconds."""
        self._ends: list[tuple[float, float, float]] = []
        """Start, planned end and last amplitude of each utterance."""
        self._microphone_track = Track(RoomRecording.rate)
        self._speaker = Recorded()
        self._pending: list[Samples] = []
        self._echo = echo
        self._random = random

    @property
    def now(self) -> float:
        return len(self._microphone_track.track) / 50 + self.ahead

    @property
    def speaker(self) -> Recorded:
        return self._speaker

    def flow(self, played: Samples, microphone: Samples) -> Samples:
        """Record 20 ms of speaker and microphone, and return the microphone's next 20 ms.

        Runs on the audio thread; each shared attribute changes in one step.
        """
        self._speaker.track.append(played)
        self._microphone_track.track.append(microphone)
        block = self._pending.pop(0) if self._pending else np.zeros(len(microphone), np.float32)
        block = block + self._random.normal(0, HISS, len(microphone)).astype(np.float32)
        return block + self._echo(played) if self._echo is not None else block

    async def calibrate(self) -> None:
        """Measure the delay `ahead` with a click."""
        start = await self._click()
        found = self._microphone_track.first(start, CLICK / 2)
        if found is None:
            raise InternalError("the virtual microphone records no signal")
        self.ahead = found - start

    async def delay(self) -> float | None:
        """Delay from microphone to speaker, when they are connected, in seconds."""
        start = await self._click()
        microphone, played = (track.first(start - NEAR, CLICK / 2) for track in (self._microphone_track, self._speaker))
        return None if microphone is None or played is None else played - microphone

    async def _click(self) -> float:
        start = self.now
        self._pending += blocks_of(np.full(48, CLICK, np.float32), RoomRecording.rate // 50)
        await self.wait(1.0)
        return start

    async def _speak(self, sound: Samples) -> float:
        louder: Samples = soxr.resample(sound, RATE, RoomRecording.rate)
        start = self.now
        self._pending += blocks_of(louder, RoomRecording.rate // 50)
        while self._pending:
            await self._next()
        if self._echo is None:
            start = self._corrected(louder, start)
        return start

    def _corrected(self, sound: Samples, planned: float) -> float:
        """The recorded start of an utterance: on a busy machine it is later than planned."""
        level = max(AUDIBLE, 0.1 * float(np.abs(sound).max()))
        found = self._microphone_track.first(planned - NEAR / 2, level)
        if found is None or found > planned + len(sound) / RoomRecording.rate:
            return planned
        loud = np.flatnonzero(np.abs(sound) > level) / RoomRecording.rate
        shift = found - float(loud[0]) - planned
        self.shifts.append(shift)
        self.ahead += shift
        self._ends.append((found, planned + shift + float(loud[-1]), level))
        return planned + shift

    def stretched(self) -> list[float]:
        """Excess of each utterance's recorded duration over the planned one, in seconds."""
        found = [(self._microphone_track.last(start, end + NEAR, level), end) for start, end, level in self._ends]
        return [last - end for last, end in found if last is not None]

    def on_line(self, kind: str, words: str) -> None:
        """Record a line that `chatapi talk` printed."""
        for event in _events(kind, words):
            self.events.append((self.now, event))
            if isinstance(event, TurnEnded):
                # Its audio may still be on its way.
                self._speaker.expected = len(self._speaker.track) / 50 + HANGOVER


def _events(kind: str, words: str) -> list[LiveEvent]:
    if kind == "you":
        return [Transcript(words), ResponseStarted(words)]
    if kind == "box":
        return [TurnEnded("", "stop")]
    if kind == "box (interrupted)":
        return [Interrupted(0.0, words)]
    return [Failed(InternalError(words))] if kind == "error" else []


def _most(found: Sequence[float]) -> float:
    return max(map(abs, found), default=float("nan"))


class DevicesTransport:
    """Conversations through virtual devices."""

    def __init__(self, settings: Settings, daemon: Daemon) -> None:
        self._settings = settings
        self._daemon = daemon
        self._shifts: list[float] = []
        self._stretched: list[float] = []

    @asynccontextmanager
    async def open_harness(
        self, echo: float | None = None, seed: int = 0, most: int = MAX_TOKENS
    ) -> AsyncIterator[Harness]:
        """A harness with a conversation of its own; `most` is ignored, `talk` is started with MAX_TOKENS."""
        try:
            async with self._staged(echo, seed) as made, talking(self._settings, self._daemon, made.on_line):
                # After loading the models, which may delay the microphone's audio.
                await made.calibrate()
                yield made
                self._shifts += made.shifts
                self._stretched += made.stretched()
        except Exception as error:
            raise collapse_exception_group(error) from None

    async def rows(self) -> list[Row]:
        """The delay of the devices, and their largest deviations from the plan."""
        async with self._staged(None, 0) as made:
            await made.calibrate()
            with looped(self._daemon):
                await made.wait(1.0)
                found = [await made.delay() for _ in range(CLICKS)]
        delays = [each for each in found if each is not None]
        delay = statistics.median(delays) if delays else float("nan")
        return [
            Row("live", "the virtual devices alone, microphone to speaker", delay, "s"),
            Row(
                "live",
                "largest delay of an utterance's start, which is corrected",
                _most(self._shifts),
                "s",
            ),
            Row(
                "live", "largest excess of an utterance's duration, which is not corrected", _most(self._stretched), "s"
            ),
        ]

    @asynccontextmanager
    async def _staged(self, echo: float | None, seed: int) -> AsyncIterator[DevicesHarness]:
        random = np.random.default_rng(seed)
        made = DevicesHarness(None if echo is None else Walls(echo, random, RoomRecording.rate), random)
        with RoomRecording(self._daemon, made.flow, made.tick).sounding():
            yield made


@asynccontextmanager
async def open_devices(settings: Settings) -> AsyncIterator[DevicesTransport]:
    """A transport over a private sound server, which ends with the context."""
    with tempfile.TemporaryDirectory(prefix="chatapi-bench-") as folder:
        daemon = Daemon(Path(folder))
        try:
            await anyio.to_thread.run_sync(daemon.run, MODULES)
            # Otherwise the default is the combined device, whose right channel is the microphone.
            await anyio.to_thread.run_sync(daemon.pactl, "set-default-sink", "spk")
            yield DevicesTransport(settings, daemon)
        finally:
            daemon.kill()
