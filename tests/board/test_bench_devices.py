"""`chatapi bench devices`: its report on a server whose audio devices disconnect, and without a sound daemon."""

from __future__ import annotations

import pytest

from chatapi.bench import Row, devices
from chatapi.bench.devices import FAULTS, KILLED, Held, Outcome
from chatapi.bench.sound_card import CardFault
from chatapi.settings import Settings
from virtual_sound_card import SoundCard, sound_card

__all__ = ["sound_card"]
pytestmark = pytest.mark.anyio


async def rows() -> dict[str, Row]:
    return {row.what: row async for row in devices.measure(Settings(), 1)}


async def test_missing_sound_daemon_is_reported_in_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "installed", lambda: False)
    [row] = (await rows()).values()
    assert row.what.startswith("not measured: ") and "apt-get install pulseaudio" in row.what and row.met is None


async def test_failed_sound_daemon_is_reported_as_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> list[Row]:
        raise CardFault("the sound daemon does not answer")

    monkeypatch.setattr(devices, "installed", lambda: True)
    monkeypatch.setattr(devices, "_measured", fail)
    [row] = (await rows()).values()
    assert row.what == "not measured: the sound daemon does not answer"


async def test_server_on_a_virtual_sound_card_is_measured(
    sound_card: SoundCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound_card.kill()
    # A busy machine is slow: all waits end with what they wait for, so that they may be long.
    patient = {"AWAY": 60, "PATIENCE": 60, "HEARING": 5, "SPEAKING": 5}
    for name, value in {"DEVICE_FAULTS": 2, "KILLS": 1, **patient}.items():
        monkeypatch.setattr(devices, name, value)
    found = await rows()
    assert {"times back, of 3", "times reported by /health, of 3"} <= found.keys()
    assert found["times back, of 3"].value == found["times reported by /health, of 3"].value == 3
    assert found["threads more than before"].met and found["file descriptors more than before"].met
    assert 0 < found["return of a device to sound, median"].value <= found["return of a device to sound, worst"].value


def test_devices_that_did_not_recover_are_named_and_miss_the_target() -> None:
    outcomes = [Outcome(FAULTS[0], False, None), Outcome(FAULTS[-1], False, 0.5), Outcome(KILLED, True, 1.5)]
    back, median, worst, reported = devices._came_back(outcomes)
    assert (back.value, back.met) == (2, False)
    assert back.what == "times back, of 3, but not: microphone unplugged"
    assert (median.value, worst.value) == (1.0, 1.5)
    # A change of the default devices is not reported.
    assert (reported.what, reported.value) == ("times reported by /health, of 2, but not: microphone unplugged", 1)
    assert not devices._came_back([Outcome(KILLED, True, None)]).__next__().met


def test_leaked_resources_miss_the_target() -> None:
    found = list(devices._leaked(Held(10, 20, 100_000_000), Held(11, 20, 106_000_000)))
    assert [row.met for row in found] == [False, True, False]
