"""Reads the plainest WAV files here, without the decoder's process, which costs more than classifying a word."""

from __future__ import annotations

import struct

import numpy as np

from chatapi.audio import RATE, Samples

HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")
"""RIFF, size, WAVE; `fmt `, its size, form, channels, rate, bytes a second, bytes a frame, bits; `data`, its size."""


def read(content: bytes, most: int) -> Samples | None:
    """The samples of a file with nothing but 16-bit PCM, 16 kHz, mono, at most `most` of them; None: it is another one,
    or not whole, so that the decoder has to tell what it is."""
    if len(content) < HEADER.size:
        return None
    riff, _, wave, fmt, fmt_size, form, channels, rate, _, _, bits, data, size = HEADER.unpack_from(content)
    if (riff, wave, fmt, data) != (b"RIFF", b"WAVE", b"fmt ", b"data"):
        return None
    if (fmt_size, form, channels, rate, bits) != (16, 1, 1, RATE, 16):
        return None
    if size != len(content) - HEADER.size or size % 2 or not 0 < size // 2 <= most:
        return None
    samples: Samples = np.frombuffer(content, "<i2", offset=HEADER.size).astype(np.float32) / np.float32(32768)
    return samples
