"""Classifies short clips as one of a few commands."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio.to_thread
import numpy as np

from chatapi.audio import RATE, Audio, Samples, plain_wav
from chatapi.audio.decode import Source, decode
from chatapi.engines import COMMAND_SAMPLES, CommandClassifier, CommandFeatures
from chatapi.engines.call import EngineCall
from chatapi.observability.metrics.commands import CommandMetrics
from chatapi.runtime.admission import Admission, Priority
from chatapi.runtime.workers import Engines
from chatapi.services.command_recognition.head import LinearHead
from chatapi.services.command_recognition.unknown_share import UnknownShare
from chatapi.services.command_recognition.word_features import WordFeatures
from chatapi.settings import Settings

MOST_SECONDS = 10.0
"""Longest clip, in seconds; of a clip longer than COMMAND_SAMPLES its loudest part is classified."""
SILENT_RMS = 10 ** (-60 / 20)
"""Root mean square below which a clip has no word: -60 dBFS."""
UNKNOWN = "unknown"
HOP = RATE // 100
"""Samples between two candidates for the loudest part: 10 ms."""


@dataclass(frozen=True)
class Classification:
    """What a clip is."""

    label: str
    """One of the commands, or `unknown`."""
    probability: float
    """Of the label, 0 to 1."""
    probabilities: dict[str, float]
    """Of each label, the likeliest first."""
    model: str
    version: int = 0
    """The version of the taught classifier; 0: the model itself."""


@dataclass(frozen=True, eq=False)
class ActiveVersion:
    """What classifies; replaced as a whole, so that a call uses one version from its start to its end."""

    number: int = 0
    head: LinearHead | None = None
    """None: the model itself."""
    share: UnknownShare = field(default_factory=UnknownShare)


@dataclass(frozen=True)
class TaughtOdds:
    """What the head of a version makes of a clip."""

    head: LinearHead
    odds: tuple[float, ...]
    """Of each of its labels; they sum to 1."""


class CommandRecognition:
    """Classifies clips with the engine of the role `command`."""

    def __init__(
        self,
        engines: Engines,
        admission: Admission,
        settings: Settings,
        active: dict[str, str],
        metrics: CommandMetrics,
    ) -> None:
        """`active`: role -> name of the model in use."""
        self.metrics = metrics
        self._worker, self._admission, self._active = engines.command, admission, active
        self.features = WordFeatures(engines)
        self.threshold = settings.command.threshold
        self.version = ActiveVersion()
        self.followers: list[Callable[[Classification, ActiveVersion], object]] = []
        """Called with every classification and the version that made it."""

    async def open(self) -> CommandClassifier:
        """The engine, loaded. Raises what loading it raises."""
        return await self._worker.open()

    async def labels(self) -> tuple[str, ...]:
        """The commands that are recognized. Raises what loading the engine raises."""
        engine = await self._worker.open()
        head = await self._head(self.version, engine)
        return tuple(label for label in (engine.labels if head is None else head.labels) if label != UNKNOWN)

    async def classify_file(self, source: Source) -> Classification:
        """Raises what `decode` raises, TooLarge (audio_too_long), Busy."""
        return await self.classify(await decoded(source, MOST_SECONDS))

    async def classify(self, audio: Audio) -> Classification:
        """The likeliest label of a clip of 16 kHz; `unknown` below the threshold and for silence. Raises Busy."""
        return await self.classify_samples(loudest_part(audio.samples))

    async def classify_samples(self, clip: Samples, counted: bool = True) -> Classification:
        """As `classify`, of at most COMMAND_SAMPLES of 16 kHz mono. `counted`: whether it is a command that somebody
        gives, and not a sample."""
        version, begun = self.version, time.perf_counter()
        try:
            found = await self._found(clip, version)
        except BaseException:
            self.metrics.classifications.labels("failed").inc()
            raise
        self.metrics.seconds.observe(time.perf_counter() - begun)
        self.metrics.classifications.labels("unknown" if found.label == UNKNOWN else "command").inc()
        if counted:
            version.share.count(found.label == UNKNOWN)
            for follow in self.followers:
                follow(found, version)
        return found

    async def _found(self, clip: Samples, version: ActiveVersion) -> Classification:
        async with self._admission.admitted(Priority.REQUEST):
            engine = await self._worker.open()
            [features] = await self._worker.collect(EngineCall.of(CommandClassifier.classify, clip))
            head = await self._head(version, engine)
            taught = None if head is None else await self._taught(head, features, clip)
        return self._classified(engine, features, version.number, taught, is_silent(clip))

    async def _taught(self, head: LinearHead, found: CommandFeatures, clip: Samples) -> TaughtOdds | None:
        """What a head makes of a clip; None where its embedding cannot be had any more."""
        embedding = await self.features.joined(head.features, clip, found.embedding)
        if embedding is None:
            return None
        return TaughtOdds(head, tuple(float(each) for each in head.probabilities(embedding[None])[0]))

    def _classified(
        self, engine: CommandClassifier, found: CommandFeatures, version: int, taught: TaughtOdds | None, silent: bool
    ) -> Classification:
        labels, odds, thresholds = engine.labels, found.probabilities, (self.threshold,) * len(engine.labels)
        if taught is not None:
            labels, odds = taught.head.labels, taught.odds
            thresholds = taught.head.thresholds or (self.threshold,) * len(labels)
        shares = dict(sorted(zip(labels, odds, strict=True), key=lambda each: -each[1]))
        label, probability = next(iter(shares.items()))
        if silent or (label != UNKNOWN and probability < thresholds[labels.index(label)]):
            label, probability = UNKNOWN, shares.get(UNKNOWN, 0.0)
        return Classification(label, probability, shares, self._active.get("command", ""), version)

    async def _head(self, version: ActiveVersion, engine: CommandClassifier) -> LinearHead | None:
        """The head, where an engine here makes the embeddings that it takes; None: the model decides itself."""
        if version.head is None or version.head.features == engine.features:
            return version.head
        encoder = await self.features.usable(engine)
        return version.head if encoder is not None and encoder.features == version.head.features else None


async def decoded(source: Source, most_seconds: float) -> Audio:
    """A file as 16 kHz mono. Raises what `decode` raises, TooLarge (audio_too_long)."""
    if isinstance(source, bytes) and (samples := plain_wav.read(source, int(most_seconds * RATE))) is not None:
        return Audio(samples, RATE)
    return await anyio.to_thread.run_sync(decode, source, most_seconds)


def loudest_part(samples: Samples) -> Samples:
    """The samples, or the COMMAND_SAMPLES of them that have the most energy."""
    if len(samples) <= COMMAND_SAMPLES:
        return samples
    energy = np.concatenate([[0.0], np.cumsum(np.square(samples, dtype=np.float64))])
    starts = np.arange(0, len(samples) - COMMAND_SAMPLES + 1, HOP)
    first = int(starts[np.argmax(energy[starts + COMMAND_SAMPLES] - energy[starts])])
    return samples[first : first + COMMAND_SAMPLES]


def is_silent(samples: Samples) -> bool:
    """Whether a clip is too quiet to have a word."""
    return not len(samples) or float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) < SILENT_RMS
