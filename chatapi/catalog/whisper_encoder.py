"""Writes the first layers of a Whisper encoder as an ONNX model, from the weights of CTranslate2's model.bin.

Radford et al., Robust Speech Recognition via Large-Scale Weak Supervision (2022), and the code published with it
(whisper/model.py, MIT): two convolutions with GELU, the second of which halves the frames, positions, and layers of
attention and of two linear layers, each after a layer norm and added to its input. The same weights result in the same
bytes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from chatapi.catalog import ggml
from chatapi.catalog.onnx_writer import Graph, integer, integers, real, value
from chatapi.errors import ModelError

VERSION = 1
"""Version of this converter; a record names it, so that files of an older version are recognised."""
INPUT, OUTPUT = "mel", "features"
"""Shapes (1, bands, frames), and (1, frames / 2, width), both float32."""
EPSILON = 1e-5
"""Of layer norms, torch's default."""


def convert(source: Path, target: Path, layers: int) -> None:
    """Writes `target` from model.bin. Raises ModelError when it is not a Whisper model with so many layers."""
    target.write_bytes(encoded(ggml.read(source), layers))


def encoded(variables: ggml.Variables, layers: int) -> bytes:
    """The model. Raises ModelError."""
    if layers > variables.layers("encoder"):
        raise ModelError(f"the Whisper encoder has {variables.layers('encoder')} layers; {layers} are wanted")
    return _Writer(variables).model(layers)


class _Writer:
    def __init__(self, variables: ggml.Variables) -> None:
        self._variables, self._graph = variables, Graph("whisper_encoder")
        self._bands = variables["encoder/conv1/weight"].shape[1]
        self._width = variables["encoder/conv1/weight"].shape[0]
        self._heads = int(variables["encoder/num_heads"])

    def model(self, layers: int) -> bytes:
        graph = self._graph
        found = self._gelu(self._convolved("conv1", INPUT, 1))
        found = self._gelu(self._convolved("conv2", found, 2))
        found = graph.add("Transpose", [found], "frames", integers("perm", [0, 2, 1]))
        found = graph.add("Add", [found, self._positions(found)], "placed")
        for place in range(layers):
            found = self._layer(f"encoder/layer_{place}", found)
        graph.add("Identity", [found], OUTPUT)
        return graph.model([value(INPUT, [1, self._bands, "frames"])], [value(OUTPUT, [1, "half", self._width])])

    def _weight(self, name: str) -> str:
        return self._graph.constant(name, self._variables[name].astype(np.float32))

    def _number(self, name: str, number: float) -> str:
        return self._graph.constant(name, np.array(number, np.float32))

    def _row(self, name: str, *numbers: int) -> str:
        return self._graph.constant(name, np.array(numbers, np.int64))

    def _convolved(self, name: str, given: str, stride: int) -> str:
        inputs = [given, self._weight(f"encoder/{name}/weight"), self._weight(f"encoder/{name}/bias")]
        attributes = integers("kernel_shape", [3]) + integers("pads", [1, 1]) + integers("strides", [stride])
        return self._graph.add("Conv", inputs, name, attributes)

    def _gelu(self, given: str) -> str:
        """x (1 + erf(x / sqrt 2)) / 2."""
        graph = self._graph
        scaled = graph.add("Mul", [given, self._number("root_half", 0.5**0.5)], f"{given}/scaled")
        erf = graph.add("Erf", [scaled], f"{given}/erf")
        more = graph.add("Add", [erf, self._number("one", 1.0)], f"{given}/more")
        whole = graph.add("Mul", [given, more], f"{given}/whole")
        return graph.add("Mul", [whole, self._number("half", 0.5)], f"{given}/gelu")

    def _positions(self, frames: str) -> str:
        graph = self._graph
        shape = graph.add("Shape", [frames], "shape", integer("start", 1) + integer("end", 2))
        inputs = [self._weight("encoder/position_encodings/encodings"), self._row("zero", 0), shape]
        return graph.add("Slice", inputs, "positions")

    def _normed(self, name: str, given: str) -> str:
        inputs = [given, self._weight(f"{name}/gamma"), self._weight(f"{name}/beta")]
        attributes = integer("axis", -1) + real("epsilon", EPSILON)
        return self._graph.add("LayerNormalization", inputs, name, attributes)

    def _linear(self, name: str, given: str) -> str:
        graph = self._graph
        weight = graph.constant(f"{name}/weight", self._variables[f"{name}/weight"].astype(np.float32).T)
        product = graph.add("MatMul", [given, weight], f"{name}/product")
        return graph.add("Add", [product, self._weight(f"{name}/bias")], name)

    def _layer(self, name: str, given: str) -> str:
        graph = self._graph
        attended = self._attention(f"{name}/self_attention", given)
        given = graph.add("Add", [given, attended], f"{name}/attended")
        inner = self._linear(f"{name}/ffn/linear_0", self._normed(f"{name}/ffn/layer_norm", given))
        outer = self._linear(f"{name}/ffn/linear_1", self._gelu(inner))
        return graph.add("Add", [given, outer], name)

    def _attention(self, name: str, given: str) -> str:
        graph, size = self._graph, self._width // self._heads
        stacked = self._linear(f"{name}/linear_0", self._normed(f"{name}/layer_norm", given))
        split = graph.add("Reshape", [stacked, self._row("stack", 0, 0, 3, self._heads, size)], f"{name}/stack")
        # To (query, key and value; 1; heads; frames; size).
        turned = graph.add("Transpose", [split], f"{name}/turned", integers("perm", [2, 0, 3, 1, 4]))
        query, key, found = (
            graph.add("Gather", [turned, graph.constant(f"place{each}", np.array(each, np.int64))], f"{name}/{each}")
            for each in range(3)
        )
        across = graph.add("Transpose", [key], f"{name}/across", integers("perm", [0, 1, 3, 2]))
        products = graph.add("MatMul", [query, across], f"{name}/products")
        scaled = graph.add("Mul", [products, self._number("scale", size**-0.5)], f"{name}/scaled")
        weights = graph.add("Softmax", [scaled], f"{name}/weights", integer("axis", -1))
        heads = graph.add("MatMul", [weights, found], f"{name}/heads")
        back = graph.add("Transpose", [heads], f"{name}/back", integers("perm", [0, 2, 1, 3]))
        joined = graph.add("Reshape", [back, self._row("joined", 0, 0, self._width)], f"{name}/joined")
        return self._linear(f"{name}/linear_1", joined)
