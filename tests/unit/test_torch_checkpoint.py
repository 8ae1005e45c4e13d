"""Reading torch checkpoints without torch: tensors as they were written, and no code from the file."""

from __future__ import annotations

import io
import os
import pickle
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chatapi.catalog import torch_checkpoint
from chatapi.catalog.checkpoint import tensors
from chatapi.errors import ModelError

MACHINE = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


class Named:
    """A name in a pickle, called with its arguments where there are any."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


class Writer(pickle._Pickler):  # type: ignore[misc,name-defined]
    """Writes names of modules that are not there, as torch writes its own."""

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, Named):
            self.write(f"c{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, tuple) and obj and isinstance(obj[0], Named) and obj[0].name != "FloatStorage":
            self.save(obj[0])
            self.save(obj[1])
            self.write(pickle.REDUCE)
        elif isinstance(obj, tuple) and obj and obj[0] == "storage":
            super().save(obj, False)
            self.write(pickle.BINPERSID)
        else:
            super().save(obj, save_persistent_id)


def pickled(value: Any) -> bytes:
    file = io.BytesIO()
    Writer(file, 2).dump(value)
    return file.getvalue()


def storage(key: str, count: int, kind: str = "FloatStorage") -> tuple[Any, ...]:
    return ("storage", Named("torch", kind), key, "cpu", count, None)


def tensor(stored: tuple[Any, ...], offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> tuple[Any, ...]:
    return (Named("torch._utils", "_rebuild_tensor_v2"), (stored, offset, size, stride, False, OrderedDict()))


def checkpoint(value: Any, **storages: np.ndarray) -> bytes:
    """A file as torch wrote it before 2020."""
    head = pickled(torch_checkpoint.MAGIC) + pickled(torch_checkpoint.VERSION) + pickled(MACHINE)
    data = b"".join(struct.pack("<q", len(each)) + each.tobytes() for each in storages.values())
    return head + pickled(value) + pickled(list(storages)) + data


def read(path: Path, content: bytes) -> Any:
    file = path / "made.pt"
    file.write_bytes(content)
    return torch_checkpoint.read(file)


NUMBERS = np.arange(12, dtype="<f4")
MADE = checkpoint(
    {
        "step": 7,
        "weights": OrderedDict(
            rows=tensor(storage("k", 12), 0, (3, 4), (4, 1)),
            turned=tensor(storage("k", 12), 0, (4, 3), (1, 4)),
            part=tensor(storage("k", 12), 5, (2,), (1,)),
            empty=tensor(storage("k", 12), 12, (0,), (1,)),
        ),
    },
    k=NUMBERS,
)


def test_tensors_are_views_of_their_storages(tmp_path: Path) -> None:
    found = read(tmp_path, MADE)
    assert found["step"] == 7
    weights = found["weights"]
    assert np.array_equal(weights["rows"], NUMBERS.reshape(3, 4))
    assert np.array_equal(weights["turned"], NUMBERS.reshape(3, 4).T)
    assert list(weights["part"]) == [5, 6] and len(weights["empty"]) == 0


def test_a_table_of_tensors_is_read_as_one_of_newer_checkpoints(tmp_path: Path) -> None:
    stored = checkpoint({"state_dict": OrderedDict(a=tensor(storage("k", 12), 0, (12,), (1,))), "step": 7}, k=NUMBERS)
    (tmp_path / "old.pt").write_bytes(stored)
    [(name, found)] = tensors(tmp_path / "old.pt").items()
    assert name == "a" and np.array_equal(found, NUMBERS)


@pytest.mark.parametrize(
    ("module", "name"), [("os", "system"), ("builtins", "eval"), ("torch", "load"), ("torch._utils", "_rebuild_other")]
)
def test_no_name_from_the_file_is_called(tmp_path: Path, module: str, name: str) -> None:
    witness = tmp_path / "witness"
    hostile = checkpoint((Named(module, name), (f"touch {witness}",)))
    with pytest.raises(ModelError, match=f"it names {module}.{name}"):
        read(tmp_path, hostile)
    assert not witness.exists() and os.sep in str(witness)


@pytest.mark.parametrize(
    "value",
    [
        tensor(storage("k", 12), 0, (13,), (1,)),
        tensor(storage("k", 12), -1, (2,), (1,)),
        tensor(storage("k", 12), 0, (3, 4), (5, 1)),
        tensor(storage("k", 12), 0, (2,), (-1,)),
        tensor(storage("k", 12), 0, (1 << 40,), (0,)),
        tensor(storage("k", 1 << 40), 0, (2,), (1,)),
        tensor(storage("k", 12, "QuantizedStorage"), 0, (2,), (1,)),
    ],
)
def test_a_tensor_outside_of_its_storage_is_an_error(tmp_path: Path, value: Any) -> None:
    with pytest.raises(ModelError):
        read(tmp_path, checkpoint(value, k=NUMBERS))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.integers(0, len(MADE) - 1))
def test_a_file_that_is_cut_off_is_an_error(tmp_path: Path, length: int) -> None:
    with pytest.raises(ModelError):
        read(tmp_path, MADE[:length])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.integers(0, len(MADE) - 1), st.integers(0, 255))
def test_a_damaged_file_is_read_or_an_error(tmp_path: Path, place: int, byte: int) -> None:
    try:
        read(tmp_path, MADE[:place] + bytes([byte]) + MADE[place + 1 :])
    except ModelError:
        return


def test_another_file_is_no_checkpoint(tmp_path: Path) -> None:
    for content in (
        b"",
        b"PK\x03\x04 a newer checkpoint is a ZIP archive",
        pickled(1),
        MADE.replace(b"little", b"LITTLE"),
    ):
        with pytest.raises(ModelError):
            read(tmp_path, content)
