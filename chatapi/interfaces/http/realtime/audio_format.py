"""Audio on the wire: 16-bit PCM at 24 kHz, or G.711 at 8 kHz, in base64, resampled as a stream."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from chatapi.audio import RATE, Audio, Resampled, Samples
from chatapi.errors import BadInput
from chatapi.interfaces.http.json_body import decode_base64

RATES = {"audio/pcm": 24_000, "audio/pcmu": 8_000, "audio/pcma": 8_000}
"""Format -> sample rate, in hertz."""
DELTA_SECONDS = 0.3
"""Length of one audio delta, in seconds: short enough to start soon, long enough to send few."""

Ints = npt.NDArray[np.int16]


def decode_audio(text: str, form: str) -> Samples:
    """Decodes base64 audio, at the format's own rate. Raises BadInput (invalid_audio)."""
    raw = _decoded(text)
    if form == "audio/pcm" and len(raw) % 2:
        # Half a sample at the end is inaudible.
        raw = raw[:-1]
    return _samples(raw, form)


def encode_audio(samples: Samples, form: str) -> str:
    """Encodes samples, which have the format's own rate, as base64."""
    raw = Audio(samples, RATES[form]).pcm16()
    if form != "audio/pcm":
        order, values = _ULAW_ORDER if form == "audio/pcmu" else _ALAW_ORDER
        raw = _nearest(np.frombuffer(raw, "<i2"), order, values).tobytes()
    return base64.b64encode(raw).decode()


class InputAudioStream:
    """The client's input audio, resampled for speech recognition."""

    def __init__(self, form: str) -> None:
        self.form = form
        self._resampled = Resampled(RATES[form], RATE)
        self._half = b""
        """The first byte of a sample whose second one comes with the next chunk."""

    def feed(self, text: str) -> Samples:
        """Samples at 16 kHz. Raises BadInput (invalid_audio) and then ignores the whole chunk."""
        raw = self._half + _decoded(text)
        self._half = raw[-1:] if self.form == "audio/pcm" and len(raw) % 2 else b""
        return self._resampled.feed(_samples(raw[: len(raw) - len(self._half)], self.form))

    def drop_half(self) -> None:
        """Drops half a sample: the next chunk begins with a whole one."""
        self._half = b""


class OutputAudioStream:
    """The audio of one response, split into deltas."""

    def __init__(self, form: str) -> None:
        self._form = form
        self._resampled: Resampled | None = None
        self._input_rate = 0

    def feed(self, audio: Audio) -> Iterator[str]:
        """Base64 deltas of at most `DELTA_SECONDS` seconds."""
        if self._resampled is None or audio.rate != self._input_rate:
            # Every voice has one rate, so another rate means another voice, whose audio starts anew.
            self._resampled, self._input_rate = Resampled(audio.rate, RATES[self._form]), audio.rate
        yield from self._cut(self._resampled.feed(audio.samples))

    def finish(self) -> Iterator[str]:
        """The rest of the resampler, as deltas."""
        if self._resampled is not None:
            yield from self._cut(self._resampled.finish())
            self._resampled = None

    def _cut(self, samples: Samples) -> Iterator[str]:
        step = int(DELTA_SECONDS * RATES[self._form])
        for start in range(0, len(samples), step):
            yield encode_audio(samples[start : start + step], self._form)


def _decoded(text: str) -> bytes:
    try:
        return decode_base64(text)
    except ValueError as error:
        raise BadInput(f"the audio is not base64: {error}", code="invalid_audio") from None


def _samples(raw: bytes, form: str) -> Samples:
    if form != "audio/pcm":
        table = _ULAW if form == "audio/pcmu" else _ALAW
        return _floats(table[np.frombuffer(raw, np.uint8)])
    return _floats(np.frombuffer(raw, "<i2"))


def _floats(ints: Ints) -> Samples:
    samples: Samples = ints.astype(np.float32) / np.float32(32768)
    return samples


def _ulaw() -> Ints:
    """The sample for every mu-law byte (ITU-T G.711)."""
    code = ~np.arange(256, dtype=np.uint8)
    size = (((code & 0x0F).astype(np.int32) << 3) + 0x84) << ((code & 0x70) >> 4)
    return np.where(code & 0x80, 0x84 - size, size - 0x84).astype(np.int16)


def _alaw() -> Ints:
    """The sample for every A-law byte (ITU-T G.711)."""
    code = np.arange(256, dtype=np.uint8) ^ 0x55
    part, segment = (code & 0x0F).astype(np.int32) << 4, ((code & 0x70) >> 4).astype(np.int32)
    size = np.where(segment == 0, part + 8, (part + 0x108) << np.maximum(segment - 1, 0))
    return np.where(code & 0x80, size, -size).astype(np.int16)


def _ordered(table: Ints) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    order = np.argsort(table, kind="stable").astype(np.uint8)
    return order, table[order].astype(np.int32)


def _nearest(
    samples: npt.NDArray[np.int16], order: npt.NDArray[np.uint8], values: npt.NDArray[np.int32]
) -> npt.NDArray[np.uint8]:
    """The bytes whose samples are nearest."""
    middles = (values[:-1] + values[1:]) / 2
    nearest: npt.NDArray[np.uint8] = order[np.searchsorted(middles, samples)]
    return nearest


_ULAW, _ALAW = _ulaw(), _alaw()
_ULAW_ORDER, _ALAW_ORDER = _ordered(_ULAW), _ordered(_ALAW)
