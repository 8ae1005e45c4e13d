"""How well fingerprints tell kinds of sound apart.

`PYTHONPATH=.:training/sounds python benchmarks/mute_fingerprints.py`

A kind is one made call (training/sounds/ocean.py). Each is put into several made noises, at 6 to 20 dB above them, and
muted by its first clip. Says how many clips with the same sound fall under the mute, and how many with another call.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from typing import Any

import numpy as np
import ocean

from chatapi.engines import SOUND_RATE, SoundWindow
from chatapi.engines.sound_detector.polyphase import resampled
from chatapi.services.stream_monitoring.decision import V1Rule
from chatapi.services.stream_monitoring.fingerprint import Fingerprints, fingerprints
from chatapi.services.stream_monitoring.pieces import SoundClip

MADE_RATE = 20_000
SECONDS = 20
LIMITS = (0.8, 0.85, 0.9, 0.95)


def clip(random: np.random.Generator, call: Any) -> Fingerprints:
    """Fingerprints of the window with a call in a clip of noise."""
    count = SECONDS * MADE_RATE
    noise = ocean.noise(random, count)
    noise = noise / np.sqrt(np.mean(np.square(noise)))
    level = 10 ** (random.uniform(6, 20) / 20) / np.sqrt(np.mean(np.square(call)))
    start = random.uniform(0, SECONDS - 4)
    first = round((start + 0.5) * MADE_RATE)
    noise[first : first + len(call)] += level * call[: count - first]
    samples = resampled((0.02 * noise).astype(np.float32), MADE_RATE, SOUND_RATE)
    return fingerprints(SoundClip(0, samples), [SoundWindow(start, 3.0, (0.0, 1.0))], 1, V1Rule())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", type=int, default=40)
    chosen = parser.parse_args()
    random = np.random.default_rng(22)
    kinds = []
    for _ in range(chosen.kinds):
        call = ocean.call(random)[: 2 * MADE_RATE]
        kinds.append([clip(random, call)[0] for _ in range(4)])
    same = [float(kind[0] @ each) for kind in kinds for each in kind[1:]]
    other = [float(one[0] @ each) for one, following in pairwise([*kinds, kinds[0]]) for each in following]
    for limit in LIMITS:
        muted, wrong = np.mean(np.array(same) >= limit), np.mean(np.array(other) >= limit)
        print(f"cosine of {limit}: {muted:.1%} of {len(same)} same ones, {wrong:.1%} of {len(other)} others")


if __name__ == "__main__":
    main()
