"""Loudness of audio: the protocol of the role, and its engine."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from chatapi.audio import RATE, Samples
from chatapi.catalog import InstalledModel
from chatapi.engines import Stop, never
from chatapi.settings import Settings


class LoudnessMeter(Protocol):
    """Loudness of audio."""

    floor: float
    """The least loudness that it reports, in dBFS."""

    def loudness(self, samples: Samples, stop: Stop = never) -> Iterator[float]:
        """Loudness of each second of 16 kHz mono, in dBFS."""


class RmsMeter:
    """Loudness by the root mean square."""

    floor = -100.0

    def __init__(self, settings: Settings, models: Sequence[InstalledModel]) -> None:
        """Needs no model."""

    def loudness(self, samples: Samples, stop: Stop = never) -> Iterator[float]:
        for start in range(0, len(samples), RATE):
            if stop():
                return
            power = float(np.mean(samples[start : start + RATE] ** 2))
            yield max(self.floor, 10 * float(np.log10(max(power, 1e-12))))
