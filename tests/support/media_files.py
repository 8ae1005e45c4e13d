"""Media files as recorders, browsers and players write them, and measures of what is decoded of them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import cache

import av
import numpy as np

from chatapi.audio import RATE, Audio
from conftest import tone

ENCODINGS = {
    "wav": ("pcm_s16le", "wav"),
    "flac": ("flac", "flac"),
    "mp3": ("libmp3lame", "mp3"),
    "adts": ("aac", "adts"),
    "m4a": ("aac", "mp4"),
    "opus": ("libopus", "ogg"),
    "webm": ("libopus", "webm"),
    "mkv": ("aac", "matroska"),
    "ts": ("aac", "mpegts"),
    "aiff": ("pcm_s16be", "aiff"),
    "au": ("pcm_s16be", "au"),
    "caf": ("pcm_s16le", "caf"),
    "w64": ("pcm_s16le", "w64"),
    "wma": ("wmav2", "asf"),
    "avi": ("libmp3lame", "avi"),
    "mov": ("pcm_s16le", "mov"),
    "ac3": ("ac3", "ac3"),
    "latm": ("aac", "latm"),
    "flv": ("libmp3lame", "flv"),
}
"""Name -> FFmpeg's codec and container."""
FRAGMENTED = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "frag_duration": "1000000"}
"""MP4 in fragments of one second, as Safari records it."""


def encode(sounds: list[np.ndarray], rate: int, codec: str, container: str, options: Mapping[str, str] = {}) -> bytes:
    """A file with a track for each sound: samples of shape (n,), or (channels, n) for one or two channels."""
    file = io.BytesIO()
    with av.open(file, "w", format=container, options=dict(options)) as out:
        planes = [np.atleast_2d(sound).astype(np.float32) for sound in sounds]
        layouts = ["stereo" if len(each) == 2 else "mono" for each in planes]
        experimental = {"strict": "experimental"}
        streams = [out.add_stream(codec, rate=rate, layout=layout, options=experimental) for layout in layouts]
        for stream, each, layout in zip(streams, planes, layouts, strict=True):
            if codec.startswith("wma"):
                stream.bit_rate = 128_000
            if not stream.codec_context.is_open:
                stream.codec_context.open()
            interleaved = np.ascontiguousarray(each.T).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(interleaved, format="flt", layout=layout)
            frame.sample_rate = rate
            size = stream.frame_size or 1024
            to_codec = av.AudioResampler(format=stream.format, layout=layout, rate=rate, frame_size=size)
            for ready in [*to_codec.resample(frame), *to_codec.resample(None)]:
                out.mux(stream.encode(ready))
            out.mux(stream.encode(None))
    return file.getvalue()


@cache
def recorded(name: str, rate: int = 48_000, channels: int = 1, seconds: float = 3.0, hertz: float = 440.0) -> bytes:
    """A tone as a file of one of `ENCODINGS`, `fragmented` or `vorbis`."""
    if name == "flv":
        rate = 44_100
    sound = tone(seconds, hertz, rate)
    if name == "fragmented":
        return encode([sound], rate, "aac", "mp4", FRAGMENTED)
    if name == "vorbis":
        # FFmpeg's encoder of Vorbis knows only two channels.
        return encode([np.stack([sound, sound])], rate, "vorbis", "ogg")
    codec, container = ENCODINGS[name]
    return encode([np.stack([sound] * channels)], rate, codec, container)


def audible(audio: Audio) -> float:
    """Seconds of audio that are not silent."""
    frames = audio.samples[: len(audio.samples) // 160 * 160].reshape(-1, 160)
    return float((np.abs(frames).max(axis=1) > 0.05).sum()) * 160 / RATE


def seconds_of(audio: Audio, hertz: float) -> float:
    """Seconds in which a tone of this frequency is the loudest sound."""
    frames = audio.samples[: len(audio.samples) // 800 * 800].reshape(-1, 800)
    spectra = np.abs(np.fft.rfft(frames * np.hanning(800), axis=1))
    peaks = spectra.argmax(axis=1) * RATE / 800
    return float(((np.abs(peaks - hertz) <= RATE / 800) & (np.abs(frames).max(axis=1) > 0.05)).sum()) * 800 / RATE


def synchsafe(length: int) -> bytes:
    """A length in ID3 tags: seven bits per byte."""
    return bytes(length >> shift & 0x7F for shift in (21, 14, 7, 0))


ID3 = b"ID3\x04\0\0" + synchsafe(257) + bytes(257)
ID3_WITH_FOOTER = b"ID3\x04\0\x10" + synchsafe(257) + bytes(257) + b"3DI\x04\0\x10" + synchsafe(257)
ID3_WITH_PICTURE = b"ID3\x03\0\0" + synchsafe(200_000) + np.random.default_rng(7).bytes(200_000)
ID3V1 = b"TAG" + b"title".ljust(125, b"\0")
LYRICS3 = b"LYRICSBEGIN" + b"INDLYR00003abc" + b"000025LYRICS200"
APE = (
    b"APETAGEX" + bytes.fromhex("d0070000 32000000 01000000 000000a0") + bytes(8)
    + b"\x05\0\0\0\0\0\0\0Title\0hello-"[:18]
    + b"APETAGEX" + bytes.fromhex("d0070000 32000000 01000000 00000080") + bytes(8)
)  # fmt: skip
"""A tag of one item, with its header and its footer."""
