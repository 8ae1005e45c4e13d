"""Microphone and speaker that come and go: whether sound flows again, how soon, what `/health` said, what leaks.

`chatapi serve` with echo engines on a virtual sound card, of which one device after another is unplugged, suspended or
no longer the default, and whose daemon dies. "Back" is what somebody in the room would call so: a tone in front of the
microphone is heard, and a chime asked for is heard from the speaker.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio.to_thread
import httpx
import numpy as np
import psutil

from chatapi import settings as tree
from chatapi.audio import RATE
from chatapi.bench import Row, Watch
from chatapi.bench.process import served
from chatapi.bench.sound_card import INSTALL, MICROPHONE, SPEAKER, CardFault, SoundCard, installed, sound_card
from chatapi.settings import Settings

DEVICE_FAULTS, KILLS = 20, 5
AWAY = 2.5
"""Seconds a device stays away at most, until it is noticed."""
PATIENCE = 15.0
"""Seconds after which what has not come back counts as gone for good."""
SETTLING = 12.0
"""Seconds in which idle threads end: anyio keeps its own for 10."""
OTHER = "module-null-sink sink_name=other norewinds=1"
ROLES = ("vad", "wake_word", "turn_detection", "asr", "llm", "tts")
CHOSEN = (
    "audio_device.enabled=true",
    "audio_device.mode=wake_word",
    "audio_device.input=testmic",
    "audio_device.output=testspk",
)
"""With a wake word, because then a chime can be asked for over HTTP."""


@dataclass(frozen=True)
class DeviceDisturbance:
    """One thing that happens to a device."""

    name: str
    sides: tuple[str, ...]
    """Those that are lost: input, output."""
    away: Callable[[SoundCard], None]
    back: Callable[[SoundCard], None]
    told: bool = True
    """Whether `/health` has something to tell of it."""


def _stand_in(card: SoundCard) -> None:
    """Another card, which is the default: it gets what is unplugged, and keeps it unless somebody does something."""
    card.load(OTHER)
    _default(card, "other.monitor", "other")


def _restart(card: SoundCard) -> None:
    card.start()
    _stand_in(card)


def _default(card: SoundCard, source: str, sink: str) -> None:
    card.pactl("set-default-source", source)
    card.pactl("set-default-sink", sink)


FAULTS = (
    DeviceDisturbance(
        "microphone unplugged", ("input",), lambda card: card.unload(MICROPHONE), lambda card: card.load(MICROPHONE)
    ),
    DeviceDisturbance(
        "speaker unplugged", ("output",), lambda card: card.unload(SPEAKER), lambda card: card.load(SPEAKER)
    ),
    DeviceDisturbance(
        "microphone suspended",
        ("input",),
        lambda card: card.suspend("source", "mic"),
        lambda card: card.suspend("source", "mic", False),
    ),
    DeviceDisturbance(
        "speaker suspended",
        ("output",),
        lambda card: card.suspend("sink", "spk"),
        lambda card: card.suspend("sink", "spk", False),
    ),
    DeviceDisturbance(
        "defaults changed",
        ("input", "output"),
        lambda card: _default(card, "mic", "spk"),
        lambda card: _default(card, "other.monitor", "other"),
        told=False,
    ),
)
KILLED = DeviceDisturbance("daemon killed", ("input", "output"), lambda card: card.kill(), _restart)


@dataclass(frozen=True)
class Outcome:
    """What came of a fault."""

    fault: DeviceDisturbance
    told: bool
    """Whether `/health` called the lost devices lost while they were."""
    seconds: float | None
    """From the device's return until sound flowed; None: it did not."""


async def measure(settings: Settings, rounds: int) -> AsyncIterator[Row]:
    """25 faults, whatever `rounds` says: what leaks a little shows only after many."""
    del settings, rounds
    if not installed():
        yield _not_measured(INSTALL)
        return
    try:
        rows = await anyio.to_thread.run_sync(_measured)
    except (CardFault, RuntimeError) as error:
        # The daemon, or the server for want of a sound library.
        rows = [_not_measured(str(error))]
    for row in rows:
        yield row


def _not_measured(reason: str) -> Row:
    return Row("devices", f"not measured: {reason}", 0, "")


def _measured() -> list[Row]:
    with _box() as box:
        box.flows(("input", "output"), PATIENCE)
        before = box.held()
        faults = [FAULTS[number % len(FAULTS)] for number in range(DEVICE_FAULTS)]
        outcomes = [box.suffer(fault) for fault in (*faults, *[KILLED] * KILLS)]
        return [*_came_back(outcomes), *_leaked(before, box.settled(before))]


