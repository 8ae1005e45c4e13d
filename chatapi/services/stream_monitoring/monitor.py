"""Monitors one place: pieces become clips, clips are scored and decided, and the ledger accounts for all of it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import anyio
import anyio.lowlevel
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
from chatapi.services.stream_monitoring.fingerprint import fingerprints, packed
from chatapi.services.stream_monitoring.ledger import CoverageLedger, Detection, Position, Stretch
from chatapi.services.stream_monitoring.mutes import Mutes
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
    mute: str = ""
    """Id of the mute that it fell under; empty: none."""

    @property
    def detected(self) -> bool:
        """Whether it is a detection that people should hear of."""
        return self.decision.positive and not self.mute


@dataclass(frozen=True)
class MonitorParts:
    """What all places of a process share."""

    ledger: CoverageLedger
    outbox: PositiveOutbox
    detector: Worker[SoundDetector]
    model: Callable[[], str]
    """Name of the model that scores, once it is loaded."""
    mutes: Mutes
    schema: Schema = "v1"


Alarm = Literal["no_audio", "audio_back", "no_detections"]
"""No audio and no detections are different: the second is said of a place whose audio is heard and scored."""


class PlaceEvents(Protocol):
    """Receives what happens at a place. Its methods belong to the event loop and return at once."""

    def heard(self, place: PlaceConfig, found: Found) -> None:
        """A piece of audio or a gap, after it is accounted for."""

    def judged(self, clip: JudgedClip) -> None:
        """A clip, after it is accounted for."""

    def alarmed(self, place: PlaceConfig, alarm: Alarm, text: str) -> None:
        """Something that people should know."""


@dataclass(frozen=True)
class Watch:
    """What a live place is watched for."""

    no_audio: float = NO_AUDIO_SECONDS
    """Time without audio after which a place says so, in seconds."""
    no_detections: float = 0.0
    """Audio without a detection after which a place says so, in seconds of audio; 0: never."""


@dataclass(frozen=True)
class _Scored:
    """A clip on its way to the ledger."""

    clip: SoundClip
    windows: Sequence[SoundWindow]
    target: int
    decision: Decision
    name: str


class _Enough(Exception):
    """As many clips as were asked for are judged."""


class PlaceMonitor:
    """A place that is monitored."""

    def __init__(
        self,
        place: PlaceConfig,
        source: SoundSource,
        parts: MonitorParts,
        events: PlaceEvents,
        most_clips: int | None = None,
    ) -> None:
        """`most_clips`: after so many it ends."""
        self._place, self._source, self._parts = place, source, parts
        self._events, self._most = events, most_clips
        self._cutter = ClipCutter(place.clip_seconds)
        self._count = 0
        self._heard = time.monotonic()
        """When audio was last heard."""
        self._without = 0.0
        """Seconds of audio since the last detection."""
        self._reading = anyio.CancelScope()
        self._busy = self._stopping = False

    def change(self, place: PlaceConfig) -> None:
        """Judge by another configuration from now on; the clip in progress ends as it began."""
        self._place = place
        self._cutter.change(place.clip_seconds)

    def stop(self) -> None:
        """End soon: what was heard is judged before."""
        self._stopping = True
        if not self._busy:
            self._reading.cancel()

    async def run(self) -> None:
        """Monitor until the source ends. Raises what the source raises, and for a recording StorageError and
        EngineFailed."""
        try:
            with self._reading:
                await self._source.read(self._take)
            await self._judge_all(self._cutter.gap())
        except _Enough:
            return

    async def watch(self, limits: Watch) -> None:
        """Say when there was no audio for so long, and why, when it is back, and when there was audio without a
        detection for long. Runs until it is cancelled."""
        lost = quiet = False
        while True:
            silent = time.monotonic() - self._heard
            if silent >= limits.no_audio and not lost:
                reason = getattr(self._source, "state", "") or "the source sends none"
                self._alarm("no_audio", f"no audio for {silent:.0f} seconds: {reason}")
            elif silent < limits.no_audio and lost:
                self._alarm("audio_back", "audio is back")
            lost = silent >= limits.no_audio
            without = bool(limits.no_detections) and self._without >= limits.no_detections
            if without and not quiet:
                self._alarm("no_detections", f"no detection in {self._without / 3600:.1f} hours of audio")
            quiet = without
            await anyio.sleep(min(limits.no_audio, limits.no_detections or limits.no_audio) / 20)

    def _alarm(self, alarm: Alarm, text: str) -> None:
        self._events.alarmed(self._place, alarm, text)

    async def _take(self, found: Found) -> None:
        self._busy = True
        try:
            await self._account_for(found)
        finally:
            self._busy = False
        if self._stopping:
            self._reading.cancel()
            await anyio.lowlevel.checkpoint()

    async def _account_for(self, found: Found) -> None:
        if isinstance(found, Missing):
            await self._judge_all(self._cutter.gap())
            stretch = Stretch(found.start, found.end, "missing", found.reason)
        else:
            self._heard = time.monotonic()
            stretch = Stretch(found.start, found.end, "heard")
        await self._patiently(self._add, stretch)
        self._events.heard(self._place, found)
        if not isinstance(found, Missing):
            self._without += found.seconds
            await self._judge_all(self._cutter.add(found))

    async def _add(self, stretch: Stretch) -> None:
        await anyio.to_thread.run_sync(self._parts.ledger.add, self._place.location.id, [stretch])

    async def _judge_all(self, clips: Sequence[SoundClip]) -> None:
        for clip in clips:
            judged = await self._patiently(self._judge, clip)
            if judged.detected:
                self._without = 0.0
            self._events.judged(judged)
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
        found = _Scored(clip, windows, target, decision, clip_name(place, clip.start))
        mute = await anyio.to_thread.run_sync(self._account, place, found)
        return JudgedClip(place, found.name, clip.start, clip.seconds, decision, len(windows), mute)

    def _account(self, place: PlaceConfig, scored_clip: _Scored) -> str:
        """Returns the id of the mute that the clip fell under. Blocking. Raises StorageError, NotReady."""
        parts, clip, decision, name = self._parts, scored_clip.clip, scored_clip.decision, scored_clip.name
        model, detection, prints = parts.model(), None, b""
        if decision.positive:
            rows = fingerprints(clip, scored_clip.windows, scored_clip.target, place.rule)
            mute, prints = parts.mutes.matching(place.location.id, rows), packed(rows)
            detection = Detection(
                place.location.id, clip.start, model, name, decision.confidence, seconds=clip.seconds, mute=mute
            )
            # A recording may be monitored again; what is stored already stays as it is.
            if not mute and not parts.ledger.is_stored(detection):
                parts.outbox.keep(name, self._files(place, scored_clip, model))
        elif place.keep_clips:
            parts.outbox.keep_clip(name, _wav(clip))
        position = Position(clip.start + clip.seconds, clip.folder)
        stretches = scored(clip, scored_clip.windows, model)
        parts.ledger.judged(place.location.id, stretches, position, detection, prints)
        return detection.mute if detection is not None else ""

    def _files(self, place: PlaceConfig, found: _Scored, model: str) -> dict[str, bytes]:
        parts, clip = self._parts, found.clip
        document = record(place, clip.start, model, found.decision, parts.outbox.store.url, parts.schema)
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
