"""Decodes the audio track of one media file: chooses the track, skips damaged packets, mixes the channels."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import av
import numpy as np
import numpy.typing as npt

from chatapi.audio import RATE, RATES, Samples, finite, mean_of_channels
from chatapi.audio.skipped import Skipped
from chatapi.errors import BadInput

BLOCK = RATE
"""Least samples of a block, except the last: processing each of FFmpeg's frames alone takes longer."""
DAMAGE = (av.error.FFmpegError, ValueError, IndexError)
"""What PyAV raises for data that it cannot read; MemoryError, which is one of these, is handled first."""
HOPELESS = 50_000
"""Consecutive damaged packets after which decoding ends: a quarter of an hour of AAC."""
UNREADABLE = 500
"""Consecutive attempts to read on in a damaged container."""
CLEAR = 0.02
"""Amplitude, relative to full scale, that a track with speech reaches: -34 dB."""
OPTIONS = {"mp4": {"fflags": "+ignidx"}}
"""Demuxer -> FFmpeg's options. Without this one all fragments of an MP4 file are read before the first is decoded, and
a damaged one costs the file."""
LIVE_OPTIONS = {"probesize": "131072", "analyzeduration": "500000"}
"""FFmpeg's options for a stream: by default it reads several seconds before the first sample comes."""
PCM = re.compile(r"pcm_[a-z](8|16|24|32|64)")
"""Codecs of uncompressed samples, and the bits of one."""
CANCELLED = 0.25
"""Share of the power that a mix of one loud channel and silent ones would have; below it, the channels cancel each
other."""

Interleaved = npt.NDArray[np.float32]
"""Shape (n, channels), -1 to 1."""


@dataclass(frozen=True)
class Progress:
    """Audio that was looked at without a result yet."""

    seconds: float


@dataclass(frozen=True)
class AudioTrack:
    """The audio of a file that is decoded."""

    file: BinaryIO
    container: str
    """FFmpeg's demuxer."""
    index: int
    skipped: Skipped

    def blocks(self) -> Iterator[tuple[Samples, int]]:
        """Mono blocks, each with its sample rate."""
        with opened(self.file, self.container) as container:
            yield from _mixed(_frames(container, self.index, self.skipped))


def opened(file: BinaryIO, container: str) -> av.container.InputContainer:
    """The file from its start. Raises what `DAMAGE` lists."""
    file.seek(0)
    return av.open(file, format=container, mode="r", options=OPTIONS.get(container, {}))


def decoded(file: BinaryIO, container: str, skipped: Skipped) -> Iterator[tuple[Samples, int] | Progress]:
    """Mono blocks, each with its sample rate. Raises BadInput (bad_audio) where there is nothing to decode."""
    try:
        with opened(file, container) as media:
            indices = _tracks(media)
            if len(indices) == 1:
                yield from _mixed(_frames(media, indices[0], skipped))
                return
        track = yield from _with_sound([AudioTrack(file, container, index, Skipped()) for index in indices])
        yield from AudioTrack(file, container, track.index, skipped).blocks()
    except MemoryError:
        raise
    except DAMAGE as error:
        raise BadInput("the audio is damaged from its start", code="bad_audio") from error


def streamed(file: BinaryIO, container: str, skipped: Skipped) -> Iterator[tuple[Samples, int]]:
    """Mono blocks of a file that is read forwards only, each with its sample rate, as soon as they are decoded. Raises
    BadInput (bad_audio) where there is nothing to decode."""
    try:
        with av.open(file, format=container, mode="r", options=LIVE_OPTIONS) as media:
            for samples, rate in _frames(media, _tracks(media)[0], skipped):
                yield mixed(samples), rate
    except MemoryError:
        raise
    except DAMAGE as error:
        raise BadInput("the stream is damaged from its start", code="bad_audio") from error


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


def _with_sound(tracks: list[AudioTrack]) -> Generator[Progress, None, AudioTrack]:
    """The first track that is clearly audible; where none is, the loudest. Some recorders write a silent one first."""
    peaks = []
    for track in tracks:
        peak = 0.0
        for samples, rate in track.blocks():
            peak = max(peak, float(np.abs(samples).max(initial=0.0)))
            if peak > CLEAR:
                return track
            yield Progress(len(samples) / rate)
        peaks.append(peak)
    return tracks[int(np.argmax(peaks))]


def _frames(opened: av.container.InputContainer, index: int, skipped: Skipped) -> Iterator[tuple[Interleaved, int]]:
    """The frames of a track that can be decoded, each with its sample rate."""
    stream = opened.streams[index]
    shape: tuple[object, ...] = ()
    packed = av.AudioResampler(format="flt")
    since = 0
    for packet in _packets(opened, stream, skipped):
        if since > HOPELESS:
            return
        try:
            frames = _decode(packet)
        except MemoryError:
            raise
        except DAMAGE:
            skipped.packets += 1
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


def _decode(packet: av.Packet[Any]) -> Sequence[Any]:
    """The frames of a packet. Raises what `DAMAGE` lists."""
    try:
        return packet.decode()
    except MemoryError:
        raise
    except DAMAGE:
        # A file may end within a sample, which costs PyAV all of the packet.
        context = packet.stream.codec_context
        bits = PCM.match(context.name)
        # A damaged header may state no channels.
        sample = int(bits[1]) // 8 * context.channels if bits else 0
        size = packet.size - packet.size % sample if sample else 0
        if not 0 < size < packet.size:
            raise
        return context.decode(av.Packet(bytes(packet)[:size]))  # type: ignore[no-any-return]


def _packets(opened: av.container.InputContainer, stream: av.stream.Stream, skipped: Skipped) -> Iterator[Any]:
    """The packets of a track; after a damaged part of the container, from where it can be read again."""
    failed = 0
    while failed < UNREADABLE:
        count = yield from _until_damage(opened, stream)
        if count is None:
            return
        failed = 1 if count else failed + 1
        # A container that cannot be read at all fails again and again.
        skipped.packets += failed == 1


def _until_damage(
    opened: av.container.InputContainer, stream: av.stream.Stream
) -> Generator[av.Packet[Any], None, int | None]:
    """Packets until the end, or until one cannot be read; then returns how many there were."""
    count = 0
    try:
        for packet in opened.demux(stream):
            yield packet
            count += 1
    except MemoryError:
        raise
    except DAMAGE:
        return count
    return None


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
    clean = finite(interleaved)
    mean = mean_of_channels(clean)
    channels = clean.shape[1]
    if channels > 1:
        energy = [float(np.dot(column, column)) for column in clean.T]
        loudest = int(np.argmax(energy))
        if float(np.dot(mean, mean)) < CANCELLED * energy[loudest] / channels**2:
            return clean[:, loudest].copy()
    return mean
