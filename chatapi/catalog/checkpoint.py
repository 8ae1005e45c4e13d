"""Reads the tensors of a checkpoint without running code of it and without torch.

A `.safetensors` file is a u64 length, that many bytes of JSON with type, shape and place of each tensor, and the data
(https://github.com/huggingface/safetensors). A `.pt`, `.pth` or `.bin` file of torch 1.6 or later is a ZIP archive with
a pickle and uncompressed files of numbers; an older one is read by `torch_checkpoint`.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from chatapi.catalog import torch_checkpoint
from chatapi.catalog.tensor_pickle import FAULTS, TYPES, Tensor, TensorUnpickler, without_bfloat16
from chatapi.errors import ModelError

MOST_HEADER = 32 << 20
"""Largest JSON header or pickle, in bytes."""
MOST_TENSORS = 20_000


def tensors(path: Path) -> dict[str, Tensor]:
    """Name -> tensor of a checkpoint; blocking. Raises ModelError."""
    try:
        if path.suffix == ".safetensors":
            return _safetensors(path)
        if not zipfile.is_zipfile(path):
            return _flattened(torch_checkpoint.read(path), path)
        with zipfile.ZipFile(path) as file:
            return _flattened(_archived(file, path), path)
    except (OSError, zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error


def _archived(file: zipfile.ZipFile, path: Path) -> Any:
    """The object of an archive. Raises ModelError."""
    try:
        return _Reader(file).load()
    except FAULTS as error:
        raise ModelError(f"{path} is not a torch checkpoint that can be read: {error}") from error


def _safetensors(path: Path) -> dict[str, Tensor]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(MOST_HEADER, size - 8):
            raise ModelError(f"{path} is damaged: its header has {length} bytes")
        try:
            header = json.loads(file.read(length))
            described = {name: each for name, each in header.items() if name != "__metadata__"}
            _require_bounded(described, size - 8 - length)
            # One map of the file: each of its own would take a descriptor.
            data = np.memmap(path, np.uint8, "r", 8 + length) if size > 8 + length else np.zeros(0, np.uint8)
            found = {name: _described(each, data) for name, each in described.items()}
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise ModelError(f"{path} is damaged: its header cannot be read ({error})") from error
    return found


def _require_bounded(described: dict[str, Any], size: int) -> None:
    """Raises ValueError for more tensors than a checkpoint has, or tensors that share their numbers, which a small file
    could fill the memory with. `size`: bytes of all of them."""
    if len(described) > MOST_TENSORS or sum(map(_size, described.values())) > size:
        raise ValueError("its tensors are too many, or larger than the file")


def _size(each: dict[str, Any]) -> int:
    """The bytes of a tensor of a safetensors file."""
    first, last = map(int, each["data_offsets"])
    if not 0 <= first <= last:
        raise ValueError("the place of a tensor is wrong")
    return last - first


def _described(each: dict[str, Any], data: Tensor) -> Tensor:
    """A tensor of a safetensors file. `data`: its bytes behind the header."""
    shape, first = tuple(map(int, each["shape"])), int(each["data_offsets"][0])
    kind = np.dtype(TYPES[each["dtype"]])
    count = math.prod(shape)
    if min(shape, default=0) < 0 or _size(each) != count * kind.itemsize:
        raise ValueError("the size of a tensor is wrong")
    if first + _size(each) > len(data):
        raise ValueError("the file is truncated")
    return without_bfloat16(data[first : first + _size(each)].view(kind), each["dtype"]).reshape(shape)


class _Reader(TensorUnpickler):
    """Reads the pickle of an archive; each storage is a file beside it."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        names = [each for each in archive.namelist() if each.endswith("/data.pkl")]
        if len(names) != 1:
            raise ValueError(f"it has {len(names)} files named data.pkl")
        if archive.getinfo(names[0]).file_size > MOST_HEADER:
            raise ValueError(f"its pickle has more than {MOST_HEADER} bytes")
        self._archive = archive
        self._folder = names[0].removesuffix("data.pkl")
        super().__init__(archive.open(names[0]))

    def storage(self, key: str, name: str, count: int) -> Tensor:
        dtype = np.dtype(TYPES[name])
        member = self._archive.getinfo(f"{self._folder}data/{key}")
        # Uncompressed as torch writes them, so that a small file cannot fill the memory.
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != count * dtype.itemsize:
            raise ValueError(f"the size of its file {key} is wrong")
        return without_bfloat16(np.frombuffer(self._archive.read(member), dtype), name)


def _flattened(content: object, path: Path) -> dict[str, Tensor]:
    """The table of tensors of a checkpoint: the whole, or the one that it has inside."""
    if not isinstance(content, Mapping):
        raise ModelError(f"{path} holds no table of tensors")
    inner = next((content[key] for key in ("model_state_dict", "state_dict", "generator") if key in content), content)
    if not isinstance(inner, Mapping) or len(inner) > MOST_TENSORS:
        raise ModelError(f"{path} holds no table of tensors")
    return {str(name): each for name, each in inner.items() if isinstance(each, np.ndarray)}
