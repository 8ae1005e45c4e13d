"""Speaker labels of a stream: a label for each utterance as it ends, which never changes afterwards."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from chatapi.audio import RATE, Samples
from chatapi.engines import SpeakerEncoder, speaker_windows
from chatapi.engines.call import EngineCall
from chatapi.errors import ChatapiError
from chatapi.runtime.admission import Priority
from chatapi.runtime.workers import Engines
from chatapi.services.transcription.speaker_changes import changes, side
from chatapi.services.transcription.speaker_clusters import Vectors, unit
from chatapi.services.transcription.speakers import KnownSpeaker, letters
from chatapi.settings import SpeakerSettings

log = logging.getLogger(__name__)

LONGEST_SPEECH = 12.0
"""Speech of an utterance that is looked at, in seconds: its last."""
FOUNDING_SAMPLES = RATE
"""Speech that an utterance needs to found a speaker: of less, a voice is not certain; see docs/measurements."""
MARGIN = 0.1
"""How much more alike than two windows an utterance and a voice must be, because the mean of many windows differs less
from that of others; see docs/measurements/services.md."""
MOST_WEIGHT = 60.0
"""Largest weight of a voice, in windows of speech: a voice that grows hoarse, or a moved microphone, is followed."""


@dataclass(frozen=True)
class LabelledStretch:
    """A part of an utterance in which one person speaks, in samples of the utterance."""

    start: int
    end: int
    label: str


@dataclass(eq=False)
class _Voice:
    """A speaker of the stream."""

    name: str
    total: Vectors
    """Sum of the unit embeddings of its windows, of shape (dimensions,)."""
    weight: float

    def add(self, vector: Vectors, windows: int) -> None:
        if self.weight + windows > MOST_WEIGHT:
            kept = max(0.0, MOST_WEIGHT - windows) / self.weight
            self.total, self.weight = self.total * np.float32(kept), self.weight * kept
        self.total, self.weight = self.total + vector * np.float32(windows), self.weight + windows


class OnlineSpeakers:
    """Labels the utterances of one stream A, B and so on, by their first words; known speakers by their names.

    An utterance belongs to the voice that is most like it, or founds one where none is alike enough. Two voices are
    never joined and an utterance never changes its label, because viewers have seen it.
    """

    def __init__(self, engines: Engines, settings: SpeakerSettings, known: Sequence[KnownSpeaker] = ()) -> None:
        self._encoder, self._settings = engines.speaker, settings
        self._known = list(known)
        """Those whose voices are not computed yet."""
        self._voices: list[_Voice] = []
        self._letters = (name for name in letters() if all(name != each.name for each in known))

    async def label(self, samples: Samples, priority: Priority = Priority.REQUEST) -> str:
        """The speaker of an utterance, 16 kHz mono. Raises ModelError where the model is not installed, and the errors
        of the engine."""
        threshold = await self._threshold(priority)
        vector, windows = await self._embedded(samples, priority)
        return self._assigned(vector, windows, len(samples), threshold + MARGIN)

    async def stretches(self, samples: Samples, priority: Priority = Priority.REQUEST) -> list[LabelledStretch]:
        """The stretches of an utterance, 16 kHz mono, in which one person speaks. Raises as `label` does."""
        threshold = await self._threshold(priority)
        vectors = unit(np.stack(await self._windows(samples, priority)))
        cuts = changes(samples, vectors, threshold)
        starts, found = np.array(speaker_windows(len(samples))), list[LabelledStretch]()
        for start, end in pairwise([0, *cuts, len(samples)]):
            own = vectors[side(starts, start, end)] if cuts else vectors
            if not len(own):
                continue
            name = self._assigned(unit(own.sum(axis=0)), len(own), end - start, threshold + MARGIN)
            found.append(LabelledStretch(start, end, name))
        return found

    async def label_if_possible(self, samples: Samples, priority: Priority = Priority.REQUEST) -> str:
        """The same; empty after an error, which is no reason to lose the transcript."""
        try:
            return await self.label(samples, priority)
        except ChatapiError as error:
            log.warning("the speaker is not distinguished: %s", error.message)
            return ""

    async def _threshold(self, priority: Priority) -> float:
        """The likeness from which two windows are one voice; the voices of known speakers are computed before."""
        encoder = await self._encoder.open()
        while self._known:
            vector, windows = await self._embedded(self._known[0].samples, priority)
            self._voices.append(_Voice(self._known.pop(0).name, vector * np.float32(windows), float(windows)))
        return encoder.threshold if self._settings.threshold is None else self._settings.threshold

    async def _windows(self, samples: Samples, priority: Priority) -> list[Samples]:
        return await self._encoder.collect(EngineCall.of(SpeakerEncoder.embeddings, samples), priority)

    async def _embedded(self, samples: Samples, priority: Priority) -> tuple[Vectors, int]:
        """The mean direction of the voice, and the number of windows."""
        found = await self._windows(samples, priority)
        return unit(np.sum(unit(np.stack(found)), axis=0)), len(found)

    def _assigned(self, vector: Vectors, windows: int, length: int, threshold: float) -> str:
        likeness = [float(unit(voice.total) @ vector) for voice in self._voices]
        best = int(np.argmax(likeness)) if likeness else -1
        if best >= 0 and likeness[best] >= threshold:
            self._voices[best].add(vector, windows)
            return self._voices[best].name
        if length < FOUNDING_SAMPLES and self._voices:
            # Who answers with one word is more often somebody known than somebody new.
            return self._voices[best].name
        if len(self._voices) >= self._settings.most:
            return self._voices[best].name
        self._voices.append(_Voice(next(self._letters), vector * np.float32(windows), float(windows)))
        return self._voices[-1].name
