"""Writes a HiFi-GAN vocoder as an ONNX model, from the weights of a torch checkpoint.

Kong et al., HiFi-GAN (2020), generator with residual blocks of the first kind (jik876/hifi-gan, models.py, MIT): a
convolution of 7, then for each rate a transposed convolution and the mean of three residual blocks, a convolution of 7
and tanh. Weight normalization (w = g v / |v|, Salimans and Kingma, 2016) is folded into the weights. The convolutions
are written as two-dimensional ones over a height of 1, for which ONNX Runtime has blocked kernels on x86: with the same
numbers they take 0.41 instead of 0.63 CPU seconds for a second of speech. The same weights result in the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chatapi.catalog import checkpoint
from chatapi.catalog.onnx_writer import Graph, Tensor, integers, real, value
from chatapi.errors import ModelError

VERSION = 2
"""Version of this converter; a record names it, so that files of an older version are recognised."""
KERNELS, DILATIONS = (3, 7, 11), (1, 3, 5)
"""Of the residual blocks after each transposed convolution, and of the three convolutions of each block."""
SLOPE, LAST_SLOPE = 0.1, 0.01
"""Of leaky ReLU inside, and before the last convolution, where torch's default stands."""
INPUT, OUTPUT = "features", "samples"
"""Shapes (1, features, frames) and (1, 1, frames * hop), both float32."""


@dataclass(frozen=True)
class Structure:
    """The numbers that differ between published generators."""

    features: int
    """Features of a frame."""
    rates: tuple[int, ...]
    """Factors of the transposed convolutions; their product is the hop in samples."""
    kernels: tuple[int, ...]
    """Sizes of the transposed convolutions."""
    width: int = 512
    """Channels before the first transposed convolution; each halves them."""
    projected: int = 0
    """Features after a linear layer before everything else (kNN-VC's); 0: there is none."""


UNIVERSAL = Structure(80, (8, 8, 2, 2), (16, 16, 4, 4))
"""The universal generator: 80 mel bands, 256 samples a frame at 22,050 Hz."""
KNN_VC = Structure(1024, (10, 8, 2, 2), (20, 16, 4, 4), projected=512)
"""kNN-VC's generator: 1024 features of WavLM, 320 samples a frame at 16 kHz."""


def convert(source: Path, target: Path, structure: Structure = UNIVERSAL) -> None:
    """Writes `target` from a checkpoint with the table `generator`. Raises ModelError when it is another network."""
    target.write_bytes(encoded(checkpoint.tensors(source), structure))


def encoded(weights: Mapping[str, Tensor], structure: Structure) -> bytes:
    """The model. `weights`: torch's names -> tensors. Raises ModelError when one is missing or of another shape."""
    return _Writer(weights, structure).model()


class _Writer:
    def __init__(self, weights: Mapping[str, Tensor], structure: Structure) -> None:
        self._weights, self._structure = weights, structure
        self._graph = Graph("hifigan")
        self._height = self._graph.constant("height", np.array([2], np.int64))
        self._leaked: set[str] = set()

    def model(self) -> bytes:
        graph, structure = self._graph, self._structure
        found = graph.add("Unsqueeze", [INPUT, self._height], "rows")
        if structure.projected:
            found = self._projected(found)
        found = self._convolved("conv_pre", found, (structure.width, structure.projected or structure.features, 7))
        width = structure.width
        for place, (rate, kernel) in enumerate(zip(structure.rates, structure.kernels, strict=True)):
            found = self._upsampled(place, self._leaky(found, SLOPE), width, rate, kernel)
            width //= 2
            blocks = [
                self._block(f"resblocks.{place * len(KERNELS) + each}", found, width, size)
                for each, size in enumerate(KERNELS)
            ]
            third = graph.constant("third", np.array(1 / len(KERNELS), np.float32))
            found = graph.add("Mul", [graph.add("Sum", blocks, f"sum{place}"), third], f"mean{place}")
        found = self._convolved("conv_post", self._leaky(found, LAST_SLOPE), (1, width, 7))
        graph.add("Squeeze", [graph.add("Tanh", [found], "flat"), self._height], OUTPUT)
        return graph.model([value(INPUT, [1, structure.features, "frames"])], [value(OUTPUT, [1, 1, "length"])])

    def _projected(self, given: str) -> str:
        graph, shape = self._graph, (self._structure.projected, self._structure.features)
        weight = graph.constant("lin_pre.weight", self._weight("lin_pre.weight", shape)[:, :, None, None])
        bias = graph.constant("lin_pre.bias", self._weight("lin_pre.bias", shape[:1]))
        # A linear layer over features is a convolution of size 1 over frames.
        return graph.add("Conv", [given, weight, bias], "lin_pre", integers("kernel_shape", [1, 1]))

    def _block(self, name: str, given: str, width: int, size: int) -> str:
        shape = (width, width, size)
        for place, dilation in enumerate(DILATIONS):
            inner = self._convolved(f"{name}.convs1.{place}", self._leaky(given, SLOPE), shape, dilation)
            inner = self._convolved(f"{name}.convs2.{place}", self._leaky(inner, SLOPE), shape)
            given = self._graph.add("Add", [inner, given], f"{name}.{place}")
        return given

    def _leaky(self, given: str, slope: float) -> str:
        name = f"{given}/leaky"
        if name not in self._leaked:
            # The three blocks after a transposed convolution share it.
            self._leaked.add(name)
            self._graph.add("LeakyRelu", [given], name, real("alpha", slope))
        return name

    def _convolved(self, name: str, given: str, shape: tuple[int, ...], dilation: int = 1) -> str:
        pad = (shape[2] - 1) * dilation // 2
        attributes = [("kernel_shape", [1, shape[2]]), ("pads", [0, pad, 0, pad]), ("dilations", [1, dilation])]
        weight, bias = self._layer(name, shape, shape[0])
        return self._graph.add(
            "Conv", [given, weight, bias], name, b"".join(integers(key, each) for key, each in attributes)
        )

    def _upsampled(self, place: int, given: str, width: int, rate: int, kernel: int) -> str:
        name, pad = f"ups.{place}", (kernel - rate) // 2
        weight, bias = self._layer(name, (width, width // 2, kernel), width // 2)
        attributes = [("kernel_shape", [1, kernel]), ("pads", [0, pad, 0, pad]), ("strides", [1, rate])]
        return self._graph.add(
            "ConvTranspose", [given, weight, bias], name, b"".join(integers(key, each) for key, each in attributes)
        )

    def _layer(self, name: str, shape: tuple[int, ...], outputs: int) -> tuple[str, str]:
        """Names of the weight, without its normalization, and of the bias."""
        bias = self._graph.constant(f"{name}.bias", self._weight(f"{name}.bias", (outputs,)))
        if f"{name}.weight" in self._weights:
            weight = self._weight(f"{name}.weight", shape)
        else:
            scale = self._weight(f"{name}.weight_g", (shape[0], 1, 1)).astype(np.float64)
            direction = self._weight(f"{name}.weight_v", shape).astype(np.float64)
            norm = np.sqrt(np.sum(np.square(direction), axis=(1, 2), keepdims=True))
            weight = (scale * direction / norm).astype(np.float32)
        return self._graph.constant(f"{name}.weight", weight[:, :, None]), bias

    def _weight(self, name: str, shape: tuple[int, ...]) -> Tensor:
        found: Any = self._weights.get(name)
        if found is None or found.shape != shape or found.dtype.kind != "f":
            raise ModelError(f"the checkpoint has no {name} of shape {shape}; it is another vocoder")
        tensor: Tensor = found
        return tensor
