"""Converts Whisper weights from the CTranslate2 format to whisper.cpp's ggml format.

CTranslate2's `model.bin` (binary version 4 and later), little-endian: u32 version; name of the spec; u32 revision;
u32 number of variables; each variable: name, u8 rank, u32 dimensions, u8 type, u32 bytes, data; u32 number of aliases;
each alias: its name, the variable it stands for. A name is a u16 length, its bytes, and a zero the length counts.

A ggml file, little-endian: u32 magic; eleven i32 hyperparameters; i32 rows and columns of the mel filters and the
filters as f32; i32 number of tokens, each a u32 length and its bytes; then tensors until the end of the file: i32 rank,
i32 length of the name, i32 type, dimensions with the fastest first, name, data.

Only the mel filters and, where requested, the quantization are computed; float16 weights stay unchanged. Order,
rounding and vocabulary are those of the files that whisper.cpp's authors publish, so the same weights result in the
same bytes: a converted file has the sha256 of the published one.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from chatapi.audio.mel import mel_filters
from chatapi.errors import ModelError

VERSION = 1
"""Version of this converter; a record names it, so that files of an older version are recognised."""

Weights = Literal["f16", "q8_0"]
Tensor = npt.NDArray[Any]
Report = Callable[[int, int], None]
"""Called with the bytes of the source's weights that are written, and the total."""

MAGIC = 0x67676D6C
F32, F16, Q8_0 = 0, 1, 8
"""ggml's numbers of tensor types."""
FTYPES: Mapping[Weights, int] = {"f16": 1, "q8_0": 2007}
"""ggml's numbers of file types; the quantized one carries the format's version, 2, in its thousands."""
BLOCK = 32
"""Weights that share a scale in q8_0."""
SLAB = 2048
"""Rows quantized at once, which bounds the memory."""

TYPES = (np.dtype("<f4"), np.dtype("i1"), np.dtype("<i2"), np.dtype("<i4"), np.dtype("<f2"))
"""CTranslate2's types, in the order of their numbers."""

SPECIAL = "<|endoftext|>"
"""The first of the special tokens, which whisper.cpp adds by itself."""
MULTILINGUAL = 51865
"""Least tokens of a multilingual model; an English model has one less."""


@dataclass(frozen=True)
class Variables:
    """The variables of a CTranslate2 file, memory-mapped."""

    tensors: Mapping[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        try:
            return self.tensors[name]
        except KeyError:
            raise ModelError(f"the CTranslate2 model has no {name!r}; it is not a supported Whisper model") from None

    def layers(self, side: str) -> int:
        """Number of layers of the encoder or the decoder."""
        return len({name.split("/")[1] for name in self.tensors if name.startswith(f"{side}/layer_")} - {"layer_norm"})


def convert(source: Path, target: Path, weights: Weights = "f16", report: Report = lambda done, total: None) -> None:
    """Writes `target` from the folder `source`, which holds model.bin and vocabulary.txt.

    Raises ModelError when the folder holds something else than a Whisper model in float16 or float32.
    """
    variables = read(source / "model.bin")
    tokens = vocabulary(source / "vocabulary.txt")
    if len(variables["decoder/embeddings/weight"]) < MULTILINGUAL:
        # GPT-2's own vocabulary, which the published English files carry, ends with its one special token.
        tokens.append(SPECIAL.encode())
    plan = list(_plan(variables))
    total = sum(tensor.nbytes for _, tensor in plan)
    done = 0
    with target.open("wb") as file:
        file.write(struct.pack("<I11i", MAGIC, *_hyperparameters(variables), FTYPES[weights]))
        filters = mel_filters(variables["encoder/conv1/weight"].shape[1])
        file.write(struct.pack("<2i", *filters.shape) + filters.tobytes())
        file.write(struct.pack("<i", len(tokens)))
        for token in tokens:
            file.write(struct.pack("<I", len(token)) + token)
        for name, tensor in plan:
            _write(file, name, tensor, weights)
            done += tensor.nbytes
            report(done, total)


def read(path: Path) -> Variables:
    """Every variable of a CTranslate2 file, aliases included. Raises ModelError when it is not one."""
    try:
        data = np.memmap(path, np.uint8, "r")
        return _parsed(_Cursor(data, path))
    except (struct.error, UnicodeDecodeError, ValueError) as error:
        raise ModelError(f"{path.name} is not a complete CTranslate2 model: {error}") from error


@dataclass
class _Cursor:
    data: npt.NDArray[np.uint8]
    path: Path
    at: int = 0

    def take(self, count: int) -> npt.NDArray[np.uint8]:
        if self.at + count > len(self.data):
            raise ModelError(f"{self.path.name} ends at byte {len(self.data)}, in the middle of a CTranslate2 model")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, form: str) -> int:
        value: int = struct.unpack("<" + form, self.take(struct.calcsize("<" + form)).tobytes())[0]
        return value

    def name(self) -> str:
        return self.take(self.number("H")).tobytes()[:-1].decode()


