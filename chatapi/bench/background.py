"""Audio without speech, generated, the same each time: silence, noise, hum and music."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from chatapi.audio import RATE, Samples
from chatapi.bench.corpus import coloured

Sound = npt.NDArray[np.floating]

CHORDS = ((220.0, 261.6, 329.6), (174.6, 220.0, 261.6), (196.0, 246.9, 293.7), (164.8, 196.0, 246.9))
"""Frequencies of a piece's chords, in Hz: A minor, F, G and E minor."""
SCALE = (440.0, 493.9, 523.3, 587.3, 659.3, 784.0)
"""Frequencies of its melody, in Hz."""
BEAT = RATE // 2
"""Samples of a beat: 120 a minute."""


def _note(frequency: float, count: int, partials: int = 6, decay: float = 3.0) -> Sound:
    """A plucked tone: partials that fall by 1/n, with a decay per second."""
    seconds = np.arange(count) / RATE
    tone = sum(np.sin(2 * np.pi * frequency * n * seconds) / n for n in range(1, partials + 1))
    return np.asarray(tone * np.exp(-decay * seconds) * np.minimum(1, seconds * 200))


def _sung(frequency: float, count: int) -> Sound:
    """A tone with vibrato and the formants of an open vowel, 700 and 1200 Hz: an instrument most like a voice."""
    seconds = np.arange(count) / RATE
    phase = 2 * np.pi * (frequency * seconds + 0.6 * np.sin(2 * np.pi * 5.5 * seconds))
    partials = range(1, int(4000 / frequency))
    heights = [sum(np.exp(-(((frequency * n - peak) / 150) ** 2)) for peak in (700, 1200)) + 0.03 for n in partials]
    tone = sum(height * np.sin(n * phase) for n, height in zip(partials, heights, strict=True))
    return np.asarray(tone * np.minimum(1, np.minimum(seconds, seconds[::-1]) * 20))


def _music(count: int, random: np.random.Generator, instrument: Callable[[float, int], Sound]) -> Sound:
    """Chords, a melody and a drum."""
    piece = np.zeros(count + 4 * BEAT)
    for beat in range(count // BEAT):
        start = beat * BEAT
        if beat % 4 == 0:
            for frequency in CHORDS[beat // 4 % len(CHORDS)]:
                piece[start : start + 4 * BEAT] += 0.3 * _note(frequency, 4 * BEAT, decay=1.0)
        piece[start : start + BEAT] += 0.5 * instrument(float(random.choice(SCALE)), BEAT)
        drum = random.standard_normal(BEAT) * np.exp(-np.arange(BEAT) / (0.02 * RATE))
        piece[start : start + BEAT] += (0.6 if beat % 2 else 0.3) * drum
    return piece[:count]


def _hum(count: int, mains: float) -> Sound:
    seconds = np.arange(count) / RATE
    return np.asarray(sum(np.sin(2 * np.pi * mains * n * seconds + n) / n for n in (1, 2, 3, 5, 7)))


def _breath(count: int, random: np.random.Generator) -> Sound:
    """Noise that swells and falls every three seconds."""
    swell = np.maximum(0, np.sin(2 * np.pi * np.arange(count) / (3 * RATE))) ** 2
    return np.asarray(coloured(count, random, falling=True) * swell)


def _clicks(count: int, random: np.random.Generator) -> Sound:
    """A keyboard: bursts of 5 ms, some six a second."""
    sound = np.zeros(count)
    for start in random.integers(0, count - RATE // 200, 6 * count // RATE):
        sound[start : start + RATE // 200] += random.standard_normal(RATE // 200)
    return sound


SOUNDS: dict[str, tuple[float, Callable[[int, np.random.Generator], Sound]]] = {
    "silence": (0.0, lambda count, random: np.zeros(count)),
    "quiet room": (0.001, lambda count, random: coloured(count, random, falling=True)),
    "white noise": (0.05, lambda count, random: coloured(count, random, falling=False)),
    "pink noise": (0.1, lambda count, random: coloured(count, random, falling=True)),
    "hum of 50 Hz": (0.2, lambda count, random: _hum(count, 50)),
    "hum of 60 Hz": (0.05, lambda count, random: _hum(count, 60)),
    "breath": (0.05, _breath),
    "keyboard": (0.05, _clicks),
    "plucked music": (0.1, lambda count, random: _music(count, random, _note)),
    "sung music": (0.1, lambda count, random: _music(count, random, _sung)),
}
"""Name -> level, as the root mean square of full scale, and what makes it."""


def sounds(seconds: float) -> Iterator[tuple[str, Samples]]:
    """Every sound in turn, each so long, 16 kHz mono."""
    for number, (name, (level, make)) in enumerate(SOUNDS.items()):
        sound = make(round(seconds * RATE), np.random.default_rng(number))
        loudness = float(np.sqrt(np.mean(sound**2)))
        yield name, np.clip(sound * (level / max(loudness, 1e-9)), -1, 1).astype(np.float32)
