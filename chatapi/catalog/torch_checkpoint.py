"""Reads the tensors of a torch checkpoint in its format of before 2020, without torch and without its code.

The file is a row of pickles: magic number, protocol version, facts of the machine, the object, the keys of its
storages; then for each key an i64 number of elements and the elements, little-endian (torch/serialization.py,
`_legacy_save`).
"""

from __future__ import annotations

import os
import pickle
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from chatapi.catalog.tensor_pickle import FAULTS, TYPES, Tensor, TensorUnpickler
from chatapi.errors import ModelError

MAGIC = 0x1950A86A20F9469CFC6C
VERSION = 1001


def read(path: Path) -> Any:
    """The object of the checkpoint, with an array for every tensor. Raises ModelError when it is not such a file."""
    try:
        with path.open("rb") as file:
            return _read(file)
    except FAULTS as error:
        raise ModelError(f"{path.name} is not a torch checkpoint that can be read: {error}") from error


def _read(file: BinaryIO) -> Any:
    if (magic := _Reader(file).load()) != MAGIC:
        raise ValueError(f"it starts with {magic!r}")
    if (version := _Reader(file).load()) != VERSION:
        raise ValueError(f"its version is {version!r}")
    if _Reader(file).load().get("little_endian") is not True:
        raise ValueError("it is not little-endian")
    content = _Reader(file)
    found = content.load()
    for key in _Reader(file).load():
        storage = content.storages[key]
        (count,) = struct.unpack("<q", file.read(8))
        if count != len(storage):
            raise ValueError(f"a storage has {count} elements, expected {len(storage)}")
        data = file.read(storage.nbytes)
        if len(data) != storage.nbytes:
            raise EOFError("it is cut off")
        # The tensors are views of it.
        storage[:] = np.frombuffer(data, storage.dtype)
    return found


class _Reader(TensorUnpickler):
    """The elements of the storages follow the pickle; until then they are zeros."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self._room = os.fstat(file.fileno()).st_size
        """Bytes that storages may still take: no more than the file has."""

    def storage(self, key: str, name: str, count: int) -> Tensor:
        if name == "BF16":
            raise pickle.UnpicklingError("it has tensors of bfloat16, which this format of torch had not")
        dtype = np.dtype(TYPES[name])
        self._room -= count * dtype.itemsize
        if self._room < 0:
            raise pickle.UnpicklingError("its storages are larger than the file")
        return np.zeros(count, dtype)
