"""Audio files of every container, and mutations of their bytes."""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Callable
from functools import cache

import av
import numpy as np

RATE = 16_000
OPTIONS = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
CONTAINERS: dict[str, tuple[str, str, dict[str, str]]] = {
    "wav": ("wav", "pcm_s16le", {}),
    "wav-float": ("wav", "pcm_f32le", {}),
    "wav-adpcm": ("wav", "adpcm_ms", {}),
    "flac": ("flac", "flac", {}),
    "ogg-opus": ("ogg", "libopus", {}),
    "ogg-vorbis": ("ogg", "vorbis", {}),
    "mp3": ("mp3", "libmp3lame", {}),
    "mp4": ("mp4", "aac", {}),
    "mp4-fragmented": ("mp4", "aac", OPTIONS),
    "webm": ("webm", "libopus", {}),
    "adts": ("adts", "aac", {}),
    "matroska": ("matroska", "aac", {}),
    "mpegts": ("mpegts", "aac", {}),
    "mpeg": ("mpeg", "mp2", {}),
    "aiff": ("aiff", "pcm_s16be", {}),
    "au": ("au", "pcm_s16be", {}),
    "caf": ("caf", "pcm_s16le", {}),
    "w64": ("w64", "pcm_s16le", {}),
    "asf": ("asf", "wmav2", {}),
    "avi": ("avi", "libmp3lame", {}),
    "mov": ("mov", "pcm_s16le", {}),
    "flv": ("flv", "libmp3lame", {}),
    "ac3": ("ac3", "ac3", {}),
    "eac3": ("eac3", "eac3", {}),
    "latm": ("latm", "aac", {}),
    "wavpack": ("wv", "wavpack", {}),
    "voc": ("voc", "pcm_s16le", {}),
    "amr": ("amr", "libopencore_amrnb", {}),
}
"""Name -> FFmpeg's container, codec and options."""
CODEC_RATES = {
    "libopus": 48_000, "wmav2": 44_100, "libopencore_amrnb": 8_000, "ac3": 48_000, "eac3": 48_000, "libmp3lame": 44_100,
}  # fmt: skip
"""Codec -> sample rate in Hz, where it does not take 16,000, or its container does not."""
TABLES = (
    b"stsz", b"stsc", b"stts", b"stco", b"trun", b"tfhd", b"mdhd", b"mvhd", b"moov", b"trak", b"esds", b"stsd", b"data",
    b"fmt ", b"RIFF", b"fact", b"LIST", b"OggS", b"OpusHead", b"fLaC", b"\x1a\x45\xdf\xa3", b"\x16\x54\xae\x6b",
    b"A_OPUS", b"ID3", b"Xing", b"Info", b"moof", b"traf", b"tfdt", b"mdat", b"\x1fC\xb6u", b"\xd7\x81", b"SSND",
    b"COMM", b"desc", b"pakt", b"idx1", b"movi", b"strh", b"strf", b"fmt \xf3\xac\xd3\x11", b"data\xf3\xac", b"wvpk",
    b".snd", b"\x91\x07\xdc\xb7", b"3&\xb2u", b"6&\xb2u",
)  # fmt: skip
"""Marks that precede the counts, sizes and codecs of containers."""
HOSTILE = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 50_000_000)


def tone(seconds: float, hertz: float = 220.0, silence: float = 0.1) -> np.ndarray:
    """A tone, which the fake engines detect as speech."""
    times = np.arange(int(seconds * RATE)) / RATE
    quiet = np.zeros(int(silence * RATE), np.float32)
    return np.concatenate([quiet, (0.3 * np.sin(2 * np.pi * hertz * times)).astype(np.float32), quiet])


