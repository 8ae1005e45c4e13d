"""Frames between chatapi and an engine in a child process: plain values as JSON, with blocks of bytes beside it.

No pickle: native code that handles a stranger's audio may be taken over, and must not choose what this process runs. A
value is rebuilt only from the classes that `registry.values` lists.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import threading
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from chatapi.engines import registry
from chatapi.system.sandbox.framing import BrokenFrame as BrokenFrame
from chatapi.system.sandbox.framing import receive_exactly

LOAD, READY, LOG = b"L", b"R", b"G"
"""Control: the settings and models to load; what the engine declares; a line of the log."""
CALL, ITEM, END, ERROR = b"C", b"I", b"E", b"X"
"""A call, each of its items, and its end without or with an error."""
MORE, STOP, ALIVE = b"M", b"S", b"A"
"""During a call: room for more items; the call is cancelled; the engine is at work."""
HEAD = struct.Struct("<cIIQ")
"""Header of a frame: kind, number of the call, bytes of the JSON, bytes of the blocks."""
LARGEST_JSON, LARGEST_BLOCKS = 64 << 20, 256 << 20
"""Largest parts of a frame, in bytes; longer ones mean that the other end is broken. An hour of audio has 230 MB."""
ALIGNED = 16
"""Multiple of bytes at which a block starts: native code may require it of numbers."""
KIND = "\0"
"""Key of the JSON objects that are no plain values; no other object has it, since mappings become pairs."""


class Frame(NamedTuple):
    """A frame as it was received."""

    kind: bytes
    number: int
    value: Any


class Connection:
    """One end of a socket that carries frames. Several threads may send, one may receive."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._sending = threading.Lock()
        self._readable = select.poll()
        self._readable.register(connected, select.POLLIN)

    def send(self, kind: bytes, number: int = 0, value: Any = None, wait: bool = True) -> None:
        """Send a frame; waits while the other end does not read, unless `wait` is false: then the frame is dropped
        while another one is being sent. Raises BrokenFrame when the other end is gone, and TypeError for a value that
        cannot be carried."""
        blocks: list[memoryview] = []
        body = json.dumps(_packed(value, blocks)).encode()
        size = sum(map(len, blocks))
        if len(body) > LARGEST_JSON or size > LARGEST_BLOCKS:
            raise TypeError(f"a value of {len(body) + size} bytes is too large for an engine in another process")
        if not self._sending.acquire(blocking=wait):
            return
        try:
            self._socket.sendall(HEAD.pack(kind, number, len(body), size) + body)
            for block in blocks:
                self._socket.sendall(block)
        except OSError as error:
            raise BrokenFrame(str(error)) from error
        finally:
            self._sending.release()

    def arrived(self, seconds: float | None) -> bool:
        """Wait until a frame or the end of the connection arrives, for at most so long; None: for ever."""
        return bool(self._readable.poll(None if seconds is None else seconds * 1000))

    def receive(self) -> Frame:
        """The next frame; waits for it. Raises BrokenFrame."""
        kind, number, length, size = HEAD.unpack(receive_exactly(self._socket, HEAD.size))
        if length > LARGEST_JSON or size > LARGEST_BLOCKS:
            raise BrokenFrame(f"a frame of {length + size} bytes is too large")
        body, blocks = receive_exactly(self._socket, length), memoryview(receive_exactly(self._socket, size))
        try:
            return Frame(kind, number, _unpacked(json.loads(body), blocks))
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise BrokenFrame(f"an invalid frame: {error!r}") from error

    def close(self) -> None:
        """Close this end; a thread that waits for the other end gets BrokenFrame."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # The other end is gone.
        finally:
            self._socket.close()


def _packed(value: Any, blocks: list[memoryview]) -> Any:
    """A value as JSON's types; bytes and arrays are appended to `blocks`. Raises TypeError for other values."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, list):
        return [_packed(each, blocks) for each in value]
    if isinstance(value, (tuple, frozenset, set)):
        kind = "tuple" if isinstance(value, tuple) else "frozenset"
        return {KIND: kind, "of": [_packed(each, blocks) for each in value]}
    if isinstance(value, Mapping):
        return {KIND: "mapping", "of": [[_packed(key, blocks), _packed(each, blocks)] for key, each in value.items()]}
    if isinstance(value, np.generic):
        return _packed(value.item(), blocks)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        start = _appended(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data, blocks)
        return {KIND: "array", "type": value.dtype.str, "shape": list(value.shape), "at": start}
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {KIND: "bytes", "at": _appended(memoryview(value), blocks)}
    if isinstance(value, Path):
        return {KIND: "path", "of": str(value)}
    name = type(value).__name__
    if is_dataclass(value) and registry.values().get(name) is type(value):
        return {KIND: name, "of": {each.name: _packed(getattr(value, each.name), blocks) for each in fields(value)}}
    raise TypeError(f"a {type(value).__name__} cannot be carried to an engine in another process or back")


def _appended(block: memoryview, blocks: list[memoryview]) -> list[int]:
    """Where the block starts among all blocks, and its length, in bytes."""
    start = sum(map(len, blocks))
    if gap := -start % ALIGNED:
        blocks.append(memoryview(bytes(gap)))
    blocks.append(block)
    return [start + gap, len(block)]


def _unpacked(value: Any, blocks: memoryview) -> Any:
    """The value that `_packed` packed."""
    if isinstance(value, list):
        return [_unpacked(each, blocks) for each in value]
    if not isinstance(value, dict):
        return value
    kind = value[KIND]
    if kind in ("array", "bytes"):
        start, length = value["at"]
        block = blocks[start : start + length]
        if kind == "bytes":
            return bytes(block)
        numbers = np.dtype(value["type"])
        if numbers.kind not in "biuf":
            raise ValueError(f"an array of {numbers}")
        return np.frombuffer(block, numbers).reshape(value["shape"])
    if kind == "mapping":
        return {_unpacked(key, blocks): _unpacked(each, blocks) for key, each in value["of"]}
    if kind == "path":
        return Path(value["of"])
    if kind in ("tuple", "frozenset"):
        return (tuple if kind == "tuple" else frozenset)(_unpacked(each, blocks) for each in value["of"])
    return registry.values()[kind](**{name: _unpacked(each, blocks) for name, each in value["of"].items()})
