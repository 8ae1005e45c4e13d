"""Decoding the audio track of one media file: the track is chosen, damaged packets are skipped, channels are mixed."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import av
import numpy as np
import numpy.typing as npt

from chatapi.audio import INAUDIBLE, RATE, RATES, Samples, mono
from chatapi.errors import BadInput

BLOCK = RATE
"""Least samples of a block, except the last: processing each of FFmpeg's frames alone takes longer."""
DAMAGE = (av.error.FFmpegError, ValueError, IndexError)
"""What PyAV raises for data that it cannot read; MemoryError, which is one of these, is handled first."""
HOPELESS = 500
"""Consecutive damaged packets after which decoding ends."""
CANCELLED = 0.25
"""Share of the power that a mix of one loud channel and silent ones would have; below it, the channels cancel each
other."""

Interleaved = npt.NDArray[np.float32]
"""Shape (n, channels), -1 to 1."""


@dataclass
class DamagedPackets:
    """Counts what could not be decoded."""

    packets: int = 0


def decoded(file: BinaryIO, container: str, damage: DamagedPackets) -> Iterator[tuple[Samples, int]]:
    """Mono blocks, each with its sample rate. Raises BadInput (bad_audio) where there is nothing to decode."""
    try:
        with av.open(file, format=container, mode="r") as opened:
            tracks = _tracks(opened)
            if len(tracks) == 1:
                yield from _mixed(_frames(opened, tracks[0], damage))
                return
        index = next((track for track in tracks if _audible(file, container, track)), tracks[0])
        file.seek(0)
        with av.open(file, format=container, mode="r") as opened:
            yield from _mixed(_frames(opened, index, damage))
    except MemoryError:
        raise
    except DAMAGE as error:
        raise BadInput("the audio is damaged from its start", code="bad_audio") from error


def _tracks(opened: av.container.InputContainer) -> list[int]:
    """The audio tracks that can be decoded, the default one first. Raises BadInput (bad_audio)."""
    if not opened.streams.audio:
        raise BadInput("the file has no audio track", code="bad_audio")
    # PyAV gives a stream with an unknown codec no context, and dereferences a null pointer when it is decoded (PyAV
    # issue 2344).
    known = [stream for stream in opened.streams.audio if stream.codec_context is not None]
    if not known:
        raise BadInput("the codec of the audio track is not supported", code="bad_audio")
    ordered = sorted(known, key=lambda stream: not stream.disposition & av.stream.Disposition.default)
    return [stream.index for stream in ordered]


def _audible(file: BinaryIO, container: str, index: int) -> bool:
    """Whether a track has any frame: some recorders write an empty track first."""
    file.seek(0)
    with av.open(file, format=container, mode="r") as opened:
        return any(
            (np.abs(samples) > INAUDIBLE).any() for samples, _ in _mixed(_frames(opened, index, DamagedPackets()))
        )


def _frames(
    opened: av.container.InputContainer, index: int, damage: DamagedPackets
) -> Iterator[tuple[Interleaved, int]]:
    """The frames of a track that can be decoded, each with its sample rate."""
    stream = opened.streams[index]
    shape: tuple[object, ...] = ()
    packed = av.AudioResampler(format="flt")
    since = 0
    for packet in _packets(opened, stream, damage):
        if since > HOPELESS:
            return
        try:
            frames = packet.decode() if packet is not None else ()
        except MemoryError:
            raise
        except DAMAGE:
            damage.packets += 1
            since += 1
            continue
        for frame in frames:
            assert isinstance(frame, av.AudioFrame)  # noqa: S101 - the track is of audio
            if frame.sample_rate not in RATES:
                raise BadInput(
                    f"sample rate {frame.sample_rate} Hz is not supported ({RATES[0]} to {RATES[-1]} Hz)",
                    code="bad_audio",
                )
            if shape != (shape := (frame.format.name, frame.layout.name, frame.sample_rate)):
                packed = av.AudioResampler(format="flt")
            since = 0
            for plain in packed.resample(frame):
                yield plain.to_ndarray().reshape(plain.samples, -1).astype(np.float32, copy=False), frame.sample_rate


def _packets(opened: av.container.InputContainer, stream: av.stream.Stream, damage: DamagedPackets) -> Iterator[Any]:
    """The packets of a track; after a damaged part of the container, from where it can be read again."""
    for _ in range(HOPELESS):
        if (yield from _until_damage(opened, stream)):
            return
        damage.packets += 1


def _until_damage(opened: av.container.InputContainer, stream: av.stream.Stream) -> Generator[Any, None, bool]:
    """Packets until the end (returns True) or until one cannot be read."""
    try:
        yield from opened.demux(stream)
    except MemoryError:
        raise
    except DAMAGE:
        return False
    return True


def _mixed(frames: Iterator[tuple[Interleaved, int]]) -> Iterator[tuple[Samples, int]]:
    """Mono blocks from frames of the same sample rate and channels."""
    waiting: list[Interleaved] = []
    count, shape = 0, (0, 0)
    for samples, rate in frames:
        if waiting and shape != (samples.shape[1], rate):
            yield mixed(np.concatenate(waiting)), shape[1]
            waiting, count = [], 0
        shape = (samples.shape[1], rate)
        waiting.append(samples)
        count += len(samples)
        if count >= BLOCK:
            yield mixed(np.concatenate(waiting)), rate
            waiting, count = [], 0
    if waiting:
        yield mixed(np.concatenate(waiting)), shape[1]


def mixed(interleaved: Interleaved) -> Samples:
    """The mean of the channels; where they cancel each other, as with one of reversed polarity, the loudest alone."""
    mean = mono(interleaved)
    channels = interleaved.shape[1]
    if channels > 1:
        power = np.square(np.nan_to_num(interleaved, nan=0.0, posinf=1.0, neginf=-1.0)).mean(axis=0)
        loudest = int(power.argmax())
        if np.square(mean).mean() < CANCELLED * power[loudest] / channels**2:
            return mono(interleaved[:, loudest : loudest + 1])
    return mean
