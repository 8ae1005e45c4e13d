"""Judges teaching: words that no network was trained for, taught with 1, 5 and 10 samples, by voices never trained on.

    python training/commands/taught.py OUT --piper VOICE.onnx --model command-words.onnx

Teaches four of WORDS at a time, as the product does, and prints the mean over three choices of words and voices. A
voice that teaches does not judge, and OTHERS are taken out of the replay set. Writes OUT/taught.npz once.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from speech import ESPEAK_ACCENTS, ESPEAK_VARIANTS, Voice, clip, espeak, flite, piper
from words import COMMANDS

from chatapi.engines import CommandReplay
from chatapi.engines.command.tc_resnet import TcResNet
from chatapi.services.command_recognition import head as heads
from chatapi.services.command_recognition.training import calibrated, training_rows, variants
from chatapi.settings import Settings

WORDS = (
    "lamp",
    "coffee",
    "morning",
    "music",
    "window",
    "forward",
    "quiet",
    "hello",
    "zero",
    "garden",
    "please",
    "table",
)
OTHERS = ("bottle", "chair", "market", "uncle", "paper", "phone", "street", "snow", "money", "twelve", "visit",
          "yellow", "bird", "home", "north", "ready", "sleep", "power", "fish", "tonight")  # fmt: skip
"""Words that are never taught: one of them that is recognized as a command is a false accept."""
LEAST = 0.6
"""`command.threshold`."""


def voices(piper_model: Path) -> list[Voice]:
    """The voices of the split `test`, and Piper's, with shifted pitch."""
    random = np.random.default_rng(5)
    found = []
    for variant in ESPEAK_VARIANTS["test"]:
        for accent in ESPEAK_ACCENTS["test"]:
            say = espeak(f"{accent}+{variant}", int(random.integers(110, 190)), int(random.integers(20, 80)))
            found.append(Voice(f"espeak-{accent}+{variant}", "test", say, 0))
    for shift in (0.88, 0.94, 1.0, 1.06, 1.13):
        for name in ("rms", "slt", "awb"):
            say = flite(name, float(random.uniform(0.85, 1.25)), float(random.uniform(0.8, 1.4)))
            found.append(Voice(f"flite-{name}-{shift}", "test", say, 0, shift))
    joe = piper(piper_model)
    for shift in (0.82, 0.88, 0.94, 1.0, 1.06, 1.13, 1.2):
        say = joe(float(random.uniform(0.85, 1.3)), float(random.uniform(0.4, 0.9)))
        found.append(Voice(f"joe-{shift}", "test", say, 0, shift))
    return found


def speak(target: Path, piper_model: Path) -> None:
    audio, rows = [], []
    for voice in voices(piper_model):
        for word in (*WORDS, *OTHERS, *COMMANDS):
            if (samples := clip(voice, word)) is not None:
                padded = np.zeros(16_000, np.float32)
                start = (len(padded) - len(samples)) // 2
                padded[start : start + len(samples)] = samples
                audio.append(padded.astype(np.float16))
                rows.append((word, voice.name))
    words, names = zip(*rows, strict=True)
    np.savez_compressed(target, audio=np.stack(audio), word=words, voice=names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--piper", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    options = parser.parse_args()
    if not (options.out / "taught.npz").exists():
        speak(options.out / "taught.npz", options.piper)
    model: Any = SimpleNamespace(files={"onnx": options.model})
    judge = Judge(TcResNet(Settings(), [model]), options.out / "taught.npz")
    print("samples  recognized  confused  false accepts  own words before -> after teaching")
    for shots in (1, 5, 10):
        found = np.mean([judge.round(shots, number) for number in range(3)], axis=0)
        line = f"{shots:7}  {found[0]:10.3f}  {found[1]:8.3f}  {found[2]:13.3f}  {found[3]:.3f} -> {found[4]:.3f}"
        print(line, flush=True)


class Judge:
    """The clips and their embeddings by one engine."""

    def __init__(self, engine: Any, file: Path) -> None:
        self.engine = engine
        [found] = engine.replay()
        kept = np.flatnonzero([word not in OTHERS for word in found.words])
        self.replay = CommandReplay(found.embeddings[kept], *(
            tuple(np.array(each)[kept].tolist()) for each in (found.labels, found.parts, found.words)
        ))  # fmt: skip
        with np.load(file) as clips:
            self.audio = clips["audio"].astype(np.float32)
            self.words, self.voices = clips["word"], clips["voice"]
        self.taught: dict[Any, Any] = {}
        """Place of a clip -> the embeddings of its variants."""
        self.rows = np.stack([self.embed(clip) for clip in self.audio])

    def embed(self, samples: Any) -> Any:
        return next(self.engine.classify(samples)).embedding

    def round(self, shots: int, number: int) -> tuple[float, ...]:
        """Shares of the taught words recognized, of those confused, of false accepts, of own words before and after."""
        random = np.random.default_rng(number)
        taught = sorted(random.choice(WORDS, 4, replace=False))
        teachers = {*random.permutation(np.unique(self.voices))[:27]}
        teaching = np.array([voice in teachers for voice in self.voices])
        labels = (*self.engine.labels[:-1], *taught, self.engine.labels[-1])
        samples, embeddings = [], {}
        for word in taught:
            for place in random.permutation(np.flatnonzero(teaching & (self.words == word)))[:shots]:
                sample: Any = SimpleNamespace(id=str(place), label=word, held_out=False)
                samples.append(sample)
                if place not in self.taught:
                    clips = variants(self.audio[place], int(place))
                    self.taught[place] = np.stack([self.embed(each) for each in clips])
                embeddings[sample.id] = self.taught[place]
        after = self.head(labels, samples, embeddings)
        before = self.head(self.engine.labels, [], {})
        judging = ~teaching
        decided = np.array(labels)[after.decided(after.probabilities(self.rows))]
        old = np.array(self.engine.labels)[before.decided(before.probabilities(self.rows))]
        new, other, own = (judging & np.isin(self.words, each) for each in (taught, OTHERS, COMMANDS))
        wrong = (decided != self.words) & (decided != labels[-1])
        return (
            float((decided == self.words)[new].mean()), float(wrong[new].mean()),
            float((decided != labels[-1])[other].mean()), float((old == self.words)[own].mean()),
            float((decided == self.words)[own].mean()),
        )  # fmt: skip

    def head(self, labels: Any, samples: Any, embeddings: Any) -> heads.LinearHead:
        rows = training_rows(self.replay, labels, samples, embeddings)
        head = heads.train(rows, labels, "", lambda *_: None)
        return calibrated(head, self.replay, self.engine.labels, LEAST)


if __name__ == "__main__":
    main()
