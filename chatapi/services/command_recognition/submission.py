"""Submission of samples: decodes, checks and stores clips, and quarantines doubtful ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import anyio.to_thread

from chatapi.audio import Samples
from chatapi.audio.decode import Source
from chatapi.engines import VoiceActivityDetector
from chatapi.engines.call import EngineCall
from chatapi.errors import CallerError, TooLarge, TooMany, Unprocessable
from chatapi.runtime.admission import Admission, Priority
from chatapi.runtime.workers import Engines
from chatapi.services.command_recognition.sample_quality import MOST_SECONDS, check
from chatapi.services.command_recognition.sample_store import SampleStore, StoredSample, Submitter, checked_label
from chatapi.services.command_recognition.service import UNKNOWN, Classification, CommandRecognition, decoded

DOUBT = 0.95
"""Probability of another word from which the label of a sample is doubted."""


@dataclass(frozen=True)
class Submission:
    """What became of a submitted clip."""

    sample: StoredSample
    duplicate: bool
    """Whether the same sound was submitted before."""
    classification: Classification
    """What the active version takes it for."""


class SampleSubmission:
    """Takes clips as samples."""

    def __init__(
        self, store: SampleStore, recognition: CommandRecognition, engines: Engines, admission: Admission
    ) -> None:
        self._store, self._recognition, self._vad, self._admission = store, recognition, engines.vad, admission

    async def submit_file(self, source: Source, label: str, by: Submitter) -> Submission:
        """Store a clip as a sample; what is returned is on the disk.

        Raises what `decode` and `sample_quality.check` raise, and what `SampleStore.add` raises.
        """
        with self._counting():
            label = checked_label(label)
            try:
                audio = await decoded(source, MOST_SECONDS)
            except TooLarge as error:
                message = f"the clip is longer than {MOST_SECONDS:g} seconds; a sample has at most one second"
                raise Unprocessable(message, code="sample_too_long") from error
            return await self._submit(audio.samples, label, by)

    async def submit(self, samples: Samples, label: str, by: Submitter) -> Submission:
        """As `submit_file`, of 16 kHz mono."""
        with self._counting():
            return await self._submit(samples, checked_label(label), by)

    @contextmanager
    def _counting(self) -> Iterator[None]:
        """Counts the rejected samples."""
        try:
            yield
        except (CallerError, TooMany):
            self._count("rejected")
            raise

    def _count(self, result: str) -> None:
        self._recognition.metrics.submissions.labels(result).inc()

    async def _submit(self, samples: Samples, label: str, by: Submitter) -> Submission:
        async with self._admission.admitted(Priority.REQUEST):
            call = EngineCall.of(VoiceActivityDetector.probabilities, samples)
            clip = check(samples, await self._vad.collect(call))
        found = await self._recognition.classify_samples(clip.samples, counted=False)
        wrong = found.label not in (label, UNKNOWN) and found.probability >= DOUBT
        doubt = f"sounds_like {found.label}" if wrong else ""
        add = partial(self._store.add, clip, label, by, doubt)
        sample, duplicate = await anyio.to_thread.run_sync(add)
        self._count("duplicate" if duplicate else sample.state)
        return Submission(sample, duplicate, found)
