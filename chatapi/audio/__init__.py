"""Audio as values: decoding, resampling, loudness, and writing WAV."""

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
"""Mono samples, -1 to 1, shape (n,)."""

Source = bytes | Path | BinaryIO
"""A file: its content, its path, or an open file; an open file must be seekable, is read from its start and stays
open."""

RATE = 16_000
"""Sample rate of all speech recognition here, in Hz."""

CHANNELS = range(1, 9)
WIDTHS = range(1, 5)
"""Bytes of a sample of raw PCM."""
RATES = range(8_000, 192_001)


@dataclass(frozen=True, eq=False)
class Audio:
    """A piece of mono audio."""

    samples: Samples
    rate: int
    """Sample rate in Hz."""
    damaged: int = 0
    """Packets of the source file that could not be decoded."""

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate

    def pcm16(self) -> bytes:
        """The samples as signed 16-bit little-endian PCM."""
        scaled: npt.NDArray[np.float32] = np.clip(self.samples, -1.0, 1.0) * np.float32(32767)
        return scaled.round().astype("<i2").tobytes()

    def at(self, rate: int) -> Audio:
        """The same audio at another sample rate."""
        if rate == self.rate:
            return self
        return Audio(soxr.resample(self.samples, self.rate, rate), rate)


class Resampled:
    """Resamples one stream; its parts would click at their joints if each were resampled alone."""

    def __init__(self, have: int, want: int) -> None:
        self._stream = soxr.ResampleStream(have, want, 1, dtype="float32") if have != want else None

    def feed(self, samples: Samples) -> Samples:
        """The output that is certain after the next samples."""
        return self._next(samples, last=False)

    def finish(self) -> Samples:
        """The output that was still held back; nothing can be fed afterwards."""
        return self._next(np.zeros(0, np.float32), last=True)

    def _next(self, samples: Samples, last: bool) -> Samples:
        if self._stream is None:
            return samples
        ready: Samples = self._stream.resample_chunk(samples, last=last)
        return ready


INAUDIBLE = 1e-3
"""Amplitude, relative to full scale, below which audio counts as silence: -60 dB."""


def trim_leading_silence(audio: Audio) -> Audio:
    """The audio without its leading silence; all of it where everything is silent."""
    loud = np.abs(audio.samples) > INAUDIBLE
    return Audio(audio.samples[int(loud.argmax()) :], audio.rate) if loud.any() else audio


LEVEL = 10 ** (-20 / 20)
"""Loudness of speech, as RMS relative to full scale: -20 dBFS, the highest at which no sentence has to clip."""


