"""Writes ONNX models, without the library onnx.

The fields: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto. The same graph results in the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from chatapi.catalog.protobuf import bytes_field, number_field

IR_VERSION, OPSET = 8, 17

_FLOAT, _INT64 = 1, 7
"""Types of tensors."""
_FLOAT_VALUE, _INT, _INTS = 1, 2, 7
"""Types of attributes."""

Tensor = npt.NDArray[Any]


@dataclass
class Graph:
    """A graph that grows node by node, each named after its output."""

    name: str
    _nodes: list[bytes] = field(default_factory=list)
    _tensors: list[bytes] = field(default_factory=list)
    _names: set[str] = field(default_factory=set)

    def add(self, kind: str, inputs: Sequence[str], output: str, attributes: bytes = b"") -> str:
        """Adds a node with one output, and returns the output's name."""
        self._nodes.append(node(kind, inputs, [output], attributes))
        return output

    def constant(self, name: str, tensor: Tensor) -> str:
        """Adds an initializer unless there is one of that name, and returns the name."""
        if name not in self._names:
            self._names.add(name)
            self._tensors.append(initializer(name, tensor))
        return name

    def model(self, inputs: Sequence[bytes], outputs: Sequence[bytes]) -> bytes:
        """The file. `inputs` and `outputs`: of `value`."""
        return model(self.name, self._nodes, self._tensors, inputs, outputs)


def model(
    name: str, nodes: Sequence[bytes], tensors: Sequence[bytes], inputs: Sequence[bytes], outputs: Sequence[bytes]
) -> bytes:
    """A model file of one graph."""
    graph = b"".join([
        *(bytes_field(1, each) for each in nodes),
        bytes_field(2, name.encode()),
        *(bytes_field(5, each) for each in tensors),
        *(bytes_field(11, each) for each in inputs),
        *(bytes_field(12, each) for each in outputs),
    ])  # fmt: skip
    opset = bytes_field(1, b"") + number_field(2, OPSET)
    return number_field(1, IR_VERSION) + bytes_field(2, b"chatapi") + bytes_field(7, graph) + bytes_field(8, opset)


def node(kind: str, inputs: Sequence[str], outputs: Sequence[str], attributes: bytes = b"") -> bytes:
    """A node; an input whose name is empty is left out."""
    names = [*(bytes_field(1, name.encode()) for name in inputs), *(bytes_field(2, name.encode()) for name in outputs)]
    return b"".join(names) + bytes_field(4, kind.encode()) + attributes


def integer(name: str, value: int) -> bytes:
    """An attribute. A negative number is written as protobuf does, as its complement in 64 bits."""
    return bytes_field(5, bytes_field(1, name.encode()) + number_field(3, value % (1 << 64)) + number_field(20, _INT))


def integers(name: str, values: Sequence[int]) -> bytes:
    """An attribute."""
    return bytes_field(
        5,
        bytes_field(1, name.encode()) + b"".join(number_field(8, value) for value in values) + number_field(20, _INTS),
    )


def real(name: str, value: float) -> bytes:
    """An attribute, a float32."""
    encoded = bytes([2 << 3 | 5]) + np.float32(value).astype("<f4").tobytes()
    return bytes_field(5, bytes_field(1, name.encode()) + encoded + number_field(20, _FLOAT_VALUE))


def initializer(name: str, tensor: Tensor) -> bytes:
    """A constant: int64, or else float32."""
    kind = _INT64 if tensor.dtype == np.int64 else _FLOAT
    data = np.ascontiguousarray(tensor, "<i8" if kind == _INT64 else "<f4").tobytes()
    return (
        b"".join(number_field(1, size) for size in tensor.shape)
        + number_field(2, kind)
        + bytes_field(8, name.encode())
        + bytes_field(9, data)
    )


def value(name: str, shape: Sequence[str | int]) -> bytes:
    """An input or an output of the graph, of float32; a size that is text is free."""
    sizes = (bytes_field(2, size.encode()) if isinstance(size, str) else number_field(1, size) for size in shape)
    tensor = number_field(1, _FLOAT) + bytes_field(2, b"".join(bytes_field(1, size) for size in sizes))
    return bytes_field(1, name.encode()) + bytes_field(2, bytes_field(1, tensor))
