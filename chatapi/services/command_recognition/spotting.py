"""Spotting commands in a stream: windows of a second, of which those with speech are classified.

Time is counted in samples received. A command is detected when it is the label of ENOUGH windows in a row; the window
with the highest probability counts, and the same command is not detected again for REFRACTORY.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np

from chatapi.audio import RATE, Samples
from chatapi.engines import COMMAND_SAMPLES
from chatapi.events import CommandDetection
from chatapi.services.command_recognition.service import UNKNOWN, CommandRecognition, is_silent

HOP = RATE // 10
"""Samples from one window to the next: 0.1 s."""
ENOUGH = 3
"""Windows in a row that have the same label: chance rarely lasts for 0.3 s."""
SURE = 0.9
"""Least probability of a detected command: a stream has thousands of windows an hour (training/commands)."""
REFRACTORY = RATE
"""Samples after a detection in which nothing is detected: 1 s."""


class CommandSpotter:
    """The state of one stream."""

    def __init__(self, recognition: CommandRecognition) -> None:
        self._recognition = recognition
        self._window: Samples = np.zeros(COMMAND_SAMPLES, np.float32)
        self._held: Samples = np.zeros(0, np.float32)
        self._received = 0
        self._label, self._count, self._quiet_until = UNKNOWN, 0, 0

    async def feed(self, samples: Samples) -> AsyncIterator[CommandDetection]:
        """The commands that the next samples of 16 kHz mono complete. Raises what classifying raises."""
        self._held = np.concatenate([self._held, samples])
        while len(self._held) >= HOP:
            self._window = np.concatenate([self._window[HOP:], self._held[:HOP]])
            self._held = self._held[HOP:]
            self._received += HOP
            if (found := await self._next()) is not None:
                yield found

    async def _next(self) -> CommandDetection | None:
        if self._received < self._quiet_until or is_silent(self._window):
            self._label, self._count = UNKNOWN, 0
            return None
        found = await self._recognition.classify_samples(self._window, counted=False)
        if found.label == UNKNOWN or found.probability < SURE:
            self._label, self._count = UNKNOWN, 0
            return None
        self._count = self._count + 1 if found.label == self._label else 1
        self._label = found.label
        if self._count < ENOUGH:
            return None
        self._quiet_until, self._count = self._received + REFRACTORY, 0
        self._recognition.metrics.detections.inc()
        end = self._received / RATE
        start = max(0.0, end - COMMAND_SAMPLES / RATE)
        return CommandDetection(found.label, found.probability, round(start, 3), round(end, 3), found.version)
