"""A room in which the box hears its own loudspeaker."""

from __future__ import annotations

import numpy as np

from chatapi.audio import RATE, Samples
from chatapi.bench.live.stage import BLOCK
from chatapi.faces.mic.echo import EchoCanceller

REVERBERATION = 0.25
"""Seconds in which the room's echo falls by 60 dB."""
DIRECT = 0.008
"""Seconds from loudspeaker to microphone."""


class OpenRoom:
    """A microphone that hears who speaks and, `decibels` below what is played, the loudspeaker and its reverberation.

    What it gives has been through the echo canceller that the box's own microphone uses. Sound that decays as noise
    does stands in for the walls (Polack's model of late reverberation).
    """

    def __init__(self, decibels: float, random: np.random.Generator) -> None:
        length = round(REVERBERATION * RATE)
        walls = 0.3 * random.standard_normal(length) * 10 ** (-3 * np.arange(length) / length)
        walls[0] = 4.0
        response = np.concatenate([np.zeros(round(DIRECT * RATE)), walls])
        self._response = response * 10 ** (decibels / 20) / np.sqrt(np.sum(response**2))
        self._played: Samples = np.zeros(len(self._response) + BLOCK, np.float32)
        self._canceller = EchoCanceller()

    def __call__(self, said: Samples, played: Samples) -> Samples:
        """The next 20 ms, 16 kHz."""
        self._played = np.concatenate([self._played[BLOCK:], played])
        size = len(self._played) + len(self._response)
        echo = np.fft.irfft(np.fft.rfft(self._played, size) * np.fft.rfft(self._response, size), size)
        heard = said + echo[len(self._played) - BLOCK : len(self._played)]
        self._canceller.played(played, RATE)
        return self._canceller.clean(np.clip(heard, -1, 1).astype(np.float32))
