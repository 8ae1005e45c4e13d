"""The network of the command classifier: TC-ResNet8 in JAX, and its ONNX graph.

Choi et al., Temporal Convolution for Real-time Keyword Spotting on Mobile Devices (2019): the mel bands are channels,
and all convolutions go along time. Here it has 1.5 times the channels.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Parameters = dict[str, Any]

BANDS = 40
WIDTHS = (24, 36, 48, 72)
"""Channels of the first convolution and of the three blocks."""
KERNEL = 9
MOMENTUM, EPSILON = 0.95, 1e-5


def convolutions() -> list[tuple[str, int, int, int, int]]:
    """Name, kernel, channels in, channels out and stride of every convolution."""
    found = [("first", 3, BANDS, WIDTHS[0], 1)]
    for number, (before, after) in enumerate(itertools.pairwise(WIDTHS)):
        found += [(f"block{number}.a", KERNEL, before, after, 2), (f"block{number}.b", KERNEL, after, after, 1),
                  (f"block{number}.skip", 1, before, after, 2)]  # fmt: skip
    return found


def initial(key: jax.Array, labels: int, words: int) -> tuple[Parameters, Parameters]:
    """The parameters, and the running mean and variance of every batch normalization.

    A second head, for `words` words, is only for training: embeddings that distinguish many words distinguish words
    that are taught later too.
    """
    parameters: Parameters = {}
    state: Parameters = {}
    for name, kernel, before, after, _ in convolutions():
        key, own = jax.random.split(key)
        scale = np.sqrt(2 / (kernel * before))
        parameters[name] = {"weight": jax.random.normal(own, (kernel, before, after)) * scale,
                            "gain": jnp.ones(after), "bias": jnp.zeros(after)}  # fmt: skip
        state[name] = {"mean": jnp.zeros(after), "variance": jnp.ones(after)}
    key, own = jax.random.split(key)
    for head, count in (("head", labels), ("words", words)):
        key, own = jax.random.split(key)
        weight = jax.random.normal(own, (WIDTHS[-1], count)) * 0.05
        parameters[head] = {"weight": weight, "bias": jnp.zeros(count)}
    return parameters, state


def forward(
    parameters: Parameters, state: Parameters, mels: jax.Array, key: jax.Array | None = None
) -> tuple[tuple[jax.Array, jax.Array], jax.Array, Parameters]:
    """Logits of the labels and of the words, embeddings and the new state, of mels of shape (clips, frames, BANDS).

    `key`: of dropout, in training.
    """
    new: Parameters = {}

    def convolve(name: str, values: jax.Array, stride: int) -> jax.Array:
        own = parameters[name]
        out = jax.lax.conv_general_dilated(
            values, own["weight"], (stride,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
        )
        if key is None:
            mean, variance = state[name]["mean"], state[name]["variance"]
        else:
            mean, variance = out.mean((0, 1)), out.var((0, 1))
            new[name] = {"mean": MOMENTUM * state[name]["mean"] + (1 - MOMENTUM) * mean,
                         "variance": MOMENTUM * state[name]["variance"] + (1 - MOMENTUM) * variance}  # fmt: skip
        return (out - mean) * jax.lax.rsqrt(variance + EPSILON) * own["gain"] + own["bias"]

    values = jax.nn.relu(convolve("first", mels, 1))
    for number in range(len(WIDTHS) - 1):
        inner = jax.nn.relu(convolve(f"block{number}.a", values, 2))
        inner = convolve(f"block{number}.b", inner, 1)
        values = jax.nn.relu(inner + jax.nn.relu(convolve(f"block{number}.skip", values, 2)))
    embedding = values.mean(1)
    kept = embedding
    if key is not None:
        mask = jax.random.bernoulli(key, 0.7, embedding.shape)
        kept = jnp.where(mask, embedding / 0.7, 0)
    logits = [kept @ parameters[head]["weight"] + parameters[head]["bias"] for head in ("head", "words")]
    return (logits[0], logits[1]), embedding, new


def onnx_graph(parameters: Parameters, state: Parameters, labels: Sequence[str]) -> onnx.ModelProto:
    """The trained network: `mels` (clips, frames, BANDS) to `logits` and `embeddings`; normalizations are folded in.

    Its metadata has the labels.
    """
    nodes, weights = [], []

    def constant(name: str, value: Any) -> str:
        weights.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def convolve(name: str, source: str, kernel: int, stride: int) -> str:
        own, running = parameters[name], state[name]
        factor = np.asarray(own["gain"]) / np.sqrt(np.asarray(running["variance"]) + EPSILON)
        weight = constant(f"{name}.weight", np.transpose(np.asarray(own["weight"]) * factor, (2, 1, 0)))
        bias = constant(f"{name}.bias", np.asarray(own["bias"]) - np.asarray(running["mean"]) * factor)
        nodes.append(helper.make_node("Conv", [source, weight, bias], [name], kernel_shape=[kernel], strides=[stride],
                                      auto_pad="SAME_UPPER"))  # fmt: skip
        return name

    def add(kind: str, sources: list[str], out: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, sources, [out], **attributes))
        return out

    sizes = {name: (kernel, stride) for name, kernel, _, _, stride in convolutions()}
    values = add("Transpose", ["mels"], "channels", perm=[0, 2, 1])
    values = add("Relu", [convolve("first", values, *sizes["first"])], "first.relu")
    for number in range(len(WIDTHS) - 1):
        block = f"block{number}"
        inner = add("Relu", [convolve(f"{block}.a", values, *sizes[f"{block}.a"])], f"{block}.a.relu")
        inner = convolve(f"{block}.b", inner, *sizes[f"{block}.b"])
        skip = add("Relu", [convolve(f"{block}.skip", values, *sizes[f"{block}.skip"])], f"{block}.skip.relu")
        values = add("Relu", [add("Add", [inner, skip], f"{block}.sum")], f"{block}.out")
    pooled = add("Flatten", [add("GlobalAveragePool", [values], "pooled")], "embeddings")
    head = parameters["head"]
    add("Gemm", [pooled, constant("head.weight", head["weight"]), constant("head.bias", head["bias"])], "logits")
    graph = helper.make_graph(
        nodes, "command_words", [helper.make_tensor_value_info("mels", TensorProto.FLOAT, ["clips", "frames", BANDS])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["clips", len(labels)]),
         helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["clips", WIDTHS[-1]])], weights)  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    helper.set_model_props(model, {"labels": ",".join(labels)})
    onnx.checker.check_model(model)
    return model
