"""Audio as values: resampling, and writing WAV."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import soxr

from chatapi.audio.skipped import Skipped
from chatapi.errors import BadInput

Samples = npt.NDArray[np.float32]
"""Mono samples, -1 to 1, shape (n,)."""

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
    skipped: Skipped = field(default_factory=Skipped)
    """What of the source file was not decoded."""

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


def is_silent(audio: Audio) -> bool:
    """Whether nothing in it is audible."""
    return not len(audio.samples) or float(np.abs(audio.samples).max()) <= INAUDIBLE


def trim_leading_silence(audio: Audio) -> Audio:
    """The audio without its leading silence; all of it where everything is silent."""
    loud = np.abs(audio.samples) > INAUDIBLE
    return Audio(audio.samples[int(loud.argmax()) :], audio.rate) if loud.any() else audio


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


def finite(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The samples from -1 to 1, of any shape, with NaN as silence."""
    clean: npt.NDArray[np.float32] = np.nan_to_num(samples, nan=0.0, posinf=1.0, neginf=-1.0)
    return np.clip(clean, -1.0, 1.0, out=clean)


def mono(interleaved: npt.NDArray[np.float32]) -> Samples:
    """(n, channels) to (n,): the mean, with NaN as silence."""
    return mean_of_channels(finite(interleaved))


def mean_of_channels(interleaved: npt.NDArray[np.float32]) -> Samples:
    """(n, channels) to (n,). Column by column, which takes a quarter of the time of numpy's mean of short rows."""
    columns = interleaved.T
    mixed: Samples = columns[0].copy()
    for column in columns[1:]:
        mixed += column
    mixed /= np.float32(max(1, len(columns)))
    return mixed
