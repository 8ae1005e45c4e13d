"""Chimes: short quiet sounds that signal the state of a turn without a screen."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np

from chatapi.audio import Audio, Samples

Chime = Literal["listening", "committed", "thinking", "error", "done"]
RATE = 48_000
LEVEL = 0.12
"""Amplitude as a share of full scale: well below speech."""
ATTACK = 0.008
"""Rise of a note, in seconds."""

NOTES: dict[Chime, tuple[tuple[float, float], ...]] = {
    "listening": ((523.25, 0.10), (783.99, 0.16)),
    "committed": ((783.99, 0.14),),
    "thinking": ((392.00, 0.12), (440.00, 0.12)),
    "error": ((311.13, 0.13), (220.00, 0.16)),
    "done": ((659.26, 0.10), (523.25, 0.16)),
}
"""Frequency in hertz and length in seconds of each note: rising invites, falling ends, the lowest reports an error."""


@lru_cache
def chime(name: Chime) -> Audio:
    """The chime of that name: mono at 48 kHz, shorter than 0.3 s, starting and ending in silence."""
    return Audio(np.concatenate([_note(hertz, seconds) for hertz, seconds in NOTES[name]]), RATE)


def _note(hertz: float, seconds: float) -> Samples:
    """A soft sine with a little of its octave: a short attack, then a decay to silence."""
    times = np.arange(int(seconds * RATE)) / RATE
    wave = np.sin(2 * np.pi * hertz * times) + 0.2 * np.sin(4 * np.pi * hertz * times)
    rise = np.minimum(times / ATTACK, 1.0)
    fall = np.cos(0.5 * np.pi * times / seconds) ** 2
    note: Samples = (LEVEL / 1.2 * wave * rise * fall).astype(np.float32)
    return note
