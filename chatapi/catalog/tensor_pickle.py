"""Reads the pickles of torch checkpoints, without torch and without running code from them.

A pickle names functions that its reader calls. Here only those that make a dictionary or a tensor have a meaning, and
each is this module's own; any other name is an error.
"""

from __future__ import annotations

import math
import pickle
import struct
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any, ClassVar

import numpy as np
import numpy.typing as npt

Tensor = npt.NDArray[Any]

STORAGES: Mapping[str, str] = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16",
    "LongStorage": "I64", "IntStorage": "I32", "ByteStorage": "U8", "BoolStorage": "BOOL",
}  # fmt: skip
"""Torch's class of a storage, the elements of one or more tensors -> the type of the elements, by safetensors' name."""
TYPES: Mapping[str, str] = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "U8": "u1", "BOOL": "?",
}  # fmt: skip
"""Safetensors' name of a type -> numpy's; numpy has no bfloat16, whose bits are read."""
FAULTS = (
    pickle.UnpicklingError, EOFError, struct.error, ValueError, TypeError, LookupError, AttributeError, ArithmeticError,
    AssertionError, RecursionError,
)  # fmt: skip
"""What damaged pickles raise."""

_Unpickler: Any = pickle._Unpickler


@dataclass(frozen=True)
class _StorageType:
    name: str


def without_bfloat16(data: Tensor, name: str) -> Tensor:
    """Elements of the type `name` in a type of numpy's: bfloat16 is the upper half of float32."""
    return (data.astype(np.uint32) << 16).view(np.float32) if name == "BF16" else data


class TensorUnpickler(_Unpickler):  # type: ignore[misc]
    """Unpickles plain values, dictionaries and tensors; nothing else can be named, made or given a state.

    It is Python's reader in Python, because that in C can leave no instruction out. Raises `FAULTS`.
    """

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self.storages: dict[str, Tensor] = {}
        """Key -> elements."""

    def storage(self, key: str, name: str, count: int) -> Tensor:
        """The elements of a storage, of the type `name`, of one dimension. Called once for each key."""
        raise NotImplementedError

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _parameter
        if module == "torch" and name in STORAGES:
            return _StorageType(STORAGES[name])
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is neither a tensor nor a dictionary")

    def persistent_load(self, pid: Any) -> Tensor:
        kind, stored, key, _, count, *view = pid
        if kind != "storage" or any(each is not None for each in view) or not isinstance(stored, _StorageType):
            raise pickle.UnpicklingError(f"it refers to {kind!r}, which is no storage")
        if not isinstance(count, int) or count < 0:
            raise pickle.UnpicklingError("a storage has no number of elements")
        if key not in self.storages:
            self.storages[key] = self.storage(key, stored.name, count)
        return self.storages[key]

    def _without_state(self) -> None:
        """Leaves out what torch notes beside a dictionary."""
        self.stack.pop()

    def _rejected(self) -> None:
        raise pickle.UnpicklingError("it makes an object that is neither a tensor nor a dictionary")

    dispatch: ClassVar[dict[int, Any]] = {
        **_Unpickler.dispatch,
        pickle.BUILD[0]: _without_state,
        **dict.fromkeys(map(ord, (pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX)), _rejected),
        **dict.fromkeys(map(ord, (pickle.EXT1, pickle.EXT2, pickle.EXT4)), _rejected),
    }


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> Tensor:
    """The view of a storage that a tensor is: in elements, within the storage, and with no more elements than it."""
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if min((offset, *size, *stride)) < 0 or (0 not in size and last >= len(storage)) or math.prod(size) > len(storage):
        raise pickle.UnpicklingError("a tensor is larger than its storage")
    steps = [step * storage.itemsize for step in stride]
    return np.ndarray(size, storage.dtype, storage, offset * storage.itemsize, steps)


def _parameter(tensor: Tensor, *_: object) -> Tensor:
    return tensor
