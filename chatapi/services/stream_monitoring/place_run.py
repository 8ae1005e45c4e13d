"""One place while it is monitored: its source, its clips, and the watch over its audio."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass

import anyio
import anyio.to_thread

from chatapi.engines.sound_detector import orcahello
from chatapi.errors import collapse_exception_group
from chatapi.runtime.admission import Priority
from chatapi.runtime.scheduler import Scheduler
from chatapi.services.captions.guarded_http import GuardedHttp
from chatapi.services.stream_monitoring.config import PlaceConfig
from chatapi.services.stream_monitoring.hls_sources import DateRangeTree, LiveTree, Patience
from chatapi.services.stream_monitoring.hls_tree import HlsTree
from chatapi.services.stream_monitoring.ledger import Position
from chatapi.services.stream_monitoring.monitor import MonitorParts, PlaceEvents, PlaceMonitor, Watch
from chatapi.services.stream_monitoring.other_sources import Broadcast, Recordings
from chatapi.services.stream_monitoring.pieces import SoundSource

YIELD_SECONDS = 0.1
"""Between two looks whether more urgent work still runs, in seconds."""


def _ignore(_: str) -> None:
    """Ignores the name."""


@dataclass(frozen=True)
class SourceAccess:
    """How sources are reached."""

    private: bool
    """Whether addresses of this machine and of private networks are allowed."""
    trust: ssl.SSLContext
    scheduler: Scheduler
    """Decoding yields to more urgent work."""
    on_address: Callable[[str], None] = _ignore
    """Receives where the audio of a place comes from."""
    on_download: Callable[[str], None] = _ignore
    """Receives the name of each segment before it is fetched."""

    async def ready(self) -> None:
        """Wait until bulk work may use the processor."""
        while self.scheduler.must_yield(Priority.BULK):  # noqa: ASYNC110 - the scheduler is asked again and again
            await anyio.sleep(YIELD_SECONDS)


def source_of(place: PlaceConfig, position: Position | None, access: SourceAccess) -> SoundSource:
    """The source of a place; `position`: where it goes on. Raises BadInput."""
    if place.files:
        return Recordings(place.files)
    if place.url:
        return Broadcast(place.url, access.private, access.trust)
    tree = HlsTree(GuardedHttp(access.private, access.trust), place.base_url, place.location.id)
    if place.span is not None:
        return DateRangeTree(tree, *place.span, access.on_download, access.ready)
    patience = Patience(max(orcahello.LIVE_DELAY, place.delay), backlog=place.clip_seconds)
    return LiveTree(tree, position, patience, access.on_download, access.ready)


class PlaceRun:
    """A place from the start to the end of its monitoring."""

    def __init__(
        self,
        place: PlaceConfig,
        parts: MonitorParts,
        access: SourceAccess,
        events: PlaceEvents,
        watch: Watch,
        most_clips: int | None = None,
    ) -> None:
        """`most_clips`: after so many it ends."""
        self.place = place
        self._parts, self._access, self._events, self._watch = parts, access, events, watch
        self._most = most_clips
        self._monitor: PlaceMonitor | None = None

    def change(self, place: PlaceConfig) -> bool:
        """Take another configuration without losing the clip in progress. False: its source is another one, so that
        the run has to end."""
        if source_part(place) != source_part(self.place):
            return False
        self.place = place
        if self._monitor is not None:
            self._monitor.change(place)
        return True

    def stop(self) -> None:
        """End soon: what was heard is judged before."""
        if self._monitor is not None:
            self._monitor.stop()

    async def run(self) -> None:
        """Until the source ends. Raises what it raises, and for a recording StorageError and EngineFailed."""
        try:
            await self._run()
        except Exception as error:
            raise collapse_exception_group(error) from None

    async def _run(self) -> None:
        position = await anyio.to_thread.run_sync(self._parts.ledger.position, self.place.location.id)
        source = source_of(self.place, position, self._access)
        self._access.on_address(source.address)
        self._monitor = PlaceMonitor(self.place, source, self._parts, self._events, self._most)
        async with anyio.create_task_group() as group:
            if self.place.is_live:
                group.start_soon(self._monitor.watch, self._watch)
            await self._monitor.run()
            group.cancel_scope.cancel()


def source_part(place: PlaceConfig) -> tuple[object, ...]:
    """What of a configuration decides where its audio comes from."""
    return (place.location, place.base_url, place.url, place.files, place.span, place.delay)
