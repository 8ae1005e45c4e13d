"""Writes fields of protobuf messages, of which ONNX models consist.

The encoding: https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types."""


def varint(value: int) -> bytes:
    """A number of at least 0."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def number_field(field: int, value: int) -> bytes:
    """A field with a number of at least 0."""
    return varint(field << 3 | VARINT) + varint(value)


def bytes_field(field: int, content: bytes) -> bytes:
    """A field with text, bytes or a message."""
    return varint(field << 3 | BYTES) + varint(len(content)) + content
