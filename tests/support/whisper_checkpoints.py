"""Checkpoints of Whisper as OpenAI and Hugging Face publish them, made from an installed model for CTranslate2."""

from __future__ import annotations

import json
import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from chatapi.catalog import ggml
from chatapi.catalog.tensor_pickle import Tensor

PARTS = {"self_attention": ("attn", 3), "attention": ("cross_attn", 0)}


def openai_tensors(model: Path) -> dict[str, Tensor]:
    """The tensors of `model.bin`, by their names in OpenAI's form."""
    variables = ggml.read(model).tensors
    found: dict[str, Tensor] = {}
    for side in ("encoder", "decoder"):
        found[f"{side}.positional_embedding"] = variables[f"{side}/position_encodings/encodings"]
        norm = "encoder.ln_post" if side == "encoder" else "decoder.ln"
        found |= _norm(norm, variables, f"{side}/layer_norm")
        for number in range(ggml.read(model).layers(side)):
            found |= _layer(f"{side}.blocks.{number}", variables, f"{side}/layer_{number}", side == "decoder")
    found["decoder.token_embedding.weight"] = variables["decoder/embeddings/weight"]
    for name in ("conv1", "conv2"):
        found |= _linear(f"encoder.{name}", variables, f"encoder/{name}")
    return found


def _norm(name: str, variables: Any, place: str) -> dict[str, Tensor]:
    return {f"{name}.weight": variables[f"{place}/gamma"], f"{name}.bias": variables[f"{place}/beta"]}


def _linear(name: str, variables: Any, place: str) -> dict[str, Tensor]:
    return {f"{name}.{part}": variables[f"{place}/{part}"] for part in ("weight", "bias")}


def _split(names: list[str], variables: Any, place: str) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for part in ("weight", "bias"):
        for name, each in zip(names, np.split(variables[f"{place}/{part}"], len(names)), strict=True):
            # Whisper's keys have no bias.
            if part == "weight" or not name.endswith(".key"):
                found[f"{name}.{part}"] = each
    return found


def _layer(name: str, variables: Any, place: str, decoder: bool) -> dict[str, Tensor]:
    own = f"{place}/self_attention"
    found = _norm(f"{name}.attn_ln", variables, f"{own}/layer_norm")
    found |= _split([f"{name}.attn.{each}" for each in ("query", "key", "value")], variables, f"{own}/linear_0")
    found |= _linear(f"{name}.attn.out", variables, f"{own}/linear_1")
    if decoder:
        cross = f"{place}/attention"
        found |= _norm(f"{name}.cross_attn_ln", variables, f"{cross}/layer_norm")
        found |= _linear(f"{name}.cross_attn.query", variables, f"{cross}/linear_0")
        found |= _split([f"{name}.cross_attn.{each}" for each in ("key", "value")], variables, f"{cross}/linear_1")
        found |= _linear(f"{name}.cross_attn.out", variables, f"{cross}/linear_2")
    found |= _norm(f"{name}.mlp_ln", variables, f"{place}/ffn/layer_norm")
    found |= _linear(f"{name}.mlp.0", variables, f"{place}/ffn/linear_0")
    return found | _linear(f"{name}.mlp.2", variables, f"{place}/ffn/linear_1")


TO_HUGGING_FACE = (
    (".blocks.", ".layers."), (".cross_attn_ln.", ".encoder_attn_layer_norm."), (".attn_ln.", ".self_attn_layer_norm."),
    (".mlp_ln.", ".final_layer_norm."), (".cross_attn.", ".encoder_attn."), (".attn.", ".self_attn."),
    (".query.", ".q_proj."), (".key.", ".k_proj."), (".value.", ".v_proj."), (".out.", ".out_proj."),
    (".mlp.0.", ".fc1."), (".mlp.2.", ".fc2."), ("positional_embedding", "embed_positions.weight"),
    ("token_embedding.", "embed_tokens."), ("encoder.ln_post.", "encoder.layer_norm."),
    ("decoder.ln.", "decoder.layer_norm."),
)  # fmt: skip


def hugging_face(folder: Path, tensors: dict[str, Tensor], vocabulary: list[str], config: dict[str, Any]) -> None:
    """Writes a folder as Hugging Face's library saves one."""
    folder.mkdir()
    named = {}
    for name, tensor in tensors.items():
        for ours, theirs in TO_HUGGING_FACE:
            name = name.replace(ours, theirs)
        named[f"model.{name}"] = tensor
    header, place, parts = {}, 0, []
    for name, tensor in named.items():
        data = np.ascontiguousarray(tensor, "<f2").tobytes()
        header[name] = {"dtype": "F16", "shape": list(tensor.shape), "data_offsets": [place, place + len(data)]}
        place += len(data)
        parts.append(data)
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"".join(parts))
    ids = {token: number for number, token in enumerate(vocabulary) if not token.startswith("<|0.") or number < 1}
    (folder / "vocab.json").write_text(json.dumps(ids))
    theirs = {"suppress_tokens": config["suppress_ids"], "begin_suppress_tokens": config["suppress_ids_begin"]}
    (folder / "generation_config.json").write_text(json.dumps({**theirs, "alignment_heads": config["alignment_heads"]}))


@contextmanager
def torch_names() -> Iterator[Any]:
    """Inside the context there are the names of torch that a pickle of tensors has; pickle looks them up."""
    torch, utils = ModuleType("torch"), ModuleType("torch._utils")

    def _rebuild_tensor_v2(*arguments: Any) -> None: ...

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    storage = type("HalfStorage", (), {"__module__": "torch"})
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2  # type: ignore[attr-defined]
    torch.HalfStorage, torch._utils = storage, utils  # type: ignore[attr-defined]
    before = {name: sys.modules.get(name) for name in ("torch", "torch._utils")}
    sys.modules |= {"torch": torch, "torch._utils": utils}
    try:
        yield torch
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


class _Tensor:
    """A tensor, which is pickled as torch pickles one."""

    def __init__(self, key: str, shape: tuple[int, ...], torch: Any) -> None:
        self.key, self.shape, self.torch = key, shape, torch

    def __reduce__(self) -> Any:
        count = int(np.prod(self.shape))
        strides = tuple(int(np.prod(self.shape[place + 1 :])) for place in range(len(self.shape)))
        storage = _Stored(("storage", self.torch.HalfStorage, self.key, "cpu", count))
        return self.torch._utils._rebuild_tensor_v2, (storage, 0, self.shape, strides, False, OrderedDict())


class _Stored:
    def __init__(self, reference: tuple[Any, ...]) -> None:
        self.reference = reference


class _Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        return value.reference if isinstance(value, _Stored) else None


def openai(path: Path, tensors: dict[str, Tensor]) -> None:
    """Writes a file as OpenAI's code saves one."""
    with zipfile.ZipFile(path, "w") as file, torch_names() as torch:
        state = {name: _Tensor(str(key), tensor.shape, torch) for key, (name, tensor) in enumerate(tensors.items())}
        with file.open("model/data.pkl", "w") as opened:
            _Pickler(opened, 2).dump({"dims": {"n_audio_state": 384}, "model_state_dict": state})
        for key, tensor in enumerate(tensors.values()):
            file.writestr(f"model/data/{key}", np.ascontiguousarray(tensor, "<f2").tobytes())
