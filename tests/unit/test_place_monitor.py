"""A monitored place: what is scored of a clip, faults of the disk, and the alarm that there is no audio."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import anyio
import numpy as np
import pytest

from chatapi.appliance import Appliance
from chatapi.engines import SOUND_RATE, SoundOptions, SoundWindow
from chatapi.engines.sound_detector import orcahello
from chatapi.errors import StorageError
from chatapi.services.stream_monitoring.config import PlaceConfig
from chatapi.services.stream_monitoring.decision import V1Rule
from chatapi.services.stream_monitoring.ledger import CoverageLedger, Stretch
from chatapi.services.stream_monitoring.monitor import (
    Alarm,
    JudgedClip,
    MonitorParts,
    PlaceMonitor,
    Watch,
    scored,
)
from chatapi.services.stream_monitoring.mutes import Mutes
from chatapi.services.stream_monitoring.outbox import PositiveOutbox
from chatapi.services.stream_monitoring.pieces import Found, Missing, Piece, SoundClip, Take
from chatapi.settings import Settings
from chatapi.storage.artifact_store import ArtifactStore

pytestmark = pytest.mark.anyio
T = 1_700_000_000.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[CoverageLedger]:
    with closing(CoverageLedger(tmp_path / "ledger.sqlite3")) as opened:
        yield opened


class Given:
    """A source of the given audio, which is then silent for a while."""

    address, state = "given", "the cable is cut"

    def __init__(self, found: list[Found], silent: float = 0) -> None:
        self._found, self._silent = found, silent

    async def read(self, take: Take) -> None:
        for each in self._found:
            await take(each)
        await anyio.sleep(self._silent)


class Events:
    """Keeps what happens at a place."""

    def __init__(self) -> None:
        self.clips: list[JudgedClip] = []
        self.alarms: list[tuple[Alarm, str]] = []
        self.found: list[Found] = []

    def heard(self, place: PlaceConfig, found: Found) -> None:
        self.found.append(found)

    def judged(self, clip: JudgedClip) -> None:
        self.clips.append(clip)

    def alarmed(self, place: PlaceConfig, alarm: Alarm, text: str) -> None:
        self.alarms.append((alarm, text))


def place(live: bool = False) -> PlaceConfig:
    location = orcahello.LOCATIONS["rpi_bush_point"]
    found = PlaceConfig(location, orcahello.V1, "m", V1Rule(), SoundOptions(), 20, files=() if live else (Path("a"),))
    assert found.is_live is live
    return found


def piece(start: float, seconds: float = 10, level: float = 0.1) -> Piece:
    sound = np.random.default_rng(1).normal(0, level, round(seconds * SOUND_RATE)).astype(np.float32)
    return Piece(T + start, seconds, sound)


@pytest.fixture
def parts(
    fake_settings: Callable[..., Settings], ledger: CoverageLedger, tmp_path: Path
) -> Callable[..., MonitorParts]:
    def make(appliance: Appliance) -> MonitorParts:
        outbox = PositiveOutbox(ledger, tmp_path / "outbox", ArtifactStore(str(tmp_path / "store")))
        return MonitorParts(ledger, outbox, appliance.engines.sound_detector, lambda: "fake", Mutes(ledger))

    return make


async def test_clips_end_at_gaps_and_all_of_it_is_accounted_for(
    fake_settings: Callable[..., Settings], parts: Callable[..., MonitorParts], ledger: CoverageLedger
) -> None:
    found: list[Found] = [piece(0), piece(10, 4.5), Missing(T + 14.5, 5.5, "corrupt"), piece(20), piece(30), piece(40)]
    events = Events()
    async with Appliance(fake_settings()).running() as appliance:
        await PlaceMonitor(place(), Given(found), parts(appliance), events).run()
    assert [(clip.start - T, clip.seconds, clip.windows) for clip in events.clips] == [
        (0, 14.5, 14),
        (20, 20, 20),
        (40, 10, 10),
    ]
    assert all(clip.decision.positive for clip in events.clips)
    assert ledger.coverage("rpi_bush_point", T, T + 60) == [
        Stretch(T, T + 14, "scored", "fake"), Stretch(T + 14, T + 14.5, "heard"),
        Stretch(T + 14.5, T + 20, "missing", "corrupt"), Stretch(T + 20, T + 50, "scored", "fake"),
        Stretch(T + 50, T + 60, "unmonitored"),
    ]  # fmt: skip
    assert [each.start - T for each in ledger.to_store()] == [0, 20, 40]


async def test_a_full_disk_is_waited_for_and_nothing_is_lost(
    fake_settings: Callable[..., Settings], parts: Callable[..., MonitorParts], ledger: CoverageLedger, tmp_path: Path
) -> None:
    events = Events()
    # No folder can be made there.
    (tmp_path / "outbox").write_text("")
    async with Appliance(fake_settings()).running() as appliance, anyio.create_task_group() as group:
        source = Given([piece(0), piece(10)])
        group.start_soon(PlaceMonitor(place(live=True), source, parts(appliance), events).run)
        await anyio.sleep(0.5)
        assert events.clips == [] and ledger.to_store() == []
        (tmp_path / "outbox").unlink()
    assert [clip.start - T for clip in events.clips] == [0]
    assert [each.start - T for each in ledger.to_store()] == [0]
    assert len(list((tmp_path / "outbox").iterdir())) == 3


async def test_a_recording_is_given_up_when_the_disk_stays_full(
    fake_settings: Callable[..., Settings],
    parts: Callable[..., MonitorParts],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("chatapi.services.stream_monitoring.monitor.PAUSE", 0.01)
    (tmp_path / "outbox").write_text("")
    async with Appliance(fake_settings()).running() as appliance:
        with pytest.raises(StorageError, match="cannot be written"):
            await PlaceMonitor(place(), Given([piece(0), piece(10)]), parts(appliance), Events()).run()


async def test_no_audio_is_an_alarm_and_no_detections_are_none(
    fake_settings: Callable[..., Settings], parts: Callable[..., MonitorParts]
) -> None:
    events = Events()
    async with Appliance(fake_settings()).running() as appliance, anyio.create_task_group() as group:
        monitored = PlaceMonitor(place(live=True), Given([piece(0, level=0.0005)], 5), parts(appliance), events)
        group.start_soon(monitored.run)
        group.start_soon(monitored.watch, Watch(1.0))
        await anyio.sleep(0.5)
        assert events.alarms == []
        with anyio.fail_after(10):
            while not events.alarms:
                await anyio.sleep(0.05)
        await monitored._take(piece(10))
        with anyio.fail_after(10):
            while len(events.alarms) < 2:
                await anyio.sleep(0.05)
        group.cancel_scope.cancel()
    assert events.alarms == [
        ("no_audio", "no audio for 1 seconds: the cable is cut"),
        ("audio_back", "audio is back"),
    ]


def test_windows_with_holes_between_them_do_not_count_as_one_stretch() -> None:
    clip = SoundClip(T, np.zeros(SOUND_RATE * 10, np.float32))
    windows = [SoundWindow(start, 2.0, (0.5,)) for start in (0, 2, 5)]
    assert scored(clip, windows, "m") == [Stretch(T, T + 4, "scored", "m"), Stretch(T + 5, T + 7, "scored", "m")]
