"""Command classification on the first layers of a Whisper encoder, for words that are taught (`training/commands`).

The frames of the middle 0.8 s are averaged in PARTS parts, and projected so that clips of one word are alike whoever
speaks it: Fisher's linear discriminants of many words. The probabilities are those of a head on the replay set.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chatapi.audio import Samples
from chatapi.audio.loudness import loudness_normalized
from chatapi.audio.mel import log_mel, mel_filters
from chatapi.engines import COMMAND_SAMPLES, CommandFeatures, CommandReplay, Stop, never, onnx_providers
from chatapi.engines.command.replay_file import FOLDER, read
from chatapi.errors import EngineFailed, ModelError
from chatapi.settings import Settings

if TYPE_CHECKING:
    from chatapi.catalog import InstalledModel

LABELS = ("down", "go", "left", "no", "right", "stop", "up", "yes", "unknown")
FIRST, LAST, PARTS = 5, 45, 4
"""Frames of 20 ms that are used, and the parts in which they are averaged."""


class WhisperWords:
    """A clip takes about 13 ms on one core. ModelError when it cannot be loaded."""

    labels = LABELS

    def __init__(self, settings: Settings, models: Sequence[InstalledModel]) -> None:
        if not models:
            raise ModelError("the whisper_words engine needs a model and was given none; `chatapi models` lists them")
        onnx = next(path for path in models[0].files.values() if path.suffix == ".onnx")
        self.features = features(onnx)
        replay = read(self.features, LABELS)
        if replay is None:
            raise ModelError(f"{onnx} is not the encoder whose projection chatapi has; fetch the model again")
        try:
            # On a GPU, copying the clip would take longer than the network.
            self._session = onnx_providers.session(onnx, onnx_providers.background_options(), settings, suited=("cpu",))
        except Exception as error:
            raise ModelError(f"{onnx} cannot be loaded: {error}") from error
        with np.load(FOLDER / f"{self.features}.npz", allow_pickle=False) as found:
            self._mean, self._projection = found["mean"], found["projection"].astype(np.float32)
            self._weights, self._bias = found["weights"], found["bias"]
        self._replay = replay

    def classify(self, samples: Samples, stop: Stop = never) -> Iterator[CommandFeatures]:
        if stop():
            return
        clip = np.zeros(COMMAND_SAMPLES, np.float32)
        given = samples[:COMMAND_SAMPLES]
        start = (COMMAND_SAMPLES - len(given)) // 2
        clip[start : start + len(given)] = given
        try:
            embedding = (pooled(self._session, clip) - self._mean) @ self._projection
        except Exception as error:
            raise EngineFailed("the command classifier failed; the log says why") from error
        logits = embedding @ self._weights + self._bias
        odds = np.exp(logits - logits.max())
        yield CommandFeatures(tuple(float(each) for each in odds / odds.sum()), embedding)

    def replay(self, stop: Stop = never) -> Iterator[CommandReplay]:
        if not stop():
            yield self._replay


def features(onnx: Path) -> str:
    """The form of the embeddings of an encoder."""
    return f"whisper_words-{hashlib.sha256(onnx.read_bytes()).hexdigest()[:12]}"


def session(onnx: Path) -> Any:
    """An encoder on one core, for training."""
    return onnx_providers.session(onnx, onnx_providers.background_options(), Settings(), suited=("cpu",))


def pooled(encoder: Any, clip: Samples) -> Samples:
    """The averaged frames of a clip of COMMAND_SAMPLES, of PARTS times the encoder's width."""
    loud = loudness_normalized(clip) if np.abs(clip).max() > 0 else clip
    [found] = encoder.run(["features"], {"mel": log_mel(loud, mel_filters(80))[None]})
    frames = found[0][FIRST:LAST]
    averaged: Samples = frames.reshape(PARTS, -1, frames.shape[1]).mean(axis=1).reshape(-1)
    return averaged
