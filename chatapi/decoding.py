"""What a child process does with a media file: see what it is, check what it states, decode it.

Everything here may crash: the file is untrusted, and FFmpeg is written in C. `audio` calls it through `sandbox`.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

import av
import numpy as np

from chatapi.audio import CHANNELS, RATE, RATES, Resampled, Samples, mono
from chatapi.errors import BadInput
from chatapi.mp4_tables import check as check_tables

HEAD_BYTES = 1 << 20
"""Read to see what a file is."""
STREAMED = 0x7FFF_F000
"""WAV writers that do not know the length yet state at least this many bytes (ffmpeg 2**32-1, ALSA about 2**31)."""
BLOCK = RATE
"""Samples that a block has at least, but for the last: sending each of FFmpeg's frames alone takes longer."""


def blocks(name: str, rate: int, files: list[int]) -> Iterator[Samples]:
    """The file as mono blocks at `rate`, as they are decoded. Raises BadInput (bad_audio)."""
    waiting: list[Samples] = []
    count = 0
    for samples in _resampled(_opened(files[0], name), rate):
        waiting.append(samples)
        count += len(samples)
        if count >= BLOCK:
            yield np.concatenate(waiting)
            waiting, count = [], 0
    if count:
        yield np.concatenate(waiting)


def duration(name: str, files: list[int]) -> Iterator[float]:
    """Seconds the file states, 0 when it does not say. Raises BadInput (bad_audio)."""
    file = _opened(files[0], name)
    container, size = _checked(file)
    try:
        with av.open(file, format=container, mode="r") as opened:
            seconds = (opened.duration or 0) / av.time_base
    except MemoryError:
        raise
    except (av.error.FFmpegError, ValueError) as error:
        raise BadInput("the audio is damaged from its start", code="bad_audio") from error
    # A WAV that was streamed states the longest length there is.
    yield seconds if seconds * RATES[0] <= size * 1000 else 0.0


def _opened(descriptor: int, name: str) -> BinaryIO:
    """The file at its start, at a position of its own. Raises BadInput (bad_audio) where it cannot be read."""
    try:
        file = open(f"/proc/self/fd/{descriptor}", "rb")  # noqa: PTH123, SIM115 - it ends with the call
        file.seek(0, io.SEEK_END)
        file.seek(0)
    except OSError as error:
        raise BadInput(
            f"cannot read {name or 'the audio'}: {os.strerror(error.errno or 0)}", code="bad_audio"
        ) from error
    return file


def _resampled(file: BinaryIO, rate: int) -> Iterator[Samples]:
    container, _ = _checked(file)
    resampled: Resampled | None = None
    for samples, native in _decoded(file, container):
        if native != rate and resampled is None:
            resampled = Resampled(native, rate)
        yield samples if resampled is None else resampled.feed(samples)
    if resampled is not None:
        yield resampled.finish()


def _checked(file: BinaryIO) -> tuple[str, int]:
    """The demuxer's name and the file's size in bytes. Raises BadInput (bad_audio) where it states impossible things.

    The file is at its start before and after.
    """
    try:
        head, size = file.read(HEAD_BYTES), file.seek(0, io.SEEK_END)
        container = _container(head)
        if container == "wav":
            _check_wav(head, size)
        elif container == "mp4":
            check_tables(file, size)
        file.seek(0)
    except OSError as error:
        raise BadInput(f"cannot read the audio: {error.strerror}", code="bad_audio") from error
    return container, size


def _container(head: bytes) -> str:
    """The demuxer's name, by the first bytes.

    Naming it, instead of letting the decoder guess, keeps out playlist formats, which open files and addresses of
    their own.
    """
    if not head:
        raise BadInput("the audio is empty: 0 bytes arrived", code="bad_audio")
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        return "wav"
    for magic, name in ((b"fLaC", "flac"), (b"OggS", "ogg"), (b"\x1aE\xdf\xa3", "matroska"), (b"ID3", "mp3")):
        if head.startswith(magic):
            return name
    if head[4:8] == b"ftyp":
        return "mp4"
    if head[:1] == b"\xff" and len(head) > 1:
        if head[1] & 0xF6 == 0xF0:
            return "aac"
        if head[1] & 0xE0 == 0xE0:
            return "mp3"
    start = head[:64].decode("utf-8", "ignore")
    written = len(start) > 4 and "".join(start.split()).isprintable()
    what = "this is text, not audio" if written else "this is not audio we can read"
    raise BadInput(f"{what}; send WAV, FLAC, OGG, MP3, MP4 or WebM", code="bad_audio")


def _check_wav(head: bytes, size: int) -> None:
    """Refuse a WAV file whose header does not describe what follows. Raises BadInput (bad_audio)."""
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
            _check_length(length, size - offset, streamed=head[:4] == b"RF64")
            return
        offset += length + length % 2
    if offset < len(head) or size <= len(head):
        raise BadInput(f"the WAV file ends in its header: {size} bytes, and no data chunk", code="bad_audio")


def _check_form(form: bytes) -> None:
    if len(form) < 16:
        raise BadInput(f"the WAV format chunk has {len(form)} bytes; 16 are needed", code="bad_audio")
    _, channels, rate, _, align, bits = struct.unpack_from("<HHIIHH", form)
    if channels not in CHANNELS:
        raise BadInput(f"the WAV header states {channels} channels; 1 to {CHANNELS[-1]} work", code="bad_audio")
    if rate not in RATES:
        raise BadInput(
            f"the WAV header states {rate} samples a second; {RATES[0]} to {RATES[-1]} work", code="bad_audio"
        )
    if bits and align < channels * bits // 8:
        raise BadInput(f"the WAV header states {align} bytes for {channels} samples of {bits} bits", code="bad_audio")


def _check_length(stated: int, present: int, streamed: bool) -> None:
    if streamed or stated >= STREAMED:
        stated = 0
    if present == 0:
        raise BadInput("the WAV file is a header with no samples after it", code="bad_audio")
    if stated > present:
        raise BadInput(
            f"the WAV file is cut off: its header promises {stated} bytes of sound and {present} arrived",
            code="bad_audio",
        )


def _check_track(opened: av.container.InputContainer) -> None:
    """Raises BadInput (bad_audio) where there is no first audio track that can be decoded."""
    if not opened.streams.audio:
        raise BadInput("the file has no audio track", code="bad_audio")
    # PyAV gives such a stream no codec, and follows a null pointer where it is decoded (PyAV issue 2344).
    if opened.streams.audio[0].codec_context is None:
        raise BadInput("the codec of the audio track is not known", code="bad_audio")


def _decoded(file: BinaryIO, container: str) -> Iterator[tuple[Samples, int]]:
    """Mono blocks as the file has them, each with its rate. Channels are averaged."""
    done = 0.0
    try:
        with av.open(file, format=container, mode="r") as opened:
            _check_track(opened)
            packed = av.AudioResampler(format="flt")
            for frame in opened.decode(audio=0):
                if frame.sample_rate not in RATES:
                    raise BadInput(
                        f"{frame.sample_rate} samples a second; {RATES[0]} to {RATES[-1]} work", code="bad_audio"
                    )
                for plain in packed.resample(frame):
                    samples = mono(plain.to_ndarray().reshape(plain.samples, -1).astype(np.float32, copy=False))
                    done += len(samples) / frame.sample_rate
                    yield samples, frame.sample_rate
    except MemoryError:
        raise
    except (av.error.FFmpegError, ValueError, IndexError) as error:
        where = f"after {done:.1f} seconds" if done else "from its start"
        raise BadInput(f"the audio is damaged {where}", code="bad_audio") from error
