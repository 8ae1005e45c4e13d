"""Decodes a stream of raw PCM."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from chatapi.audio import CHANNELS, RATE, RATES, WIDTHS, Resampled, Samples, mono
from chatapi.errors import BadInput


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
