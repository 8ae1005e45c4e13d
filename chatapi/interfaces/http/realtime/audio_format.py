"""Sound on the wire: 16-bit PCM at 24 kHz, or G.711 at 8 kHz, in base64, resampled as it flows."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from chatapi.audio import RATE, Audio, Resampled, Samples
from chatapi.errors import BadInput
from chatapi.interfaces.http.json_body import decoded

RATES = {"audio/pcm": 24_000, "audio/pcmu": 8_000, "audio/pcma": 8_000}
"""Format -> samples a second."""
DELTA = 0.3
"""Seconds of sound in one delta: short enough to start soon, long enough to be few."""

Ints = npt.NDArray[np.int16]


def received(text: str, form: str) -> Samples:
    """What base64 `text` holds, at the format's own rate. Raises BadInput (invalid_audio)."""
    try:
        raw = decoded(text)
    except ValueError as error:
        raise BadInput(f"the audio is not base64: {error}", code="invalid_audio") from None
    if form != "audio/pcm":
        table = _ULAW if form == "audio/pcmu" else _ALAW
        return _floats(table[np.frombuffer(raw, np.uint8)])
    if len(raw) % 2:
        raise BadInput(f"16-bit samples have two bytes each; {len(raw)} bytes came", code="invalid_audio")
    return _floats(np.frombuffer(raw, "<i2"))


def sent(samples: Samples, form: str) -> str:
    """`samples`, at the format's own rate, as base64."""
    raw = Audio(samples, RATES[form]).pcm16()
    if form != "audio/pcm":
        order, values = _ULAW_ORDER if form == "audio/pcmu" else _ALAW_ORDER
        raw = _nearest(np.frombuffer(raw, "<i2"), order, values).tobytes()
    return base64.b64encode(raw).decode()


class Incoming:
    """The client's microphone, as the recognisers want it."""

    def __init__(self, form: str) -> None:
        self.form = form
        self._resampled = Resampled(RATES[form], RATE)

    def feed(self, text: str) -> Samples:
        """16 kHz. Raises BadInput (invalid_audio); nothing of a bad piece is taken."""
        return self._resampled.feed(received(text, self.form))


class Outgoing:
    """One answer's sound, cut into deltas."""

    def __init__(self, form: str) -> None:
        self._form = form
        self._resampled: Resampled | None = None
        self._have = 0

    def feed(self, audio: Audio) -> Iterator[str]:
        """Base64 deltas of at most `DELTA` seconds."""
        if self._resampled is None or audio.rate != self._have:
            # Every voice has one rate, so that the second case is a change of voice and joins nothing.
            self._resampled, self._have = Resampled(audio.rate, RATES[self._form]), audio.rate
        yield from self._cut(self._resampled.feed(audio.samples))

    def finish(self) -> Iterator[str]:
        """What the resampler still holds."""
        if self._resampled is not None:
            yield from self._cut(self._resampled.finish())
            self._resampled = None

    def _cut(self, samples: Samples) -> Iterator[str]:
        step = int(DELTA * RATES[self._form])
        for start in range(0, len(samples), step):
            yield sent(samples[start : start + step], self._form)


def _floats(ints: Ints) -> Samples:
    samples: Samples = ints.astype(np.float32) / np.float32(32768)
    return samples


def _ulaw() -> Ints:
    """The sample of every mu-law byte (ITU-T G.711)."""
    code = ~np.arange(256, dtype=np.uint8)
    size = (((code & 0x0F).astype(np.int32) << 3) + 0x84) << ((code & 0x70) >> 4)
    return np.where(code & 0x80, 0x84 - size, size - 0x84).astype(np.int16)


def _alaw() -> Ints:
    """The sample of every A-law byte (ITU-T G.711)."""
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
    """The byte whose sample is nearest."""
    middles = (values[:-1] + values[1:]) / 2
    nearest: npt.NDArray[np.uint8] = order[np.searchsorted(middles, samples)]
    return nearest


_ULAW, _ALAW = _ulaw(), _alaw()
_ULAW_ORDER, _ALAW_ORDER = _ordered(_ULAW), _ordered(_ALAW)
