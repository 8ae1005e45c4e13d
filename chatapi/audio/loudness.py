"""Loudness normalization of synthesized sentences."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from chatapi.audio import Samples

LEVEL = 10 ** (-20 / 20)
"""Loudness of speech, as RMS relative to full scale: -20 dBFS, the highest at which no sentence has to clip."""
FRAME = 256
"""Samples of a frame, whose power is measured."""
QUIETEST = 1 / 100
"""Power relative to the loudest frame, from which a frame is speech."""
PRIOR_FRAMES = 40
"""Weight of the voice's usual loudness, in frames. Of 1.7 dB, the standard deviation of the loudness of 76 sentences of
a voice, 1.1 dB are left, and the gain moves by 0.6 dB between two parts, at most 1.9."""
LARGEST, KNEE = 0.99, 0.9
"""Peak of the samples, and the value from which they are compressed towards it."""


def loudness_normalized(samples: Samples) -> Samples:
    """Scales a sentence to the loudness `LEVEL`, measured on its loud frames, without clipping.

    With the same peak, sentences would be up to 7 dB apart: a sharp consonant makes the rest quiet.
    """
    power = loudness(samples)
    if not power:
        return samples
    gain = min(LEVEL / math.sqrt(power), LARGEST / float(np.abs(samples).max()))
    return samples * np.float32(gain)


def loudness(samples: Samples) -> float:
    """Mean power of the loud frames; 0 for silence and for less than a frame."""
    power = _powers(samples)
    spoken = power[power > power.max(initial=0) * QUIETEST]
    return float(spoken.mean()) if len(spoken) else 0.0


class LoudnessNormalizer:
    """Scales a sentence to the loudness `LEVEL` part by part, when its end is not known yet."""

    def __init__(self, usual: float) -> None:
        """`usual`: the loudness of the voice's sentences, more than 0."""
        self._usual = usual
        self._sum, self._frames = usual * PRIOR_FRAMES, float(PRIOR_FRAMES)
        self._loudest = usual
        self._gain: float | None = None

    def add(self, samples: Samples) -> Samples:
        """The next part, scaled; its gain starts where that of the last part ended."""
        power = _powers(samples)
        self._loudest = max(self._loudest, float(power.max(initial=0)))
        spoken = power[power > self._loudest * QUIETEST]
        self._sum += float(spoken.sum())
        self._frames += len(spoken)
        gain = LEVEL / math.sqrt(self._sum / self._frames)
        ramp = np.linspace(gain if self._gain is None else self._gain, gain, len(samples), dtype=np.float32)
        self._gain = gain
        return _limited(samples * ramp)


def _powers(samples: Samples) -> npt.NDArray[np.float32]:
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)
    powers: npt.NDArray[np.float32] = np.mean(np.square(frames), axis=1)
    return powers


def _limited(samples: Samples) -> Samples:
    """The samples, with those beyond KNEE compressed so that none exceeds LARGEST."""
    over = np.abs(samples) - np.float32(KNEE)
    if over.max(initial=0) <= 0:
        return samples
    room = LARGEST - KNEE
    compressed = np.sign(samples) * (KNEE + room * np.tanh(np.maximum(over, 0) / room))
    limited: Samples = np.where(over > 0, compressed, samples).astype(np.float32)
    return limited