def _parsed(cursor: _Cursor) -> Variables:
    version = cursor.number("I")
    if not 4 <= version <= 99:
        raise ModelError(
            f"{cursor.path.name} starts with {version}; a CTranslate2 model starts with its version, 4 to 6"
        )
    spec, _ = cursor.name(), cursor.number("I")
    if spec != "WhisperSpec":
        raise ModelError(f"{cursor.path.name} holds a {spec!r}; a WhisperSpec is needed")
    tensors: dict[str, Tensor] = {}
    for _ in range(cursor.number("I")):
        name = cursor.name()
        shape = tuple(cursor.number("I") for _ in range(cursor.number("B")))
        kind, size = cursor.number("B"), cursor.number("I")
        raw = cursor.take(size)
        if kind < len(TYPES):
            # The data in the file is not aligned, which numpy handles.
            tensors[name] = np.ndarray(shape, TYPES[kind], raw)
    for _ in range(cursor.number("I")):
        alias = cursor.name()
        tensors[alias] = tensors[cursor.name()]
    return Variables(tensors)


def vocabulary(path: Path) -> list[bytes]:
    """The bytes of each token before the special tokens, in the order of their numbers."""
    lines = path.read_text(encoding="utf-8").split("\n")
    if SPECIAL not in lines:
        raise ModelError(f"{path.name} has no {SPECIAL}; it is not the vocabulary of a Whisper model")
    decoder = byte_decoder()
    try:
        return [bytes(decoder[character] for character in line) for line in lines[: lines.index(SPECIAL)]]
    except KeyError as error:
        raise ModelError(f"{path.name} has the character {error}, which stands for no byte") from None


def byte_decoder() -> dict[str, int]:
    """The bytes that GPT-2's vocabulary writes as characters.

    Printable Latin-1 stands for itself; every other byte, in order, for the characters from 256 on.
    """
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [byte for byte in range(256) if byte not in set(plain)]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(moved)}


def _hyperparameters(variables: Variables) -> tuple[int, ...]:
    """Hyperparameters in the file's order: tokens; context, width, heads, layers of encoder and decoder; mel bands."""
    words = variables["decoder/embeddings/weight"].shape[0]
    sides = [
        number
        for side in ("encoder", "decoder")
        for number in (
            *variables[f"{side}/position_encodings/encodings"].shape,
            int(variables[f"{side}/num_heads"]),
            variables.layers(side),
        )
    ]
    return (words, *sides, variables["encoder/conv1/weight"].shape[1])


