"""Places whose audio is in a tree of HLS folders: live, and between two times. Each segment is fetched and decoded by
itself, so that one that is damaged or missing costs only its own seconds."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass

import anyio
import anyio.to_thread

from chatapi.engines import SOUND_RATE
from chatapi.errors import BadInput, ChatapiError, NotFound, WaitAndRetry
from chatapi.services.stream_monitoring.hls_tree import LONGEST_SEGMENT, HlsTree, TreeSegment
from chatapi.services.stream_monitoring.ledger import Position
from chatapi.services.stream_monitoring.pieces import TOLERANCE, Found, Missing, Reason, Take
from chatapi.services.stream_monitoring.segment_decoder import SegmentDecoder

log = logging.getLogger(__name__)

OnDownload = Callable[[str], None]
"""Receives the name of each segment before it is fetched."""


Ready = Callable[[], Awaitable[None]]
"""Waits until less urgent work may use the processor."""


def _ignore(_: str) -> None:
    """Ignores the name."""


async def _at_once() -> None:
    """Does not wait."""


@dataclass(frozen=True)
class Patience:
    """How long a live tree is waited for, in seconds."""

    delay: float = 10.0
    """Least age of a segment's end; newer ones may not be complete."""
    late: float = 60.0
    """After a segment's end until it is given up, if it cannot be fetched."""
    poll: float = 5.0
    """Between two looks at the playlist, and between two attempts."""
    catch_up: float = 86_400.0
    """Age of the last scored second up to which a place goes on there after a stop."""
    backlog: float = 60.0
    """Before the present at which a place begins that is new, or has no folder to resume in."""


