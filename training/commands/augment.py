"""Makes clips of the length the classifier takes, as microphones hear them: shifted, louder, in rooms and in noise."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from chatapi.audio import Samples

RATE = 16_000
NOISY, ROOMY = 0.75, 0.4
"""Shares of the clips with noise, and in a room."""
NOISES, ROOMS = 600, 60
"""Number of different noises, which are used at any offset and level, and of different rooms."""


class Augmenter:
    """Random variants of clips, the same ones for the same seed."""

    def __init__(self, babble: Samples, seed: int) -> None:
        """`babble`: speech that is mixed to the noise of many people."""
        self._random = np.random.default_rng(seed)
        self._babble = babble
        self._noises = [self._made_noise() for _ in range(NOISES)]
        self._rooms = [self._made_room() for _ in range(ROOMS)]

    def batch(self, clips: npt.NDArray[np.int16], lengths: npt.NDArray[np.int64]) -> Samples:
        """Of shape (clips, 16000)."""
        return np.stack([self.clip(clip[:length]) for clip, length in zip(clips, lengths, strict=True)])

    def clip(self, tight: npt.NDArray[np.int16]) -> Samples:
        random = self._random
        speech = tight.astype(np.float32) / 32768
        factor = random.uniform(0.85, 1.15)
        count = min(RATE, int(len(speech) / factor))
        speech = np.interp(np.arange(count) * factor, np.arange(len(speech)), speech).astype(np.float32)
        start = random.integers(0, RATE - count + 1)
        placed = np.zeros(RATE, np.float32)
        placed[start : start + count] = speech
        if random.random() < ROOMY:
            placed = self._room(placed)
        if random.random() < NOISY:
            noise = self._noise()
            decibels = random.uniform(0, 35)
            power = float(np.mean(speech**2)) if count else 1e-4
            placed += noise * np.float32(np.sqrt(power / 10 ** (decibels / 10)))
        return placed * np.float32(10 ** (random.uniform(-35, 0) / 20))

    def nothing(self) -> Samples:
        """A second without a word: noise, a hum, or almost silence."""
        loud = 10 ** (self._random.uniform(-60, -6) / 20)
        return self._noise() * np.float32(loud * 0.3)

    def _room(self, samples: Samples) -> Samples:
        response = self._rooms[self._random.integers(ROOMS)]
        length = 1 << 15
        return np.fft.irfft(np.fft.rfft(samples, length) * response, length)[: len(samples)].astype(np.float32)

    def _made_room(self) -> npt.NDArray[np.complex64]:
        """The spectrum of a response: the direct sound, then noise that fades."""
        seconds = self._random.uniform(0.1, 0.5)
        tail = np.arange(int(seconds * RATE)) / RATE
        response = self._random.standard_normal(len(tail)) * np.exp(-6.9 * tail / seconds)
        response *= self._random.uniform(0.02, 0.15)
        response[0] = 1.0
        return np.fft.rfft(response.astype(np.float32), 1 << 15)

    def _noise(self) -> Samples:
        return np.roll(self._noises[self._random.integers(NOISES)], self._random.integers(RATE))

    def _made_noise(self) -> Samples:
        """A second of noise with a root mean square of 1."""
        kind = self._random.choice(["white", "pink", "brown", "hum", "babble"])
        if kind == "babble":
            starts = self._random.integers(0, len(self._babble) - RATE, self._random.integers(1, 5))
            noise = sum(self._babble[start : start + RATE] for start in starts)
        elif kind == "hum":
            time = np.arange(RATE) / RATE
            base = self._random.uniform(48, 240)
            noise = sum(
                np.sin(2 * np.pi * base * part * time + self._random.uniform(0, 6)) / part for part in range(1, 9)
            )
        else:
            slope = {"white": 0.0, "pink": 0.5, "brown": 1.0}[str(kind)]
            spectrum = np.fft.rfft(self._random.standard_normal(RATE))
            noise = np.fft.irfft(spectrum / np.maximum(1, np.arange(len(spectrum))) ** slope, RATE)
        return (noise / (np.sqrt(np.mean(np.square(noise))) + 1e-9)).astype(np.float32)