def _plan(variables: Variables) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the ggml file under its name there, in the order of the published files."""
    for side in ("decoder", "encoder"):
        yield f"{side}.positional_embedding", variables[f"{side}/position_encodings/encodings"]
    yield "decoder.token_embedding.weight", variables["decoder/embeddings/weight"]
    yield from _layers(variables, "decoder")
    yield from _norm(variables, "decoder/layer_norm", "decoder.ln")
    for conv in ("conv1", "conv2"):
        yield f"encoder.{conv}.weight", variables[f"encoder/{conv}/weight"]
        # A column, because whisper.cpp adds it to (channels, time).
        yield f"encoder.{conv}.bias", variables[f"encoder/{conv}/bias"][:, None]
    yield from _layers(variables, "encoder")
    yield from _norm(variables, "encoder/layer_norm", "encoder.ln_post")


def _layers(variables: Variables, side: str) -> Iterator[tuple[str, Tensor]]:
    for number in range(variables.layers(side)):
        source, target = f"{side}/layer_{number}", f"{side}.blocks.{number}"
        yield from _norm(variables, f"{source}/ffn/layer_norm", f"{target}.mlp_ln")
        for place, mlp in ((0, 0), (1, 2)):
            yield from _linear(variables, f"{source}/ffn/linear_{place}", f"{target}.mlp.{mlp}")
        yield from _norm(variables, f"{source}/self_attention/layer_norm", f"{target}.attn_ln")
        yield from _attention(variables, f"{source}/self_attention", f"{target}.attn")
        if side == "decoder":
            yield from _norm(variables, f"{source}/attention/layer_norm", f"{target}.cross_attn_ln")
            yield from _attention(variables, f"{source}/attention", f"{target}.cross_attn")


def _norm(variables: Variables, source: str, target: str) -> Iterator[tuple[str, Tensor]]:
    yield f"{target}.weight", variables[f"{source}/gamma"]
    yield f"{target}.bias", variables[f"{source}/beta"]


def _linear(variables: Variables, source: str, target: str) -> Iterator[tuple[str, Tensor]]:
    yield f"{target}.weight", variables[f"{source}/weight"]
    yield f"{target}.bias", variables[f"{source}/bias"]


def _attention(variables: Variables, source: str, target: str) -> Iterator[tuple[str, Tensor]]:
    """CTranslate2 stacks query, key and value (across: key and value) in one matrix; ggml has them apart.

    Whisper's keys have no bias: CTranslate2 stores zeros for it, ggml has no such tensor.
    """
    weight, bias = variables[f"{source}/linear_0/weight"], variables[f"{source}/linear_0/bias"]
    width = weight.shape[1]
    if weight.shape[0] == width:
        yield from _linear(variables, f"{source}/linear_0", f"{target}.query")
        weight, bias = variables[f"{source}/linear_1/weight"], variables[f"{source}/linear_1/bias"]
        out = "linear_2"
    else:
        yield f"{target}.query.weight", weight[:width]
        yield f"{target}.query.bias", bias[:width]
        weight, bias, out = weight[width:], bias[width:], "linear_1"
    if bias[:width].any():
        raise ModelError(f"{source} has a bias for its keys; Whisper has none")
    yield f"{target}.key.weight", weight[:width]
    yield f"{target}.value.weight", weight[width:]
    yield f"{target}.value.bias", bias[width:]
    yield from _linear(variables, f"{source}/{out}", f"{target}.out")


def _write(file: BinaryIO, name: str, tensor: Tensor, weights: Weights) -> None:
    if tensor.dtype not in (np.float16, np.float32):
        raise ModelError(f"the weights of {name} are {tensor.dtype}; only float16 and float32 are converted")
    kind, data = F32, b""
    if tensor.ndim == 1 or name.endswith((".positional_embedding", "conv1.bias", "conv2.bias")):
        data = tensor.astype("<f4").tobytes()
    elif weights == "q8_0" and tensor.ndim == 2:
        kind = Q8_0
        data = b"".join(quantized(tensor[row : row + SLAB]) for row in range(0, len(tensor), SLAB))
    else:
        kind, data = F16, tensor.astype("<f2").tobytes()
    spelled = name.encode()
    file.write(struct.pack("<3i", tensor.ndim, len(spelled), kind))
    file.write(struct.pack(f"<{tensor.ndim}i", *reversed(tensor.shape)) + spelled + data)


def quantized(tensor: Tensor) -> bytes:
    """q8_0: for every 32 weights of a row one float16 scale, the largest magnitude / 127, and 32 signed bytes."""
    blocks = tensor.astype(np.float32).reshape(-1, BLOCK)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale > 0)
    scaled = blocks * inverse
    packed = np.empty(len(blocks), np.dtype([("scale", "<f2"), ("weights", "i1", BLOCK)]))
    packed["scale"] = scale[:, 0]
    # Halves round away from zero, as in C's roundf; numpy's own rounding takes the even neighbour.
    packed["weights"] = np.copysign(np.floor(np.abs(scaled) + np.float32(0.5)), scaled)
    return packed.tobytes()
