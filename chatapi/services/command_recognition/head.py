"""The taught part of the classifier: a linear head on frozen embeddings.

Multinomial logistic regression with an L2 penalty, minimized by the accelerated gradient method of Beck and Teboulle (A
Fast Iterative Shrinkage-Thresholding Algorithm, 2009; without its shrinkage step): with rows x of weight w, one-hot
targets y and p = softmax(x W + b), the loss is sum(w * -log p[y]) + penalty / 2 * |W|^2, its gradient
x^T (w (p - y)) + penalty W, and 1 / (largest eigenvalue of x^T diag(w) x / 2 + penalty) a step that never diverges.
Every label weighs the same, however many rows it has. Its probabilities are those of logits divided by a temperature,
which minimizes the same loss on other voices (Guo et al., On Calibration of Modern Neural Networks, 2017).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from chatapi.audio import Samples

Places = npt.NDArray[np.int64]
"""Places of labels."""

PENALTY = 0.01
STEPS = 300
"""Steps of the training; more change no figure."""
REPORT_EVERY = 10
"""Steps between two points of the training curve."""
TEMPERATURES = tuple(float(each) for each in np.geomspace(0.25, 4.0, 33))
OWN_WEIGHT = 3.0
"""What a row of a submitted sample weighs, compared with a row of the replay set of the same label."""
MOST_FALSE = 0.005
"""Share of the clips for calibration with other words and background that the taught words may accept together; their
threshold is chosen by it, so that of other voices and words they accept about 1 % (benchmarks/taught_words.py)."""


@dataclass(frozen=True, eq=False)
class LinearHead:
    """A version's head."""

    labels: tuple[str, ...]
    """The last one is that of all other sounds."""
    features: str
    """The form of the embeddings that it takes."""
    mean: Samples
    scale: Samples
    """What is subtracted from embeddings, and what they are then divided by."""
    weights: Samples
    """Of shape (width, labels)."""
    bias: Samples
    temperature: float = 1.0
    thresholds: tuple[float, ...] = ()
    """Of each label, the least probability with which it is recognized; empty: 0."""

    def probabilities(self, embeddings: Samples) -> Samples:
        """Of embeddings of shape (clips, width): (clips, labels)."""
        logits = ((embeddings - self.mean) / self.scale @ self.weights + self.bias) / np.float32(self.temperature)
        return _softmax(logits)

    def decided(self, probabilities: Samples) -> Places:
        """The place of the label of each clip; that of other sounds below the label's threshold."""
        best = probabilities.argmax(axis=1)
        sure = probabilities.max(axis=1) >= np.asarray(self.thresholds or [0.0] * len(self.labels))[best]
        return np.where(sure, best, len(self.labels) - 1)

    def encoded(self) -> bytes:
        """The content of its file (NPZ, without pickled objects)."""
        content = io.BytesIO()
        np.savez(
            content, labels=np.array(self.labels), features=np.array(self.features), mean=self.mean, scale=self.scale,
            weights=self.weights, bias=self.bias, temperature=np.array(self.temperature),
            thresholds=np.array(self.thresholds),
        )  # fmt: skip
        return content.getvalue()

    @classmethod
    def decoded(cls, content: bytes) -> LinearHead:
        """Raises ValueError, KeyError, OSError, EOFError where the content is damaged."""
        with np.load(io.BytesIO(content), allow_pickle=False) as found:
            return cls(
                tuple(str(each) for each in found["labels"]), str(found["features"]), found["mean"], found["scale"],
                found["weights"], found["bias"], float(found["temperature"]),
                tuple(float(each) for each in found["thresholds"]),
            )  # fmt: skip


@dataclass(frozen=True, eq=False)
class TrainingRows:
    """What a head is trained with."""

    embeddings: Samples
    """Of shape (rows, width)."""
    places: Places
    """Of each row, the place of its label."""
    weights: Samples
    """What each row weighs, compared with the others of its label."""


Report = Callable[[int, float], None]
"""Receives the number of steps that are done, and the loss."""


def train(rows: TrainingRows, labels: Sequence[str], features: str, report: Report) -> LinearHead:
    """A head for these labels, without a temperature and thresholds. The same rows result in the same head."""
    mean, scale = rows.embeddings.mean(axis=0), rows.embeddings.std(axis=0) + np.float32(1e-4)
    # Whatever their width, rows have the mean square length 1, so that the penalty means the same.
    scale *= np.float32(np.sqrt(rows.embeddings.shape[1]))
    inputs = ((rows.embeddings - mean) / scale).astype(np.float64)
    shares = _shares(rows, len(labels))
    targets = np.eye(len(labels))[rows.places]
    step = 1 / (0.5 * float(np.linalg.norm((inputs * shares[:, None]).T @ inputs, 2)) + PENALTY / inputs.shape[1])
    penalty = PENALTY / inputs.shape[1]
    weights = ahead = np.zeros((inputs.shape[1], len(labels)))
    bias = bias_ahead = np.zeros(len(labels))
    momentum = 1.0
    for number in range(1, STEPS + 1):
        found = _softmax(inputs @ ahead + bias_ahead)
        slope = (found - targets) * shares[:, None]
        new, new_bias = ahead - step * (inputs.T @ slope + penalty * ahead), bias_ahead - step * slope.sum(axis=0)
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        factor = (momentum - 1) / following
        ahead, bias_ahead = new + factor * (new - weights), new_bias + factor * (new_bias - bias)
        weights, bias, momentum = new, new_bias, following
        if number % REPORT_EVERY == 0:
            right = found[np.arange(len(found)), rows.places]
            report(number, float(-(shares * np.log(np.maximum(right, 1e-12))).sum()))
    return LinearHead(tuple(labels), features, mean, scale, weights.astype(np.float32), bias.astype(np.float32))


def calibrated(
    head: LinearHead, embeddings: Samples, places: Places, taught: Sequence[int], least: float
) -> LinearHead:
    """The head with the temperature that fits these clips of other voices, and with thresholds: `least`, and for taught
    words so much that together they accept at most MOST_FALSE of the other words and sounds among them."""
    losses = []
    for temperature in TEMPERATURES:
        found = replace(head, temperature=temperature).probabilities(embeddings)
        losses.append(float(-np.log(np.maximum(found[np.arange(len(places)), places], 1e-12)).mean()))
    head = replace(head, temperature=TEMPERATURES[int(np.argmin(losses))])
    others = head.probabilities(embeddings[places == len(head.labels) - 1])
    thresholds = [least] * len(head.labels)
    if len(taught) and len(others):
        accepted = np.where(np.isin(others.argmax(axis=1), taught), others.max(axis=1), 0.0)
        limit = round(min(0.99, max(least, float(np.quantile(accepted, 1 - MOST_FALSE)) + 1e-4)), 4)
        for label in taught:
            thresholds[label] = limit
    return replace(head, thresholds=tuple(thresholds))


def _shares(rows: TrainingRows, labels: int) -> npt.NDArray[np.float64]:
    """What each row weighs of the whole: every label the same."""
    sums = np.bincount(rows.places, weights=rows.weights, minlength=labels)
    present = np.count_nonzero(sums)
    found: npt.NDArray[np.float64] = rows.weights / sums[rows.places] / present
    return found


def _softmax(logits: npt.NDArray[np.floating]) -> Samples:
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: Samples = odds / odds.sum(axis=1, keepdims=True)
    return found
