"""Trains the command classifier, and writes its ONNX graph and the figures of voices it has never heard.

    python training/commands/train.py OUT [--steps 1500] [--seed 1]

OUT/clips.npz: by `speech.py`. Writes OUT/command-words.onnx and OUT/figures.json. Needs jax, optax and onnx
(`pip install -r training/commands/requirements.txt`).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from augment import Augmenter
from network import Parameters, forward, initial, onnx_graph
from words import COMMANDS, LABELS, UNKNOWN, heard_in_training

from chatapi.audio import Samples
from chatapi.engines.command.spectrogram import spectrograms

BATCH = 96
NOTHING = 0.08
"""Share of a batch without a word."""
OTHER = 0.46
"""Share of a batch with another word."""


class Clips:
    """The clips of one split, and those of each label."""

    def __init__(self, file: Path, split: str) -> None:
        with np.load(file) as clips:
            chosen = clips["split"] == split
            self.audio, self.lengths = clips["audio"][chosen], clips["length"][chosen]
            self.words, self.voices = clips["word"][chosen], clips["voice"][chosen]
        self.vocabulary = sorted({*self.words})
        self.numbers = np.searchsorted(self.vocabulary, self.words)
        self.labels = np.array([LABELS.index(word if word in COMMANDS else UNKNOWN) for word in self.words])
        self.groups = [self._balanced(np.flatnonzero(self.labels == label)) for label in range(len(LABELS))]

    def _balanced(self, places: Any) -> tuple[Any, Any]:
        """The places, and the share of each: every kind of voice counts alike, so that no synthesizer prevails."""
        kinds = np.array([voice.split("-")[0] for voice in self.voices[places]])
        shares = np.array([1 / (kinds == kind).sum() for kind in kinds])
        return places, shares / shares.sum()

    def draw(self, random: np.random.Generator, label: int) -> int:
        places, shares = self.groups[label]
        return int(random.choice(places, p=shares))


def batch(clips: Clips, augmenter: Augmenter, random: np.random.Generator) -> tuple[Samples, Any, Any]:
    """Spectrograms (BATCH, frames, bands), labels, and the numbers of the words; the last number is that of no word."""
    unknown = LABELS.index(UNKNOWN)
    audio, labels, words = [], [], []
    for kind in random.random(BATCH):
        if kind < NOTHING:
            audio.append(augmenter.nothing())
            labels.append(unknown)
            words.append(len(clips.vocabulary))
            continue
        label = unknown if kind < NOTHING + OTHER else int(random.integers(len(COMMANDS)))
        place = clips.draw(random, label)
        audio.append(augmenter.clip(clips.audio[place][: clips.lengths[place]]))
        labels.append(label)
        words.append(clips.numbers[place])
    return spectrograms(np.stack(audio)), np.array(labels), np.array(words)


def train(clips: Clips, steps: int, seed: int) -> tuple[Parameters, Parameters]:
    random = np.random.default_rng(seed)
    babble = np.concatenate([clips.audio[place][: clips.lengths[place]] for place in clips.groups[-1][0][::5]])
    augmenter = Augmenter(babble.astype(np.float32) / 32768, seed + 1)
    parameters, state = initial(jax.random.key(seed), len(LABELS), len(clips.vocabulary) + 1)
    schedule = optax.warmup_cosine_decay_schedule(0.0, 3e-3, 300, steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=1e-3))
    moments = optimizer.init(parameters)

    @jax.jit
    def step(parameters: Any, state: Any, moments: Any, mels: Any, labels: Any, words: Any, key: Any) -> Any:
        def loss(parameters: Any) -> Any:
            logits, _, new = forward(parameters, state, mels, key)
            losses = [
                optax.softmax_cross_entropy(
                    each, optax.smooth_labels(jax.nn.one_hot(right, each.shape[1]), 0.05)
                ).mean()
                for each, right in zip(logits, (labels, words), strict=True)
            ]
            return losses[0] + 0.5 * losses[1], new

        (value, new), gradients = jax.value_and_grad(loss, has_aux=True)(parameters)
        updates, moments = optimizer.update(gradients, moments, parameters)
        return optax.apply_updates(parameters, updates), new, moments, value

    began, mean = time.monotonic(), 0.0
    for number in range(steps):
        mels, labels, words = batch(clips, augmenter, random)
        key = jax.random.fold_in(jax.random.key(seed), number)
        parameters, state, moments, value = step(parameters, state, moments, masked(mels, random), labels, words, key)
        mean = 0.98 * mean + 0.02 * float(value)
        if number % 100 == 99:
            print(f"step {number + 1}/{steps}: loss {mean:.3f}, {time.monotonic() - began:.0f} s", flush=True)
    return parameters, state


def smoothed(labels: Any, count: int) -> Any:
    """Targets of labels: 5 % are shared by all."""
    return optax.smooth_labels(jax.nn.one_hot(labels, count), 0.05)


def masked(mels: Samples, random: np.random.Generator) -> Samples:
    """Each with a few frames and a few bands left out (SpecAugment)."""
    for each in mels:
        first, count = random.integers(0, each.shape[0] - 12), random.integers(0, 12)
        each[first : first + count] = 0
        first, count = random.integers(0, each.shape[1] - 6), random.integers(0, 6)
        each[:, first : first + count] = 0
    return mels


def judged(clips: Clips, parameters: Parameters, state: Parameters, noisy: bool) -> dict[str, Any]:
    """Shares of right labels, for clean clips in the middle of the second or augmented ones."""
    augmenter = Augmenter(np.random.default_rng(3).normal(0, 0.1, 200_000).astype(np.float32), 5)
    audio = np.zeros((len(clips.audio), 16_000), np.float32)
    for place, (clip, length) in enumerate(zip(clips.audio, clips.lengths, strict=True)):
        start = (16_000 - length) // 2
        audio[place, start : start + length] = clip[:length] / np.float32(32768)
        if noisy:
            audio[place] = augmenter.clip(clip[:length])
    (logits, _), _, _ = forward(parameters, state, jnp.asarray(spectrograms(audio)))
    probabilities = np.asarray(jax.nn.softmax(logits))
    right, known = probabilities.argmax(1) == clips.labels, clips.labels < len(COMMANDS)
    kinds = np.array([voice.split("-")[0] for voice in clips.voices])
    new = np.array([not known[place] and not heard_in_training(word) for place, word in enumerate(clips.words)])
    accuracy = {kind: round(float(right[known & (kinds == kind)].mean()), 4) for kind in sorted({*kinds})}
    return {
        "accuracy": round(float(right[known].mean()), 4),
        "accuracy_by_synthesizer": accuracy,
        "other_words_rejected": round(float(right[~known].mean()), 4),
        "new_words_rejected": round(float(right[new].mean()), 4) if new.any() else None,
        "clips": len(clips.labels),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    parameters, state = train(Clips(options.out / "clips.npz", "train"), options.steps, options.seed)
    graph = onnx_graph(parameters, state, LABELS).SerializeToString()
    (options.out / "command-words.onnx").write_bytes(graph)
    test = Clips(options.out / "clips.npz", "test")
    figures = {"seed": options.seed, "steps": options.steps, "labels": LABELS, "size": len(graph),
               "clean": judged(test, parameters, state, noisy=False),
               "noisy": judged(test, parameters, state, noisy=True)}  # fmt: skip
    (options.out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
