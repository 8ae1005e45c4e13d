"""Detects a media file's container by its first bytes, repairs its structure, and finds where another file follows."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, cast

from chatapi.audio.ffmpeg_decoder import mp4_boxes, mp4_tables, ogg_pages, signatures, stated_end, tags, wav_header
from chatapi.audio.ffmpeg_decoder.matroska_elements import Elements
from chatapi.audio.ffmpeg_decoder.window import Repair, Window, read
from chatapi.audio.skipped import Skipped
from chatapi.errors import BadInput

HEAD_BYTES = 1 << 20
"""Bytes that are read to detect the container."""
JUNK_BYTES = 64 << 10
"""Most bytes that are searched for the start of a file."""


@dataclass(frozen=True)
class Part:
    """A part of a file that is a media file of its own."""

    container: str
    """FFmpeg's demuxer."""
    window: Window


def parts(file: BinaryIO, skipped: Skipped) -> Iterator[Part]:
    """The concatenated media files in a file, mostly one. The next is looked for when the one before it is read.

    Choosing the demuxer, instead of letting FFmpeg guess, excludes playlists, which open files and addresses of their
    own. Raises BadInput (bad_audio) where the first is not a media file.
    """
    size = file.seek(0, io.SEEK_END)
    start = 0
    while (part := _next(file, start, size, skipped)) is not None:
        yield part
        start = part.window.end()
    if not start:
        raise _unknown(read(file, 0, HEAD_BYTES))
    skipped.bytes += max(0, size - tags.behind(file, start))


def _next(file: BinaryIO, start: int, size: int, skipped: Skipped) -> Part | None:
    """The part at or behind an offset; None: there is none. Raises BadInput (bad_audio) where the first is wrong."""
    try:
        return _first(file, start, size, skipped)
    except BadInput:
        if not start:
            raise
        return None


def _first(file: BinaryIO, start: int, size: int, skipped: Skipped) -> Part | None:
    clean = tags.behind(file, start)
    # The length of a tag may be wrong, so that it would cover the whole file.
    for begin in dict.fromkeys((clean, start)):
        head = read(file, begin, HEAD_BYTES)
        container, offset = signatures.container(head), 0
        if container is None and (found := signatures.search(head[:JUNK_BYTES])) is not None:
            offset = found
            container = signatures.container(head[offset:])
        if container is not None:
            skipped.bytes += offset
            return _part(file, container, begin + offset, size, skipped)
    return None


def _part(file: BinaryIO, container: str, start: int, size: int, skipped: Skipped) -> Part:
    if container == "ogg":
        pages = ogg_pages.walk(file, start, size)
        skipped.packets += pages.damaged
        return Part(container, Window(file, start, pages.end, pages.repair, signatures.FOLLOWERS[container]))
    if container == "mp4":
        boxes = mp4_boxes.walk(file, start, size)
        skipped.packets += boxes.damaged
        if not boxes.has_index:
            raise BadInput(
                "the MP4 file has no index (its moov box), without which nothing in it can be decoded: "
                "the recording was interrupted, or the file is incomplete",
                code="bad_audio",
            )
        # Its boxes tell where another file follows; samples that look like one must not cut off the index behind them.
        window = Window(file, start, boxes.end, boxes.repair)
        mp4_tables.check(cast(BinaryIO, window), boxes.end - start)
        return Part(container, window)
    if container == "matroska":
        elements = Elements(file, start, size)
        repair = elements.repair()
        window = Window(file, start, elements.end, repair, signatures.FOLLOWERS[container])
        skipped.packets += elements.damaged
        return Part(container, window)
    if container == "wav":
        return Part(container, _wav(file, start, size))
    end = stated_end.of(container, file, start, size)
    if end is not None and end < size and signatures.follows(file, end):
        return Part(container, Window(file, start, tags.behind(file, end)))
    return Part(container, Window(file, start, size, followers=signatures.FOLLOWERS[container]))


def _wav(file: BinaryIO, start: int, size: int) -> Window:
    """The file with its data up to the end where neither a chunk nor another file follows what its header states."""
    head, followers = read(file, start, HEAD_BYTES), signatures.FOLLOWERS["wav"]
    if head.startswith(b"RIFX") or (stated := wav_header.check(head, size - start)) is None:
        return Window(file, start, size, followers=followers)
    length, end = stated
    behind = tags.behind(file, start + end)
    if signatures.follows(file, start + end):
        return Window(file, start, behind)
    if behind >= size or wav_header.is_chunk(read(file, behind, 8)):
        return Window(file, start, size, followers=followers, searched=end)
    return Window(file, start, size, Repair(((length, wav_header.UNKNOWN),)), followers)


def _unknown(head: bytes) -> BadInput:
    if not head:
        return BadInput("the audio is empty: 0 bytes arrived", code="bad_audio")
    start = head[:64].decode("utf-8", "ignore")
    is_text = len(start) > 4 and "".join(start.split()).isprintable()
    what = "this is text, not audio" if is_text else "this is not audio in a supported format"
    return BadInput(f"{what}; send WAV, FLAC, OGG, MP3, MP4 or WebM", code="bad_audio")
