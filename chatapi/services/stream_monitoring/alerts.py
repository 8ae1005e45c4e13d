"""Alerts about monitored places for people, by the services of `notify.urls`: no audio, audio again, detections."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence

import anyio

from chatapi.jobs.notifications import NotificationSender
from chatapi.jobs.outbox_sender import NotDelivered
from chatapi.services.stream_monitoring.monitor import JudgedClip

log = logging.getLogger(__name__)

DETECTION_SECONDS = 900.0
"""Least time between two alerts about detections at one place; those between are counted in the next, in seconds."""
MOST_WAITING = 200
"""Most alerts that wait while a service is down; then further ones are only logged."""
ATTEMPTS, PAUSE, LONGEST_PAUSE = 10, 2.0, 300.0
"""For one alert, and the time between two of them, doubled each time, in seconds."""


class _Waiting:
    """What waits for one service."""

    def __init__(self, sender: NotificationSender) -> None:
        self.sender = sender
        self._texts: deque[str] = deque()
        self._added = anyio.Event()

    def put(self, text: str) -> None:
        if len(self._texts) >= MOST_WAITING:
            about = {"service": self.sender.service, "alert": text}
            log.warning("alert is lost, because too many wait", extra=about)
            return
        self._texts.append(text)
        self._added.set()

    async def deliver(self) -> None:
        while True:
            while self._texts:
                await self._say(self._texts[0])
                self._texts.popleft()
            self._added = anyio.Event()
            await self._added.wait()

    async def _say(self, text: str) -> None:
        pause = PAUSE
        for attempt in range(1, ATTEMPTS + 1):
            try:
                await self.sender.say(text)
                return
            except NotDelivered as error:
                about = {"service": self.sender.service, "reason": str(error), "attempt": attempt}
            log.warning("alert was not delivered", extra=about)
            await anyio.sleep(pause)
            pause = min(LONGEST_PAUSE, 2 * pause)


class PlaceAlerts:
    """Sends alerts in the background. Its methods belong to one event loop."""

    def __init__(self, senders: Sequence[NotificationSender], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting = [_Waiting(each) for each in senders]
        self._said: dict[str, float] = {}
        """Place -> when its last detection was said."""
        self._kept_back: dict[str, int] = {}

    def state(self, place: str, text: str) -> None:
        """Something changed at a place: its audio is lost or back."""
        self._put(f"{place}: {text}")

    def clip(self, judged: JudgedClip) -> None:
        """A detection, unless there was an alert about this place a short time ago."""
        place = judged.place.location
        if not judged.decision.positive:
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
        async with anyio.create_task_group() as group:
            for each in self._waiting:
                group.start_soon(each.deliver)

    def _put(self, text: str) -> None:
        for each in self._waiting:
            each.put(text)