def levelled(samples: Samples) -> Samples:
    """Scales a sentence to the loudness `LEVEL`, measured on its loud frames, without clipping.

    With the same peak, sentences would be up to 7 dB apart: a sharp consonant makes the rest quiet.
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
    """Concatenates parts of one sample rate. BadInput when there are none."""
    if not parts:
        raise BadInput("there is no audio to join", code="bad_audio")
    return Audio(np.concatenate([part.samples for part in parts]), parts[0].rate)


def wav_header(rate: int, frames: int | None = None) -> bytes:
    """The 44 bytes before 16-bit mono samples; `frames` None: for a stream of unknown length."""
    size = 0xFFFF_FFFF if frames is None else frames * 2
    riff = size if frames is None else size + 36
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", riff, b"WAVE", b"fmt ", 16, 1, 1, rate, rate * 2, 2, 16, b"data", size
    )


def wav(audio: Audio) -> bytes:
    """A complete 16-bit mono WAV file."""
    return wav_header(audio.rate, len(audio.samples)) + audio.pcm16()


class Pcm:
    """Decodes a stream of raw little-endian PCM, in chunks of any length, to mono at `RATE`.

    One byte per sample is unsigned, as in WAV; two, three and four are signed.
    """

    def __init__(self, rate: int, width: int, channels: int) -> None:
        """`width`: bytes per sample. Raises BadInput (bad_audio) with the supported values."""
        if rate not in RATES:
            raise BadInput(f"sample rate {rate} Hz is not supported ({RATES[0]} to {RATES[-1]} Hz)", code="bad_audio")
        if width not in WIDTHS:
            raise BadInput(f"{width} bytes per sample are not supported (1, 2, 3 or 4)", code="bad_audio")
        if channels not in CHANNELS:
            raise BadInput(f"{channels} channels are not supported (1 to {CHANNELS[-1]})", code="bad_audio")
        self.rate, self.width, self.channels = rate, width, channels
        self._rest = b""
        self._resampled = Resampled(rate, RATE)

    def feed(self, data: bytes) -> Samples:
        """The audio that is certain after the next bytes."""
        data = self._rest + data
        whole = len(data) - len(data) % (self.width * self.channels)
        self._rest = data[whole:]
        return self._resampled.feed(mono(_floats(data[:whole], self.width).reshape(-1, self.channels)))

    def finish(self) -> Samples:
        """The end of the audio. Raises BadInput (bad_audio) when it ends within a sample."""
        if self._rest:
            raise BadInput(
                f"the audio ends with {len(self._rest)} bytes of a frame of {self.width * self.channels}",
                code="bad_audio",
            )
        return self._resampled.finish()


def _floats(data: bytes, width: int) -> npt.NDArray[np.float32]:
    """PCM of `width` bytes per sample as floats, -1 to 1."""
    if width == 1:
        return (np.frombuffer(data, np.uint8).astype(np.float32) - np.float32(128)) / np.float32(128)
    if width == 3:
        # 24-bit samples become the upper three bytes of 32 bits: the same value, 256 times as large.
        padded = np.zeros((len(data) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        data, width = padded.tobytes(), 4
    kind = "<i2" if width == 2 else "<i4"
    whole: npt.NDArray[np.float32] = np.frombuffer(data, kind).astype(np.float32)
    return whole / np.float32(1 << (8 * width - 1))


PATIENCE_SECONDS = 30.0
"""Seconds without a sample after which decoding times out; it takes milliseconds, but the machine may be busy."""
PACE = 0.5
"""Additional seconds for each second of audio; decoding takes a hundredth of that."""


def _ignore(_: int) -> None:
    """Ignores the count of damaged packets."""


def decode(source: Source, limit: float | None = None, rate: int = RATE) -> Audio:
    """Decodes a whole file to mono at `rate`.

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
        raise BadInput("the audio has a header but no samples", code="bad_audio")
    return Audio(np.concatenate(parts), rate, damaged[-1])


def blocks(
    source: Source, rate: int = RATE, report_damaged: Callable[[int], object] = _ignore
) -> Generator[Samples, None, None]:
    """A file of any length as mono blocks at `rate`, decoded in a child process as they are read.

    At the end `report_damaged` gets the number of packets that could not be decoded and were skipped.
    Raises BadInput (bad_audio) with what is wrong with the file, Unprocessable where it crashes the decoder
    (decoder_crashed), takes too long (decoder_timeout) or needs too much memory (decoder_out_of_memory).
    """
    with _opened(source) as (file, name), _sandbox_errors():
        stream = sandbox.shared().stream("chatapi.audio.decoding:blocks", name, rate, files=[file], timeout=_patience)
        with closing(stream):
            for block in stream:
                if isinstance(block, np.ndarray):
                    yield block
                elif isinstance(block, int):
                    report_damaged(block)
                else:
                    raise sandbox.CallFailed("the decoder returned neither samples nor a count")


def duration(source: Source) -> float:
    """Seconds that a file's header states, 0 where it states none. Raises what `blocks` raises."""
    with _opened(source) as (file, name), _sandbox_errors():
        return float(
            sandbox.shared().call("chatapi.audio.decoding:duration", name, files=[file], timeout=PATIENCE_SECONDS)
        )


def _patience(seconds: float) -> float:
    return PATIENCE_SECONDS + PACE * seconds


@contextmanager
def _sandbox_errors() -> Iterator[None]:
    """Turns failures of the decoder's process into errors about the file."""
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
    """The descriptor of an open file, and its name for messages. Raises BadInput (bad_audio) where it cannot be
    read."""
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
    """None: the source is only in memory."""
    try:
        return None if isinstance(source, bytes) else source.fileno()
    except OSError:
        return None


def _content(source: BinaryIO) -> bytes:
    source.seek(0)
    return source.read()


def mono(interleaved: npt.NDArray[np.float32]) -> Samples:
    """(n, channels) to (n,): the mean, with NaN as silence."""
    clean = np.nan_to_num(interleaved, nan=0.0, posinf=1.0, neginf=-1.0)
    mixed: Samples = np.clip(clean, -1.0, 1.0).mean(axis=1, dtype=np.float32)
    return mixed