def _came_back(outcomes: list[Outcome]) -> Iterator[Row]:
    took = [each.seconds for each in outcomes if each.seconds is not None]
    gone = _but([each for each in outcomes if each.seconds is None])
    yield Row("devices", f"times back, of {len(outcomes)}{gone}", len(took), "", len(outcomes), at_least=True)
    for what, of in (("median", statistics.median), ("worst", max)):
        yield Row("devices", f"return of a device to sound, {what}", of(took or [float("nan")]), "s", 2)
    due = [each for each in outcomes if each.fault.told]
    missed = _but([each for each in due if not each.told])
    told = sum(each.told for each in due)
    yield Row("devices", f"times /health said so, of {len(due)}{missed}", told, "", len(due), at_least=True)


def _but(outcomes: list[Outcome]) -> str:
    """The kinds of faults that are the exceptions, as the end of a phrase."""
    names = ", ".join(sorted({each.fault.name for each in outcomes}))
    return f", but not: {names}" if names else ""


def _leaked(before: Held, after: Held) -> Iterator[Row]:
    yield Row("devices", "threads more than before", after.threads - before.threads, "", 0)
    yield Row("devices", "file descriptors more than before", after.files - before.files, "", 0)
    yield Row("devices", "memory more than before", (after.memory - before.memory) / 1e6, "MB", 5, note="resident")


@dataclass(frozen=True)
class Held:
    """What a process holds."""

    threads: int
    files: int
    memory: int
    """Bytes resident."""


class Box:
    """`chatapi serve`, and the card that it hears and speaks through."""

    def __init__(self, card: SoundCard, client: httpx.Client, pid: int) -> None:
        self._card, self._client, self._process = card, client, psutil.Process(pid)

    def suffer(self, fault: DeviceDisturbance) -> Outcome:
        """Have it happen and end."""
        self._card.stop_recording()
        fault.away(self._card)
        told = self._until(lambda: all(self._state[side]["state"] == "lost" for side in fault.sides), AWAY)
        fault.back(self._card)
        return Outcome(fault, told, self.flows(fault.sides, PATIENCE))

    def flows(self, sides: tuple[str, ...], seconds: float) -> float | None:
        """Seconds until sound flows through these devices; None when it does not so soon."""
        watch = Watch()
        checks = {"input": self._hears, "output": self._speaks}
        back = all(self._until(checks[side], seconds) for side in sides)
        return watch.seconds if back else None

    def held(self) -> Held:
        with self._process.oneshot():
            return Held(self._process.num_threads(), self._process.num_fds(), self._process.memory_info().rss)

    def settled(self, before: Held) -> Held:
        """What it holds once nothing that ends by itself is left."""
        self._until(lambda: (now := self.held()).threads <= before.threads and now.files <= before.files, SETTLING)
        return self.held()

    @property
    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = self._client.get("/health").json()["mic"]
        return state

    def _hears(self) -> bool:
        """Whether a tone is taken for speech."""
        if not self._wake():
            return False
        times = np.arange(int(0.6 * RATE)) / RATE
        said = self._card.say_into_mic((0.3 * np.sin(2 * np.pi * 220 * times)).astype(np.float32))
        try:
            return self._until(lambda: self._state["state"] == "hearing", 0.8)
        finally:
            said.terminate()
            said.wait(5)

    def _speaks(self) -> bool:
        """Whether the chime comes out of the speaker."""
        self._card.stop_recording()
        try:
            self._card.record()
        except CardFault:
            return False
        return self._wake() and self._until(lambda: bool(np.abs(self._card.recorded()).max(initial=0) > 0.02), 0.5)

    def _wake(self) -> bool:
        return self._client.post("/audio-device/wake").is_success

    @staticmethod
    def _until(condition: Callable[[], bool], seconds: float) -> bool:
        end = time.monotonic() + seconds
        while not (met := condition()) and time.monotonic() < end:
            time.sleep(0.02)
        return met


@contextmanager
def _box() -> Iterator[Box]:
    with tempfile.TemporaryDirectory(prefix="chatapi-") as folder, sound_card(Path(folder) / "card") as card:
        _stand_in(card)
        chosen = [*(f"{role}.engine=fake" for role in ROLES), *CHOSEN, f"data={folder}/data"]
        settings = tree.load(chosen, environ={}).settings
        environment = {name: value for name, value in card.environment.items() if not name.startswith(tree.ENVIRONMENT)}
        with (
            served(settings, environment={**environment, tree.DATA: f"{folder}/data"}) as (url, pid),
            httpx.Client(base_url=url, timeout=10) as client,
        ):
            yield Box(card, client, pid)
