"""The microphone and the speaker through a real sound server: capture, playback, loss and reopening."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chatapi.audio import RATE, Audio, Samples
from chatapi.audio.decode import decode
from paths import CORPUS, SUPPORT
from virtual_sound_card import FEED, MICROPHONE, SPEAKER, SPEAKER_RATE, SoundCard, sound_card  # noqa: F401 - the fixture

OTHER = "module-null-sink sink_name=other norewinds=1"
"""Another sound card."""
QUIET = 0.005
"""Amplitude below which a sample counts as silence."""


class AudioDeviceProcess:
    """The audio devices of the server, in a child process."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process = process
        self._folder = folder

    def send(self, *words: object) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def state(self) -> dict[str, Any]:
        return self.send("state")

    def play(self, audio: Audio) -> None:
        path = self._folder / "play.npy"
        np.save(path, audio.samples)
        self.send("play", str(path), audio.rate)

    def captured(self) -> Samples:
        self.send("save", str(self._folder / "captured.npy"))
        samples: Samples = np.load(self._folder / "captured.npy")
        return samples

    def until(self, condition: Callable[[dict[str, Any]], bool], seconds: float = 60) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while not condition(now := self.state()):
            assert time.monotonic() < end, now
            time.sleep(0.02)
        return now

    def until_ok(self) -> dict[str, Any]:
        return self.until(lambda now: now["input"]["state"] == now["output"]["state"] == "ok")

    def until_lost(self, *sides: str) -> dict[str, Any]:
        return self.until(lambda now: all(now[side]["state"] == "lost" for side in sides))


