"""A room in which the box hears its own loudspeaker, or does not."""

from __future__ import annotations

import numpy as np

from chatapi.audio import RATE, Samples
from chatapi.bench.live.harness import Microphone
from chatapi.interfaces.audio_device.echo_cancellation import EchoCanceller

REVERBERATION = 0.25
"""Seconds in which the room's echo falls by 60 dB."""
DIRECT = 0.008
"""Seconds from loudspeaker to microphone."""


class Walls:
    """What of 20 ms that are played comes back from the room, `decibels` above it, at `rate` samples a second.

    Sound that decays as noise does stands in for the walls (Polack's model of late reverberation).
    """

    def __init__(self, decibels: float, random: np.random.Generator, rate: int = RATE) -> None:
        length = round(REVERBERATION * rate)
        walls = 0.3 * random.standard_normal(length) * 10 ** (-3 * np.arange(length) / length)
        walls[0] = 4.0
        response = np.concatenate([np.zeros(round(DIRECT * rate)), walls])
        response *= 10 ** (decibels / 20) / np.sqrt(np.sum(response**2))
        self._block = rate // 50
        self._size = 2 * len(response) + self._block
        self._response = np.fft.rfft(response, self._size)
        self._played: Samples = np.zeros(len(response) + self._block, np.float32)

    def __call__(self, played: Samples) -> Samples:
        """The echo in the 20 ms in which these are played."""
        self._played = np.concatenate([self._played[self._block :], played])
        all_of_it = np.fft.irfft(np.fft.rfft(self._played, self._size) * self._response, self._size)
        echo: Samples = all_of_it[len(self._played) - self._block : len(self._played)].astype(np.float32)
        return echo


class OpenRoom:
    """A microphone that hears who speaks and, `decibels` above what is played, the loudspeaker and its reverberation.

    What it gives has been through the echo canceller that the box's own microphone uses.
    """

    def __init__(self, decibels: float, random: np.random.Generator) -> None:
        self._walls = Walls(decibels, random)
        self._canceller = EchoCanceller()

    def __call__(self, said: Samples, played: Samples) -> Samples:
        """The next 20 ms, 16 kHz."""
        heard = said + self._walls(played)
        self._canceller.process_playback(played, RATE)
        return self._canceller.process_capture(np.clip(heard, -1, 1).astype(np.float32))


def headset(said: Samples, played: Samples) -> Samples:
    """A microphone that does not hear the speaker."""
    return said


def microphone(echo: float | None, seed: int) -> Microphone:
    """In a room whose echo is `echo` decibels above what is played; None: a headset's."""
    return headset if echo is None else OpenRoom(echo, np.random.default_rng(seed))
