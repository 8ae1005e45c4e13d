"""Monitors the places of configuration files and those that clients add, and keeps what they find."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from chatapi.errors import Busy, ChatapiError, InternalError, NotFound, NotReady, StorageError, WrongMode
from chatapi.jobs.notifications import NotificationSender
from chatapi.observability.metrics.monitoring import MonitoringReading
from chatapi.runtime.scheduler import Scheduler
from chatapi.runtime.workers import Engines
from chatapi.services.event_feed import EventFeed
from chatapi.services.stream_monitoring.alert_queue import AlertQueue
from chatapi.services.stream_monitoring.alerts import PlaceAlerts
from chatapi.services.stream_monitoring.config import MonitorConfig, PlaceConfig, of_document
from chatapi.services.stream_monitoring.config_files import LOOK_SECONDS, ConfigFiles, ReadFile
from chatapi.services.stream_monitoring.detection_store import DetectionStore
from chatapi.services.stream_monitoring.monitor import Alarm, JudgedClip, MonitorParts
from chatapi.services.stream_monitoring.monitor_list import MonitorList, StoredMonitor
from chatapi.services.stream_monitoring.monitored_place import CLIENT, MonitoredPlace, MonitorState
from chatapi.services.stream_monitoring.options import MonitoringOptions
from chatapi.services.stream_monitoring.pieces import Found
from chatapi.services.stream_monitoring.place_run import PlaceRun, SourceAccess
from chatapi.settings import Settings

log = logging.getLogger(__name__)

SEND_SECONDS = 5.0
"""Between two attempts to store what waits, in seconds."""
PAUSE, LONGEST_PAUSE = 5.0, 300.0
"""Time before a place that failed begins again, doubled each time, in seconds."""
KEPT_EVENTS = 500
"""Events that are kept for clients that come back."""
STOP_SECONDS = 30.0
"""Longest time until a place has judged what it heard, when it is stopped, in seconds."""


class MonitoringService:
    """Runs the monitors. Belongs to one event loop, in which `run` runs."""

    def __init__(
        self,
        engines: Engines,
        active: Mapping[str, str],
        scheduler: Scheduler,
        settings: Settings,
        options: MonitoringOptions,
    ) -> None:
        """`active`: role -> name of the model in use."""
        self._engines, self._active, self._scheduler = engines, active, scheduler
        self._settings, self.options = settings, options
        self.feed = EventFeed(KEPT_EVENTS)
        self.files = ConfigFiles(settings.monitoring.configs)
        self.on_line: Callable[[str], None] = lambda _: None
        """Receives lines for people: what is listened to, what is fetched, and alarms."""
        self.on_clip: Callable[[JudgedClip], None] = lambda _: None
        self._access: SourceAccess | None = None
        """Once something is monitored: reading the certificates takes a while."""
        self._all: dict[str, MonitoredPlace] = {}
        self._opening = anyio.Lock()
        self._kept: DetectionStore | None = None
        self._alerts: PlaceAlerts | None = None
        self._group: TaskGroup | None = None
        self._changed = anyio.Event()
        """Set, and replaced, when the state of a monitor changes."""

    @property
    def kept(self) -> DetectionStore | None:
        """What was found; None: nothing was monitored since the start."""
        return self._kept

    async def opened(self) -> DetectionStore:
        """The ledger and the store of detections. Raises StorageError, SettingsError."""
        async with self._opening:
            if self._kept is None:
                self._kept = await anyio.to_thread.run_sync(
                    DetectionStore.open, self._settings.data, self.options.output
                )
            return self._kept

    async def run(self) -> None:
        """Run the monitors that there are and those that are added, until cancelled."""
        try:
            async with anyio.create_task_group() as self._group:
                exists = await anyio.to_thread.run_sync(DetectionStore.exists, self._settings.data)
                if exists or self.files.files:
                    await self._restore()
                while True:
                    await anyio.sleep(LOOK_SECONDS)
                    for each in await anyio.to_thread.run_sync(self.files.changed):
                        await self._follow(each)
        finally:
            self._group = None
            await self._close()

    async def run_to_the_end(self) -> list[MonitoredPlace]:
        """Run the monitors of the files until all have ended; returns those that failed. Raises as ConfigFiles does."""
        async with anyio.create_task_group() as group:
            self._group = group
            await self._begin()
            for each in await anyio.to_thread.run_sync(self.files.first):
                await self._follow(each)
            group.start_soon(self._follow_changes)
            while any(each.state not in ("ended", "failed") for each in self._all.values()):
                await self._changed.wait()
            group.cancel_scope.cancel()
        self._group = None
        return [each for each in self._all.values() if each.state == "failed"]

    def model(self) -> str:
        """Name of the model that scores, once it is loaded."""
        return self._active.get("sound_detector") or self._settings.sound_detector.engine

    def reading(self) -> MonitoringReading:
        """For metrics; blocking, on any thread."""
        waiting = self._kept.waiting() if self._kept is not None else 0
        return MonitoringReading([each.reading() for each in list(self._all.values())], waiting)

    def all(self) -> list[MonitoredPlace]:
        """By the names of their places."""
        return sorted(self._all.values(), key=lambda each: each.place.location.name)

    def get(self, id_: str) -> MonitoredPlace:
        """Raises NotFound (unknown_monitor)."""
        if (found := self._all.get(id_)) is None:
            raise NotFound(f"there is no monitor {id_!r}, or it has been deleted", code="unknown_monitor")
        return found

    async def add(self, config: MonitorConfig, creator: str) -> list[MonitoredPlace]:
        """Start the monitors of a configuration, all or none.

        Raises WrongMode (monitor_exists), Busy (too_many_monitors), NotReady, StorageError, SettingsError.
        """
        if self._group is None:
            raise NotReady("monitoring is not running")
        limit, names = self.options.most_monitors, [each.location.id for each in config.places]
        if taken := [each for each in names if each in self._all]:
            raise WrongMode(f"{taken[0]} is monitored already; delete its monitor first", code="monitor_exists")
        if len(self._all) + len(names) > limit:
            raise Busy(f"{len(self._all)} places are monitored; the limit is {limit} (monitoring.monitors)",
                       code="too_many_monitors", retry_after=60)  # fmt: skip
        await self._begin()
        listed = MonitorList((await self.opened()).ledger)
        tables = dict(zip(names, config.tables, strict=True))
        stored = await anyio.to_thread.run_sync(listed.add, tables, creator)
        return [self._start(place, each) for place, each in zip(config.places, stored, strict=True)]

    async def delete(self, monitor: MonitoredPlace) -> None:
        """End a monitor, and forget it; what it found stays. Raises WrongMode (monitor_of_file), StorageError."""
        monitor.require_own()
        await self._call(lambda listed: listed.remove(monitor.id))
        await self._stop(monitor)
        self._all.pop(monitor.id, None)
        self.feed.keep("removed", {"id": monitor.id})

    async def pause(self, monitor: MonitoredPlace) -> None:
        """Stop listening until `resume`, also over restarts. Raises WrongMode (monitor_of_file), StorageError."""
        monitor.require_own()
        if monitor.state not in ("paused", "ended"):
            await self._call(lambda listed: listed.set(monitor.id, True, False))
            await self._stop(monitor)
            self._set(monitor, "paused")

    async def resume(self, monitor: MonitoredPlace) -> None:
        """Go on where the place was, as far as its server still has the audio. Raises as `pause` does."""
        monitor.require_own()
        if monitor.state in ("paused", "ended", "failed"):
            await self._call(lambda listed: listed.set(monitor.id, False, False))
            self._launch(monitor)

    @contextmanager
    def viewing(self) -> Iterator[EventFeed]:
        """The feed for one more viewer. Raises Busy (too_many_viewers)."""
        limit = self.options.most_viewers
        if self.feed.viewers >= limit:
            raise Busy(f"{limit} viewers watch the monitors already (monitoring.viewers)", code="too_many_viewers",
                       retry_after=10)  # fmt: skip
        self.feed.viewers += 1
        try:
            yield self.feed
        finally:
            self.feed.viewers -= 1

    # PlaceEvents

    def heard(self, place: PlaceConfig, found: Found) -> None:
        if (monitor := self._all.get(place.location.id)) is None:
            return
        if (columns := monitor.add(found)) is not None:
            self.feed.keep("spectrum", columns)
            if monitor.state in ("starting", "no_audio", "retrying"):
                self._set(monitor, "live")

    def judged(self, clip: JudgedClip) -> None:
        if (monitor := self._all.get(clip.place.location.id)) is not None:
            monitor.add_clip(clip)
            self.feed.keep("monitor", monitor.document())
        self.on_clip(clip)
        if self._alerts is not None:
            self._alerts.clip(clip)

    def alarmed(self, place: PlaceConfig, alarm: Alarm, text: str) -> None:
        log.warning("place alarm", extra={"place": place.location.id, "alarm": alarm, "reason": text})
        if (monitor := self._all.get(place.location.id)) is not None and alarm != "no_detections":
            self._set(monitor, "no_audio" if alarm == "no_audio" else "live", text if alarm == "no_audio" else "")
        self.on_line(f"{place.location.id}: {text}")
        if self._alerts is not None:
            self._alerts.state(place.location.name, text)

    async def _begin(self) -> None:
        """Open the files, and start what runs beside the places."""
        kept = await self.opened()
        if self._alerts is None and self._group is not None:
            senders = await anyio.to_thread.run_sync(NotificationSender.of, self._settings.notify)
            self._alerts = PlaceAlerts(senders, AlertQueue(kept.ledger), self.options.quiet)
            self._group.start_soon(self._alerts.run)
            self._group.start_soon(self._send, kept)

    async def _send(self, kept: DetectionStore) -> None:
        """Store what is waiting, again and again."""
        while True:
            try:
                await anyio.to_thread.run_sync(kept.send)
            except ChatapiError as error:
                log.warning("detections wait for their store", extra={"reason": error.message})
            await anyio.sleep(SEND_SECONDS)

    async def _restore(self) -> None:
        """Start the monitors of the files and those of clients. What is wrong is logged: the others run."""
        pause = PAUSE
        while True:
            try:
                await self._begin()
                stored = await self._call(MonitorList.all)
                break
            except ChatapiError as error:
                log.warning("monitoring cannot start", extra={"reason": error.message})
            await anyio.sleep(pause)
            pause = min(LONGEST_PAUSE, 2 * pause)
        for _ in range(2):
            # A file counts as settled at the second look.
            for file in await anyio.to_thread.run_sync(self.files.changed):
                await self._follow(file)
        for each in stored:
            if each.place in self._all:
                log.warning("place is monitored by a file already", extra={"place": each.place})
                continue
            try:
                [place] = of_document(each.table, None).places
            except (ChatapiError, ValueError) as error:
                log.warning("monitor cannot be restored", extra={"place": each.place, "reason": str(error)})
                continue
            self._start(place, each)

    async def _follow_changes(self) -> None:
        while True:
            await anyio.sleep(LOOK_SECONDS)
            for each in await anyio.to_thread.run_sync(self.files.changed):
                await self._follow(each)

    async def _follow(self, given: ReadFile) -> None:
        """Bring the monitors of a file to what it says now."""
        origin = str(given.file)
        for line in given.config.ignored:
            self.on_line(f"{origin}: {line}")
        wanted = {each.location.id: self.options.placed(each) for each in given.config.places}
        tables = dict(zip(wanted, given.config.tables, strict=True))
        for monitor in [each for each in self._all.values() if each.origin == origin and each.id not in wanted]:
            await self._stop(monitor)
            self._all.pop(monitor.id, None)
            self.feed.keep("removed", {"id": monitor.id})
        for id_, place in wanted.items():
            known = self._all.get(id_)
            if known is None:
                self._all[id_] = MonitoredPlace(place, tables[id_], origin)
                self._launch(self._all[id_])
            elif known.origin != origin:
                log.warning("place is monitored already", extra={"place": id_, "file": origin})
            elif known.place != place:
                await self._change(known, place, tables[id_])

    async def _change(self, monitor: MonitoredPlace, place: PlaceConfig, table: Mapping[str, Any]) -> None:
        """Another configuration of a place: the clip in progress is judged by the one or the other, and not lost."""
        before, monitor.place, monitor.table = monitor.place, place, table
        if monitor.run is not None and monitor.run.change(place):
            self.feed.keep("monitor", monitor.document())
            return
        log.info("source of a place has changed", extra={"place": monitor.id, "before": before.location.name})
        await self._stop(monitor)
        self._launch(monitor)

    def _start(self, place: PlaceConfig, stored: StoredMonitor) -> MonitoredPlace:
        """A monitor that a client added."""
        monitor = MonitoredPlace(self.options.placed(place), stored.table, CLIENT, stored.created, stored.creator)
        self._all[monitor.id] = monitor
        if stored.paused or stored.ended:
            monitor.stopped.set()
            self._set(monitor, "paused" if stored.paused else "ended")
        else:
            self._launch(monitor)
        return monitor

    def _launch(self, monitor: MonitoredPlace) -> None:
        if self._group is None:
            raise NotReady("monitoring is not running")
        monitor.stopped, monitor.stopping = anyio.Event(), False
        self._set(monitor, "starting")
        self._group.start_soon(self._supervise, monitor)

    async def _supervise(self, monitor: MonitoredPlace) -> None:
        """Run a place; a live one begins again after any fault."""
        pause, stopped = PAUSE, monitor.stopped
        with anyio.CancelScope() as monitor.scope:
            while True:
                fault = await self._run_once(monitor)
                if monitor.stopping:
                    break
                if not monitor.place.is_live or (fault is None and self.options.most_clips is not None):
                    await self._end(monitor, fault)
                    break
                self._set(monitor, "retrying", fault.message if fault is not None else "the stream ended")
                await anyio.sleep(pause)
                pause = min(LONGEST_PAUSE, 2 * pause)
        monitor.run = None
        stopped.set()

    async def _end(self, monitor: MonitoredPlace, fault: ChatapiError | None) -> None:
        if fault is not None:
            self._set(monitor, "failed", fault.message)
            self.on_line(f"{monitor.id}: {fault.message}")
            return
        self._set(monitor, "ended")
        if monitor.origin == CLIENT:
            with suppress(StorageError, NotReady):
                await self._call(lambda listed: listed.set(monitor.id, False, True))

    async def _run_once(self, monitor: MonitoredPlace) -> ChatapiError | None:
        """Run a place until it ends; returns what ended it before."""

        def address(text: str) -> None:
            monitor.address = text
            self.on_line(f"Listening to location {text}")

        kept = await self.opened()
        detector = self._engines.sound_detector
        parts = MonitorParts(kept.ledger, kept.outbox, detector, self.model, kept.mutes, self.options.schema)
        if self._access is None:
            trust = await anyio.to_thread.run_sync(ssl.create_default_context)
            self._access = SourceAccess(self.options.private_urls, trust, self._scheduler)
        access = replace(self._access, on_address=address, on_download=lambda name: self.on_line(f"Downloading {name}"))
        monitor.run = PlaceRun(monitor.place, parts, access, self, self.options.watch, self.options.most_clips)
        try:
            await monitor.run.run()
        except ChatapiError as error:
            log.warning("place cannot be monitored", extra={"place": monitor.id, "reason": error.message})
            return error
        except Exception:
            log.exception("place ended by an unexpected error", extra={"place": monitor.id})
            return InternalError("internal error; the log has the details")
        return None

    async def _stop(self, monitor: MonitoredPlace) -> None:
        """End the task of a place; what it heard is judged before, if that does not take too long."""
        monitor.stopping = True
        if monitor.run is not None:
            monitor.run.stop()
            with anyio.move_on_after(STOP_SECONDS):
                await monitor.stopped.wait()
        if monitor.scope is not None:
            monitor.scope.cancel()
            await monitor.stopped.wait()
        monitor.run = monitor.scope = None

    def _set(self, monitor: MonitoredPlace, state: MonitorState, reason: str = "") -> None:
        monitor.state, monitor.reason = state, reason
        self._changed.set()
        self._changed = anyio.Event()
        self.feed.keep("monitor", monitor.document())

    async def _call(self, function: Callable[[MonitorList], Any]) -> Any:
        listed = MonitorList((await self.opened()).ledger)
        return await anyio.to_thread.run_sync(partial(function, listed))

    async def _close(self) -> None:
        kept, self._kept = self._kept, None
        if kept is not None:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(kept.close)
