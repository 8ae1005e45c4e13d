"""Streaming audio encoders: WAV, raw PCM, FLAC, Opus, MP3 and AAC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import av
import numpy as np

from chatapi.audio import Audio, Resampled, Samples, wav_header
from chatapi.audio.provenance import marked_wav_header
from chatapi.errors import Unprocessable

PCM_RATE = 24_000
"""Sample rate in Hz of raw PCM, which has no header to state it: that of OpenAI's speech API."""


@dataclass(frozen=True)
class AudioFormat:
    """A file format."""

    media_type: str
    container: str = ""
    """ffmpeg's name of the container; empty: written here."""
    codec: str = ""
    rates: tuple[int, ...] = ()
    """Sample rates in Hz that the encoder supports, ascending; none: any."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Options of the container."""
    bit_rate: int = 0
    """Bits per second; 0: the codec's default."""


_MPEG = (8000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)

FORMATS: Mapping[str, AudioFormat] = {
    "wav": AudioFormat("audio/wav"),
    "pcm": AudioFormat(f"audio/pcm;rate={PCM_RATE}", rates=(PCM_RATE,)),
    "flac": AudioFormat("audio/flac", "flac", "flac"),
    # A page is sent when it is full: by default it has a second of audio.
    "opus": AudioFormat(
        "audio/ogg", "ogg", "libopus", (8000, 12_000, 16_000, 24_000, 48_000), {"page_duration": "100000"}, 32_000
    ),
    # The Xing header states the length, which is not known yet when it is sent.
    "mp3": AudioFormat("audio/mpeg", "mp3", "libmp3lame", _MPEG, {"write_xing": "0", "id3v2_version": "0"}, 64_000),
    "aac": AudioFormat("audio/aac", "adts", "aac", _MPEG, {}, 64_000),
}
"""Name -> format."""


class Encoder:
    """Encodes mono audio of one sample rate and returns each byte of the file as soon as it is certain; one file per
    encoder.

    It only computes: run it on a thread for long audio.
    """

    def __init__(self, name: str, rate: int, comment: str = "") -> None:
        """`rate`: sample rate of the input, in Hz; `comment`: for the file's metadata, where the format has any. Raises
        Unprocessable (unknown_format)."""
        found = FORMATS.get(name)
        if found is None:
            raise Unprocessable(
                f"format {name!r} is not supported; supported are: {', '.join(FORMATS)}", code="unknown_format"
            )
        self.media_type = found.media_type
        self.rate = next((each for each in found.rates if each >= rate), found.rates[-1]) if found.rates else rate
        """Sample rate of the file, in Hz."""
        self._given = rate
        self._resampled = Resampled(rate, self.rate)
        self._muxer = _Muxer(found, self.rate, comment) if found.container else None
        self._head = (marked_wav_header(self.rate, comment) if comment else wav_header(self.rate)) * (name == "wav")

    def feed(self, audio: Audio) -> bytes:
        """Encodes the next audio; the bytes of the file that are certain."""
        return self._written(self._resampled.feed(audio.at(self._given).samples))

    def finish(self) -> bytes:
        """The rest of the file; nothing can be fed afterwards."""
        rest = self._written(self._resampled.finish())
        return rest + self._muxer.finish() if self._muxer is not None else rest

    def _written(self, samples: Samples) -> bytes:
        if self._muxer is not None:
            return self._muxer.feed(samples)
        head, self._head = self._head, b""
        return head + Audio(samples, self.rate).pcm16()


class _Sink:
    """The output of a container; it is not seekable."""

    def __init__(self) -> None:
        self._written = bytearray()

    def write(self, data: bytes) -> int:
        self._written += data
        return len(data)

    def take(self) -> bytes:
        taken = bytes(self._written)
        self._written.clear()
        return taken


class _Muxer:
    """A codec in its container."""

    def __init__(self, form: AudioFormat, rate: int, comment: str) -> None:
        self._sink = _Sink()
        # Without it the output waits for a full buffer.
        options = {**form.options, "flush_packets": "1"}
        self._file = av.open(self._sink, "w", format=form.container, options=options)
        if comment:
            self._file.metadata["comment"] = comment
        # PyAV's type of a stream is the union of all kinds of streams.
        stream: Any = self._file.add_stream(form.codec, rate=rate, layout="mono")
        if form.bit_rate:
            stream.bit_rate = form.bit_rate
        self._stream = stream
        self._packing = av.AudioResampler(format=stream.codec_context.format, layout="mono", rate=rate)
        self._rate = rate

    def feed(self, samples: Samples) -> bytes:
        if len(samples):
            frame = av.AudioFrame.from_ndarray(np.clip(samples, -1.0, 1.0)[np.newaxis], format="flt", layout="mono")
            frame.sample_rate = self._rate
            for packed in self._packing.resample(frame):
                self._file.mux(self._stream.encode(packed))
        return self._sink.take()

    def finish(self) -> bytes:
        for packed in self._packing.resample(None):
            self._file.mux(self._stream.encode(packed))
        self._file.mux(self._stream.encode(None))
        self._file.close()
        return self._sink.take()
