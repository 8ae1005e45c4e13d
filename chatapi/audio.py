"""Sound as values: decoding whatever arrives, resampling it once, and writing WAV."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
import numpy.typing as npt
import soxr

from chatapi.errors import BadInput, TooLarge

Samples = npt.NDArray[np.float32]
"""Mono, -1 to 1, shape (n,)."""

Source = bytes | Path | BinaryIO
"""A file: its content, where it is, or opened; an opened one can seek, is read from its start and stays open."""

RATE = 16_000
"""Samples a second that every recogniser here works at."""

CHANNELS = range(1, 9)
WIDTHS = range(1, 5)
"""Bytes of a sample of raw PCM."""
RATES = range(8_000, 192_001)
STREAMED = 0x7FFF_F000
"""WAV writers that do not know the length yet state at least this many bytes (ffmpeg 2**32-1, ALSA about 2**31)."""


@dataclass(frozen=True, eq=False)
class Audio:
    """A stretch of mono sound."""

    samples: Samples
    rate: int
    """Samples a second."""

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate

    def pcm16(self) -> bytes:
        """Signed 16-bit little-endian."""
        scaled: npt.NDArray[np.float32] = np.clip(self.samples, -1.0, 1.0) * np.float32(32767)
        return scaled.round().astype("<i2").tobytes()

    def at(self, rate: int) -> Audio:
        """The same sound at another rate."""
        if rate == self.rate:
            return self
        return Audio(soxr.resample(self.samples, self.rate, rate), rate)


class Resampled:
    """One stream from one rate to another; its pieces, resampled each by itself, would click where they join."""

    def __init__(self, have: int, want: int) -> None:
        self._stream = soxr.ResampleStream(have, want, 1, dtype="float32") if have != want else None

    def feed(self, samples: Samples) -> Samples:
        """What is certain with the next samples."""
        return self._next(samples, last=False)

    def finish(self) -> Samples:
        """What was still held back; nothing can be fed after it."""
        return self._next(np.zeros(0, np.float32), last=True)

    def _next(self, samples: Samples, last: bool) -> Samples:
        if self._stream is None:
            return samples
        ready: Samples = self._stream.resample_chunk(samples, last=last)
        return ready


INAUDIBLE = 1e-3
"""Amplitude of full scale below which nothing is heard: -60 dB."""


def sounding(audio: Audio) -> Audio:
    """Without the silence before its first sound; all of it where there is none."""
    loud = np.abs(audio.samples) > INAUDIBLE
    return Audio(audio.samples[int(loud.argmax()) :], audio.rate) if loud.any() else audio


LEVEL = 10 ** (-20 / 20)
"""Loudness of what is spoken, as RMS of full scale: -20 dBFS, the loudest that no sentence has to clip for."""


def levelled(samples: Samples) -> Samples:
    """The sentence at LEVEL, judged by its loud frames, without clipping.

    Scaled to the same peak they would be up to 7 dB apart: a sharp consonant makes the rest quiet.
    """
    frames = samples[: len(samples) // 256 * 256].reshape(-1, 256)
    if not len(frames):
        return samples
    power = np.mean(np.square(frames), axis=1)
    spoken = power[power > power.max() / 100]
    if not len(spoken):
        return samples
    gain = min(LEVEL / float(np.sqrt(spoken.mean())), 0.99 / float(np.abs(samples).max()))
    return samples * np.float32(gain)


def joined(parts: list[Audio]) -> Audio:
    """One after the other; all of one rate. BadInput when there is nothing to join."""
    if not parts:
        raise BadInput("there is no sound to join", code="bad_audio")
    return Audio(np.concatenate([part.samples for part in parts]), parts[0].rate)


def wav_header(rate: int, frames: int | None = None) -> bytes:
    """The 44 bytes before 16-bit mono samples; `frames` None: of a stream whose length is not known yet."""
    size = 0xFFFF_FFFF if frames is None else frames * 2
    riff = size if frames is None else size + 36
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", riff, b"WAVE", b"fmt ", 16, 1, 1, rate, rate * 2, 2, 16, b"data", size
    )


def wav(audio: Audio) -> bytes:
    """A whole 16-bit mono WAV file."""
    return wav_header(audio.rate, len(audio.samples)) + audio.pcm16()


class Pcm:
    """Raw little-endian PCM as it arrives, in pieces of any length, as mono at `RATE`.

    One byte a sample is unsigned, as in WAV; two, three and four are signed.
    """

    def __init__(self, rate: int, width: int, channels: int) -> None:
        """`width`: bytes of a sample. Raises BadInput (bad_audio) saying what would be right."""
        if rate not in RATES:
            raise BadInput(f"{rate} samples a second; {RATES[0]} to {RATES[-1]} work", code="bad_audio")
        if width not in WIDTHS:
            raise BadInput(f"{width} bytes a sample; 1, 2, 3 and 4 work", code="bad_audio")
        if channels not in CHANNELS:
            raise BadInput(f"{channels} channels; 1 to {CHANNELS[-1]} work", code="bad_audio")
        self.rate, self.width, self.channels = rate, width, channels
        self._rest = b""
        self._resampled = Resampled(rate, RATE)

    def feed(self, data: bytes) -> Samples:
        """What of the sound is certain with the next bytes."""
        data = self._rest + data
        whole = len(data) - len(data) % (self.width * self.channels)
        self._rest = data[whole:]
        return self._resampled.feed(_mono(_floats(data[:whole], self.width).reshape(-1, self.channels)))

    def finish(self) -> Samples:
        """The end of the sound. Raises BadInput (bad_audio) when it ends within a sample."""
        if self._rest:
            raise BadInput(
                f"the audio ends with {len(self._rest)} bytes of a frame of {self.width * self.channels}",
                code="bad_audio",
            )
        return self._resampled.finish()


def _floats(data: bytes, width: int) -> npt.NDArray[np.float32]:
    """Samples of so many bytes, -1 to 1."""
    if width == 1:
        return (np.frombuffer(data, np.uint8).astype(np.float32) - np.float32(128)) / np.float32(128)
    if width == 3:
        # The upper three bytes of four: the same value, 256 times as large.
        padded = np.zeros((len(data) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        data, width = padded.tobytes(), 4
    kind = "<i2" if width == 2 else "<i4"
    whole: npt.NDArray[np.float32] = np.frombuffer(data, kind).astype(np.float32)
    return whole / np.float32(1 << (8 * width - 1))


def decode(source: Source, limit: float | None = None, rate: int = RATE) -> Audio:
    """All of a file as mono at `rate`.

    Raises BadInput (bad_audio) saying what is wrong with it, TooLarge (audio_too_long) past `limit` seconds; never
    decodes further than the limit.
    """
    parts: list[Samples] = []
    count = 0
    for block in blocks(source, rate):
        parts.append(block)
        count += len(block)
        if limit is not None and count > limit * rate:
            raise TooLarge(
                f"the audio is longer than {limit:g} seconds; `chatapi transcribe` takes files of any length",
                code="audio_too_long",
                details={"limit_seconds": limit},
            )
    if not count:
        raise BadInput("the audio holds no samples: it has a header and nothing after it", code="bad_audio")
    return Audio(np.concatenate(parts), rate)


def blocks(source: Source, rate: int = RATE) -> Iterator[Samples]:
    """A file of any length as mono blocks at `rate`, decoded as they are taken. Raises BadInput (bad_audio)."""
    head, size = _head(source)
    container = _container(head)
    if container == "wav":
        _check_wav(head, size)
    with _opened(source) as file:
        resampled: Resampled | None = None
        for samples, native in _decoded(file, container):
            if native != rate and resampled is None:
                resampled = Resampled(native, rate)
            yield samples if resampled is None else resampled.feed(samples)
        if resampled is not None:
            yield resampled.finish()


def duration(source: Source) -> float:
    """Seconds a file states, 0 when it does not say; only as good as its header. Raises BadInput (bad_audio)."""
    head, size = _head(source)
    container = _container(head)
    try:
        with _opened(source) as file, av.open(file, format=container, mode="r") as opened:
            seconds = (opened.duration or 0) / av.time_base
    except (av.error.FFmpegError, ValueError) as error:
        raise BadInput("the audio is damaged from its start", code="bad_audio") from error
    # A WAV that was streamed states the longest length there is.
    return seconds if seconds * RATES[0] <= size * 1000 else 0.0


@contextmanager
def _opened(source: Source) -> Iterator[BinaryIO]:
    """The file at its start. Raises BadInput (bad_audio) where it cannot be read."""
    if isinstance(source, Path):
        try:
            file = source.open("rb")
        except OSError as error:
            raise BadInput(f"cannot read {source}: {error.strerror}", code="bad_audio") from error
        with file:
            yield file
    elif isinstance(source, bytes):
        yield io.BytesIO(source)
    else:
        source.seek(0)
        yield source


def _head(source: Source) -> tuple[bytes, int]:
    """The first MiB, and how many bytes there are in all."""
    with _opened(source) as file:
        try:
            return file.read(1 << 20), file.seek(0, io.SEEK_END)
        except OSError as error:
            raise BadInput(f"cannot read {source!r}: {error.strerror}", code="bad_audio") from error


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


def _decoded(file: BinaryIO, container: str) -> Iterator[tuple[Samples, int]]:
    """Mono blocks as the file has them, each with its rate. Channels are averaged."""
    done = 0.0
    try:
        with av.open(file, format=container, mode="r") as opened:
            if not opened.streams.audio:
                raise BadInput("the file has no audio track", code="bad_audio")
            packed = av.AudioResampler(format="flt")
            for frame in opened.decode(audio=0):
                if frame.sample_rate not in RATES:
                    raise BadInput(
                        f"{frame.sample_rate} samples a second; {RATES[0]} to {RATES[-1]} work", code="bad_audio"
                    )
                for plain in packed.resample(frame):
                    samples = _mono(plain.to_ndarray().reshape(plain.samples, -1).astype(np.float32, copy=False))
                    done += len(samples) / frame.sample_rate
                    yield samples, frame.sample_rate
    except (av.error.FFmpegError, ValueError, IndexError) as error:
        where = f"after {done:.1f} seconds" if done else "from its start"
        raise BadInput(f"the audio is damaged {where}", code="bad_audio") from error


def _mono(interleaved: npt.NDArray[np.float32]) -> Samples:
    """(n, channels) to (n,): the mean, with what is not a number as silence."""
    clean = np.nan_to_num(interleaved, nan=0.0, posinf=1.0, neginf=-1.0)
    mixed: Samples = np.clip(clean, -1.0, 1.0).mean(axis=1, dtype=np.float32)
    return mixed
