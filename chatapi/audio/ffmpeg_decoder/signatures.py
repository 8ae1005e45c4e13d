"""The first bytes of media files: of the file itself, and of another one that follows it."""

from __future__ import annotations

import re
from typing import BinaryIO

from chatapi.audio.ffmpeg_decoder import raw_frames, tags
from chatapi.audio.ffmpeg_decoder.window import Signature, read

FRAME_BYTES = 2 * raw_frames.LONGEST
"""Bytes that the frames that are looked at take at most."""
MAGIC = (
    (0, b"fLaC", "flac"), (0, b"OggS", "ogg"), (0, b"\x1aE\xdf\xa3", "matroska"), (8, b"WAVE", "wav"),
    (4, b"ftyp", "mp4"), (4, b"moov", "mp4"), (4, b"mdat", "mp4"), (4, b"wide", "mp4"), (4, b"styp", "mp4"),
    (4, b"moof", "mp4"), (8, b"AIFF", "aiff"), (8, b"AIFC", "aiff"), (8, b"AVI ", "avi"), (0, b".snd", "au"),
    (0, b"caff", "caf"), (0, b"0&\xb2u\x8ef\xcf\x11", "asf"), (0, b"riff\x2e\x91\xcf\x11", "w64"), (0, b"#!AMR", "amr"),
    (0, b"FLV\x01", "flv"), (0, b"\x0bw", "ac3"), (0, b"wvpk", "wv"), (0, b"Creative Voice File\x1a", "voc"),
    (0, b"\0\0\1\xba", "mpeg"), (0, b"TTA1", "tta"), (0, b"\x7f\xfe\x80\x01", "dts"),
)  # fmt: skip
"""Offset and bytes of a container's signature (magic number), and FFmpeg's demuxer for it.

Only these demuxers are used: they read one file, and open neither other files nor addresses.
"""
STARTS = re.compile(
    b"|".join(
        b"." * offset + re.escape(magic)
        for offset, magic, name in MAGIC
        if len(magic) >= 4 and (name != "mp4" or magic == b"ftyp")
    ),
    re.DOTALL,
)
"""The start of a file after other data."""
EBML = b"\x1aE\xdf\xa3"
SIGNATURES = {
    "flac": (Signature(b'fLaC\0\0\0"'),),
    "ogg": (Signature(b"OggS\0\2"),),
    "wav": (Signature(b"WAVEfmt ", 8, b"RIFF"),),
    # The version comes first in the header, behind a length of one byte or of eight.
    "matroska": (Signature(b"B\x86\x81\1", 5, EBML), Signature(b"B\x86\x81\1", 12, EBML)),
    "mp4": (Signature(b"ftyp", 4, b"\0\0\0"),),
    "aiff": (Signature(b"AIFFCOMM", 8, b"FORM"), Signature(b"AIFCFVER", 8, b"FORM")),
    "au": (Signature(b".snd\0\0\0"),),
    "caf": (Signature(b"caff\0\1\0\0desc"),),
    "asf": (Signature(b"0&\xb2u\x8ef\xcf\x11\xa6\xd9\0\xaa\0b\xcel"),),
    "w64": (Signature(b"riff\x2e\x91\xcf\x11\xa5\xd6"),),
    "avi": (Signature(b"AVI LIST", 8, b"RIFF"),),
    "amr": (Signature(b"#!AMR\n"), Signature(b"#!AMR-WB\n")),
    "flv": (Signature(b"\0\0\0\x09\0\0\0\0", 5, b"FLV\x01"),),
    "voc": (Signature(b"Creative Voice File\x1a"),),
}
"""Demuxer -> how a file of its container starts that follows another file."""
INSIDE = {
    "ogg": ("ogg", "flac"), "mp4": ("mp4", "flac"), "matroska": ("matroska", "flac", "ogg"), "mpegts": ("flac",),
}  # fmt: skip
"""Demuxer -> the signatures that its files may hold themselves: those of codecs, and its own, which its
structure tells apart."""
TAG = (Signature(b"ID3\3\0\0\0"), Signature(b"ID3\4\0\0\0"))
"""How MP3 files mostly start; many other containers hold such tags themselves."""
FOLLOWERS = {
    name: tuple(each for other, found in SIGNATURES.items() if other not in INSIDE.get(name, ()) for each in found)
    for name in {*(name for _, _, name in MAGIC), "mp3", "aac", "loas", "mpegts", "gsm"}
}
"""Demuxer -> how the files start that may follow one of its container."""
FOLLOWERS["matroska"] += (Signature(EBML),)
for _name in ("flac", "flv", "ac3"):
    FOLLOWERS[_name] += TAG


def container(head: bytes) -> str | None:
    """The demuxer for data that starts with `head`; None: unknown."""
    for offset, magic, name in MAGIC:
        if head.startswith(magic, offset):
            return name
    return raw_frames.kind(head)


def search(head: bytes) -> int | None:
    """Offset of the start of a file, or of frames, in data that starts otherwise."""
    whole, frames = STARTS.search(head), raw_frames.find(head)
    return min((at for at in (whole and whole.start(), frames) if at is not None), default=None)


def follows(file: BinaryIO, at: int) -> bool:
    """Whether another file, or a stream of frames, starts where one ends, behind tags."""
    head = read(file, tags.behind(file, at), FRAME_BYTES)
    return STARTS.match(head) is not None or raw_frames.start(head)
