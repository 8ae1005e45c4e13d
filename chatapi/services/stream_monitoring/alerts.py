"""Alerts about monitored places for people, by the services of `notify.urls`: no audio, audio again, detections, and
audio without detections. They wait on disk until their service has accepted them."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import anyio
import anyio.to_thread

from chatapi.errors import ChatapiError
from chatapi.jobs.notifications import NotificationSender
from chatapi.jobs.outbox_sender import NotDelivered
from chatapi.services.stream_monitoring.alert_queue import MOST_WAITING, AlertQueue
from chatapi.services.stream_monitoring.monitor import JudgedClip

log = logging.getLogger(__name__)

DETECTION_SECONDS = 900.0
"""Least time between two alerts about detections at one place; those between are counted in the next, in seconds."""
ATTEMPTS, PAUSE, LONGEST_PAUSE = 10, 2.0, 300.0
"""For one alert, and the time between two of them, doubled each time, in seconds."""
POLL_SECONDS = 30.0
"""Between two looks at the clock while alerts wait for the end of quiet hours, in seconds."""
DIGEST = 20
"""Most alerts that are written out in one message after quiet hours."""


@dataclass(frozen=True)
class QuietHours:
    """Hours of the day in which no alert is sent."""

    start: int
    """Minutes since midnight, of this machine's local time."""
    end: int

    @staticmethod
    def of(text: str) -> QuietHours | None:
        """Those of a text like 22:00-07:00; None, of an empty one: there are none."""
        if not text:
            return None
        first, last = (datetime.strptime(each, "%H:%M") for each in text.split("-"))
        return QuietHours(60 * first.hour + first.minute, 60 * last.hour + last.minute)

    def include(self, moment: datetime) -> bool:
        minutes = 60 * moment.hour + moment.minute
        if self.start <= self.end:
            return self.start <= minutes < self.end
        return minutes >= self.start or minutes < self.end


class _Deliverer:
    """Sends what waits for one service."""

    def __init__(self, sender: NotificationSender, queue: AlertQueue, is_quiet: Callable[[], bool]) -> None:
        self._sender, self._queue, self._is_quiet = sender, queue, is_quiet
        self._added = anyio.Event()

    def put(self, text: str) -> None:
        """Blocking."""
        if not self._queue.put(self._sender.name, text):
            about = {"service": self._sender.service, "alert": text}
            log.warning("alert is lost, because too many wait", extra=about)

    def wake(self) -> None:
        self._added.set()

    async def run(self) -> None:
        while True:
            added = self._added = anyio.Event()
            try:
                held = await self._until_loud()
                while await self._deliver(MOST_WAITING if held else 1):
                    held = await self._until_loud()
            except ChatapiError as error:
                log.warning("alerts cannot be read", extra={"reason": error.message})
            with anyio.move_on_after(POLL_SECONDS):
                await added.wait()

    async def _until_loud(self) -> bool:
        """Wait until the end of quiet hours; whether it had to."""
        held = False
        while self._is_quiet():
            held = True
            await anyio.sleep(POLL_SECONDS)
        return held

    async def _deliver(self, most: int) -> bool:
        """Send the oldest alert, or all up to `most` as one message; whether there was any."""
        found = await anyio.to_thread.run_sync(self._queue.waiting, self._sender.name, most)
        if not found:
            return False
        texts = [text for _, text in found[:DIGEST]]
        if len(found) > DIGEST:
            texts.append(f"and {len(found) - DIGEST} more")
        await self._say("\n".join(texts))
        await anyio.to_thread.run_sync(self._queue.remove, found[-1][0], self._sender.name)
        return True

    async def _say(self, text: str) -> None:
        pause = PAUSE
        for attempt in range(1, ATTEMPTS + 1):
            try:
                await self._sender.say(text)
                return
            except NotDelivered as error:
                about = {"service": self._sender.service, "reason": str(error), "attempt": attempt}
            log.warning("alert was not delivered", extra=about)
            await anyio.sleep(pause)
            pause = min(LONGEST_PAUSE, 2 * pause)


class PlaceAlerts:
    """Sends alerts in the background. Its methods belong to one event loop."""

    def __init__(
        self,
        senders: Sequence[NotificationSender],
        queue: AlertQueue,
        quiet: QuietHours | None = None,
        clock: Callable[[], float] = time.monotonic,
        local_time: Callable[[], datetime] = datetime.now,
    ) -> None:
        self._clock = clock

        def is_quiet() -> bool:
            return quiet is not None and quiet.include(local_time())

        self._deliverers = [_Deliverer(each, queue, is_quiet) for each in senders]
        self._said: dict[str, float] = {}
        """Place -> when its last detection was said."""
        self._kept_back: dict[str, int] = {}
        self._new: deque[str] = deque()
        """Alerts on their way to the disk."""
        self._added = anyio.Event()

    def state(self, place: str, text: str) -> None:
        """Something changed at a place: its audio is lost or back."""
        self._put(f"{place}: {text}")

    def clip(self, judged: JudgedClip) -> None:
        """A detection, unless there was an alert about this place a short time ago."""
        place = judged.place.location
        if not judged.detected:
            return
        if self._clock() - self._said.get(place.id, -math.inf) < DETECTION_SECONDS:
            self._kept_back[place.id] = self._kept_back.get(place.id, 0) + 1
            return
        self._said[place.id] = self._clock()
        more = self._kept_back.pop(place.id, 0)
        since = f", and {more} more since the last alert" if more else ""
        self._put(f"{place.name}: detected {judged.name} ({judged.decision.confidence:.0f} %{since})")

    async def run(self) -> None:
        """Send to every service by itself, until it is cancelled."""
        if not self._deliverers:
            return
        async with anyio.create_task_group() as group:
            for each in self._deliverers:
                group.start_soon(each.run)
            await self._store()

    async def _store(self) -> None:
        """Bring alerts to the disk, until it is cancelled."""
        while True:
            added = self._added = anyio.Event()
            while self._new:
                try:
                    for each in self._deliverers:
                        await anyio.to_thread.run_sync(each.put, self._new[0])
                except ChatapiError as error:
                    log.warning("alert cannot be stored", extra={"reason": error.message})
                    await anyio.sleep(PAUSE)
                    continue
                self._new.popleft()
                for each in self._deliverers:
                    each.wake()
            await added.wait()

    def _put(self, text: str) -> None:
        if not self._deliverers:
            return
        if len(self._new) >= MOST_WAITING:
            log.warning("alert is lost, because too many wait", extra={"alert": text})
            return
        self._new.append(text)
        self._added.set()
