"""Makes the speech that the command classifier learns from: single words by many synthesized voices.

    python training/commands/speech.py OUT --piper VOICE.onnx --kokoro FOLDER

`--kokoro`: a folder with Kokoro-82M as kokoro.onnx, voices.npz and vocab.json. Needs espeak-ng 1.51, flite 2.2,
onnxruntime and piper-tts. Writes OUT/clips.npz: `audio` int16 (clips, 16000) at 16 kHz, and of each clip the word,
the voice and the split. Voices of the split `test` are heard nowhere else.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
from words import COMMANDS, OTHERS, heard_in_training

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "corpus"))

from make import espeak, kokoro, piper
from make_commands import tight

from chatapi.audio import Audio, Samples
from chatapi.audio.decode import decode

RATE = 16_000
LONGEST = RATE
"""A clip is at most one second long."""

Say = Callable[[str], Audio]


@dataclass(frozen=True)
class Voice:
    """A speaker, and how many clips of each command and of other words it speaks."""

    name: str
    split: str
    say: Say
    others: int
    shift: float = 1.0
    """Factor of pitch and formants."""
    clicks: bool = False
    """Whether it is by Kokoro, whose quantized network clicks."""


ESPEAK_ACCENTS = {"train": ("en-us", "en-gb", "en-gb-scotland", "en-029", "en-us-nyc"),
                  "test": ("en-gb-x-rp", "en-gb-x-gbclan")}  # fmt: skip
ESPEAK_VARIANTS = {
    "train": ("m1", "m2", "m3", "m4", "m5", "f1", "f2", "f3", "Alex", "Andy", "Annie", "Alicia", "Denis", "Diogo",
              "Gene", "Hugo", "Jacky", "Lee", "Mario", "Michael", "Mike", "adam", "anika", "antonio", "belinda",
              "boris", "caleb", "david", "ed", "grandma", "grandpa", "iven", "john", "linda", "max", "miguel",
              "norbert"),
    "test": ("m6", "m7", "m8", "f4", "f5", "steph", "steph2", "travis", "victor", "zac", "paul", "pedro", "quincy",
             "rob", "robert", "shelby"),
}  # fmt: skip
FLITE = {"train": ("kal16", "awb", "slt"), "test": ("rms",)}
KOKORO = {
    "train": ("jf_alpha", "jm_kumo", "jf_nezumi", "alpha_kumo", "nezumi_kumo", "alpha_nezumi"),
    "test": ("jf_tebukuro", "jf_gongitsune"),
}
SHIFTS = {"train": (0.82, 0.88, 0.94, 1.0, 1.06, 1.13, 1.2), "test": (0.9, 1.0, 1.1)}


def flite(voice: str, stretch: float, pitch: float) -> Say:
    """`stretch`: above 1 is slower. `pitch`: factor of the voice's own, in the voices that have a mean."""

    def say(text: str) -> Audio:
        with tempfile.NamedTemporaryFile(suffix=".wav") as file:
            settings = ["--setf", f"duration_stretch={stretch}", "--setf", f"int_f0_target_mean={110 * pitch:.0f}"]
            subprocess.run(["flite", "-voice", voice, *settings, "-t", text, "-o", file.name], check=True)
            return decode(Path(file.name).read_bytes())

    return say


def voices(piper_model: Path, kokoro_folder: Path | None) -> Iterator[Voice]:
    """All voices, without a folder none of Kokoro; the pseudorandom choices are the same in every run."""
    random = np.random.default_rng(7)
    for split in ("train", "test"):
        yield from _espeak_voices(split, random)
        for name, shift, _ in itertools.product(FLITE[split], SHIFTS[split], range(2)):
            say = flite(name, float(random.uniform(0.85, 1.25)), float(random.uniform(0.8, 1.4)))
            yield Voice(f"flite-{name}", split, say, 60, shift)
        if kokoro_folder is not None:
            yield from _kokoro_voices(kokoro(kokoro_folder), split, random)
    joe = piper(piper_model)
    for shift, _ in itertools.product(SHIFTS["train"], range(8)):
        say = joe(float(random.uniform(0.85, 1.3)), float(random.uniform(0.4, 0.9)))
        yield Voice("piper-joe", "train", say, 60, shift)


def _espeak_voices(split: str, random: np.random.Generator) -> Iterator[Voice]:
    for variant in ESPEAK_VARIANTS[split]:
        for accent in random.permutation(ESPEAK_ACCENTS[split])[:2]:
            speed, pitch = int(random.integers(110, 190)), int(random.integers(20, 80))
            name = f"espeak-{accent}+{variant}"
            yield Voice(name, split, espeak(f"{accent}+{variant}", speed, pitch), others=24)


def _kokoro_voices(
    speaker: Callable[[str, str, float], Say], split: str, random: np.random.Generator
) -> Iterator[Voice]:
    for name, accent in itertools.product(KOKORO[split], ("en-us", "en-gb")):
        say = speaker(name, accent, float(random.uniform(0.85, 1.15)))
        yield Voice(f"kokoro-{name}", split, say, 16, clicks=True)


def clip(voice: Voice, word: str) -> Samples | None:
    """The word, from its first sound to its last; None where the voice is silent or takes longer than a second."""
    audio = voice.say(f"{word}." if voice.clicks else word)
    try:
        audio = tight(audio, voice.clicks)
    except IndexError:
        return None
    shifted = soxr.resample(audio.samples, audio.rate * voice.shift, RATE).astype(np.float32)
    peak = float(np.abs(shifted).max()) if len(shifted) else 0.0
    if not 0.12 * RATE < len(shifted) <= LONGEST or peak < 1e-3:
        return None
    return shifted * np.float32(0.5 / peak)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--piper", type=Path, required=True)
    parser.add_argument("--kokoro", type=Path, help="left out: without its voices, as for replay.py")
    parser.add_argument("--most", type=int, help="only so many voices, as for word_projection.py: 157")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    audio, rows = [], []

    def speak(voice: Voice) -> list[tuple[str, Samples]]:
        random = np.random.default_rng(zlib.crc32(f"{voice.name} {voice.shift}".encode()))
        pool = [word for word in OTHERS if voice.split == "test" or heard_in_training(word)]
        others = [*random.choice(pool, voice.others, replace=False)]
        found = [(word, clip(voice, word)) for word in (*COMMANDS, *others)]
        return [(word, samples) for word, samples in found if samples is not None]

    everybody = list(voices(options.piper, options.kokoro))[: options.most]
    with ThreadPoolExecutor(2) as pool:
        for number, (voice, spoken) in enumerate(zip(everybody, pool.map(speak, everybody), strict=True)):
            for word, samples in spoken:
                padded = np.zeros(LONGEST, np.int16)
                padded[: len(samples)] = np.round(samples * 32767)
                audio.append(padded)
                rows.append((word, voice.name, voice.split, len(samples)))
            print(f"{number + 1}/{len(everybody)} {voice.name}: {len(spoken)} clips", flush=True)
    words, names, splits, lengths = zip(*rows, strict=True)
    np.savez_compressed(options.out / "clips.npz", audio=np.stack(audio), word=words, voice=names, split=splits,
                        length=lengths)  # fmt: skip


if __name__ == "__main__":
    main()
