"""A simulated day at a place, faster than real time: crashes, gaps and detections, and a ledger that is exact."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import anyio
import numpy as np
import pytest

from chatapi.appliance import Appliance
from chatapi.engines import SOUND_RATE, SoundOptions
from chatapi.engines.sound_detector import orcahello
from chatapi.errors import collapse_exception_group
from chatapi.services.stream_monitoring.config import PlaceConfig
from chatapi.services.stream_monitoring.decision import V1Rule
from chatapi.services.stream_monitoring.hls_sources import within
from chatapi.services.stream_monitoring.ledger import CoverageLedger, Stretch
from chatapi.services.stream_monitoring.monitor import Alarm, JudgedClip, MonitorParts, PlaceMonitor
from chatapi.services.stream_monitoring.mutes import Mutes
from chatapi.services.stream_monitoring.outbox import PositiveOutbox
from chatapi.services.stream_monitoring.pieces import Found, Missing, Piece, Reason, Take
from chatapi.settings import Settings
from chatapi.storage.artifact_store import ArtifactStore

pytestmark = pytest.mark.anyio
T = 1_700_000_000.0
PIECE = 10
"""Seconds of a piece."""
CRASHES = 25
REASONS: tuple[Reason, ...] = ("not_found", "corrupt", "silent", "unreachable")
SOUND = np.random.default_rng(1).normal(0, 1, PIECE * SOUND_RATE).astype(np.float32)
LOUD, QUIET = SOUND * np.float32(0.1), SOUND * np.float32(0.0005)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Crash(Exception):
    """What ends a monitor in the middle of its work."""


@dataclass
class Plan:
    """What the place sends: the same however often it is asked."""

    found: list[Found] = field(default_factory=list)
    loud: list[float] = field(default_factory=list)
    """Starts of the pieces with a sound, in seconds since 1970."""

    @staticmethod
    def of(chance: random.Random, hours: float) -> Plan:
        plan = Plan()
        for number in range(round(hours * 3600 / PIECE)):
            start = T + number * PIECE
            kind = chance.random()
            if kind < 0.02:
                plan.found.append(Missing(start, PIECE, chance.choice(REASONS)))
            else:
                plan.found.append(Piece(start, PIECE, LOUD if kind < 0.04 else QUIET))
            if 0.02 <= kind < 0.04:
                plan.loud.append(start)
        return plan


class PlanSource:
    """Sends a plan from a time on."""

    address, state = "plan", "live"

    def __init__(self, plan: Plan, since: float) -> None:
        self._plan, self._since = plan, since

    async def read(self, take: Take) -> None:
        for each in self._plan.found:
            if (inside := within(each, self._since, T + 1e9)) is not None:
                await take(inside)


class CrashingEvents:
    """Ends the monitor when so many things have happened."""

    def __init__(self, left: int) -> None:
        self._left = left

    def heard(self, place: PlaceConfig, found: Found) -> None:
        self._count()

    def judged(self, clip: JudgedClip) -> None:
        self._count()

    def alarmed(self, place: PlaceConfig, alarm: Alarm, text: str) -> None:
        raise AssertionError(text)

    def _count(self) -> None:
        self._left -= 1
        if not self._left:
            raise Crash


async def run_once(appliance: Appliance, folder: Path, plan: Plan, left: int) -> bool:
    """Runs until the plan's end, or a crash; whether it came to the end. Files are opened anew, as after a restart."""
    place = PlaceConfig(
        orcahello.LOCATIONS["rpi_bush_point"], orcahello.V1, "m", V1Rule(), SoundOptions(), 60, files=(Path("plan"),)
    )
    with closing(CoverageLedger(folder / "ledger.sqlite3")) as ledger:
        outbox = PositiveOutbox(ledger, folder / "outbox", ArtifactStore(str(folder / "store")))
        parts = MonitorParts(ledger, outbox, appliance.engines.sound_detector, lambda: "fake", Mutes(ledger))
        position = ledger.position(place.location.id)
        source = PlanSource(plan, position.at if position is not None else T)
        try:
            await PlaceMonitor(place, source, parts, CrashingEvents(left)).run()
        except Exception as error:
            assert isinstance(collapse_exception_group(error), Crash)
            return False
        await anyio.to_thread.run_sync(outbox.send)
        return True


@pytest.mark.parametrize("hours", [1, pytest.param(24, marks=pytest.mark.slow)])
async def test_a_day_with_crashes_is_accounted_for_to_the_second(
    fake_settings: Callable[..., Settings], tmp_path: Path, hours: int
) -> None:
    chance = random.Random(hours)
    plan = Plan.of(chance, hours)
    events = hours * 3600 // PIECE
    async with Appliance(fake_settings()).running() as appliance:
        crashes = 0
        while crashes < CRASHES:
            crashes += not await run_once(appliance, tmp_path, plan, chance.randint(1, max(2, events // CRASHES)))
        assert await run_once(appliance, tmp_path, plan, -1)
    with closing(CoverageLedger(tmp_path / "ledger.sqlite3")) as ledger:
        covered = ledger.coverage("rpi_bush_point", T, T + hours * 3600)
        detections = ledger.detections("rpi_bush_point", T, T + hours * 3600)
    assert covered == expected(plan)
    spans = [(each.start, each.start + each.seconds) for each in detections]
    assert all(before[1] <= after[0] for before, after in pairwise(spans))
    assert [start for start in plan.loud if not any(first <= start < last for first, last in spans)] == []
    heard = [each for each in spans if not any(each[0] - PIECE < start < each[1] for start in plan.loud)]
    assert heard == [] and detections
    names = sorted(each.name for each in detections)
    for suffix, container in ((".wav", "audiowavs"), (".png", "spectrogramspng"), (".json", "metadata")):
        assert sorted(each.name for each in (tmp_path / "store" / container).iterdir()) == [
            f"{name}{suffix}" for name in names
        ]
    assert list((tmp_path / "outbox").iterdir()) == []


def expected(plan: Plan) -> list[Stretch]:
    """The account of a plan, neighbours of one kind joined."""
    found: list[Stretch] = []
    for each in plan.found:
        state, detail = ("missing", each.reason) if isinstance(each, Missing) else ("scored", "fake")
        if found and (found[-1].state, found[-1].detail) == (state, detail):
            found[-1] = Stretch(found[-1].start, each.end, found[-1].state, detail)
        else:
            found.append(Stretch(each.start, each.end, state, detail))  # type: ignore[arg-type]  # one of both
    return found
