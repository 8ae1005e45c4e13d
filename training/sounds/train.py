"""Trains the small sound detector on made calls, and writes its ONNX graph and figures of sounds of another seed.

    python training/sounds/train.py OUT [--windows 6000] [--epochs 8] [--seed 1]

Writes OUT/made-calls.onnx and OUT/figures.json. Needs jax, optax and onnx (`training/sounds/requirements.txt`).
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
import ocean
import optax
from network import forward, initial, onnx_graph

from chatapi.engines.sound_detector import front_end, orcahello

BATCH = 64
LEAST = 0.4
"""Seconds of a call that a window must have to count as positive; one with less of it is not used."""


def window(random: np.random.Generator, positive: bool, ratio: tuple[float, float]) -> Any:
    """The network's input for a window of one of the two front ends, at any level."""
    how = orcahello.FRONT_ENDS[orcahello.V1 if random.random() < 0.6 else orcahello.OLD]
    margin = 1.0
    while True:
        wave, calls = ocean.clip(random, how.window + 2 * margin, int(random.integers(1, 3)) if positive else 0, ratio)
        heard = sum(max(0.0, min(end, margin + how.window) - max(start, margin)) for start, end in calls)
        if not positive or heard >= LEAST:
            break
    if how.normalized:
        # The loudest sample of the clip is rarely in this window.
        wave *= random.uniform(0.15, 1) / np.abs(wave).max()
    else:
        wave *= 10 ** random.uniform(-3, -0.7) / max(1.0, np.abs(wave).max() / 5)
    first = int(margin * ocean.RATE)
    cut = wave[first : first + int(how.window * ocean.RATE)]
    return front_end.network_input(front_end.sixteen_bits(np.clip(cut, -1, 1).astype(np.float32)))[None]


def windows(seed: int, count: int, ratio: tuple[float, float]) -> tuple[Any, Any]:
    """Inputs (count, 1, MELS, FRAMES) in half precision, and labels; every second one has a call."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    return np.stack([window(random, bool(label), ratio).astype(np.float16) for label in labels]), labels


def train(inputs: Any, labels: Any, epochs: int, seed: int) -> Any:
    parameters = initial(jax.random.key(seed))
    steps = epochs * (len(labels) // BATCH)
    optimizer = optax.adamw(optax.warmup_cosine_decay_schedule(0.0, 3e-3, 50, steps), weight_decay=1e-3)
    moments = optimizer.init(parameters)

    @jax.jit
    def step(parameters: Any, moments: Any, mels: Any, labels: Any) -> Any:
        def loss(parameters: Any) -> Any:
            targets = optax.smooth_labels(jax.nn.one_hot(labels, 2), 0.02)
            return optax.softmax_cross_entropy(forward(parameters, mels), targets).mean()

        value, gradients = jax.value_and_grad(loss)(parameters)
        updates, moments = optimizer.update(gradients, moments, parameters)
        return optax.apply_updates(parameters, updates), moments, value

    random, began = np.random.default_rng(seed + 100), time.monotonic()
    for epoch in range(epochs):
        values = []
        for chosen in np.split(random.permutation(len(labels))[: len(labels) // BATCH * BATCH], len(labels) // BATCH):
            mels = jnp.asarray(inputs[chosen], jnp.float32)
            parameters, moments, value = step(parameters, moments, mels, jnp.asarray(labels[chosen]))
            values.append(float(value))
        print(f"epoch {epoch + 1}/{epochs}: loss {np.mean(values):.3f}, {time.monotonic() - began:.0f} s", flush=True)
    return parameters


def scores(parameters: Any, inputs: Any) -> Any:
    run = jax.jit(lambda mels: jax.nn.softmax(forward(parameters, mels))[:, 1])
    return np.concatenate([np.asarray(run(jnp.asarray(part, jnp.float32))) for part in np.array_split(inputs, 20)])


def figures(parameters: Any, seed: int, count: int) -> dict[str, Any]:
    """Shares of windows of another seed that are right at 0.5, by the ratio of call to noise."""
    found: dict[str, Any] = {}
    for name, ratio in {"-5 to 0 dB": (-5, 0), "0 to 10 dB": (0, 10), "10 to 20 dB": (10, 20)}.items():
        inputs, labels = windows(seed, count, ratio)
        given = scores(parameters, inputs)
        found[name] = {
            "calls found": round(float((given[labels == 1] > 0.5).mean()), 3),
            "noise rejected": round(float((given[labels == 0] <= 0.5).mean()), 3),
            "area under the curve": round(area(given, labels), 4),
        }
    return found


def area(given: Any, labels: Any) -> float:
    """Under the curve of false and right positives: how often a call scores higher than noise."""
    ranks = np.argsort(np.argsort(given)) + 1
    count = labels.sum()
    return float((ranks[labels == 1].sum() - count * (count + 1) / 2) / (count * (len(labels) - count)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--windows", type=int, default=6000)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    began = time.process_time()
    inputs, labels = windows(chosen.seed, chosen.windows, (-3, 20))
    print(f"{len(labels)} windows after {time.process_time() - began:.0f} s", flush=True)
    parameters = train(inputs, labels, chosen.epochs, chosen.seed)
    graph = onnx_graph(parameters, orcahello.V1)
    (chosen.out / "made-calls.onnx").write_bytes(graph.SerializeToString())
    about = {"seed": chosen.seed, "windows": chosen.windows, "epochs": chosen.epochs}
    about |= {"windows of another seed": figures(parameters, chosen.seed + 1000, 500)}
    about["cpu seconds"] = round(time.process_time() - began)
    (chosen.out / "figures.json").write_text(json.dumps(about, indent=2) + "\n")
    print(json.dumps(about, indent=2))


if __name__ == "__main__":
    main()
