"""Checks a WAV file's header against the data that follows it, and repairs the length of its data."""

from __future__ import annotations

import struct

from chatapi.audio import CHANNELS, RATES
from chatapi.errors import BadInput

UNKNOWN = b"\xff\xff\xff\xff"
"""The length of a data chunk that ends with the file."""


def check(head: bytes, size: int) -> tuple[int, int] | None:
    """Offset of the length of the data chunk, and where it says that the data ends; None: it does not say so.

    `head`: the first MiB of the file's `size` bytes. A wrong length is no reason to reject a file: interrupted
    recordings state more or less than they have, and streamed files state anything. Raises BadInput (bad_audio) where
    the samples cannot be read.
    """
    offset, form = 12, b""
    while offset + 8 <= len(head):
        name, length = struct.unpack_from("<4sI", head, offset)
        offset += 8
        if name == b"fmt ":
            form = head[offset : offset + length]
            _check_form(form)
        elif name == b"data":
            if not form:
                raise BadInput("the WAV file has its data before its format", code="bad_audio")
            if offset == size:
                raise BadInput("the WAV file has a header but no samples", code="bad_audio")
            end = offset + length
            return (offset - 4, end + length % 2) if head.startswith(b"RIFF") and length and end < size else None
        offset += length + length % 2
    if offset < len(head) or size <= len(head):
        raise BadInput(f"the WAV file ends in its header: {size} bytes, and no data chunk", code="bad_audio")
    return None


def is_chunk(head: bytes) -> bool:
    """Whether a chunk of a WAV file starts so: its name is four printable characters."""
    return len(head) >= 8 and head[:4].isascii() and head[:4].decode("ascii", "replace").isprintable()


def _check_form(form: bytes) -> None:
    if len(form) < 16:
        raise BadInput(f"the WAV format chunk has {len(form)} bytes (at least 16)", code="bad_audio")
    _, channels, rate, _, align, bits = struct.unpack_from("<HHIIHH", form)
    if channels not in CHANNELS:
        raise BadInput(
            f"{channels} channels in the WAV header are not supported (1 to {CHANNELS[-1]})", code="bad_audio"
        )
    if rate not in RATES:
        raise BadInput(
            f"sample rate {rate} Hz in the WAV header is not supported ({RATES[0]} to {RATES[-1]} Hz)", code="bad_audio"
        )
    if bits and align < channels * bits // 8:
        raise BadInput(f"the WAV header states {align} bytes for {channels} samples of {bits} bits", code="bad_audio")
