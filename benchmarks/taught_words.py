"""Teaching of commands, as the product does it: 1, 5 and 10 samples a word, judged by voices new to it.

    python benchmarks/taught_words.py [--encoder FOLDER] [--network]

`--encoder`: the folder of the model whisper-base-words; left out: that of the data directory. `--network`: without the
word encoder. The clips are those of tests/corpus/commands. Four of WORDS are taught at a time, by voices other than
JUDGES, which no network, projection, replay set or threshold has seen; among them is a person. Prints the means over
all choices of `--rounds`:

- recognized: share of the taught words' clips with the right label; confused: with another command's
- false accepts: share of the clips of words that are no commands that are taken for a taught word, and for any command
- at 1 %: recognized, if the threshold of the taught words let 1 % of those clips through
- own words: share of right labels of the model's own words, by the model itself, and after teaching
- replay: the same of the known clips for judging, with noise and other speech among the false accepts
"""

from __future__ import annotations

import argparse
import csv
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from chatapi import settings
from chatapi.audio.decode import decode
from chatapi.engines import CommandReplay
from chatapi.engines.command.tc_resnet import TcResNet
from chatapi.engines.word_encoder.whisper_words import WhisperWords
from chatapi.services.command_recognition import head as heads
from chatapi.services.command_recognition.training import calibrated, training_rows, variants
from chatapi.storage.layout import DataDirectory

ROOT = Path(__file__).parents[1]
CORPUS = ROOT / "tests" / "corpus"
NAME = "whisper-base-words"
WORDS = ("two", "cancel", "hello", "next", "pause", "seven", "help", "continue", "louder")
"""Words that ten other voices say."""
JUDGES = ("asterisk-en_US", "festival-ked_diphone", "pico-en-GB", "pico-en-US", "kokoro-jf_tebukuro",
          "kokoro-jf_gongitsune", "kokoro-gongitsune_nezumi")  # fmt: skip
LEAST = 0.6
"""`command.threshold`."""
TITLES = ("recognized", "confused", "false: taught", "false: any", "at 1 %", "own before", "own after", "replay own",
          "replay false")  # fmt: skip


class Features:
    """Embeddings, and the known clips, of the network, or of the word encoder and the network."""

    def __init__(self, encoder: Path | None) -> None:
        network: Any = SimpleNamespace(files={"onnx": ROOT / "models" / "command-words.onnx"})
        self.network = TcResNet(settings.Settings(), [network])
        self.labels, self._encoder = self.network.labels, None
        if encoder is None:
            [self.replay] = self.network.replay()
            return
        model: Any = SimpleNamespace(name=NAME, files={"encoder.onnx": encoder / "encoder.onnx"})
        self._encoder = WhisperWords(settings.Settings(), [model])
        [self.replay] = self._encoder.known(self.labels)

    def __call__(self, samples: Any) -> Any:
        found = next(self.network.classify(samples)).embedding
        return found if self._encoder is None else next(self._encoder.encode(samples, found))

    def label(self, samples: Any) -> str:
        """What the model itself makes of a clip."""
        odds = next(self.network.classify(samples)).probabilities
        return self.labels[int(np.argmax(odds))] if max(odds) >= LEAST else self.labels[-1]


class Clips:
    """The corpus's clips of single words, with their embeddings."""

    def __init__(self, features: Features) -> None:
        self.audio, words, voices = [], [], []
        with (CORPUS / "commands.tsv").open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                samples = decode(CORPUS / row["file"]).samples
                if " " not in row["text"] and len(samples) <= 16_000:
                    self.audio.append(samples)
                    words.append(row["text"].strip(".").lower())
                    voices.append(row["voice"])
        self.words, self.judging = np.array(words), np.isin(voices, JUDGES)
        self.rows = np.stack([features(each) for each in self.audio])
        self.plain = np.array([features.label(each) for each in self.audio])
        self._features = features
        self._taught: dict[int, Any] = {}

    def taught(self, place: int) -> Any:
        """The embeddings of a sample's variants."""
        if place not in self._taught:
            found = variants(self.audio[place], place)
            self._taught[place] = np.stack([self._features(each) for each in found])
        return self._taught[place]


def round_(features: Features, clips: Clips, shots: int, number: int) -> tuple[float, ...]:
    random = np.random.default_rng(number)
    taught = sorted(random.choice(WORDS, 4, replace=False))
    own, labels = features.labels[:-1], (*features.labels[:-1], *taught, features.labels[-1])
    samples, embeddings = [], {}
    for word in taught:
        places = random.permutation(np.flatnonzero(~clips.judging & (clips.words == word)))[:shots]
        for place in places.tolist():
            sample: Any = SimpleNamespace(id=str(place), label=word, held_out=False)
            samples.append(sample)
            embeddings[sample.id] = clips.taught(place)
    replay: CommandReplay = features.replay
    head = heads.train(training_rows(replay, labels, samples, embeddings), labels, "", lambda *_: None)
    head = calibrated(head, replay, features.labels, LEAST)
    decided = np.array(labels)[head.decided(head.probabilities(clips.rows))]
    new, old = (clips.judging & np.isin(clips.words, each) for each in (taught, own))
    other = clips.judging & ~new & ~old
    right = decided == clips.words
    odds = head.probabilities(clips.rows)
    likeliest = np.array(labels)[odds.argmax(axis=1)]
    claimed = np.where(np.isin(likeliest, taught), odds.max(axis=1), 0.0)
    found_at = (likeliest == clips.words) & (claimed > np.quantile(claimed[other], 0.99))
    part = (np.asarray(replay.parts) == 2) & ~np.isin(replay.words, taught)
    places = np.asarray(replay.labels)
    known = np.array(labels)[head.decided(head.probabilities(replay.embeddings[part]))]
    wanted = np.array(features.labels)[places[part]]
    others = wanted == features.labels[-1]
    return tuple(float(np.mean(each)) for each in (
        right[new], ~right[new] & (decided[new] != labels[-1]), np.isin(decided[other], taught),
        decided[other] != labels[-1], found_at[new], (clips.plain == clips.words)[old], right[old],
        (known == wanted)[~others], known[others] != labels[-1],
    ))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    installed = DataDirectory(settings.Settings().data).models / NAME
    parser.add_argument("--encoder", type=Path, default=installed)
    parser.add_argument("--network", action="store_true")
    parser.add_argument("--rounds", type=int, default=12)
    options = parser.parse_args()
    features = Features(None if options.network else options.encoder)
    clips = Clips(features)
    print("load", " ".join(f"{each:.1f}" for each in os.getloadavg()), "| clips that judge:", int(clips.judging.sum()))
    print("samples", *(f"{title:>14}" for title in TITLES))
    for shots in (1, 5, 10):
        found = np.mean([round_(features, clips, shots, number) for number in range(options.rounds)], axis=0)
        print(f"{shots:7}", *(f"{100 * each:12.1f} %" for each in found), flush=True)


if __name__ == "__main__":
    main()
