"""Speaker labels for the transcript of a recording."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import anyio.from_thread
import anyio.to_thread
import numpy as np

from chatapi.audio import RATE, Samples
from chatapi.audio.decode import Source, blocks, decode
from chatapi.engines import Segment, SpeakerEncoder
from chatapi.engines.call import EngineCall
from chatapi.errors import Unprocessable
from chatapi.runtime.admission import Priority
from chatapi.runtime.workers import Engines
from chatapi.services.transcription import segmenter, speaker_turns
from chatapi.services.transcription.shared_detector import SharedDetector
from chatapi.services.transcription.speaker_clusters import SpeakerClusters, Vectors, unit
from chatapi.services.transcription.speaker_turns import SpeakerLabels, SpeakerTurn, VoiceRegion
from chatapi.settings import Settings

PAD_MS, MERGE_MS = 64, 256
"""Padding of regions of speech, and the shortest pause between two, in milliseconds: in a dialogue they are short."""
LEAST_SAMPLES = RATE * 4 // 5
"""Shorter regions say too little about a voice to found a speaker."""
SAMPLE_SECONDS = 30.0
"""Longest sample of a known speaker, in seconds; OpenAI allows ten."""
KNOWN_SLACK = 0.05
"""How much less alike than two parts of one recording a recording and a sample of a known speaker may be: another
microphone, another room."""


@dataclass(frozen=True, eq=False)
class KnownSpeaker:
    """A speaker of whom there is a sample."""

    name: str
    samples: Samples
    """Speech, 16 kHz mono, at least LEAST_SAMPLES."""


def sample(source: Source) -> Samples:
    """The speech of a known speaker, of a recording of at most SAMPLE_SECONDS. Blocking. Raises what `decode` raises,
    and Unprocessable for less than LEAST_SAMPLES."""
    samples = decode(source, SAMPLE_SECONDS).samples
    if len(samples) < LEAST_SAMPLES:
        raise Unprocessable(f"has {len(samples) / RATE:.1f} s; 2 to 10 s of speech are needed")
    return samples


@dataclass(frozen=True)
class SpeakerOptions:
    """What is known of the speakers of a recording."""

    least: int = 1
    """How many there are at least."""
    most: int | None = None
    """How many there are at most; None: as many as the settings allow."""
    known: tuple[KnownSpeaker, ...] = ()

    @classmethod
    def of(cls, count: int | None, known: tuple[KnownSpeaker, ...] = ()) -> SpeakerOptions:
        """`count`: how many there are; None: unknown."""
        return cls(known=known) if count is None else cls(count, count, known)


Report = Callable[[float], object]
"""Called with the seconds of the recording that are processed."""


class SpeakerLabeller:
    """Labels the speakers of recordings. It keeps 14 MB for an hour of speech, and takes 2 % of its time on one
    core."""

    def __init__(self, engines: Engines, settings: Settings) -> None:
        self._vad, self._encoder = engines.vad, engines.speaker
        self._settings = settings.speaker
        self._rules = segmenter.SegmentationRules(settings.vad.threshold, settings.vad.min_speech_ms, PAD_MS, MERGE_MS)

    async def label_speakers(
        self,
        source: Source,
        segments: Sequence[Segment],
        options: SpeakerOptions = SpeakerOptions(),
        priority: Priority = Priority.BULK,
        report: Report = lambda seconds: None,
    ) -> list[Segment]:
        """The segments of the transcript of a recording with their speakers; one with words is split where the speaker
        changes.

        Raises the errors of `audio.decode.blocks` and of the engines; ModelError where the model is not installed. The
        transcript does not depend on it: a caller that has saved it loses nothing by an error.
        """
        labels = await self.labels(source, options, priority, report)
        return await anyio.to_thread.run_sync(labels.apply, segments)

    async def labels(
        self,
        source: Source,
        options: SpeakerOptions = SpeakerOptions(),
        priority: Priority = Priority.BULK,
        report: Report = lambda seconds: None,
    ) -> SpeakerLabels:
        """The speaker labels. Raises what `label_speakers` raises."""
        encoder = await self._encoder.open()
        threshold = encoder.threshold if self._settings.threshold is None else self._settings.threshold
        known = [unit(np.sum(await self._known(each, priority), axis=0)) for each in options.known]
        regions = await self._regions(source, priority, report)
        return await anyio.to_thread.run_sync(
            _labels, regions, known, options, threshold, options.most or max(self._settings.most, options.least)
        )

    async def _known(self, speaker: KnownSpeaker, priority: Priority) -> list[Samples]:
        """The embeddings of a known speaker's speech."""
        probabilities = await SharedDetector(self._vad, priority).judge(speaker.samples)
        speech = segmenter.trim(speaker.samples, probabilities, self._rules).samples
        return await self._embed(speech if len(speech) else speaker.samples, priority)

    async def _embed(self, samples: Samples, priority: Priority) -> list[Samples]:
        return await self._encoder.collect(EngineCall.of(SpeakerEncoder.embeddings, samples), priority)

    async def _regions(self, source: Source, priority: Priority, report: Report) -> list[VoiceRegion]:
        """The regions of speech with their embeddings."""
        found: list[VoiceRegion] = []
        parts = segmenter.stream_regions(_cancellable(source), SharedDetector(self._vad, priority), self._rules)
        try:
            while (part := await anyio.to_thread.run_sync(next, parts, None)) is not None:
                region, samples = part
                embeddings = np.array(await self._embed(samples, priority), np.float16)
                start, end = region.start, region.start + len(samples)
                found.append(VoiceRegion(start, end, embeddings, speaker_turns.levels(samples)))
                report(end / RATE)
        finally:
            parts.close()
        return found


def _cancellable(source: Source) -> Iterator[Samples]:
    with closing(blocks(source)) as decoded:
        for block in decoded:
            # On cancellation this raises in the thread that runs the generator, and so closes it there.
            anyio.from_thread.check_cancelled()
            yield block


def _labels(
    regions: Sequence[VoiceRegion], known: Sequence[Vectors], options: SpeakerOptions, threshold: float, most: int
) -> SpeakerLabels:
    clusters = SpeakerClusters(threshold, most, options.least)
    telling = [each for each in regions if each.end - each.start >= LEAST_SAMPLES] or regions
    for region in telling:
        clusters.add(region.embeddings)
    found, voices = speaker_turns.turns(regions, clusters.speakers(), options.least)
    names = _names(found, voices, known, [each.name for each in options.known], threshold - KNOWN_SLACK)
    return SpeakerLabels(tuple(found), tuple(names))


def _names(
    found: Sequence[SpeakerTurn], voices: Vectors, known: Sequence[Vectors], names: Sequence[str], threshold: float
) -> list[str]:
    """The names of the speakers: each known one is the speaker most like the sample, if any is alike enough; the others
    are A, B, C and so on, by their first words."""
    given: dict[int, str] = {}
    if known and len(voices):
        likeness = np.stack(known) @ voices.T
        while likeness.max() >= threshold:
            sample, speaker = divmod(int(np.argmax(likeness)), len(voices))
            given[speaker] = names[sample]
            likeness[sample] = likeness[:, speaker] = -np.inf
    unused = (name for name in letters() if name not in names)
    for turn in found:
        if turn.speaker not in given:
            given[turn.speaker] = next(unused)
    return [given.get(speaker, "") for speaker in range(len(voices))]


def letters() -> Iterator[str]:
    """A to Z, then AA, AB and so on."""
    alphabet = [chr(ord("A") + place) for place in range(26)]
    yield from alphabet
    for first in alphabet:
        for second in alphabet:
            yield first + second
