"""The sound of one media file: its track chosen, damaged frames skipped, channels mixed."""

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
"""Samples that a block has at least, but for the last: to work on each of FFmpeg's frames alone takes longer."""
DAMAGE = (av.error.FFmpegError, ValueError, IndexError)
"""What PyAV raises of what it cannot read; MemoryError, which one of them is, comes first."""
HOPELESS = 500
"""Damaged packets one after the other, after which nothing more is expected."""
CANCELLED = 0.25
"""Of the power that a mix of one loud channel and silent ones would have: below it, the channels cancel each other."""

Interleaved = npt.NDArray[np.float32]
"""Shape (n, channels), -1 to 1."""


@dataclass
class DamagedPackets:
    """What could not be decoded."""

    packets: int = 0


def decoded(file: BinaryIO, container: str, damage: DamagedPackets) -> Iterator[tuple[Samples, int]]:
    """Mono blocks, each with its rate. Raises BadInput (bad_audio) where there is nothing to decode."""
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
    """Of the audio tracks that can be decoded, the default one first. Raises BadInput (bad_audio)."""
    if not opened.streams.audio:
        raise BadInput("the file has no audio track", code="bad_audio")
    # PyAV gives a stream of unknown codec no context, and follows a null pointer where it is decoded (PyAV issue 2344).
    known = [stream for stream in opened.streams.audio if stream.codec_context is not None]
    if not known:
        raise BadInput("the codec of the audio track is not known", code="bad_audio")
    ordered = sorted(known, key=lambda stream: not stream.disposition & av.stream.Disposition.default)
    return [stream.index for stream in ordered]


def _audible(file: BinaryIO, container: str, index: int) -> bool:
    """Whether anything can be heard in a track: some recorders write an empty one first."""
    file.seek(0)
    with av.open(file, format=container, mode="r") as opened:
        return any(
            (np.abs(samples) > INAUDIBLE).any() for samples, _ in _mixed(_frames(opened, index, DamagedPackets()))
        )


def _frames(
    opened: av.container.InputContainer, index: int, damage: DamagedPackets
) -> Iterator[tuple[Interleaved, int]]:
    """What can be decoded of a track, each frame with its rate."""
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
                    f"{frame.sample_rate} samples a second; {RATES[0]} to {RATES[-1]} work", code="bad_audio"
                )
            if shape != (shape := (frame.format.name, frame.layout.name, frame.sample_rate)):
                packed = av.AudioResampler(format="flt")
            since = 0
            for plain in packed.resample(frame):
                yield plain.to_ndarray().reshape(plain.samples, -1).astype(np.float32, copy=False), frame.sample_rate


def _packets(opened: av.container.InputContainer, stream: av.stream.Stream, damage: DamagedPackets) -> Iterator[Any]:
    """The track's packets; where the container is damaged, from where it can be read again."""
    for _ in range(HOPELESS):
        if (yield from _until_damage(opened, stream)):
            return
        damage.packets += 1


def _until_damage(opened: av.container.InputContainer, stream: av.stream.Stream) -> Generator[Any, None, bool]:
    """Packets until the end, which is True, or until one cannot be read."""
    try:
        yield from opened.demux(stream)
    except MemoryError:
        raise
    except DAMAGE:
        return False
    return True


def _mixed(frames: Iterator[tuple[Interleaved, int]]) -> Iterator[tuple[Samples, int]]:
    """Mono blocks of the same rate and channels."""
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
    """The mean of the channels; where they cancel each other, as with one wired the wrong way, the loudest alone."""
    mean = mono(interleaved)
    channels = interleaved.shape[1]
    if channels > 1:
        power = np.square(np.nan_to_num(interleaved, nan=0.0, posinf=1.0, neginf=-1.0)).mean(axis=0)
        loudest = int(power.argmax())
        if np.square(mean).mean() < CANCELLED * power[loudest] / channels**2:
            return mono(interleaved[:, loudest : loudest + 1])
    return mean
