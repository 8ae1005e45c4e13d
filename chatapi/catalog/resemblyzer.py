"""Writes Resemblyzer's voice encoder as an ONNX model, from the weights in its package.

The network (resemblyzer/voice_encoder.py of 0.1.4, Apache-2.0): three LSTM layers of 256 over mel spectrograms of 40
bands, of whose last hidden state a linear layer, ReLU and division by the norm make a unit vector of 256. The same
weights result in the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from chatapi.catalog import torch_checkpoint
from chatapi.catalog.onnx_writer import initializer, integer, integers, model, node, value
from chatapi.errors import ModelError

VERSION = 1
"""Version of this converter; a record names it, so that files of an older version are recognised."""
BYTES = 5_695_363
"""Size of the model."""
MELS, WIDTH, LAYERS = 40, 256, 3
INPUT, OUTPUT = "mels", "embeddings"
"""Shapes (windows, frames, 40) and (windows, 256), both float32."""

Tensor = npt.NDArray[Any]


def convert(source: Path, target: Path) -> None:
    """Writes `target` from the checkpoint. Raises ModelError when it is not Resemblyzer's."""
    state = torch_checkpoint.read(source)
    weights = state.get("model_state") if isinstance(state, dict) else None
    if not isinstance(weights, dict):
        raise ModelError(f"{source.name} has no model_state; it is not Resemblyzer's checkpoint")
    target.write_bytes(_model(weights))


def _model(weights: Mapping[str, Any]) -> bytes:
    layers, given = _layers(weights)
    linear = _weight(weights, "linear.weight", (WIDTH, WIDTH)), _weight(weights, "linear.bias", (WIDTH,))
    tensors = [
        initializer("axis_directions", np.array([1], np.int64)),
        initializer("axis_layers", np.array([0], np.int64)),
        *given,
        initializer("linear_weight", linear[0]),
        initializer("linear_bias", linear[1]),
    ]
    nodes = [
        node("Transpose", [INPUT], ["frames"], integers("perm", [1, 0, 2])),
        *layers,
        node("Squeeze", [f"H{LAYERS - 1}", "axis_layers"], ["hidden"]),
        node("Gemm", ["hidden", "linear_weight", "linear_bias"], ["raw"], integer("transB", 1)),
        node("Relu", ["raw"], ["positive"]),
        node("LpNormalization", ["positive"], [OUTPUT], integer("axis", 1) + integer("p", 2)),
    ]
    inputs, outputs = [value(INPUT, ["windows", "frames", MELS])], [value(OUTPUT, ["windows", WIDTH])]
    return model("resemblyzer", nodes, tensors, inputs, outputs)


def _layers(weights: Mapping[str, Any]) -> tuple[list[bytes], list[bytes]]:
    """The nodes and the initializers of the LSTM layers, from the tensor `frames` to `H2`."""
    nodes, tensors, given = [], [], "frames"
    for layer in range(LAYERS):
        width = MELS if layer == 0 else WIDTH
        tensors += [
            initializer(f"W{layer}", _gates(_weight(weights, f"lstm.weight_ih_l{layer}", (4 * WIDTH, width)))[None]),
            initializer(f"R{layer}", _gates(_weight(weights, f"lstm.weight_hh_l{layer}", (4 * WIDTH, WIDTH)))[None]),
            initializer(f"B{layer}", _biases(weights, layer)[None]),
        ]
        inputs = [given, f"W{layer}", f"R{layer}", f"B{layer}"]
        nodes.append(node("LSTM", inputs, [f"Y{layer}", f"H{layer}"], integer("hidden_size", WIDTH)))
        given = f"frames{layer}"
        if layer + 1 < LAYERS:
            nodes.append(node("Squeeze", [f"Y{layer}", "axis_directions"], [given]))
    return nodes, tensors


def _weight(weights: Mapping[str, Any], name: str, shape: tuple[int, ...]) -> Tensor:
    found = weights.get(name)
    if not isinstance(found, np.ndarray) or found.shape != shape or found.dtype != np.dtype("<f4"):
        raise ModelError(f"the checkpoint has no {name} of shape {shape}; it is not Resemblyzer's")
    return found


def _gates(tensor: Tensor) -> Tensor:
    """The four gates in the order of ONNX (input, output, forget, cell) from that of torch (input, forget, cell,
    output)."""
    first, forget, cell, output = np.split(tensor, 4)
    return np.concatenate([first, output, forget, cell])


def _biases(weights: Mapping[str, Any], layer: int) -> Tensor:
    names = (f"lstm.bias_ih_l{layer}", f"lstm.bias_hh_l{layer}")
    return np.concatenate([_gates(_weight(weights, name, (4 * WIDTH,))) for name in names])
