"""Where a container's header says that its file ends."""

from __future__ import annotations

import struct
from typing import BinaryIO

from chatapi.audio.ffmpeg_decoder.window import read

CHUNKS = 64
"""Most chunks of a CAF file that are looked at."""
ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
"""Identifies the object of an ASF file whose size of the file follows 24 bytes later."""
ASF_HEADER_BYTES = 64 << 10


def of(container: str, file: BinaryIO, start: int, size: int) -> int | None:
    """Offset where a file of a container that starts at `start` ends; None: its header does not say so.

    The offset may lie beyond the `size` bytes of the whole file.
    """
    head = read(file, start, 64)
    if len(head) < 64:
        return None
    if container in ("aiff", "avi"):
        [length] = struct.unpack_from(">I" if container == "aiff" else "<I", head, 4)
        # An OpenDML file goes on with another list, and a streamed one states nothing.
        return start + 8 + length + length % 2 if length else None
    if container == "w64":
        [length] = struct.unpack_from("<Q", head, 16)
        return start + length if length else None
    if container == "au":
        offset, length = struct.unpack_from(">II", head, 4)
        return start + offset + length if length != 0xFFFF_FFFF else None
    if container == "caf":
        return _caf(file, start, size)
    return _asf(file, start) if container == "asf" else None


def _caf(file: BinaryIO, start: int, size: int) -> int | None:
    """The end of the last chunk; the length of the data may be -1, up to the end."""
    at = start + 8
    for _ in range(CHUNKS):
        # A length of 63 bits is beyond what can be seeked to.
        header = read(file, at, 12) if at < size else b""
        if len(header) < 12 or not header[:4].isalpha():
            return at
        [length] = struct.unpack_from(">q", header, 4)
        if length < 0:
            return None
        at += 12 + length
    return None


def _asf(file: BinaryIO, start: int) -> int | None:
    head = read(file, start, ASF_HEADER_BYTES)
    at = head.find(ASF_PROPERTIES)
    if at < 0 or len(head) < at + 48:
        return None
    [length] = struct.unpack_from("<Q", head, at + 40)
    return start + length if length else None
