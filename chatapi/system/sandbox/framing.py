"""Frames between the server and a child: JSON or float32 samples; no pickle, because the child may be compromised."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

JSON, SAMPLES, END, ERROR, CALL = b"J", b"S", b"E", b"X", b"C"
HEAD = struct.Struct("<cI")
"""Header of a frame: its kind and the length of its body in bytes."""
LARGEST = 64 << 20
"""Largest frame, in bytes; a longer one means that the other end is broken."""
ORDER = struct.Struct("<ci")
"""Order to the forkserver: FORK or KILL, and for KILL the process id."""
REPLY = struct.Struct("<i")
"""Reply of the forkserver: to FORK the new process id; to KILL the wait status of os.waitpid."""
FORK, KILL = b"F", b"K"
FILES = 4
"""Largest number of file descriptors of one call."""


class BrokenFrame(Exception):
    """The other end closed the connection, or sent an invalid frame."""


def send(connection: socket.socket, kind: bytes, payload: Any = b"", files: Sequence[int] = ()) -> None:
    """Send one frame: JSON kinds take a plain value, SAMPLES a float32 array of shape (n,).

    Raises BrokenFrame when the other end is gone.
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
    """The next frame: its kind and its value. Raises BrokenFrame, TimeoutError."""
    kind, size = HEAD.unpack(receive_exactly(connection, HEAD.size))
    return kind, _value(kind, _sized(connection, size))


def receive_call(connection: socket.socket) -> tuple[Any, list[int]]:
    """A call and its file descriptors, which belong to the receiver. Raises BrokenFrame."""
    try:
        head, files, _, _ = socket.recv_fds(connection, HEAD.size, FILES)
    except OSError as error:
        raise BrokenFrame(str(error)) from error
    if not head:
        raise BrokenFrame("closed")
    head += receive_exactly(connection, HEAD.size - len(head))
    kind, size = HEAD.unpack(head)
    return _value(kind, _sized(connection, size)), files


def _value(kind: bytes, body: bytearray) -> Any:
    if kind == SAMPLES:
        if len(body) % 4:
            raise BrokenFrame(f"{len(body)} bytes are not a multiple of 4")
        return np.frombuffer(body, np.float32)
    if kind not in (JSON, END, ERROR, CALL):
        raise BrokenFrame(f"frame kind {kind!r} is not supported")
    try:
        return json.loads(body)
    except ValueError as error:
        raise BrokenFrame("the frame is not JSON") from error


def _sized(connection: socket.socket, size: int) -> bytearray:
    if size > LARGEST:
        raise BrokenFrame(f"a frame of {size} bytes is too large (at most {LARGEST} bytes)")
    return receive_exactly(connection, size)


def receive_exactly(connection: socket.socket, size: int) -> bytearray:
    """The next bytes, this many. Raises BrokenFrame, TimeoutError."""
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
