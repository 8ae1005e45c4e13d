"""Skips what other programs write around a media file: tags, zeros and white space."""

from __future__ import annotations

from typing import BinaryIO

from chatapi.audio.ffmpeg_decoder.window import read

TAGS = 32
"""Most tags, and runs of blanks, that are skipped in a row."""
BLANK = b"\0 \r\n\t"
RUN_BYTES = 1 << 20
"""Bytes of a run of blanks that are looked at together."""
STARTS = {b"\0\0\1\xba": 0, b"ftyp": 4, b"moov": 4, b"mdat": 4, b"styp": 4, b"wide": 4, b"free": 4}
"""What files that start with zeros have at this offset."""
ID3V1 = 128
"""Bytes of an ID3v1 tag."""
LYRICS = 5 << 10
"""Bytes within which a Lyrics3 tag ends."""


def behind(file: BinaryIO, start: int) -> int:
    """Offset of the first byte that belongs to no tag and is not blank."""
    for _ in range(TAGS):
        length = _blank(read(file, start, RUN_BYTES)) or _tag(read(file, start, LYRICS))
        if not length:
            break
        start += length
    return start


def _blank(head: bytes) -> int:
    """Zeros, white space and a byte order mark at the start, without the zeros that belong to a file."""
    blank = len(head) - len(head.lstrip(BLANK))
    if head.startswith(b"\xef\xbb\xbf"):
        return 3
    # The length of an MP4 box, four bytes, may consist of blanks.
    for back in range(min(blank, 4), -1, -1):
        at = blank - back
        if any(head.startswith(start, at + offset) for start, offset in STARTS.items()):
            return at
    return blank


def _tag(head: bytes) -> int:
    """Bytes of the tag that `head` starts with; 0: none."""
    if head.startswith(b"ID3") and len(head) > 10:
        # The length has seven bits per byte, and includes neither header nor footer (id3.org, 2.4, 3.1).
        length = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
        return 10 + length + (10 if head[5] & 0x10 else 0)
    if head.startswith(b"3DI") and len(head) > 10:
        return 10
    if head.startswith(b"APETAGEX") and len(head) > 32:
        # The length includes the footer, and not the header; a footer alone stands after its items.
        is_header = head[23] & 0x20
        return 32 + (int.from_bytes(head[12:16], "little") if is_header else 0)
    if head.startswith(b"LYRICSBEGIN"):
        return max((head.find(end) + 9 for end in (b"LYRICS200", b"LYRICSEND") if end in head[11:]), default=0)
    return ID3V1 if head.startswith(b"TAG") and len(head) >= ID3V1 else 0
