"""Detects a media file's container by its first bytes, what precedes it, and where another file follows."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, cast

from chatapi.audio.ffmpeg_decoder import mp4_tables, wav_header
from chatapi.errors import BadInput

HEAD_BYTES = 1 << 20
"""Bytes that are read to detect the container."""
JUNK_BYTES = 64 << 10
"""Most bytes that are searched for the first frame of MP3 or AAC."""
TAGS = 16
"""Most ID3 tags before a file."""
MAGIC = (
    (0, b"fLaC", "flac"), (0, b"OggS", "ogg"), (0, b"\x1aE\xdf\xa3", "matroska"), (8, b"WAVE", "wav"),
    (4, b"ftyp", "mp4"), (4, b"moov", "mp4"), (4, b"mdat", "mp4"), (4, b"wide", "mp4"), (4, b"styp", "mp4"),
    (8, b"AIFF", "aiff"), (8, b"AIFC", "aiff"), (8, b"AVI ", "avi"), (0, b".snd", "au"), (0, b"caff", "caf"),
    (0, b"0&\xb2u\x8ef\xcf\x11", "asf"), (0, b"riff\x2e\x91\xcf\x11", "w64"), (0, b"#!AMR", "amr"),
    (0, b"FLV\x01", "flv"), (0, b"\x0bw", "ac3"),
)  # fmt: skip
"""Offset and bytes of a container's signature, and FFmpeg's demuxer for it."""
FIRST_PAGE = re.compile(rb"OggS\0\x02")
"""The header of an Ogg page that starts a stream (RFC 3533, 6)."""


@dataclass(frozen=True)
class Part:
    """A part of a file that is a media file of its own."""

    container: str
    """FFmpeg's demuxer."""
    start: int
    end: int
    """Offset of the end in bytes; what follows belongs to the next part, or is the end of the file."""


def parts(file: BinaryIO) -> Iterator[Part]:
    """The concatenated media files in a file, mostly one.

    Choosing the demuxer, instead of letting FFmpeg guess, excludes playlists, which open files and addresses of their
    own. Raises BadInput (bad_audio) where the first is not a media file.
    """
    size = file.seek(0, io.SEEK_END)
    start = 0
    while (found := _first(file, start, size)) is not None:
        yield found
        start = found.end
    if not start:
        raise _unknown(_read(file, 0, HEAD_BYTES))


def _first(file: BinaryIO, start: int, size: int) -> Part | None:
    start = _behind_tags(file, start)
    head = _read(file, start, HEAD_BYTES)
    container = _container(head)
    if container is None:
        offset = _frames(head[:JUNK_BYTES])
        if offset is None:
            return None
        start, container = start + offset, _container(head[offset:])
    assert container is not None  # noqa: S101 - frames were found there
    window = cast(BinaryIO, Window(file, start, size))
    if container == "wav":
        end = start + wav_header.check(head, size - start)
        joined = _container(_read(file, end, 12)) == "wav"
        return Part(container, start, end if joined else size)
    if container == "mp4":
        mp4_tables.check(window, size - start)
    if container == "ogg":
        return Part(container, start, _next_chain(file, start, size))
    return Part(container, start, size)


def _behind_tags(file: BinaryIO, start: int) -> int:
    """Offset of the end of ID3 tags, zeros and white space."""
    for _ in range(TAGS):
        head = _read(file, start, HEAD_BYTES)
        plain = len(head) - len(head.lstrip(b"\0 \r\n\t"))
        # The first bytes of an MP4 box are zeros too: its length.
        boxed = next((back for back in (3, 2, 1) if _container(head[max(0, plain - back) :]) == "mp4"), 0)
        if plain > boxed and _container(head) is None:
            start += plain - boxed
        elif head.startswith(b"ID3") and len(head) > 10:
            # The length has seven bits per byte, and includes neither header nor footer (id3.org, 2.4, 3.1).
            length = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
            start += 10 + length + (10 if head[5] & 0x10 else 0)
        else:
            break
    return start


