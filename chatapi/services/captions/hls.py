"""The media of an HLS stream (RFC 8216), fetched segment by segment; every address is checked as any other URL."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import anyio

from chatapi.errors import BadInput, Unprocessable, WaitAndRetry
from chatapi.services.captions.guarded_http import GuardedHttp

MARK = b"#EXTM3U"
"""Begins a playlist."""
LIVE_SEGMENTS = 3
"""Segments before the end of a live playlist at which a player begins (RFC 8216, 6.3.3)."""
MOST_SEGMENT_BYTES = 64 << 20
"""Largest segment, in bytes."""
STALLED_TARGETS = 10
"""Durations of a segment without a new one, after which the stream has broken off."""
MOST_SEGMENTS = 10_000
"""Most segments of a playlist."""


async def segments(http: GuardedHttp, url: str, text: bytes) -> AsyncGenerator[bytes, None]:
    """The bytes of all segments of a stream, in order, to its end. `text`: the playlist at `url`.

    Raises BadInput (bad_playlist), Unprocessable (encrypted_stream), WaitAndRetry (source_unreachable) when it breaks
    off, and the errors of `GuardedHttp.opened`.
    """
    playlist = _parsed(text, url)
    if playlist.is_variant:
        url, text = await http.small(_variant(playlist))
        playlist = _parsed(text, url)
        if playlist.is_variant:
            raise _bad("leads to another list of variants")
    following, init = _first(playlist), ""
    since = time.monotonic()
    while True:
        numbered = enumerate(playlist.segments, playlist.media_sequence or 0)
        for number, segment in [each for each in numbered if each[0] >= following]:
            _require_readable(segment)
            before, init = init, segment.init_section.absolute_uri if segment.init_section is not None else ""
            for part in (segment.init_section, segment) if init and init != before else (segment,):
                async with aclosing(_bytes(http, part)) as chunks:
                    async for chunk in chunks:
                        yield chunk
            following, since = number + 1, time.monotonic()
        if playlist.is_endlist:
            return
        target = min(60.0, max(1.0, float(playlist.target_duration or 4)))
        if time.monotonic() - since > STALLED_TARGETS * target:
            raise WaitAndRetry("the stream has no new segment", retry_after=target, code="source_unreachable")
        await anyio.sleep(target / 2)
        url, text = await http.small(url)
        playlist = _parsed(text, url)


def _parsed(text: bytes, url: str) -> Any:
    """The playlist. Raises BadInput (bad_playlist)."""
    try:
        import m3u8
    except ImportError:
        raise BadInput("HLS streams need m3u8: pip install 'chatapi-appliance[streams]'", code="bad_playlist") from None
    try:
        found = m3u8.loads(text.decode("utf-8", "replace"), uri=url)
    except Exception as error:
        # The library raises whatever a damaged line makes of its parser.
        raise _bad(f"cannot be read ({type(error).__name__})") from error
    if len(found.segments) > MOST_SEGMENTS:
        raise _bad(f"has {len(found.segments)} segments; at most {MOST_SEGMENTS} are accepted")
    if not found.segments and not found.playlists and not found.media:
        raise _bad("names neither segments nor variants")
    return found


def _variant(playlist: Any) -> str:
    """The URL of the smallest variant: audio alone where there is one, for only that is needed."""
    audio = [each.absolute_uri for each in playlist.media if each.type == "AUDIO" and each.uri]
    if audio:
        return str(audio[0])
    if not playlist.playlists:
        raise _bad("names no variant")
    return str(min(playlist.playlists, key=lambda each: each.stream_info.bandwidth or 0).absolute_uri)


def _first(playlist: Any) -> int:
    """The number of the segment to begin with."""
    start = int(playlist.media_sequence or 0)
    return start if playlist.is_endlist else max(start, start + len(playlist.segments) - LIVE_SEGMENTS)


def _require_readable(segment: Any) -> None:
    key = segment.key
    if key is not None and key.method not in (None, "", "NONE"):
        raise Unprocessable("the stream is encrypted, which is not supported", code="encrypted_stream")


async def _bytes(http: GuardedHttp, part: Any) -> AsyncGenerator[bytes, None]:
    """The bytes of a segment, or of what precedes segments."""
    headers, length = {}, MOST_SEGMENT_BYTES
    if part.byterange:
        size, _, offset = str(part.byterange).partition("@")
        length = min(MOST_SEGMENT_BYTES, int(size))
        headers["range"] = f"bytes={int(offset or 0)}-{int(offset or 0) + length - 1}"
    async with http.opened(part.absolute_uri, headers) as answer:
        count = 0
        async for chunk in answer.aiter_raw():
            count += len(chunk)
            if count > MOST_SEGMENT_BYTES:
                raise _bad(f"has a segment larger than {MOST_SEGMENT_BYTES} bytes")
            yield chunk


def _bad(what: str) -> BadInput:
    return BadInput(f"the playlist {what}", code="bad_playlist")
