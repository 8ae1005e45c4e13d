"""Decodes a stream that has no end yet and cannot be read again, in a child process: a pipe with a broadcast, or a
recorder's output."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO, cast

import numpy as np

from chatapi.audio import Resampled, Samples
from chatapi.audio.ffmpeg_decoder import signatures, tracks
from chatapi.audio.skipped import Skipped
from chatapi.errors import BadInput

HEADS = (2048, 8192, 32_768, 131_072)
"""Bytes after each of which the container is looked for: a broadcast may begin anywhere within a frame."""
RAW = "raw"
"""Name of the format of samples without a container: 16 bits, little-endian, mono."""
RAW_BYTES = 6400
"""Bytes of raw samples that are read at a time: 0.2 s at 16 kHz."""


class _Pipe:
    """A file that PyAV reads forwards only, from what was already read and then from a descriptor."""

    def __init__(self, descriptor: int, head: bytes) -> None:
        self._descriptor, self._head = descriptor, head

    def read(self, size: int) -> bytes:
        if self._head:
            found, self._head = self._head[:size], self._head[size:]
            return found
        return os.read(self._descriptor, size)


def blocks(form: str, rate: int, given_rate: int, files: list[int]) -> Iterator[Samples]:
    """The stream as mono blocks at `rate`, each as soon as it is decoded, until its end.

    `form`: raw, with samples at `given_rate`, or empty: detected. Raises BadInput (bad_audio).
    """
    if form == RAW:
        yield from _raw(files[0], rate, given_rate)
        return
    container, head = _detected(files[0])
    have, stream = rate, Resampled(rate, rate)
    for samples, native in tracks.streamed(cast(BinaryIO, _Pipe(files[0], head)), container, Skipped()):
        if native != have:
            yield stream.finish()
            have, stream = native, Resampled(native, rate)
        yield stream.feed(samples)
    yield stream.finish()


def _raw(descriptor: int, rate: int, given_rate: int) -> Iterator[Samples]:
    stream, held = Resampled(given_rate, rate), b""
    while data := os.read(descriptor, RAW_BYTES):
        held += data
        whole = len(held) // 2 * 2
        yield stream.feed(np.frombuffer(held[:whole], "<i2").astype(np.float32) / np.float32(32768))
        held = held[whole:]
    yield stream.finish()


def _detected(descriptor: int) -> tuple[str, bytes]:
    """The demuxer, and what was read, from the start of the container on. Raises BadInput (bad_audio)."""
    head = b""
    for wanted in HEADS:
        ended = False
        while len(head) < wanted and not ended:
            data = os.read(descriptor, wanted - len(head))
            head += data
            ended = not data
        if (container := signatures.container(head)) is not None:
            return container, head
        # Behind the rest of a frame, or junk.
        start = signatures.search(head)
        if start is not None and (container := signatures.container(head[start:])) is not None:
            return container, head[start:]
        if ended:
            break
    if not head:
        raise BadInput("the stream is empty: 0 bytes arrived", code="bad_audio")
    raise BadInput("the stream is not audio in a supported format", code="bad_audio")
