"""Makes the word encoder's file: the projection of Whisper's features, and the embeddings of known clips.

    python training/commands/word_projection.py OUT --encoder encoder.onnx --model command-words.onnx

OUT/clips.npz: by `speech.py`. `--encoder`: that of the model whisper-base-words. Writes
chatapi/engines/word_encoder/whisper-base-words.npz.

The projection is a linear discriminant analysis after a principal component analysis (Fisher 1936; with the
covariance within a word shrunk towards a multiple of the identity, Friedman 1989), of words by the voices of the split
`train`. The words by which teaching is judged (`taught.py`, `benchmarks/taught_words.py`) are no part of it. Part 0 of
the known clips has voices of `train`; parts 1 and 2, for calibration and judging, have other voices, and other words
that the projection does not know: only such show how unknown words fare.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
from augment import Augmenter
from replay import Chosen, centred
from report import CORPUS
from taught import OTHERS as JUDGING_OTHERS
from taught import WORDS as JUDGING_WORDS
from words import COMMANDS, LABELS, heard_in_training

from chatapi.audio.mel import log_mel, mel_filters
from chatapi.engines.command.tc_resnet import TcResNet
from chatapi.engines.word_encoder.pooling import centred as word_centred
from chatapi.engines.word_encoder.pooling import pooled
from chatapi.engines.word_encoder.whisper_words import FOLDER
from chatapi.settings import Settings

NAME = "whisper-base-words"
COMPONENTS, WIDTH, SHRINKAGE = 400, 128, 0.3
"""Principal components, width of the embedding, and weight of the identity in the covariance within a word."""
OF_EACH, OF_COMMANDS = 6, 30
"""Clips of each other word and of each command from which the projection is computed."""
COUNTS = {0: (40, 300, 80), 1: (16, 220, 100), 2: (16, 220, 100)}
"""Part -> clips of each command, of other words, and of background; see `replay.py`."""
CORPUS_WORDS = {
    re.sub(r"\W", "", row["text"].lower())
    for row in csv.DictReader((CORPUS / "commands.tsv").read_text(encoding="utf-8").splitlines(), delimiter="\t")
    if " " not in row["text"]
}
"""The single words of tests/corpus/commands."""
HELD_BACK = CORPUS_WORDS | {*JUDGING_WORDS, *JUDGING_OTHERS}


class Encoder:
    """What the engine does before its projection."""

    def __init__(self, file: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session, self._bands = onnxruntime.InferenceSession(str(file), options), mel_filters(80)

    def __call__(self, samples: Any) -> Any:
        clip, speech = word_centred(samples.astype(np.float32))
        [[frames]] = self._session.run(None, {"mel": log_mel(clip, self._bands)[None]})
        return pooled(frames[speech])


class Sounds:
    """Sounds with their words; in half precision, of which a thousand take 32 MB."""

    def __init__(self) -> None:
        self.audio: list[Any] = []
        self.words: list[str] = []

    def add(self, sound: Any, word: str) -> None:
        self.audio.append(sound.astype(np.float16))
        self.words.append(word)


class Clips:
    """The clips of `speech.py`."""

    def __init__(self, file: Path) -> None:
        with np.load(file) as found:
            self.audio, self.lengths, self.words = found["audio"], found["length"], found["word"]
            self.voices, self.splits = found["voice"], found["split"]

    def for_projection(self) -> Sounds:
        """Half as they are, and half as microphones hear them."""
        random, made, found = np.random.default_rng(21), augmenter(6), Sounds()
        for word in sorted({*self.words.tolist()}):
            if word in HELD_BACK and word not in COMMANDS:
                continue
            places = random.permutation(np.flatnonzero((self.words == word) & (self.splits == "train")))
            for place in places[: OF_COMMANDS if word in COMMANDS else OF_EACH]:
                clip = self.audio[place][: self.lengths[place]]
                found.add(centred(clip) if random.random() < 0.5 else made.clip(clip), word)
        return found

    def unseen(self) -> tuple[Sounds, list[int]]:
        """Other words that no voice of the split `train` says, by those of `test`, and their parts."""
        voices = sorted({*self.voices[self.splits == "test"].tolist()})
        random, made, found, parts = np.random.default_rng(31), augmenter(7), Sounds(), list[int]()
        for place, word in enumerate(self.words.tolist()):
            if self.splits[place] == "test" and word not in COMMANDS and not heard_in_training(word):
                clip = self.audio[place][: self.lengths[place]]
                found.add(centred(clip) if random.random() < 0.75 else made.clip(clip), word)
                parts.append(1 + voices.index(self.voices[place]) % 2)
        return found, parts


def augmenter(seed: int) -> Augmenter:
    return Augmenter(np.random.default_rng(3).normal(0, 0.1, 200_000).astype(np.float32), seed)


def known(file: Path) -> tuple[Sounds, list[int], list[int]]:
    """Sounds, labels and parts."""
    found, labels, parts = Sounds(), list[int](), list[int]()
    chosen = Chosen(file, COUNTS)
    for sound, label, part, word in zip(chosen.audio, chosen.labels, chosen.parts, chosen.words, strict=True):
        # Of the other parts only the unseen words.
        if not part or label < len(COMMANDS) or not word:
            found.add(sound, word)
            labels.append(label)
            parts.append(part)
    unseen, their_parts = Clips(file).unseen()
    found.audio += unseen.audio
    found.words += unseen.words
    return found, [*labels, *[len(COMMANDS)] * len(their_parts)], [*parts, *their_parts]


def discriminants(rows: Any, words: Any) -> tuple[Any, Any]:
    """The mean of the rows, and the projection, of shape (width, WIDTH)."""
    mean, spread = rows.mean(axis=0), rows.std(axis=0) + 1e-3
    scaled = (rows - mean) / spread
    components = np.linalg.svd(scaled, full_matrices=False)[2][:COMPONENTS].T
    points, kinds = scaled @ components, np.unique(words)
    means = np.stack([points[words == kind].mean(axis=0) for kind in kinds])
    rest = points - means[np.searchsorted(kinds, words)]
    within = rest.T @ rest / (len(points) - len(kinds))
    within = (1 - SHRINKAGE) * within + SHRINKAGE * np.trace(within) / len(within) * np.eye(len(within))
    values, vectors = np.linalg.eigh(within)
    white = vectors / np.sqrt(values)
    axes = np.linalg.eigh(white.T @ np.cov(means.T) @ white)[1][:, ::-1][:, :WIDTH]
    return mean, components @ white @ axes / spread[:, None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    options = parser.parse_args()
    encoder, file = Encoder(options.encoder), options.out / "clips.npz"
    sounds = Clips(file).for_projection()
    mean, projection = discriminants(np.stack([encoder(each) for each in sounds.audio]), np.array(sounds.words))
    print(f"projection: {len(sounds.audio)} clips of {len({*sounds.words})} words", flush=True)
    sounds, labels, parts = known(file)
    pooled_rows = np.stack([encoder(each) for each in sounds.audio])
    model: Any = SimpleNamespace(files={"onnx": options.model})
    network = TcResNet(Settings(), [model])
    beside = np.stack([next(network.classify(each.astype(np.float32))).embedding for each in sounds.audio])
    write((mean, projection), pooled_rows, (network.features, beside), (labels, parts, sounds.words))


def write(projected: tuple[Any, Any], pooled_rows: Any, network: tuple[str, Any], known: tuple[Any, Any, Any]) -> None:
    """The file. `network`: the form of the classifier's embeddings, and those of the known clips."""
    mean, projection = projected[0].astype(np.float32), projected[1].astype(np.float16)
    beside_mean = network[1].mean(axis=0)
    rows = np.concatenate([
        units((pooled_rows - mean) @ projection.astype(np.float32)), units(network[1] - beside_mean)
    ], axis=1)  # fmt: skip
    scale = np.maximum(1e-6, np.abs(rows).max(axis=0) / 127).astype(np.float32)
    codes = np.round(rows / scale).astype(np.int8)
    revision = hashlib.sha256(mean.tobytes() + projection.tobytes() + codes.tobytes()).hexdigest()[:8]
    target = FOLDER / f"{NAME}.npz"
    np.savez_compressed(
        target, mean=mean, projection=projection, beside=np.array(network[0]), beside_mean=beside_mean,
        embeddings=codes, scale=scale, labels=np.array(known[0], np.int16), parts=np.array(known[1], np.int16),
        words=np.array(known[2]), names=np.array(LABELS), revision=np.array(revision),
    )  # fmt: skip
    print(f"{target.name}: {len(rows)} clips, {target.stat().st_size} bytes, revision {revision}")


def units(rows: Any) -> Any:
    return rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-6)


if __name__ == "__main__":
    main()