def encoded(container: str, samples: np.ndarray) -> bytes:
    """The samples as a file."""
    form, codec, options = CONTAINERS[container]
    file = io.BytesIO()
    with av.open(file, "w", format=form, options=options) as out:
        # FFmpeg's encoder of Vorbis supports only stereo, and is experimental.
        layout, more = ("stereo", {"strict": "experimental"}) if codec == "vorbis" else ("mono", {})
        stream = out.add_stream(codec, rate=CODEC_RATES.get(codec, RATE), layout=layout, options=more)
        if codec == "wmav2":
            stream.bit_rate = 128_000
        frame = av.AudioFrame.from_ndarray(samples[np.newaxis].astype(np.float32), format="flt", layout="mono")
        frame.sample_rate = RATE
        size = stream.frame_size or 0
        fit = av.AudioResampler(stream.format, layout, stream.rate, frame_size=size)
        for ready in [*fit.resample(frame), *fit.resample(None)]:
            out.mux(stream.encode(ready))
        out.mux(stream.encode(None))
    return file.getvalue()


def decoded_seconds(data: bytes) -> float:
    """The duration according to FFmpeg."""
    with av.open(io.BytesIO(data)) as file:
        return sum(frame.samples / frame.sample_rate for frame in file.decode(audio=0))


@cache
def files(seconds: float = 0.3) -> dict[str, bytes]:
    """A good file of each container."""
    return {container: encoded(container, tone(seconds)) for container in CONTAINERS}


def unknown_codec_wav(tag: int = 0x7777) -> bytes:
    """A WAV whose format tag belongs to no codec."""
    head = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", 100, b"WAVE", b"fmt ", 16, tag, 1, RATE, 2 * RATE, 2, 16)
    return head + struct.pack("<4sI", b"data", 64) + bytes(64)


def unknown_codec_webm() -> bytes:
    """A WebM whose codec id belongs to no codec."""
    return files(0.05)["webm"].replace(b"A_OPUS", b"A_OPUX")


def _box(name: bytes, *parts: bytes) -> bytes:
    return struct.pack(">I4s", 8 + sum(map(len, parts)), name) + b"".join(parts)


def _full(name: bytes, *parts: bytes) -> bytes:
    return _box(name, bytes(4), *parts)


def bomb(samples: int = 50_000_000, tracks: int = 1, tables: str = "stsz") -> bytes:
    """A small MP4 whose table (stsz or stsc) declares so many samples."""
    head = _box(b"ftyp", b"isom", struct.pack(">I", 512), b"isom")
    sound = _box(b"mdat", bytes(64))
    track = _track(samples, len(head) + 8, tables)
    movie = _full(b"mvhd", bytes(8), struct.pack(">IIIH", 1000, 1000, 1 << 16, 256), bytes(10), _MATRIX, bytes(28))
    return head + sound + _box(b"moov", movie, *[track] * tracks)


