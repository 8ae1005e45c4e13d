"""The door of the room: `chatapi talk` in a process of its own, at virtual devices, judged by what is recorded."""

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
from chatapi.bench.live.harness import HISS, MAX_TOKENS, Flowing, Harness, Track, blocks_of
from chatapi.bench.live.recording import MODULES, RoomRecording, looped
from chatapi.bench.live.talk import talking
from chatapi.bench.sound_card import Daemon
from chatapi.errors import InternalError, collapse_exception_group
from chatapi.events import Failed, Interrupted, LiveEvent, ResponseStarted, Transcript, TurnEnded
from chatapi.settings import Settings

HANGOVER = 0.6
"""Seconds of silence after which nothing more of an answer is to come: voices pause for less between sentences."""
AUDIBLE = 0.004
"""Amplitude that the room's hiss never has."""
NEAR = 0.3
"""Seconds around the time at which something should sound in which it is looked for."""
CLICK = 0.01
"""Amplitude of a click of a millisecond: well above the hiss, and too little for anybody to take it for speech."""
CLICKS = 5
"""How often the devices' own delay is measured."""


class Recorded(Track):
    """The loudspeaker, as recorded."""

    def __init__(self) -> None:
        super().__init__(RoomRecording.rate)
        self.expected = 0.0
        """Until when an answer is taken to go on, whatever is to be heard."""

    @property
    def busy(self) -> bool:
        newest = self.track[-round(50 * HANGOVER) :]
        return len(self.track) / 50 < self.expected or any(np.abs(block).max() > INAUDIBLE for block in newest)

    @property
    def left(self) -> None:
        """Not known: a recording has no future."""


class DevicesHarness(Flowing):
    """A microphone that is always on; the clock is the samples recorded, of microphone and speaker alike."""

    def __init__(self, echo: Walls | None, random: np.random.Generator) -> None:
        super().__init__()
        self.ahead = 0.0
        """Seconds from writing something to its being in the air."""
        self.shifts: list[float] = []
        """Seconds by which each thing sounded later than it should have."""
        self._ends: list[tuple[float, float, float]] = []
        """When what was said began, when it should have ended, and the amplitude that it last has there."""
        self._said = Track(RoomRecording.rate)
        self._speaker = Recorded()
        self._saying: list[Samples] = []
        self._echo = echo
        self._random = random

    @property
    def now(self) -> float:
        return len(self._said.track) / 50 + self.ahead

    @property
    def speaker(self) -> Recorded:
        return self._speaker

    def flow(self, spoken: Samples, said: Samples) -> Samples:
        """Take what speaker and microphone gave in 20 ms, and give what the microphone is to hear after them.

        On the thread that the sound comes on; what others look at while it works changes in one step each.
        """
        self._speaker.track.append(spoken)
        self._said.track.append(said)
        block = self._saying.pop(0) if self._saying else np.zeros(len(said), np.float32)
        block = block + self._random.normal(0, HISS, len(said)).astype(np.float32)
        return block + self._echo(spoken) if self._echo is not None else block

    async def calibrate(self) -> None:
        """Learn by a click how long it takes until something is in the air."""
        start = await self._click()
        found = self._said.first(start, CLICK / 2)
        if found is None:
            raise InternalError("the virtual microphone hears nothing")
        self.ahead = found - start

    async def delay(self) -> float | None:
        """Seconds from microphone to speaker, when something repeats what it hears."""
        start = await self._click()
        said, spoken = (track.first(start - NEAR, CLICK / 2) for track in (self._said, self._speaker))
        return None if said is None or spoken is None else spoken - said

    async def _click(self) -> float:
        start = self.now
        self._saying += blocks_of(np.full(48, CLICK, np.float32), RoomRecording.rate // 50)
        await self.wait(1.0)
        return start

    async def _speak(self, sound: Samples) -> float:
        louder: Samples = soxr.resample(sound, RATE, RoomRecording.rate)
        start = self.now
        self._saying += blocks_of(louder, RoomRecording.rate // 50)
        while self._saying:
            await self._next()
        if self._echo is None:
            start = self._corrected(louder, start)
        return start

    def _corrected(self, sound: Samples, planned: float) -> float:
        """When it really began, by the recording: a machine that was busy lets the microphone's sound come late."""
        level = max(AUDIBLE, 0.1 * float(np.abs(sound).max()))
        found = self._said.first(planned - NEAR / 2, level)
        if found is None or found > planned + len(sound) / RoomRecording.rate:
            return planned
        loud = np.flatnonzero(np.abs(sound) > level) / RoomRecording.rate
        shift = found - float(loud[0]) - planned
        self.shifts.append(shift)
        self.ahead += shift
        self._ends.append((found, planned + shift + float(loud[-1]), level))
        return planned + shift

    def stretched(self) -> list[float]:
        """Seconds by which each thing that was said took longer than it should have, by the recording."""
        found = [(self._said.last(start, end + NEAR, level), end) for start, end, level in self._ends]
        return [last - end for last, end in found if last is not None]

    def told(self, kind: str, words: str) -> None:
        """What `chatapi talk` shows."""
        for event in _events(kind, words):
            self.events.append((self.now, event))
            if isinstance(event, TurnEnded):
                # Its sound may still be on its way.
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
    """Rooms with virtual devices, one after another."""

    def __init__(self, settings: Settings, daemon: Daemon) -> None:
        self._settings = settings
        self._daemon = daemon
        self._shifts: list[float] = []
        self._stretched: list[float] = []

    @asynccontextmanager
    async def stage(self, echo: float | None = None, seed: int = 0, most: int = MAX_TOKENS) -> AsyncIterator[Harness]:
        """A stage with a conversation of its own; answers have as many tokens as `talk` was started with."""
        try:
            async with self._staged(echo, seed) as made, talking(self._settings, self._daemon, made.told):
                # Now that it has loaded its models: while it did, the microphone's sound may have come late.
                await made.calibrate()
                yield made
                self._shifts += made.shifts
                self._stretched += made.stretched()
        except Exception as error:
            raise collapse_exception_group(error) from None

    async def rows(self) -> list[Row]:
        """What the devices themselves do: their delay, and how far they went astray."""
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
                "what was said began later than planned, which is allowed for, at most",
                _most(self._shifts),
                "s",
            ),
            Row("live", "what was said took longer than planned, which is not, at most", _most(self._stretched), "s"),
        ]

    @asynccontextmanager
    async def _staged(self, echo: float | None, seed: int) -> AsyncIterator[DevicesHarness]:
        random = np.random.default_rng(seed)
        made = DevicesHarness(None if echo is None else Walls(echo, random, RoomRecording.rate), random)
        with RoomRecording(self._daemon, made.flow, made.tick).sounding():
            yield made


@asynccontextmanager
async def room(settings: Settings) -> AsyncIterator[DevicesTransport]:
    """A sound server, until the block ends."""
    with tempfile.TemporaryDirectory(prefix="chatapi-bench-") as folder:
        daemon = Daemon(Path(folder))
        try:
            await anyio.to_thread.run_sync(daemon.run, MODULES)
            # Otherwise it is the room itself, whose right channel is the microphone.
            await anyio.to_thread.run_sync(daemon.pactl, "set-default-sink", "spk")
            yield DevicesTransport(settings, daemon)
        finally:
            daemon.kill()
