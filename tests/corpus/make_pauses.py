"""Makes `pauses/` and `pauses.tsv`: sentences of `pauses.txt` in two parts, as somebody says them who hesitates.

    python tests/corpus/make_pauses.py --piper VOICE.onnx

The first part is spoken with the comma it ends with, so that its voice does not fall as at an end. Needs espeak-ng 1.51
and piper-tts.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from make import HERE, espeak, piper, store

from chatapi.audio import Audio


def trimmed(audio: Audio) -> Audio:
    """From its first sound to its last."""
    loud = np.flatnonzero(np.abs(audio.samples) > 0.01 * np.abs(audio.samples).max())
    return Audio(audio.samples[loud[0] : loud[-1] + 1], audio.rate)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--piper", type=Path, required=True)
    joe = piper(parser.parse_args().piper)
    voices = [
        ("piper-joe-1", joe(1.0, 0.667)),
        ("piper-joe-1.15", joe(1.15, 0.8)),
        ("espeak-en-us", espeak("en-us", 155, 45)),
        ("piper-joe-0.9", joe(0.9, 0.5)),
        ("piper-joe-1.05", joe(1.05, 0.3)),
        ("espeak-en-gb+f3", espeak("en-gb+f3", 150, 55)),
    ]
    (HERE / "pauses").mkdir(exist_ok=True)
    with (HERE / "pauses.tsv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n")
        table.writerow(("before", "after", "text", "voice"))
        for number, line in enumerate((HERE / "pauses.txt").read_text(encoding="utf-8").splitlines()):
            voice, say = voices[number % len(voices)]
            parts = [part.strip() for part in line.split("|")]
            files = [f"pauses/{number:02d}-{voice}-{part}.flac" for part in (1, 2)]
            for name, text in zip(files, parts, strict=True):
                if not (HERE / name).exists():
                    store(trimmed(say(text)), HERE / name)
            table.writerow((*files, " ".join(parts), voice))


if __name__ == "__main__":
    main()