class LiveTree:
    """The newest folder of a tree, followed for ever; each folder to its end, and then the next one."""

    def __init__(
        self,
        tree: HlsTree,
        resume: Position | None = None,
        patience: Patience = Patience(),
        on_download: OnDownload = _ignore,
        ready: Ready = _at_once,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._tree, self._resume, self._patience, self._clock = tree, resume, patience, clock
        self._on_download, self._ready, self._decoder = on_download, ready, SegmentDecoder()
        self.state = "connecting"
        """live, or why there is no audio."""

    @property
    def address(self) -> str:
        return self._tree.address

    async def read(self, take: Take) -> None:
        async with aclosing(self.found()) as found:
            async for each in found:
                await take(each)

    async def found(self) -> AsyncGenerator[Found, None]:
        folder, begin = await self._first()
        end = begin
        following, failed = 0, False
        while True:
            try:
                # In this order: once there is a newer folder, this one gets no more segments.
                newest = await self._tree.latest()
                listed = await self._tree.segments(folder)
                self.state = "live"
            except ChatapiError as error:
                failed, self.state = True, error.message
                log.warning("stream cannot be read", extra={"address": self.address, "reason": error.message})
                if isinstance(error, NotFound) and (other := await self._another(folder)):
                    folder, following = await self._next(folder, other), 0
                    continue
                await anyio.sleep(self._patience.poll)
                continue
            new = [each for each in listed if each.number >= following and each.end > end + TOLERANCE]
            for segment in new if newest != folder else self._complete(new):
                if segment.start > end + TOLERANCE:
                    yield Missing(end, segment.start - end, "unreachable" if failed else "restart", folder)
                async for each in self._segment(segment, folder):
                    if (inside := within(each, begin, math.inf)) is not None:
                        yield inside
                following, end, failed = segment.number + 1, segment.end, False
            if newest != folder:
                folder, following = await self._next(folder, newest), 0
            else:
                await anyio.sleep(self._patience.poll)

    async def _first(self) -> tuple[str, float]:
        """The folder to begin with, and the time behind which audio is new. Waits until there is one."""
        oldest = self._clock() - self._patience.catch_up
        if self._resume is not None and self._resume.folder.isdigit() and self._resume.at > oldest:
            return self._resume.folder, self._resume.at
        while True:
            try:
                folder = await self._tree.latest()
                listed = await self._tree.segments(folder)
                break
            except ChatapiError as error:
                self.state = error.message
                log.warning("stream cannot be read", extra={"address": self.address, "reason": error.message})
                await anyio.sleep(self._patience.poll)
        since = self._clock() - self._patience.delay - self._patience.backlog
        started = [each.start for each in listed if each.end > since]
        return folder, min(started, default=since)

    async def _next(self, folder: str, newest: str) -> str:
        """The folder behind one: after a long stop others lie between it and the newest."""
        try:
            listed = await self._tree.folders(float(folder) + 1, float(newest) + 1)
        except ChatapiError:
            # A server without lists.
            return newest
        return next((each for each in listed if int(each) > int(folder)), newest)

    async def _another(self, folder: str) -> str | None:
        """The newest folder, if it is another one than a folder that is gone."""
        try:
            newest = await self._tree.latest()
        except ChatapiError:
            return None
        return newest if newest != folder else None

    def _complete(self, listed: list[TreeSegment]) -> list[TreeSegment]:
        """Those that ended long enough ago; a clock that is behind must not stop the stream: all but the last."""
        until = self._clock() - self._patience.delay
        ended = [each for each in listed if each.end <= until]
        ahead = listed[-1].end - until > LONGEST_SEGMENT if listed else False
        return listed[:-1] if ahead else ended

    async def _segment(self, segment: TreeSegment, folder: str) -> AsyncGenerator[Found, None]:
        self._on_download(segment.name)
        while True:
            try:
                data = await self._tree.content(segment)
                break
            except (NotFound, WaitAndRetry, BadInput) as error:
                if self._clock() > segment.end + self._patience.late:
                    reason: Reason = "unreachable" if isinstance(error, WaitAndRetry) else "not_found"
                    yield Missing(segment.start, segment.seconds, reason, folder)
                    return
                await anyio.sleep(self._patience.poll)
        await self._ready()
        for each in await anyio.to_thread.run_sync(self._decoder.pieces, segment, data, folder):
            yield each


class DateRangeTree:
    """The folders of a tree between two times, which are in the past."""

    ATTEMPTS = 3
    """For a segment or a list that cannot be fetched for a moment."""

    def __init__(
        self,
        tree: HlsTree,
        start: float,
        end: float,
        on_download: OnDownload = _ignore,
        ready: Ready = _at_once,
        pause: float = 2.0,
    ) -> None:
        """`start` and `end` in seconds since 1970; `pause`: between two attempts, in seconds."""
        self._tree, self._start, self._end, self._pause = tree, start, end, pause
        self._on_download, self._ready, self._decoder = on_download, ready, SegmentDecoder()

    @property
    def address(self) -> str:
        return self._tree.address

    async def read(self, take: Take) -> None:
        async with aclosing(self.found()) as found:
            async for each in found:
                await take(each)

    async def found(self) -> AsyncGenerator[Found, None]:
        """Raises NotFound, BadInput or WaitAndRetry where the folders cannot be listed."""
        at, before = self._start, ""
        for folder in await self._tree.folders(self._start, self._end):
            try:
                listed = await self._tree.segments(folder)
            except ChatapiError as error:
                log.warning("folder cannot be read", extra={"folder": folder, "reason": error.message})
                continue
            for segment in listed:
                if segment.end <= at + TOLERANCE or segment.start >= self._end:
                    continue
                if segment.start > at + TOLERANCE:
                    reason: Reason = "restart" if before and before != folder else "absent"
                    yield Missing(at, segment.start - at, reason, folder)
                for each in await self._segment(segment, folder):
                    if (inside := within(each, self._start, self._end)) is not None:
                        yield inside
                at, before = segment.end, folder
        if at < self._end:
            yield Missing(at, self._end - at, "absent")

    async def _segment(self, segment: TreeSegment, folder: str) -> list[Found]:
        self._on_download(segment.name)
        for attempt in range(self.ATTEMPTS):
            try:
                data = await self._tree.content(segment)
            except WaitAndRetry:
                if attempt + 1 < self.ATTEMPTS:
                    await anyio.sleep(self._pause)
                    continue
                return [Missing(segment.start, segment.seconds, "unreachable", folder)]
            except (NotFound, BadInput):
                return [Missing(segment.start, segment.seconds, "not_found", folder)]
            await self._ready()
            return await anyio.to_thread.run_sync(self._decoder.pieces, segment, data, folder)
        raise AssertionError("the last attempt returns")


def within(found: Found, start: float, end: float) -> Found | None:
    """The part of a piece or gap that is between two times."""
    first, last = max(start, found.start), min(end, found.end)
    if last <= first:
        return None
    if isinstance(found, Missing):
        return Missing(first, last - first, found.reason, found.folder)
    skipped = round((first - found.start) * SOUND_RATE)
    count = round((last - first) * SOUND_RATE) if last < found.end else len(found.samples)
    return type(found)(first, last - first, found.samples[skipped : skipped + count], found.folder)