_MATRIX = struct.pack(">9I", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
_AAC = bytes.fromhex("0380808022000100048080801440150000000001f4000001f40005808080021408068080800102")


def _track(samples: int, offset: int, tables: str) -> bytes:
    entry = bytes(6) + struct.pack(">H", 1) + bytes(8) + struct.pack(">HHHHI", 1, 16, 0, 0, RATE << 16)
    entry = _box(b"mp4a", entry, _full(b"esds", _AAC))
    each = 1 if tables == "stsc" else samples
    chunks = _full(b"stsc", struct.pack(">IIII", 1, 1, samples if tables == "stsc" else each, 1))
    table = _box(
        b"stbl",
        _full(b"stsd", struct.pack(">I", 1), entry),
        _full(b"stts", struct.pack(">III", 1, samples, 1024)),
        chunks,
        _full(b"stsz", struct.pack(">II", 1, samples)),
        _full(b"stco", struct.pack(">II", 1, offset)),
    )
    reference = _box(b"dinf", _full(b"dref", struct.pack(">I", 1), _full(b"url ")))
    media = _box(
        b"mdia",
        _full(b"mdhd", bytes(8), struct.pack(">IIHH", RATE, min(samples * 1024, 2**32 - 1), 0x55C4, 0)),
        _full(b"hdlr", bytes(4), b"soun", bytes(13)),
        _box(b"minf", _full(b"smhd", bytes(4)), reference, table),
    )
    track = bytes(8) + struct.pack(">IIII", 1, 0, 1000, 0) + bytes(8) + struct.pack(">HHHH", 0, 0, 256, 0)
    return _box(b"trak", _box(b"tkhd", struct.pack(">I", 7), track, _MATRIX, bytes(8)), media)


def _flips(rng: random.Random, data: bytearray) -> None:
    for _ in range(rng.choice((1, 2, 4, 16, 64))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _truncated(rng: random.Random, data: bytearray) -> None:
    del data[rng.randrange(len(data)) :]


def _table(rng: random.Random, data: bytearray) -> None:
    """A count or a size behind a mark of the container."""
    marks = [at for mark in TABLES if (at := data.find(mark)) >= 0]
    at = rng.choice(marks or [0]) + rng.choice((-4, 4, 4, 8, 8, 12, 16, 20))
    _number(rng, data, max(at, 0))


def _number(rng: random.Random, data: bytearray, at: int | None = None) -> None:
    at = rng.randrange(len(data)) if at is None else at
    order, size = rng.choice("<>"), rng.choice("HIIQ")
    value = rng.choice(HOSTILE) & (0xFFFF if size == "H" else 0xFFFFFFFF)
    packed = struct.pack(order + size, value)
    data[at : at + len(packed)] = packed


def _repeated(rng: random.Random, data: bytearray) -> None:
    first = rng.randrange(len(data))
    block = bytes(data[first : first + rng.choice((1, 4, 27, 188, 1024))])
    data[first:first] = block * rng.choice((1, 2, 10, 50))


def _spliced(rng: random.Random, data: bytearray) -> None:
    other = rng.choice(list(files().values()))
    data[rng.randrange(len(data)) :] = other[rng.randrange(len(other)) :]


def _zeroed(rng: random.Random, data: bytearray) -> None:
    first = rng.randrange(len(data))
    size = rng.choice((1, 8, 64, 512))
    data[first : first + size] = bytes([rng.choice((0, 0xFF))]) * len(data[first : first + size])


def _removed(rng: random.Random, data: bytearray) -> None:
    first = rng.randrange(len(data))
    del data[first : first + rng.choice((1, 4, 8, 100))]


def _mark(rng: random.Random, data: bytearray) -> None:
    """Another letter in a mark: an unknown codec or table."""
    at = rng.choice([at for mark in TABLES if (at := data.find(mark)) >= 0] or [0])
    data[at + rng.randrange(4)] = rng.randrange(256)


MUTATIONS: tuple[Callable[[random.Random, bytearray], None], ...] = (
    _flips, _flips, _truncated, _table, _table, _table, _number, _number, _repeated, _spliced, _zeroed, _removed, _mark,
)  # fmt: skip


SHORTEST = 64
"""Bytes of the smallest data that is mutated."""


def change(rng: random.Random, data: bytearray) -> str:
    """Mutates the bytes once; returns the name of the mutation."""
    if len(data) < SHORTEST:
        return "short"
    chosen = rng.choice(MUTATIONS)
    chosen(rng, data)
    return chosen.__name__.strip("_")


def mutated(rng: random.Random) -> tuple[str, bytes]:
    """A mutated file, and the names of its mutations."""
    container = rng.choice(list(files()))
    data = bytearray(files()[container])
    names = [change(rng, data) for _ in range(rng.choice((1, 1, 2, 3)))]
    return f"{container} {'+'.join(names)}", bytes(data[: 1 << 18])


def hostile(rng: random.Random) -> tuple[str, bytes]:
    """Mostly mutated files; sometimes a good file, one that declares too many samples, or noise."""
    roll = rng.random()
    if roll < 0.8:
        return mutated(rng)
    if roll < 0.9:
        name = rng.choice(list(files()))
        return f"{name} good", files()[name]
    if roll < 0.93:
        samples = rng.choice((1000, 100_000, 1_000_000))
        return f"bomb {samples}", bomb(samples, rng.choice((1, 3)), rng.choice(("stsz", "stsc")))
    if roll < 0.96:
        return "unknown codec", rng.choice((unknown_codec_wav(rng.randrange(1 << 16)), unknown_codec_webm()))
    return "noise", rng.randbytes(rng.choice((0, 1, 12, 44, 500, 5000)))