def _container(head: bytes) -> str | None:
    """The demuxer for data that starts with `head`; None: unknown."""
    for offset, magic, name in MAGIC:
        if head.startswith(magic, offset):
            return name
    for first, step in ((0, 188), (4, 192)):
        if len(head) > first + 2 * step and all(head[first + step * at] == 0x47 for at in range(3)):
            return "mpegts"
    if head[:1] == b"\xff" and len(head) > 1:
        if head[1] & 0xF6 == 0xF0:
            return "aac"
        if head[1] & 0xE0 == 0xE0 and head[1] & 0x06:
            return "mp3"
    return None


def _frames(head: bytes) -> int | None:
    """Offset of the first two consecutive frames of MP3 or AAC."""
    at = head.find(b"\xff")
    while at >= 0:
        length = _frame_bytes(head[at : at + 6])
        if length and _container(head[at + length : at + length + 2]) in ("mp3", "aac"):
            return at
        at = head.find(b"\xff", at + 1)
    return None


def _frame_bytes(header: bytes) -> int:
    """Length in bytes of the frame with this header; 0 where it is invalid (ISO/IEC 11172-3, 2.4.2.3; 13818-7, 6.2)."""
    kind = _container(header)
    if kind == "aac" and len(header) == 6:
        return (header[3] & 3) << 11 | header[4] << 3 | header[5] >> 5
    if kind != "mp3" or len(header) < 4:
        return 0
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    rate, index = RATES.get((version, header[2] >> 2 & 3), 0), header[2] >> 4
    table = KBITS.get((version == 3, layer)) or KBITS[(False, 2)]
    if not rate or not 0 < index < 15 or version == 1:
        return 0
    padding = header[2] >> 1 & 1
    bits = table[index - 1] * 1000
    if layer == 1:
        return (12 * bits // rate + padding) * 4
    return (144 if version == 3 or layer == 2 else 72) * bits // rate + padding


RATES = {
    (version, index): rate // divisor
    for version, divisor in ((3, 1), (2, 2), (0, 4))
    for index, rate in enumerate((44_100, 48_000, 32_000))
}
"""MPEG version (3 is 1, 2 is 2, 0 is 2.5) and index -> sample rate in Hz."""
KBITS = {
    (True, 1): tuple(range(32, 449, 32)),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""Whether it is MPEG 1, and the layer -> kbit/s by index; layer 3 of MPEG 2 has the rates of layer 2."""


def _next_chain(file: BinaryIO, start: int, size: int) -> int:
    """Offset of another Ogg file after this one: a page that starts a stream, after a page that does not."""
    at, before, begun = start, b"", False
    file.seek(start)
    while chunk := file.read(HEAD_BYTES):
        data = before + chunk
        for page in re.finditer(rb"OggS\0", data):
            if page.start() + 6 > len(data):
                break
            first = bool(FIRST_PAGE.match(data, page.start()))
            if first and begun:
                return at - len(before) + page.start()
            begun = begun or not first
        at += len(chunk)
        before = data[-5:]
    return size


def _read(file: BinaryIO, start: int, size: int) -> bytes:
    file.seek(start)
    return file.read(size)


def _unknown(head: bytes) -> BadInput:
    if not head:
        return BadInput("the audio is empty: 0 bytes arrived", code="bad_audio")
    start = head[:64].decode("utf-8", "ignore")
    is_text = len(start) > 4 and "".join(start.split()).isprintable()
    what = "this is text, not audio" if is_text else "this is not audio in a supported format"
    return BadInput(f"{what}; send WAV, FLAC, OGG, MP3, MP4 or WebM", code="bad_audio")


class Window(io.RawIOBase):
    """A part of a file, as a file."""

    def __init__(self, file: BinaryIO, start: int, end: int) -> None:
        self._file, self._start, self._size = file, start, end - start
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._at)
        data = _read(self._file, self._start + self._at, left if size < 0 else min(size, left))
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, origin + offset)
        return self._at

    def tell(self) -> int:
        return self._at
