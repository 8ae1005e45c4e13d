"""Frames between this process and a child: JSON or float32 samples, never pickle, because the child may be hijacked."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

JSON, SAMPLES, END, ERROR, CALL = b"J", b"S", b"E", b"X", b"C"
HEAD = struct.Struct("<cI")
"""Kind of the frame, and the number of bytes that follow."""
LARGEST = 64 << 20
"""Bytes of the largest frame; a longer one means that the other end is broken."""
ORDER = struct.Struct("<ci")
"""To the forkserver: FORK or KILL, and for KILL the process."""
REPLY = struct.Struct("<i")
"""Its answer: to FORK the new process; to KILL the wait status of os.waitpid."""
FORK, KILL = b"F", b"K"
FILES = 4
"""Most file descriptors of one call."""


class BrokenFrame(Exception):
    """The other end has closed the connection, or sends what is no frame."""


def send(connection: socket.socket, kind: bytes, payload: Any = b"", files: Sequence[int] = ()) -> None:
    """Send one frame: JSON kinds take a plain value, SAMPLES a float32 array of shape (n,).

    Raises Broken when the other end is gone.
    """
    body = memoryview(payload).cast("B") if kind == SAMPLES else json.dumps(payload).encode()
    try:
        if files:
            socket.send_fds(connection, [HEAD.pack(kind, len(body))], list(files))
        else:
            connection.sendall(HEAD.pack(kind, len(body)))
        connection.sendall(body)
    except OSError as error:
        raise BrokenFrame(str(error)) from error


def receive(connection: socket.socket) -> tuple[bytes, Any]:
    """The next frame: its kind, and its value. Raises Broken, TimeoutError."""
    kind, size = HEAD.unpack(_exactly(connection, HEAD.size))
    return kind, _value(kind, _sized(connection, size))


def receive_call(connection: socket.socket) -> tuple[Any, list[int]]:
    """A call and its file descriptors, which belong to the receiver. Raises Broken."""
    try:
        head, files, _, _ = socket.recv_fds(connection, HEAD.size, FILES)
    except OSError as error:
        raise BrokenFrame(str(error)) from error
    if not head:
        raise BrokenFrame("closed")
    head += _exactly(connection, HEAD.size - len(head))
    kind, size = HEAD.unpack(head)
    return _value(kind, _sized(connection, size)), files


def _value(kind: bytes, body: bytearray) -> Any:
    if kind == SAMPLES:
        if len(body) % 4:
            raise BrokenFrame(f"{len(body)} bytes are not a whole number of samples")
        return np.frombuffer(body, np.float32)
    if kind not in (JSON, END, ERROR, CALL):
        raise BrokenFrame(f"there is no frame of kind {kind!r}")
    try:
        return json.loads(body)
    except ValueError as error:
        raise BrokenFrame("a frame is not JSON") from error


def _sized(connection: socket.socket, size: int) -> bytearray:
    if size > LARGEST:
        raise BrokenFrame(f"a frame states {size} bytes")
    return _exactly(connection, size)


def _exactly(connection: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    view, read = memoryview(data), 0
    while read < size:
        try:
            count = connection.recv_into(view[read:])
        except TimeoutError:
            raise
        except OSError as error:
            raise BrokenFrame(str(error)) from error
        if not count:
            raise BrokenFrame("closed")
        read += count
    return data
