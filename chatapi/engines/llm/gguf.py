"""The metadata of a GGUF file.

GGUF (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), little-endian: magic; u32 version; u64 tensors; u64
keys; each key: its name, u32 type, value. A string is a u64 length and its bytes; an array a u32 type, a u64 count and
its values.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""struct's format of each of GGUF's plain types."""
STRING, ARRAY = 8, 9
FIRST_BYTES = 4 << 20
"""Bytes that are read at first; small models have all keys in them, the vocabulary included."""
MOST_BYTES = 64 << 20
"""Most bytes that are read of the file, which starts with its keys; the largest vocabularies take some 20 MB. A memory
map of the whole file would end the process if the file were truncated meanwhile."""

Value = str | float | bool | tuple["Value", ...]


def metadata(path: Path, wanted: Callable[[str], bool]) -> Mapping[str, Value]:
    """The values of the keys that are wanted; empty where the file cannot be understood.

    OSError where it cannot be read.
    """
    with path.open("rb") as file, suppress(UnicodeDecodeError, KeyError, OverflowError):
        data = more = file.read(FIRST_BYTES)
        while more:
            with suppress(struct.error):
                return _values(data, wanted)
            # The keys continue after what was read.
            more = file.read(len(data)) if len(data) < MOST_BYTES else b""
            data += more
    return {}


def _values(data: bytes, wanted: Callable[[str], bool]) -> dict[str, Value]:
    (keys,) = struct.unpack_from("<Q", data, 16)
    at, values = 24, dict[str, Value]()
    for _ in range(keys):
        name, at = _string(data, at)
        (kind,) = struct.unpack_from("<I", data, at)
        if wanted(name):
            values[name], at = _value(data, at + 4, kind)
        else:
            at = _after(data, at + 4, kind)
    return values


def _value(data: bytes, at: int, kind: int) -> tuple[Value, int]:
    if kind == STRING:
        return _string(data, at)
    if kind != ARRAY:
        plain = struct.Struct("<" + FORMATS[kind])
        return plain.unpack_from(data, at)[0], at + plain.size
    of, count = struct.unpack_from("<IQ", data, at)
    at, items = at + 12, list[Value]()
    for _ in range(count):
        item, at = _value(data, at, of)
        items.append(item)
    return tuple(items), at


def _string(data: bytes, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<Q", data, at)
    end = at + 8 + length
    (text,) = struct.unpack_from(f"{length}s", data, at + 8)
    return text.decode("utf-8"), end


def _after(data: bytes, at: int, kind: int) -> int:
    """Offset of the end of the value that starts at `at`."""
    if kind == STRING:
        return at + 8 + int(struct.unpack_from("<Q", data, at)[0])
    if kind != ARRAY:
        return at + struct.calcsize(FORMATS[kind])
    of, count = struct.unpack_from("<IQ", data, at)
    at += 12
    if of not in (STRING, ARRAY):
        return at + int(count) * struct.calcsize(FORMATS[of])
    if of == STRING:
        # A vocabulary has up to a million of them.
        length = struct.Struct("<Q").unpack_from
        for _ in range(count):
            at += 8 + length(data, at)[0]
        return at
    for _ in range(count):
        at = _after(data, at, of)
    return at
