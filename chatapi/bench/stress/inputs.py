"""What a stress test sends: noise or speech of random lengths, the same for the same seed.

The lengths are those of the stress test of kNN-VC's deployment on TorchServe: a source of 3 to 10 s, and 1 to 10
targets of 3 to 10 s each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from chatapi.audio import RATE, Audio, Samples, wav
from chatapi.audio.decode import decode
from chatapi.errors import BadInput, ChatapiError

SHORTEST, LONGEST = 3.0, 10.0
"""Length of a recording, in seconds."""
MOST_TARGETS = 10
MOST_FILES = 200
"""Files of a folder that are read."""
SUFFIXES = (".flac", ".wav", ".mp3", ".ogg", ".opus", ".m4a")
NOISE = 0.1
"""Standard deviation of noise, relative to full scale: -20 dBFS."""
PROMPTS = ("What is the capital of France?", "Name three fruits.", "What colour is the sky?", "Say good morning.")


@dataclass(frozen=True)
class StressRequest:
    """What one request sends, as WAV files."""

    number: int
    source: bytes
    targets: tuple[bytes, ...] = ()
    prompt: str = ""


class StressInputs:
    """Makes the requests; each depends only on the seed and its number."""

    def __init__(self, model: str, seed: int, speech: Sequence[Sequence[Samples]] = ()) -> None:
        """`speech`: recordings of 16 kHz mono of each speaker; none: noise."""
        self._model, self._seed, self._speech = model, seed, speech

    def request(self, number: int) -> StressRequest:
        """The request of this number. It computes for some milliseconds."""
        random = np.random.default_rng((self._seed, number))
        if self._model == "completion":
            return StressRequest(number, b"", prompt=f"{PROMPTS[number % len(PROMPTS)]}")
        source = self._recording(random, self._speaker(random))
        if self._model == "asr":
            return StressRequest(number, source)
        speaker, count = self._speaker(random), int(random.integers(1, MOST_TARGETS + 1))
        return StressRequest(number, source, tuple(self._recording(random, speaker) for _ in range(count)))

    def _speaker(self, random: np.random.Generator) -> int:
        return int(random.integers(len(self._speech))) if self._speech else 0

    def _recording(self, random: np.random.Generator, speaker: int) -> bytes:
        length = round(random.uniform(SHORTEST, LONGEST) * RATE)
        if not self._speech:
            return wav(Audio((NOISE * random.standard_normal(length)).astype(np.float32), RATE))
        found, parts = 0, list[Samples]()
        while found < length:
            parts.append(self._speech[speaker][int(random.integers(len(self._speech[speaker])))])
            found += len(parts[-1])
        return wav(Audio(np.concatenate(parts)[:length], RATE))


def speech_of(folder: Path) -> list[list[Samples]]:
    """The recordings of a folder, by speaker: the first part of a file's name up to a hyphen, as in LibriSpeech.
    Blocking. Raises BadInput where there are none."""
    if not folder.is_dir():
        raise BadInput(f"{folder} is no folder; --speech names one with recordings of speech")
    files = sorted(each for each in folder.rglob("*") if each.suffix.lower() in SUFFIXES)
    found: dict[str, list[Samples]] = {}
    # Evenly from the whole folder, so that there are many speakers.
    for file in files[:: max(1, len(files) // MOST_FILES)][:MOST_FILES]:
        try:
            samples = decode(file.read_bytes()).samples
        except (ChatapiError, OSError) as error:
            raise BadInput(f"{file} cannot be read: {error}") from error
        if len(samples) >= RATE // 2:
            found.setdefault(file.name.split("-")[0], []).append(samples)
    if not found:
        raise BadInput(f"{folder} has no recordings ({', '.join(SUFFIXES)})")
    return list(found.values())
