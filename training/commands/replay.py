"""Makes the replay sets of the command classifiers: embeddings of known clips, which keep them from forgetting.

    python training/commands/replay.py OUT --model command-words.onnx

OUT/clips.npz: by `speech.py`. Writes chatapi/engines/command/FEATURES.npz. Part 0 has voices of the split `train`,
parts 1 and 2 have the other ones, half each; the voices, and the other words, are the same in every run.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from augment import Augmenter
from report import other_speech
from words import COMMANDS, LABELS, UNKNOWN

from chatapi.audio import RATE, Samples
from chatapi.engines.command.replay_file import FOLDER
from chatapi.engines.command.tc_resnet import TcResNet
from chatapi.settings import Settings

COUNTS = {0: (60, 500, 120), 1: (24, 300, 120), 2: (24, 300, 120)}
"""Part -> clips of each command, of other words, and of background."""


class Chosen:
    """The clips of all parts, each a second."""

    def __init__(self, file: Path, counts: Mapping[int, tuple[int, int, int]] = COUNTS) -> None:
        self.audio: list[Samples] = []
        self.words: list[str] = []
        self.labels: list[int] = []
        self.parts: list[int] = []
        random = np.random.default_rng(11)
        with np.load(file) as clips:
            audio, lengths, words = clips["audio"], clips["length"], clips["word"]
            voices, splits = clips["voice"], clips["split"]
        tests = sorted({*voices[splits == "test"]})
        part_of = {voice: 1 + place % 2 for place, voice in enumerate(tests)}
        parts = np.array(
            [part_of[voice] if split == "test" else 0 for voice, split in zip(voices, splits, strict=True)]
        )
        self.augmenter = Augmenter(np.random.default_rng(3).normal(0, 0.1, 200_000).astype(np.float32), 5)
        speech = other_speech()
        for part, (of_each, others, background) in counts.items():
            for label, word in enumerate(COMMANDS):
                self._take(np.flatnonzero((parts == part) & (words == word)), of_each, part, label, random, audio,
                           lengths, words)  # fmt: skip
            places = np.flatnonzero((parts == part) & ~np.isin(words, COMMANDS))
            self._take(places, others, part, len(COMMANDS), random, audio, lengths, words)
            for number in range(background):
                first = int(random.integers(0, len(speech) // 3 - RATE)) + part * (len(speech) // 3)
                self._add(
                    speech[first : first + RATE] if number % 2 else self.augmenter.nothing(), "", len(COMMANDS), part
                )

    def _take(
        self, places: Any, most: int, part: int, label: int, random: Any, audio: Any, lengths: Any, words: Any
    ) -> None:
        for place in random.permutation(places)[:most]:
            # Half as they are, in the middle of the second, and half as microphones hear them.
            clip = audio[place][: lengths[place]]
            sound = centred(clip) if random.random() < 0.5 else self.augmenter.clip(clip)
            self._add(sound, str(words[place]), label, part)

    def _add(self, sound: Samples, word: str, label: int, part: int) -> None:
        self.audio.append(sound)
        self.words.append(word)
        self.labels.append(label)
        self.parts.append(part)


def centred(clip: Any) -> Samples:
    """A clip in the middle of a second."""
    placed = np.zeros(RATE, np.float32)
    start = (RATE - len(clip)) // 2
    placed[start : start + len(clip)] = clip / np.float32(32768)
    return placed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", type=Path, required=True)
    options = parser.parse_args()
    chosen = Chosen(options.out / "clips.npz")
    model: Any = SimpleNamespace(files={"onnx": options.model})
    engine = TcResNet(Settings(), [model])
    form = engine.features
    rows = np.stack([next(engine.classify(clip)).embedding for clip in chosen.audio])
    offset = (rows.max(axis=0) + rows.min(axis=0)) / 2
    scale = np.maximum(1e-6, (rows.max(axis=0) - rows.min(axis=0)) / 254)
    codes = np.round((rows - offset) / scale).astype(np.int8)
    target = FOLDER / f"{form}.npz"
    np.savez_compressed(
        target, embeddings=codes, scale=scale.astype(np.float32), offset=offset.astype(np.float32),
        labels=np.array(chosen.labels, np.int16), parts=np.array(chosen.parts, np.int16), words=np.array(chosen.words),
        names=np.array(LABELS),
    )  # fmt: skip
    print(f"{target.name}: {len(rows)} clips, {target.stat().st_size} bytes; other sounds are {UNKNOWN}")


if __name__ == "__main__":
    main()
