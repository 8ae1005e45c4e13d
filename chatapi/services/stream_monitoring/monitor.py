"""Monitors one place: pieces become clips, clips are scored and decided, and the ledger accounts for all of it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import anyio
import anyio.to_thread

from chatapi.audio import Audio, wav
from chatapi.engines import SOUND_RATE, SoundDetector, SoundWindow
from chatapi.engines.call import EngineCall
from chatapi.engines.sound_detector import orcahello
from chatapi.errors import Busy, ChatapiError, EngineFailed, NotReady, StorageError
from chatapi.runtime.admission import Priority
from chatapi.runtime.workers import Worker
from chatapi.services.stream_monitoring import picture
from chatapi.services.stream_monitoring.config import PlaceConfig
from chatapi.services.stream_monitoring.decision import Decision
from chatapi.services.stream_monitoring.ledger import CoverageLedger, Detection, Position, Stretch
from chatapi.services.stream_monitoring.outbox import PositiveOutbox
from chatapi.services.stream_monitoring.pieces import ClipCutter, Found, Missing, SoundClip, SoundSource
from chatapi.services.stream_monitoring.records import Schema, clip_name, record

log = logging.getLogger(__name__)

G = TypeVar("G")
T = TypeVar("T")

PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Time before a clip is tried again after a fault of the disk or the engine, doubled each time, in seconds."""
NO_AUDIO_SECONDS = 300.0
"""Time without audio after which a place says so. No detections are no reason: that is another matter."""
ATTEMPTS = 5
"""For a clip of a recording; of a live place it is tried until it succeeds: its server keeps the audio meanwhile."""


@dataclass(frozen=True)
class JudgedClip:
    """A clip with what was decided about it."""

    place: PlaceConfig
    name: str
    start: float
    """Seconds since 1970."""
    seconds: float
    decision: Decision
    windows: int


@dataclass(frozen=True)
class MonitorParts:
    """What all places of a process share."""

    ledger: CoverageLedger
    outbox: PositiveOutbox
    detector: Worker[SoundDetector]
    model: str
    """Name of the model that scores."""
    schema: Schema = "v1"


class _Enough(Exception):
    """As many clips as were asked for are judged."""


