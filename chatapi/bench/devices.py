"""Faults of microphone and speaker: whether and how soon audio works again, what `/health` reports, and leaks.

`chatapi serve` with fake engines runs on a virtual sound card. One device after another is unplugged, suspended or no
longer the default, and the sound daemon is killed. A device is back when a tone at the microphone is detected as
speech, or a requested chime is recorded from the speaker."""

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
from chatapi.bench import Row, Stopwatch
from chatapi.bench.process import served
from chatapi.bench.sound_card import INSTALL, MICROPHONE, SPEAKER, CardFault, SoundCard, installed, sound_card
from chatapi.engines import registry
from chatapi.settings import Settings

DEVICE_FAULTS, KILLS = 20, 5
AWAY = 2.5
"""Longest time a device stays away until `/health` reports it, in seconds."""
PATIENCE = 15.0
"""Time after which a device counts as lost permanently, in seconds."""
HEARING = 0.8
"""Longest time in which a tone is detected, in seconds; then the microphone is tried again."""
SPEAKING = 0.5
"""Longest time in which a chime is heard, in seconds; then the speaker is tried again."""
SETTLING = 12.0
"""Time in which idle threads end, in seconds; anyio keeps its own for 10."""
OTHER = "module-null-sink sink_name=other norewinds=1"
CHOSEN = (
    "audio_device.enabled=true",
    "audio_device.mode=wake_word",
    "audio_device.input=testmic",
    "audio_device.output=testspk",
)
"""Settings with the wake word, because it allows requesting a chime over HTTP."""


@dataclass(frozen=True)
class DeviceDisturbance:
    """A fault of a device."""

    name: str
    sides: tuple[str, ...]
    """The lost devices: input, output."""
    away: Callable[[SoundCard], None]
    """Causes the fault."""
    back: Callable[[SoundCard], None]
    """Ends the fault."""
    reported: bool = True
    """Whether `/health` must report it."""


def _stand_in(card: SoundCard) -> None:
    """Add another card as the default: PulseAudio moves the streams of an unplugged device to it."""
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
        reported=False,
    ),
)
KILLED = DeviceDisturbance("daemon killed", ("input", "output"), lambda card: card.kill(), _restart)


@dataclass(frozen=True)
class Outcome:
    """The result of a fault."""

    fault: DeviceDisturbance
    reported: bool
    """Whether `/health` reported the lost devices."""
    seconds: float | None
    """Time from the device's return until audio worked, in seconds; None: it did not."""


async def measure(settings: Settings, rounds: int) -> AsyncIterator[Row]:
    """Measure 25 faults; `rounds` is ignored, because a small leak shows only after many."""
    del settings, rounds
    if not installed():
        yield _not_measured(INSTALL)
        return
    try:
        rows = await anyio.to_thread.run_sync(_measured)
    except (CardFault, RuntimeError) as error:
        # The daemon does not start, or the server lacks PortAudio.
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
    due = [each for each in outcomes if each.fault.reported]
    missed = _but([each for each in due if not each.reported])
    reported = sum(each.reported for each in due)
    yield Row("devices", f"times reported by /health, of {len(due)}{missed}", reported, "", len(due), at_least=True)


def _but(outcomes: list[Outcome]) -> str:
    """The faults that are exceptions, as the end of a phrase."""
    names = ", ".join(sorted({each.fault.name for each in outcomes}))
    return f", but not: {names}" if names else ""


def _leaked(before: Held, after: Held) -> Iterator[Row]:
    yield Row("devices", "threads more than before", after.threads - before.threads, "", 0)
    yield Row("devices", "file descriptors more than before", after.files - before.files, "", 0)
    yield Row("devices", "memory more than before", (after.memory - before.memory) / 1e6, "MB", 5, note="resident")


@dataclass(frozen=True)
class Held:
    """Resources of a process."""

    threads: int
    files: int
    """Number of open file descriptors."""
    memory: int
    """Resident memory, in bytes."""


class Box:
    """`chatapi serve` and its virtual sound card."""

    def __init__(self, card: SoundCard, client: httpx.Client, pid: int) -> None:
        self._card, self._client, self._process = card, client, psutil.Process(pid)

    def suffer(self, fault: DeviceDisturbance) -> Outcome:
        """Cause a fault, end it, and measure the recovery."""
        self._card.stop_recording()
        fault.away(self._card)
        reported = self._until(lambda: all(self._state[side]["state"] == "lost" for side in fault.sides), AWAY)
        fault.back(self._card)
        return Outcome(fault, reported, self.flows(fault.sides, PATIENCE))

    def flows(self, sides: tuple[str, ...], seconds: float) -> float | None:
        """Time until audio works on these devices, in seconds; None: not within `seconds`."""
        watch = Stopwatch()
        checks = {"input": self._hears, "output": self._speaks}
        back = all(self._until(checks[side], seconds) for side in sides)
        return watch.seconds if back else None

    def held(self) -> Held:
        """The resources now."""
        with self._process.oneshot():
            return Held(self._process.num_threads(), self._process.num_fds(), self._process.memory_info().rss)

    def settled(self, before: Held) -> Held:
        """The resources after idle threads have ended."""
        self._until(lambda: (now := self.held()).threads <= before.threads and now.files <= before.files, SETTLING)
        return self.held()

    @property
    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = self._client.get("/health").json()["audio_device"]
        return state

    def _hears(self) -> bool:
        """Whether a tone at the microphone is detected as speech."""
        if not self._wake():
            return False
        times = np.arange(int(0.6 * RATE)) / RATE
        player = self._card.play_into_microphone((0.3 * np.sin(2 * np.pi * 220 * times)).astype(np.float32))
        try:
            return self._until(lambda: self._state["state"] == "hearing", HEARING)
        finally:
            player.terminate()
            player.wait(PATIENCE)

    def _speaks(self) -> bool:
        """Whether the speaker plays the chime."""
        self._card.stop_recording()
        try:
            self._card.record()
        except CardFault:
            return False
        return self._wake() and self._until(lambda: bool(np.abs(self._card.recorded()).max(initial=0) > 0.02), SPEAKING)

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
        chosen = [*(f"{role.name}.engine=fake" for role in registry.SHIPPED), *CHOSEN, f"data={folder}/data"]
        settings = tree.load(chosen, environ={}).settings
        environment = {name: value for name, value in card.environment.items() if not name.startswith(tree.ENVIRONMENT)}
        with (
            served(settings, environment={**environment, tree.DATA: f"{folder}/data"}) as (url, pid),
            httpx.Client(base_url=url, timeout=60) as client,
        ):
            yield Box(card, client, pid)
