"""Judges the trained command classifier: false accepts in other speech and in noise.

    python training/commands/report.py OUT

OUT: the folder of `train.py`. Speech without the commands: the English clips of tests/corpus, without
those that espeak-ng speaks. Prints a table.
"""

from __future__ import annotations

import argparse
import csv
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from augment import Augmenter
from words import COMMANDS, UNKNOWN

from chatapi.audio import Samples
from chatapi.audio.decode import decode
from chatapi.engines.command.tc_resnet import TcResNet
from chatapi.settings import Settings

CORPUS = Path(__file__).parents[2] / "tests" / "corpus"
RATE = 16_000
HOP = RATE // 4
"""A stream is classified four times a second."""


def other_speech() -> Samples:
    """The corpus's clips without a command among their words."""
    parts = []
    with (CORPUS / "clips.tsv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            words = set(re.findall(r"[a-z']+", row["text"].lower()))
            if (
                row["language"] == "en"
                and "espeak" not in row["voice"]
                and not row["noise"]
                and not words & {*COMMANDS}
            ):
                parts.append(decode(CORPUS / row["file"]).samples)
    return np.concatenate(parts)


def false_accepts(engine: TcResNet, samples: Samples, thresholds: tuple[float, ...]) -> dict[float, float]:
    """Threshold -> detections an hour; those of the same word within a second count once."""
    found = [next(engine.classify(samples[first : first + RATE])) for first in range(0, len(samples) - RATE, HOP)]
    shares = np.array([each.probabilities for each in found])
    labels, best = shares.argmax(1), shares.max(1)
    unknown = engine.labels.index(UNKNOWN)
    rates = {}
    for threshold in thresholds:
        hits = np.flatnonzero((labels != unknown) & (best >= threshold))
        count = sum(1 for place, hit in enumerate(hits) if not place or hit - hits[place - 1] > RATE // HOP
                    or labels[hit] != labels[hits[place - 1]])  # fmt: skip
        rates[threshold] = count / (len(samples) / RATE / 3600)
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    model: Any = SimpleNamespace(files={"onnx": options.out / "command-words.onnx"})
    engine = TcResNet(Settings(), [model])
    speech = other_speech()
    print(f"other speech: {len(speech) / RATE / 60:.1f} minutes")
    for threshold, rate in false_accepts(engine, speech, (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)).items():
        print(f"  threshold {threshold}: {rate:.1f} false accepts an hour")
    noise = Augmenter(speech, 9)
    alone = np.concatenate([noise.nothing() for _ in range(600)])
    print("600 s of noise:", {key: round(rate, 1) for key, rate in false_accepts(engine, alone, (0.6, 0.9)).items()})


if __name__ == "__main__":
    main()