class PlaceMonitor:
    """A place that is monitored."""

    def __init__(
        self,
        place: PlaceConfig,
        source: SoundSource,
        parts: MonitorParts,
        on_clip: Callable[[JudgedClip], None],
        most_clips: int | None = None,
    ) -> None:
        """`on_clip` receives every clip after it is accounted for; `most_clips`: after so many it ends."""
        self._place, self._source, self._parts = place, source, parts
        self._on_clip, self._most = on_clip, most_clips
        self._cutter = ClipCutter(place.clip_seconds)
        self._count = 0
        self._heard = time.monotonic()
        """When audio was last heard."""

    async def run(self) -> None:
        """Monitor until the source ends. Raises what the source raises, and for a recording StorageError and
        EngineFailed."""
        try:
            await self._source.read(self._take)
            await self._judge_all(self._cutter.gap())
        except _Enough:
            return

    async def watch(self, on_state: Callable[[str], None], seconds: float = NO_AUDIO_SECONDS) -> None:
        """Say when there was no audio for so long, and why, and when it is back. Runs until it is cancelled."""
        lost = False
        while True:
            silent = time.monotonic() - self._heard
            if silent >= seconds and not lost:
                reason = getattr(self._source, "state", "") or "the source sends none"
                on_state(f"no audio for {silent:.0f} seconds: {reason}")
            elif silent < seconds and lost:
                on_state("audio is back")
            lost = silent >= seconds
            await anyio.sleep(seconds / 20)

    async def _take(self, found: Found) -> None:
        if isinstance(found, Missing):
            await self._judge_all(self._cutter.gap())
            stretch = Stretch(found.start, found.end, "missing", found.reason)
        else:
            self._heard = time.monotonic()
            stretch = Stretch(found.start, found.end, "heard")
        await self._patiently(self._add, stretch)
        if not isinstance(found, Missing):
            await self._judge_all(self._cutter.add(found))

    async def _add(self, stretch: Stretch) -> None:
        await anyio.to_thread.run_sync(self._parts.ledger.add, self._place.location.id, [stretch])

    async def _judge_all(self, clips: Sequence[SoundClip]) -> None:
        for clip in clips:
            judged = await self._patiently(self._judge, clip)
            self._on_clip(judged)
            self._count += 1
            if self._most is not None and self._count >= self._most:
                raise _Enough

    async def _patiently(self, action: Callable[[G], Awaitable[T]], given: G) -> T:
        """The result of an action, which is tried again while the disk or the engine is at fault."""
        attempt, pause = 1, PAUSE
        while True:
            try:
                return await action(given)
            except (StorageError, EngineFailed, Busy, NotReady) as error:
                if not self._place.is_live and attempt >= ATTEMPTS:
                    raise
                about = {"place": self._place.location.id, "reason": error.message}
            log.warning("clip is tried again", extra=about)
            await anyio.sleep(pause)
            attempt, pause = attempt + 1, min(LONGEST_PAUSE, 2 * pause)

    async def _judge(self, clip: SoundClip) -> JudgedClip:
        """Score a clip, decide, keep its files if it is positive, and account for it in one transaction."""
        place, parts = self._place, self._parts
        engine = await parts.detector.open()
        call = EngineCall.of(SoundDetector.detect, clip.samples, options=place.options)
        windows: list[SoundWindow] = await parts.detector.collect(call, Priority.BULK)
        target = engine.target
        scores = [each.scores[target] for each in windows]
        length = windows[0].duration if windows else 0.0
        decision = place.rule.decide(scores, [each.start for each in windows], length, clip.seconds)
        name = clip_name(place, clip.start)
        await anyio.to_thread.run_sync(self._account, clip, windows, decision, name)
        return JudgedClip(place, name, clip.start, clip.seconds, decision, len(windows))

    def _account(self, clip: SoundClip, windows: Sequence[SoundWindow], decision: Decision, name: str) -> None:
        """Blocking. Raises StorageError, NotReady."""
        place, parts = self._place, self._parts
        detection = None
        if decision.positive:
            detection = Detection(place.location.id, clip.start, parts.model, name, decision.confidence)
            # A recording may be monitored again; what is stored already stays as it is.
            if not parts.ledger.is_stored(detection):
                parts.outbox.keep(name, self._files(clip, decision))
        elif place.keep_clips:
            parts.outbox.keep_clip(name, _wav(clip))
        parts.ledger.judged(
            place.location.id,
            scored(clip, windows, parts.model),
            Position(clip.start + clip.seconds, clip.folder),
            detection,
        )

    def _files(self, clip: SoundClip, decision: Decision) -> dict[str, bytes]:
        parts = self._parts
        document = record(self._place, clip.start, parts.model, decision, parts.outbox.store.url, parts.schema)
        return {
            ".wav": _wav(clip),
            ".png": picture.png(clip.samples, SOUND_RATE),
            ".json": json.dumps(document, indent=2).encode() + b"\n",
        }


def scored(clip: SoundClip, windows: Sequence[SoundWindow], model: str) -> list[Stretch]:
    """What of a clip is in a window, windows that touch joined."""
    found: list[Stretch] = []
    for each in windows:
        start, end = clip.start + each.start, clip.start + each.start + each.duration
        if found and start <= found[-1].end + 1e-6:
            found[-1] = Stretch(found[-1].start, end, "scored", model)
        else:
            found.append(Stretch(start, end, "scored", model))
    return found


async def send_outbox(outbox: PositiveOutbox, every: float) -> None:
    """Store what is waiting, again and again, `every` so many seconds."""
    while True:
        try:
            await anyio.to_thread.run_sync(outbox.send)
        except ChatapiError as error:
            log.warning("detections wait for their store", extra={"reason": error.message})
        await anyio.sleep(every)


def _wav(clip: SoundClip) -> bytes:
    return wav(Audio(clip.samples, SOUND_RATE))


PREPROCESSING = ("Preprocessing: Downmixing to Mono", f"Preprocessing: Resampling to {orcahello.RATE}")
"""Lines that OrcaHello writes for every clip."""