@contextmanager
def run_audio_device(
    sound_card: SoundCard,  # noqa: F811
    source: str = "testmic",
    speaker: str = "testspk",
    echo: str = "",
) -> Iterator[AudioDeviceProcess]:
    process = subprocess.Popen(
        [sys.executable, "-X", "dev", "-W", "error", SUPPORT / "audio_device_process.py", source, speaker, echo],
        env={**sound_card.environment, "PYTHONPATH": str(SUPPORT.parent)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield AudioDeviceProcess(process, sound_card.folder)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 0, stderr
        assert "Traceback" not in stderr and "Warning" not in stderr, stderr
    finally:
        process.kill()
        process.communicate()


def speech(name: str, seconds: float) -> Samples:
    return decode(CORPUS / "real" / f"{name}.flac").samples[: int(seconds * RATE)]


def similarity(found: Samples, wanted: Samples, rate: int) -> float:
    """The median correlation of 0.1 s pieces, each at its best position: a busy machine may drop a block."""
    size = rate // 10
    pieces = [wanted[start : start + size] for start in range(0, len(wanted) - size + 1, size)]
    loud = [piece for piece in pieces if np.sqrt(np.mean(piece**2)) > 0.01]
    assert len(loud) > len(pieces) / 3
    return float(np.median([correlation(found, piece) for piece in loud]))


def correlation(found: Samples, piece: Samples) -> float:
    """The best correlation over all positions."""
    if len(found) < len(piece):
        return 0.0
    size = 1 << (len(found) + len(piece)).bit_length()
    product = np.fft.irfft(np.fft.rfft(found, size) * np.conj(np.fft.rfft(piece, size)), size)
    sums = np.concatenate([[0.0], np.cumsum(found.astype(np.float64) ** 2)])
    energy = sums[len(piece) :] - sums[: -len(piece)]
    norm = np.sqrt(np.maximum(energy, 1e-3) * np.sum(piece.astype(np.float64) ** 2))
    return float(np.max(product[: len(energy)] / norm))


def assert_heard(sound_card: SoundCard, sound: Audio) -> None:  # noqa: F811
    """Checks that the speaker played it; the recording of its end may come late."""
    wanted, end = sound.at(SPEAKER_RATE).samples, time.monotonic() + 60
    while (found := similarity(sound_card.recorded(), wanted, SPEAKER_RATE)) <= 0.9:
        assert time.monotonic() < end, found
        time.sleep(0.05)


def test_speech_at_the_microphone_is_captured(sound_card: SoundCard) -> None:  # noqa: F811
    spoken = speech("jfk-16", 2)
    with run_audio_device(sound_card) as device:
        device.until_ok()
        sound_card.play_into_microphone(spoken).wait(60)
        before = device.state()["blocks"]
        device.until(lambda now: now["blocks"] >= before + 10)
        now, captured = device.state(), device.captured()
    assert similarity(captured, spoken, RATE) > 0.9
    assert now["sizes"] == [320]
    assert (now["input"]["dropped"], now["echo"]) == (0, "off")


@pytest.mark.parametrize("rate", [RATE, 22_050])
def test_playback_comes_out_of_the_speaker_and_is_counted(sound_card: SoundCard, rate: int) -> None:  # noqa: F811
    sound = Audio(speech("beckett-12", 1.5), RATE)
    with run_audio_device(sound_card) as device:
        device.until_ok()
        sound_card.record()
        began = time.monotonic()
        device.play(sound.at(rate))
        late = []
        while (now := device.state())["playing"]:
            late.append(time.monotonic() - began - now["played"] / RATE)
        end = device.state()
        assert_heard(sound_card, sound)
    # This process may read the position late, but never early.
    assert -0.01 < min(late) < 0.3
    assert abs(end["played"] - len(sound.samples)) <= 1


@pytest.mark.alone
def test_pause_is_silent_resume_continues_and_clear_ends_playback(sound_card: SoundCard) -> None:  # noqa: F811
    # Each sample of a sweep differs from its neighbours, so a missing sample would shift the rest.
    times = np.arange(3 * SPEAKER_RATE) / SPEAKER_RATE
    sweep = (0.5 * np.sin(2 * np.pi * (200 + 150 * times) * times)).astype(np.float32)
    with run_audio_device(sound_card) as device:
        device.until_ok()
        sound_card.record()
        device.play(Audio(sweep, SPEAKER_RATE))
        device.until(lambda now: now["played"] > 6000)
        device.send("pause")
        begun = time.monotonic()
        time.sleep(0.15)
        paused = device.state()["played"]
        time.sleep(0.25)
        assert device.state()["played"] == paused
        device.send("resume")
        rested = time.monotonic() - begun
        device.until(lambda now: now["played"] > 20_000)
        assert device.send("clear")["playing"] is False
        time.sleep(0.4)
        recorded = sound_card.recorded()
    loud = np.flatnonzero(np.abs(recorded) > QUIET)
    assert len(recorded) - loud[-1] > 0.15 * SPEAKER_RATE
    gap = int(np.argmax(np.diff(loud)))
    silent, again = loud[gap], loud[gap + 1]
    assert 0.2 < (again - silent) / SPEAKER_RATE < rested + 0.3
    played_before = round(paused * SPEAKER_RATE / RATE)
    assert_same_sweep(recorded[: silent + 1], sweep[:played_before], at_end=True)
    assert_same_sweep(recorded[again:], sweep[played_before:], at_end=False)


def assert_same_sweep(recorded: Samples, sweep: Samples, at_end: bool) -> None:
    """Checks that the 50 ms next to a pause, beyond the fade, match the sweep, apart from a few faded samples."""
    fade, size = SPEAKER_RATE // 100, SPEAKER_RATE // 20
    wanted = sweep[-fade - size : -fade] if at_end else sweep[fade : fade + size]
    around = recorded[-2 * fade - size :] if at_end else recorded[: 2 * fade + size]
    products = [float(np.corrcoef(around[at : at + size], wanted)[0, 1]) for at in range(len(around) - size)]
    place = int(np.argmax(products))
    assert max(products) > 0.999
    assert abs(place - fade) < SPEAKER_RATE // 500


@pytest.mark.alone
def test_echo_of_the_speaker_is_cancelled(sound_card: SoundCard) -> None:  # noqa: F811
    sound_card.load(f"module-loopback source=spk.monitor sink=micfeed latency_msec=60 rate={RATE}")
    with run_audio_device(sound_card, echo="echo") as device:
        assert device.until_ok()["echo"] == "on"
        device.play(Audio(speech("two_cities-00", 8), RATE))
        device.until(lambda now: now["played"] > 3 * RATE)
        captured = device.captured()
    with run_audio_device(sound_card) as device:
        device.until_ok()
        device.play(Audio(speech("two_cities-00", 8), RATE))
        device.until(lambda now: now["played"] > 3 * RATE)
        with_echo = device.captured()
    power = [float(np.mean(part[-RATE:] ** 2)) for part in (captured, with_echo)]
    assert power[1] > 1e-5
    assert 10 * np.log10(power[0] / power[1]) < -15


def test_suspended_microphone_is_reopened(sound_card: SoundCard) -> None:  # noqa: F811
    with run_audio_device(sound_card) as device:
        device.until_ok()
        sound_card.pactl("suspend-source", "mic", "1")
        lost = device.until_lost("input")
        assert "delivered no audio" in lost["input"]["error"] and lost["output"]["state"] == "ok"
        sound_card.pactl("suspend-source", "mic", "0")
        back = device.until_ok()
        assert (back["input"]["reopened"], back["input"]["error"]) == (1, "")
        device.until(lambda now: now["blocks"] > back["blocks"] + 10)


@pytest.mark.parametrize(("side", "lines"), [("input", (FEED, MICROPHONE)), ("output", (SPEAKER,))])
def test_unplugged_device_is_reported_and_reopened(sound_card: SoundCard, side: str, lines: tuple[str, ...]) -> None:  # noqa: F811
    with run_audio_device(sound_card) as device:
        device.until_ok()
        # The server silently moves the stream to another device: blocks continue.
        for line in reversed(lines):
            sound_card.unload(line)
        lost = device.until_lost(side)
        assert "is gone" in lost[side]["error"] or "cannot be opened" in lost[side]["error"]
        for line in lines:
            sound_card.load(line)
        back = device.until_ok()
        assert (back["input"]["reopened"], back["output"]["reopened"]) == (int(side == "input"), int(side == "output"))
        if side == "input":
            spoken = speech("jfk-16", 1.5)
            sound_card.play_into_microphone(spoken).wait(60)
            device.until(lambda now: now["blocks"] > back["blocks"] + 10)
            assert similarity(device.captured(), spoken, RATE) > 0.9
        else:
            sound_card.record()
            sound = Audio(speech("beckett-12", 1.5), RATE)
            device.play(sound)
            device.until(lambda now: not now["playing"])
            assert_heard(sound_card, sound)


def test_named_devices_are_kept_when_the_default_changes(sound_card: SoundCard) -> None:  # noqa: F811
    sound_card.load(OTHER)
    set_defaults(sound_card, "mic", "spk")
    with run_audio_device(sound_card) as device:
        device.until_ok()
        # The server silently moves the streams, which are on the default device, to the new default.
        set_defaults(sound_card, "other.monitor", "other")
        device.until(
            lambda now: not streams_at(sound_card, "other") and now["input"]["state"] == now["output"]["state"] == "ok"
        )
        assert_audio_flows(sound_card, device)
        now = device.state()
        assert max(now["input"]["reopened"], now["output"]["reopened"]) == 1


def streams_at(sound_card: SoundCard, sink: str) -> int:  # noqa: F811
    """The number of streams that play to it or record its monitor."""
    found = 0
    for devices, streams, name in (("sinks", "sink-inputs", sink), ("sources", "source-outputs", f"{sink}.monitor")):
        listed = (line.split() for line in sound_card.pactl("list", "short", devices).splitlines())
        [number] = [line[0] for line in listed if line[1] == name]
        found += [line.split()[1] for line in sound_card.pactl("list", "short", streams).splitlines()].count(number)
    return found


def test_default_devices_follow_a_change_of_the_default(sound_card: SoundCard) -> None:  # noqa: F811
    sound_card.load(OTHER)
    set_defaults(sound_card, "other.monitor", "other")
    alsa = Path(sound_card.environment["ALSA_CONFIG_PATH"])
    alsa.write_text(
        f'{alsa.read_text()}pcm.!default {{ type pulse server "{sound_card.server}" hint {{ show on }} }}\n'
    )
    with run_audio_device(sound_card, source="", speaker="") as device:
        assert device.until_ok()["output"]["name"] == "default"
        set_defaults(sound_card, "mic", "spk")
        assert_audio_flows(sound_card, device)
        now = device.state()
        # The server itself moved the streams, without a gap.
        assert now["input"]["reopened"] == now["output"]["reopened"] == 0


def test_briefly_unplugged_device_is_reopened(sound_card: SoundCard) -> None:  # noqa: F811
    sound_card.load(OTHER)
    set_defaults(sound_card, "other.monitor", "other")
    with run_audio_device(sound_card) as device:
        device.until_ok()
        # An occasional check for the device misses this; the stream stays where the server moved it.
        for line in (MICROPHONE, SPEAKER):
            sound_card.unload(line)
            sound_card.load(line)
        device.until(lambda now: now["input"]["reopened"] == now["output"]["reopened"] == 1)
        assert_audio_flows(sound_card, device)


def set_defaults(sound_card: SoundCard, source: str, sink: str) -> None:  # noqa: F811
    """Sets the server's default devices."""
    sound_card.pactl("set-default-source", source)
    sound_card.pactl("set-default-sink", sink)


def assert_audio_flows(sound_card: SoundCard, device: AudioDeviceProcess) -> None:  # noqa: F811
    """Checks that speech at `mic` is captured, and that playback comes out of `spk`."""
    device.until_ok()
    spoken, sound = speech("jfk-16", 1.5), Audio(speech("beckett-12", 1.5), RATE)
    sound_card.play_into_microphone(spoken).wait(60)
    before = device.state()["blocks"]
    device.until(lambda now: now["blocks"] > before + 10)
    assert similarity(device.captured(), spoken, RATE) > 0.9
    sound_card.record()
    device.play(sound)
    device.until(lambda now: not now["playing"])
    assert_heard(sound_card, sound)


@pytest.mark.parametrize("milliseconds", ["1", "20", "5000"])
def test_latency_variable_of_the_environment_is_ignored(sound_card: SoundCard, milliseconds: str) -> None:  # noqa: F811
    sound_card.environment["PULSE_LATENCY_MSEC"] = milliseconds
    with run_audio_device(sound_card) as device:
        blocks = device.until_ok()["blocks"]
        device.until(lambda now: now["blocks"] > blocks + 10)
        device.play(Audio(speech("jfk-16", 0.5), RATE))
        device.until(lambda now: not now["playing"])


def test_restarted_sound_server_is_used_again_without_leaking_threads(sound_card: SoundCard) -> None:  # noqa: F811
    with run_audio_device(sound_card) as device:
        threads = device.until_ok()["threads"]
        for times in range(1, 4):
            sound_card.kill()
            lost = device.until_lost("input", "output")
            assert lost["input"]["error"] and lost["output"]["error"]
            sound_card.start()
            back = device.until_ok()
            assert (back["input"]["reopened"], back["output"]["reopened"]) == (times, times)
        blocks = back["blocks"]
        device.until(lambda now: now["blocks"] > blocks + 10)
        device.until(lambda now: now["threads"] <= threads)


def test_queued_audio_waits_for_the_speaker(sound_card: SoundCard) -> None:  # noqa: F811
    sound = Audio(speech("beckett-12", 1.5), RATE)
    sound_card.kill()
    with run_audio_device(sound_card) as device:
        device.until_lost("output")
        device.play(sound)
        assert device.state()["playing"]
        sound_card.start()
        sound_card.record()
        device.until(lambda now: now["output"]["state"] == "ok")
        assert abs(device.until(lambda now: not now["playing"])["played"] - len(sound.samples)) <= 1
        assert_heard(sound_card, sound)


def test_microphone_missing_at_start_is_opened_when_it_appears(sound_card: SoundCard) -> None:  # noqa: F811
    sound_card.unload(MICROPHONE)
    with run_audio_device(sound_card) as device:
        missing = device.until_lost("input")
        assert "cannot be opened" in missing["input"]["error"]
        device.until(lambda now: now["output"]["state"] == "ok")
        sound_card.load(MICROPHONE)
        back = device.until_ok()
        device.until(lambda now: now["blocks"] > back["blocks"] + 10)


def test_device_names_may_be_partial_or_empty(sound_card: SoundCard) -> None:  # noqa: F811
    with run_audio_device(sound_card, source="TESTM", speaker="") as device:
        now = device.until_ok()
        assert (now["input"]["name"], now["output"]["name"]) == ("testmic", "default")


@pytest.mark.parametrize(("name", "message"), [("test", "matches several"), ("nothing", "there is no input device")])
def test_ambiguous_or_unknown_name_is_reported_with_the_available_names(
    sound_card: SoundCard,  # noqa: F811
    name: str,
    message: str,
) -> None:
    with run_audio_device(sound_card, source=name) as device:
        now = device.until_lost("input")
        assert message in now["input"]["error"] and "'testmic'" in now["input"]["error"]
        device.until(lambda now: now["output"]["state"] == "ok")
