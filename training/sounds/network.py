"""The network of the small sound detector: convolutions with large steps in JAX, and its ONNX graph.

Its head is that of OrcaHello's network: the largest and the mean value of each channel.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from chatapi.engines.sound_detector.orcahello import FRAMES, MELS

Parameters = dict[str, Any]

LAYERS = ((8, 5, (4, 2)), (16, 3, (2, 2)), (32, 3, (2, 2)), (48, 3, (2, 2)))
"""Channels, kernel and stride (bands, frames) of each convolution."""
LABELS = ("other", "call")
SCALE = 30.0
"""Decibels that become 1."""


def initial(key: jax.Array) -> Parameters:
    parameters: Parameters = {}
    before = 1
    for number, (channels, kernel, _) in enumerate(LAYERS):
        key, own = jax.random.split(key)
        scale = np.sqrt(2 / (kernel * kernel * before))
        parameters[f"layer{number}"] = {
            "weight": jax.random.normal(own, (channels, before, kernel, kernel)) * scale,
            "bias": jnp.zeros(channels),
        }
        before = channels
    key, own = jax.random.split(key)
    parameters["head"] = {"weight": jax.random.normal(own, (2 * before, 2)) * 0.05, "bias": jnp.zeros(2)}
    return parameters


def forward(parameters: Parameters, mels: jax.Array) -> jax.Array:
    """Logits (windows, 2) of mels (windows, 1, MELS, FRAMES)."""
    values = mels / SCALE
    for number, (_, _, stride) in enumerate(LAYERS):
        own = parameters[f"layer{number}"]
        values = jax.lax.conv_general_dilated(values, own["weight"], stride, "SAME")
        values = jax.nn.relu(values + own["bias"][:, None, None])
    pooled = jnp.concatenate([values.max((2, 3)), values.mean((2, 3))], axis=1)
    return pooled @ parameters["head"]["weight"] + parameters["head"]["bias"]


def onnx_graph(parameters: Parameters, front_end: str) -> onnx.ModelProto:
    """The trained network with what the engine `orcahello` reads in its metadata."""
    nodes, weights = [], []

    def constant(name: str, value: Any) -> str:
        weights.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def add(kind: str, sources: list[str], out: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, sources, [out], **attributes))
        return out

    values = add("Div", ["mels", constant("scale", SCALE)], "scaled")
    for number, (_, kernel, stride) in enumerate(LAYERS):
        name = f"layer{number}"
        weight, bias = (constant(f"{name}.{each}", parameters[name][each]) for each in ("weight", "bias"))
        values = add("Conv", [values, weight, bias], name, kernel_shape=[kernel, kernel], strides=list(stride),
                     auto_pad="SAME_UPPER")  # fmt: skip
        values = add("Relu", [values], f"{name}.relu")
    largest = add("Flatten", [add("GlobalMaxPool", [values], "max")], "max.flat")
    mean = add("Flatten", [add("GlobalAveragePool", [values], "mean")], "mean.flat")
    pooled = add("Concat", [largest, mean], "pooled", axis=1)
    head = parameters["head"]
    add("Gemm", [pooled, constant("head.weight", head["weight"]), constant("head.bias", head["bias"])], "logits")
    graph = helper.make_graph(
        nodes, "made_calls",
        [helper.make_tensor_value_info("mels", TensorProto.FLOAT, ["windows", 1, MELS, FRAMES])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["windows", len(LABELS)])], weights)  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    helper.set_model_props(model, {"labels": ",".join(LABELS), "target": "call", "front_end": front_end})
    onnx.checker.check_model(model)
    return model
