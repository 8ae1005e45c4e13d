"""Fake engines of the services beside conversation, which judge or change sounds: exact and instant."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from chatapi.audio import RATE, Audio, Samples
from chatapi.engines import (
    DEFAULT_SOUND_OPTIONS,
    SOUND_RATE,
    SPEAKER_WINDOW,
    CommandFeatures,
    CommandReplay,
    ConversionWindow,
    SoundOptions,
    SoundWindow,
    Stop,
    never,
    speaker_windows,
)
from chatapi.engines.fake import BLOCK, SPEECH_RMS, PacedEngine
from chatapi.errors import Unprocessable

OCTAVES = 14
"""Voices that the fake speaker encoder tells apart."""


class FakeSpeakerEncoder(PacedEngine):
    """Takes tones an octave apart for different voices."""

    threshold = 0.5

    def embeddings(self, samples: Samples, stop: Stop = never) -> Iterator[Samples]:
        for first in speaker_windows(len(samples)):
            if stop():
                return
            self._step()
            window = samples[first : first + SPEAKER_WINDOW]
            loud = np.abs(np.fft.rfft(window)) if len(window) else np.zeros(1)
            hertz = float(np.argmax(loud)) * RATE / max(1, len(window))
            yield np.eye(OCTAVES, dtype=np.float32)[min(OCTAVES - 1, int(np.log2(max(1.0, hertz)) + 0.5))]


class FakeVoiceConverter(PacedEngine):
    """Keeps the loudest frequency of a voice, and replaces audible audio by a tone of the reference's frequency."""

    rate = RATE
    reference_format = "fake"
    on_gpu = False

    def reference(self, samples: Samples, stop: Stop = never) -> Iterator[Samples]:
        if stop() or not len(samples):
            return
        self._step()
        hertz = float(np.argmax(np.abs(np.fft.rfft(samples)))) * RATE / len(samples)
        yield np.full((max(1, len(samples) // BLOCK), 1), hertz, np.float32)

    def convert(
        self,
        samples: Samples,
        reference: Samples,
        stop: Stop = never,
        source: str = "",
        window: ConversionWindow | None = None,
    ) -> Iterator[Audio]:
        if reference.ndim != 2 or reference.shape[1] != 1:
            raise Unprocessable("the reference was made by another voice converter", code="unknown_reference")
        if not len(reference):
            raise Unprocessable("the reference has no speech", code="empty_reference")
        window = window or ConversionWindow(0, len(samples))
        for first in range(window.start, window.end, RATE):
            if stop():
                return
            self._step()
            part = samples[first : min(first + RATE, window.end)]
            loud = np.sqrt(np.mean(np.square(part))) > SPEECH_RMS
            times = (window.position + np.arange(first, first + len(part))) / RATE
            yield Audio((0.3 * loud * np.sin(2 * np.pi * float(reference.mean()) * times)).astype(np.float32), RATE)


BANDS = 24
"""Bands of an embedding of a word."""


class FakeCommandClassifier(PacedEngine):
    """Takes loud clips for its only word; its embeddings are spectra, so that it can be taught tones."""

    labels = ("beep", "unknown")
    features = "fake"

    def classify(self, samples: Samples, stop: Stop = never) -> Iterator[CommandFeatures]:
        if not stop():
            self._step()
            loud = bool(len(samples)) and float(np.abs(samples).max()) > SPEECH_RMS
            yield CommandFeatures((0.9, 0.1) if loud else (0.1, 0.9), _spectrum(samples))

    def replay(self, stop: Stop = never) -> Iterator[CommandReplay]:
        if not stop():
            yield _known_tones()


class FakeWordEncoder(PacedEngine):
    """Encodes clips as their spectra."""

    features, beside = "fake-words", FakeCommandClassifier.features

    def encode(self, samples: Samples, other: Samples, stop: Stop = never) -> Iterator[Samples]:
        if not stop():
            self._step()
            yield _spectrum(samples)

    def known(self, labels: tuple[str, ...], stop: Stop = never) -> Iterator[CommandReplay]:
        if not stop() and tuple(labels) == FakeCommandClassifier.labels:
            yield _known_tones()


def _known_tones() -> CommandReplay:
    """Tones of 400 to 500 Hz; noises and other tones."""
    random, times = np.random.default_rng(1), np.arange(RATE // 2) / RATE
    rows, labels, parts = [], [], []
    for number in range(90):
        tone = 0.3 * np.sin(2 * np.pi * random.uniform(400, 500) * times)
        noise = random.normal(0, 0.1, len(times))
        low, high = ((220, 320), (700, 1200), (1900, 3800))[number // 3 % 3]
        other = 0.3 * np.sin(2 * np.pi * random.uniform(low, high) * times)
        for label, clip in ((0, tone + noise / 10), (1, noise), (1, other + noise / 10)):
            rows.append(_spectrum(clip.astype(np.float32)))
            labels.append(label)
            parts.append(number % 3)
    return CommandReplay(np.stack(rows), tuple(labels), tuple(parts), ("",) * len(rows))


def _spectrum(samples: Samples) -> Samples:
    """The share of each of BANDS bands up to 4 kHz, of the length 1."""
    magnitudes = np.abs(np.fft.rfft(samples, RATE))[: 4000 // BANDS * BANDS]
    bands: Samples = magnitudes.reshape(BANDS, -1).sum(axis=1).astype(np.float32)
    return bands / np.float32(np.linalg.norm(bands) + 1e-6)


class FakeSoundDetector(PacedEngine):
    """Takes every loud second for its only sound."""

    labels, target = ("other", "beep"), 1

    def detect(
        self, samples: Samples, stop: Stop = never, options: SoundOptions = DEFAULT_SOUND_OPTIONS
    ) -> Iterator[SoundWindow]:
        for first in range(0, len(samples) - SOUND_RATE + 1, SOUND_RATE):
            if stop():
                return
            self._step()
            loud = float(np.sqrt(np.mean(np.square(samples[first : first + SOUND_RATE])))) > SPEECH_RMS
            yield SoundWindow(first / SOUND_RATE, 1.0, (0.1, 0.9) if loud else (0.9, 0.1))
