"""Orcasound's tree of HLS folders: the newest folder, those of a time, and the segments of one with their times.

`{base}/{place}/latest.txt` names a folder by the time at which it began, in seconds since 1970, and
`{base}/{place}/hls/{epoch}/live.m3u8` lists its segments. The time of a segment is the folder's, plus the durations of
all segments before it, plus the offset of the first sample.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import accumulate
from typing import Any
from urllib.parse import quote

import httpx

from chatapi.engines.sound_detector.orcahello import AUDIO_OFFSET
from chatapi.errors import BadInput, NotFound
from chatapi.services.captions.guarded_http import GuardedHttp

MOST_SEGMENTS = 50_000
"""Most segments of a folder."""
LONGEST_SEGMENT = 120.0
"""Longest segment, in seconds."""
PREFIX_DIGITS = 4
"""Digits of an epoch by which folders are listed: a million seconds, which are a few dozen folders."""
LONGEST_FOLDER = 86_400.0
"""Longest time that a folder covers, in seconds; they begin anew every few hours."""


@dataclass(frozen=True)
class TreeSegment:
    """A segment of a folder."""

    number: int
    url: str
    start: float
    """Seconds since 1970."""
    seconds: float

    @property
    def end(self) -> float:
        return self.start + self.seconds

    @property
    def name(self) -> str:
        """Of its file, such as live879.ts."""
        return httpx.URL(self.url).path.rpartition("/")[2]


class HlsTree:
    """The folders of one place."""

    def __init__(self, http: GuardedHttp, base: str, place: str) -> None:
        """`base`: without the place, such as https://s3-us-west-2.amazonaws.com/bucket."""
        self._http, self._base, self._place = http, base.rstrip("/"), place
        self.address = f"{self._base}/{place}"
        self._read = ("", "", b"")
        """The folder, address and content of the playlist that was read last."""
        self._segments: list[TreeSegment] = []

    async def latest(self) -> str:
        """The newest folder. Raises BadInput (bad_latest), and the errors of `GuardedHttp.opened`."""
        _, text = await self._http.small(f"{self.address}/latest.txt")
        found = text.decode("ascii", "replace").strip()
        if not re.fullmatch(r"\d{1,12}", found):
            raise BadInput(f"{self.address}/latest.txt is {found[:40]!r} and no time", code="bad_latest")
        return found

    async def folders(self, start: float, end: float) -> list[str]:
        """The folders that may have audio between two times, in order; listed as S3 does (ListObjectsV2).

        Raises BadInput, NotFound and WaitAndRetry as `GuardedHttp.opened` does.
        """
        first, last = (str(int(each))[:PREFIX_DIGITS] for each in (max(0, start - LONGEST_FOLDER), end))
        found: set[str] = set()
        root, _, bucket = self._base.partition("://")[2].partition("/")
        scheme = self._base.partition("://")[0]
        for prefix in range(int(first), int(last) + 1):
            key = quote(f"{self._place}/hls/{prefix}", safe="")
            url = f"{scheme}://{root}/{bucket}?list-type=2&delimiter=%2F&prefix={key}"
            _, text = await self._http.small(url)
            # Only numbers are taken from it, so it need not be parsed as XML.
            found |= {each.decode() for each in re.findall(rb"/hls/(\d{1,12})/</Prefix>", text)}
        ordered = sorted(found, key=int)
        begun = [each for each in ordered if int(each) < end]
        before = [each for each in begun if int(each) <= start][-1:]
        return before + [each for each in begun if int(each) > start]

    async def segments(self, folder: str) -> list[TreeSegment]:
        """The segments of a folder. Raises BadInput (bad_playlist), and the errors of `GuardedHttp.opened`."""
        url, text = await self._http.small(f"{self.address}/hls/{folder}/live.m3u8")
        if (folder, url, text) != self._read:
            # Reading one of 6 hours takes 50 ms, and most looks at it find it as it was.
            self._segments = _timed(text, url, float(folder) + AUDIO_OFFSET)
            self._read = (folder, url, text)
        return self._segments

    async def content(self, segment: TreeSegment) -> bytes:
        """The bytes of a segment. Raises NotFound, BadInput (segment_too_large), WaitAndRetry."""
        found = bytearray()
        async with self._http.opened(segment.url) as answer:
            async for chunk in answer.aiter_raw():
                found += chunk
                if len(found) > MOST_SEGMENT_BYTES:
                    raise BadInput(
                        f"{segment.name} is larger than {MOST_SEGMENT_BYTES} bytes", code="segment_too_large"
                    )
        if not found:
            raise NotFound(f"{segment.name} is empty", code="source_rejected")
        return bytes(found)


MOST_SEGMENT_BYTES = 32 << 20
"""Largest segment, in bytes."""


def _timed(text: bytes, url: str, start: float) -> list[TreeSegment]:
    """Raises BadInput (bad_playlist)."""
    try:
        import m3u8
    except ImportError:
        raise BadInput("HLS needs m3u8: pip install 'chatapi-appliance[monitoring]'", code="bad_playlist") from None
    try:
        playlist: Any = m3u8.loads(text.decode("utf-8", "replace"), uri=url)
        listed = [(str(each.absolute_uri), float(each.duration or 0)) for each in playlist.segments]
        first = int(playlist.media_sequence or 0)
    except Exception as error:
        # The library raises whatever a damaged line makes of its parser.
        raise BadInput(f"{url} is no playlist ({type(error).__name__})", code="bad_playlist") from error
    if len(listed) > MOST_SEGMENTS or any(not 0 <= seconds <= LONGEST_SEGMENT for _, seconds in listed):
        raise BadInput(f"{url} has too many or too long segments", code="bad_playlist")
    if first and listed:
        # Segments that are no longer listed had about the mean duration of those that are.
        start += first * sum(seconds for _, seconds in listed) / len(listed)
    starts = accumulate((seconds for _, seconds in listed), initial=start)
    return [
        TreeSegment(number, url, at, seconds)
        for number, ((url, seconds), at) in enumerate(zip(listed, starts, strict=False), first)
    ]
