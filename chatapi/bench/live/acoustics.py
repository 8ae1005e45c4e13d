"""Simulated rooms: a microphone that picks up the loudspeaker's echo, and a headset."""

from __future__ import annotations

import numpy as np

from chatapi.audio import RATE, Samples
from chatapi.bench.live.harness import Microphone
from chatapi.interfaces.audio_device.echo_cancellation import EchoCanceller

REVERBERATION = 0.25
"""Reverberation time of the room (60 dB), in seconds."""
DIRECT = 0.008
"""Delay from loudspeaker to microphone, in seconds."""


class Walls:
    """The room's echo of played audio, `decibels` above it, in blocks of 20 ms at `rate` Hz.

    The impulse response is exponentially decaying noise (Polack's model of late reverberation).
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
        """The echo during the 20 ms in which these samples are played."""
        self._played = np.concatenate([self._played[self._block :], played])
        all_of_it = np.fft.irfft(np.fft.rfft(self._played, self._size) * self._response, self._size)
        echo: Samples = all_of_it[len(self._played) - self._block : len(self._played)].astype(np.float32)
        return echo


class OpenRoom:
    """A microphone that picks up the speaker and, `decibels` above the played audio, the loudspeaker's echo.

    Its signal has passed the echo canceller of the audio device interface.
    """

    def __init__(self, decibels: float, random: np.random.Generator) -> None:
        self._walls = Walls(decibels, random)
        self._canceller = EchoCanceller()

    def __call__(self, speech: Samples, played: Samples) -> Samples:
        """The microphone's next 20 ms, 16 kHz."""
        mixed = speech + self._walls(played)
        self._canceller.process_playback(played, RATE)
        return self._canceller.process_capture(np.clip(mixed, -1, 1).astype(np.float32))


def headset(speech: Samples, played: Samples) -> Samples:
    """A microphone that does not pick up the loudspeaker."""
    return speech


def microphone(echo: float | None, seed: int) -> Microphone:
    """A microphone in a room whose echo is `echo` decibels above the played audio; None: a headset."""
    return headset if echo is None else OpenRoom(echo, np.random.default_rng(seed))
