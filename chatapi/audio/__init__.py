"""Sound as values: decoding whatever arrives, resampling it once, and writing WAV."""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import soxr

from chatapi.errors import BadInput, TooLarge, Unprocessable
from chatapi.system import sandbox

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


@dataclass(frozen=True, eq=False)
class Audio:
    """A stretch of mono sound."""

    samples: Samples
    rate: int
    """Samples a second."""
    damaged: int = 0
    """Packets of the file it was decoded from that could not be."""

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
        return self._resampled.feed(mono(_floats(data[:whole], self.width).reshape(-1, self.channels)))

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


PATIENCE_SECONDS = 30.0
"""That decoding may take without a sample; it takes milliseconds, but the machine may be busy."""
PACE = 0.5
"""Seconds that decoding may take for each second of sound besides; it takes a hundredth of that."""


def _nobody(_: int) -> None:
    """Does nothing with what could not be decoded."""


def decode(source: Source, limit: float | None = None, rate: int = RATE) -> Audio:
    """All of a file as mono at `rate`.

    Raises what `blocks` raises, TooLarge (audio_too_long) past `limit` seconds; never decodes further than the limit.
    """
    parts: list[Samples] = []
    damaged: list[int] = [0]
    count = 0
    with closing(blocks(source, rate, damaged.append)) as decoded:
        for block in decoded:
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
    return Audio(np.concatenate(parts), rate, damaged[-1])


def blocks(source: Source, rate: int = RATE, tell: Callable[[int], object] = _nobody) -> Generator[Samples, None, None]:
    """A file of any length as mono blocks at `rate`, decoded in a child process as they are taken.

    At the end `tell` gets the number of packets that could not be decoded and were skipped.
    Raises BadInput (bad_audio) saying what is wrong with the file, Unprocessable where it crashes the decoder
    (decoder_crashed), takes too long (decoder_timeout) or needs too much memory (decoder_out_of_memory).
    """
    with _opened(source) as (file, name), _named():
        stream = sandbox.shared().stream("chatapi.audio.decoding:blocks", name, rate, files=[file], timeout=_patience)
        with closing(stream):
            for block in stream:
                if isinstance(block, np.ndarray):
                    yield block
                elif isinstance(block, int):
                    tell(block)
                else:
                    raise sandbox.CallFailed("the decoder gave neither samples nor a count")


def duration(source: Source) -> float:
    """Seconds a file states, 0 when it does not say; only as good as its header. Raises what `blocks` raises."""
    with _opened(source) as (file, name), _named():
        return float(
            sandbox.shared().call("chatapi.audio.decoding:duration", name, files=[file], timeout=PATIENCE_SECONDS)
        )


def _patience(seconds: float) -> float:
    return PATIENCE_SECONDS + PACE * seconds


@contextmanager
def _named() -> Iterator[None]:
    """What became of the decoder's process, as an error of the file's sender."""
    try:
        yield
    except (sandbox.ChildCrashed, sandbox.CallFailed) as error:
        raise Unprocessable("the audio crashes the decoder; it is damaged", code="decoder_crashed") from error
    except sandbox.TimedOut as error:
        raise Unprocessable("the audio takes too long to decode; it is damaged", code="decoder_timeout") from error
    except sandbox.OutOfMemory as error:
        raise Unprocessable(
            f"the audio needs more than {sandbox.MEMORY >> 20} MiB of memory to decode; it is damaged",
            code="decoder_out_of_memory",
        ) from error


@contextmanager
def _opened(source: Source) -> Iterator[tuple[int, str]]:
    """The descriptor of an open file, and what to call it. Raises BadInput (bad_audio) where it cannot be read."""
    if isinstance(source, Path):
        try:
            opened: BinaryIO = source.open("rb")
        except OSError as error:
            raise BadInput(f"cannot read {source}: {error.strerror}", code="bad_audio") from error
        with opened:
            yield opened.fileno(), str(source)
    elif (descriptor := _descriptor(source)) is not None:
        yield descriptor, ""
    else:
        with sandbox.memory_file(source if isinstance(source, bytes) else _content(source)) as file:
            yield file.fileno(), ""


def _descriptor(source: bytes | BinaryIO) -> int | None:
    """None: the source is in memory only."""
    try:
        return None if isinstance(source, bytes) else source.fileno()
    except OSError:
        return None


def _content(source: BinaryIO) -> bytes:
    source.seek(0)
    return source.read()


def mono(interleaved: npt.NDArray[np.float32]) -> Samples:
    """(n, channels) to (n,): the mean, with what is not a number as silence."""
    clean = np.nan_to_num(interleaved, nan=0.0, posinf=1.0, neginf=-1.0)
    mixed: Samples = np.clip(clean, -1.0, 1.0).mean(axis=1, dtype=np.float32)
    return mixed
