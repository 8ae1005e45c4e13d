"""Faults that no virtual device has: sound libraries that hang, raise or offer odd rates, and slow listeners."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
import numpy as np
import pytest

from chatapi.audio import RATE, Audio, Samples
from chatapi.errors import NotReady
from chatapi.interfaces.audio_device.capture import MAX_WAITING_BLOCKS, Capture
from chatapi.interfaces.audio_device.devices import AudioDevices
from conftest import tone, until

pytestmark = pytest.mark.anyio


class Stream:
    """A fake stream that the test controls step by step."""

    def __init__(self, sound: Sound, **options: Any) -> None:
        if sound.fail_open:
            raise ValueError("not today")
        self.sound, self.options = sound, options
        self.active, self.latency = True, 0.02
        sound.streams.append(self)

    def start(self) -> None:
        self.step()

    def step(self) -> Samples:
        data = np.full((self.options["blocksize"], self.options["channels"]), 0.5, np.float32)
        self.options["callback"](data, len(data), SimpleNamespace(outputBufferDacTime=0.0, currentTime=0.0), None)
        return data

    def abort(self, ignore_errors: bool) -> None:
        self.active = False
        self.sound.release.wait(20)

    def close(self, ignore_errors: bool) -> None:
        self.sound.closed += 1


class Sound:
    """A fake sounddevice module: one device for both directions, at 44.1 kHz and with four channels only."""

    class PortAudioError(Exception):
        pass

    def __init__(self) -> None:
        self.fail_open = self.gone = self.exclusive = False
        self.closed = self.refreshed = 0
        self.release = threading.Event()
        self.release.set()
        self.streams: list[Stream] = []
        self.default = SimpleNamespace(device={"input": 0, "output": 0})

    def InputStream(self, **options: Any) -> Stream:  # noqa: N802 - as in sounddevice
        return Stream(self, **options)

    OutputStream = InputStream

    def query_devices(self, index: int | None = None) -> Any:
        device = {"index": 0, "name": "array", "default_samplerate": 44_100.0}
        device |= {"max_input_channels": 4, "max_output_channels": 4}
        return [device] if index is None else device

    def check_input_settings(self, device: int, samplerate: int, channels: int, dtype: str) -> None:
        occupied = self.exclusive and any(stream.active for stream in self.streams)
        if (samplerate, channels) != (44_100, 4) or self.gone or occupied:
            raise ValueError

    check_output_settings = check_input_settings

    def _initialize(self) -> None:
        self.refreshed += 1

    def _terminate(self) -> None:
        pass

    def newest(self, direction: str) -> Stream:
        wanted = {"input": 882, "output": 441}[direction]
        return [stream for stream in self.streams if stream.options["blocksize"] == wanted][-1]


@pytest.fixture
def sound(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sound]:
    made = Sound()
    monkeypatch.setitem(sys.modules, "sounddevice", made)
    # These devices deliver a block only on request, which must not count as a loss.
    monkeypatch.setattr("chatapi.interfaces.audio_device.devices.SILENT", 60)
    yield made
    made.release.set()


def sides(devices: AudioDevices, state: str) -> Callable[[], bool]:
    return lambda: devices.state["input"]["state"] == devices.state["output"]["state"] == state


async def test_device_with_another_rate_and_many_channels_works(sound: Sound) -> None:
    devices = AudioDevices(cancel_echo=False)
    async with devices.running():
        await until(sides(devices, "ok"))
        devices.play(Audio(tone(0.2), RATE))
        out = np.concatenate([sound.newest("output").step() for _ in range(20)])
        assert out.shape == (8820, 4) and np.array_equal(out[:, 0], out[:, 3])
        assert np.corrcoef(out[:, 0], tone(0.2, rate=44_100))[0, 1] > 0.999
        for _ in range(30):
            sound.newest("input").step()
        captured = [block async for block in limited(devices.captured(), 25)]
        assert {len(block) for block in captured} == {320}
        assert np.allclose(np.concatenate(captured)[2000:], 0.5, atol=1e-3)


async def limited(blocks: Any, count: int) -> Any:
    async for block in blocks:
        yield block
        count -= 1
        if not count:
            break


async def test_device_that_hangs_on_close_is_abandoned(sound: Sound) -> None:
    devices = AudioDevices(cancel_echo=False)
    async with devices.running():
        await until(sides(devices, "ok"))
        old = sound.newest("output")
        devices.play(Audio(tone(1), RATE))
        sound.release.clear()
        old.active = False
        await until(lambda: devices.state["output"]["reopened"] == 1)
        # The old stream still runs, but must not take audio meant for the new one.
        before = devices.played
        assert not old.step().any()
        assert devices.played == before
        sound.release.set()


async def test_device_that_cannot_be_opened_is_retried(sound: Sound) -> None:
    sound.fail_open = True
    devices = AudioDevices(cancel_echo=False)
    async with devices.running():
        await until(sides(devices, "lost"))
        assert devices.state["input"]["error"] == "'array' cannot be opened: not today"
        await until(lambda: sound.refreshed > 0)
        sound.fail_open = False
        await until(sides(devices, "ok"))


async def test_device_whose_stream_was_moved_is_reopened(sound: Sound, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatapi.interfaces.audio_device.devices.PROBE", 0)
    devices = AudioDevices(cancel_echo=False)
    async with devices.running():
        await until(sides(devices, "ok"))
        sound.gone = sound.fail_open = True
        await until(sides(devices, "lost"))
        sound.gone = sound.fail_open = False
        await until(sides(devices, "ok"))
        assert devices.state["output"]["reopened"] == 1


async def test_device_with_a_single_stream_stays_open(sound: Sound, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatapi.interfaces.audio_device.devices.PROBE", 0)
    monkeypatch.setattr("chatapi.interfaces.audio_device.devices.CHECK", 0.01)
    sound.exclusive = True
    devices = AudioDevices(cancel_echo=False)
    async with devices.running():
        await until(sides(devices, "ok"))
        await anyio.sleep(0.2)
        assert sides(devices, "ok")() and devices.state["input"]["reopened"] == 0


async def test_streams_are_closed_and_errors_are_raised_unchanged(sound: Sound) -> None:
    devices = AudioDevices(cancel_echo=False)
    with pytest.raises(NotReady):
        devices.captured()
    with pytest.raises(KeyError, match="mine"):
        async with devices.running():
            await until(sides(devices, "ok"))
            raise KeyError("mine")
    assert sound.closed == len(sound.streams) >= 2
    assert [block async for block in devices.captured()] == []


class Broken:
    """A fake echo canceller that fails."""

    delay = 0.0

    def process_capture(self, samples: Samples) -> Samples:
        raise RuntimeError("it broke")


async def test_slow_listener_loses_the_oldest_blocks() -> None:
    capture = Capture(None, "off")
    for number in range(MAX_WAITING_BLOCKS + 5):
        capture.from_microphone("line", np.full(320, number, np.float32), RATE, 0.0)
    await anyio.lowlevel.checkpoint()
    assert capture.dropped == 5 * 320
    first = [block async for block in limited(capture.blocks(), 1)]
    assert first[0][0] == 5


async def test_capture_continues_when_the_echo_canceller_fails() -> None:
    capture = Capture(Broken(), "on")  # type: ignore[arg-type]
    for _ in range(3):
        capture.from_microphone("line", np.zeros(320, np.float32), RATE, 0.0)
    await anyio.lowlevel.checkpoint()
    assert capture.echo == "echo cancellation stopped: it broke"
    assert len([block async for block in limited(capture.blocks(), 2)]) == 2


async def test_capture_works_without_an_echo_canceller(sound: Sound, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "livekit", None)
    devices = AudioDevices()
    async with devices.running():
        await until(sides(devices, "ok"))
        assert "pip install 'livekit" in devices.state["echo"]
