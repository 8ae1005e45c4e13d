"""The microphone and the speaker, through a real sound server: what goes in, what comes out, what comes back."""

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

from chatapi.audio import RATE, Audio, Samples, decode
from sound import FEED, MICROPHONE, SPEAKER, SPEAKER_RATE, Room, room  # noqa: F401 - the fixture

HERE = Path(__file__).parent
OTHER = "module-null-sink sink_name=other norewinds=1"
"""Another card."""
QUIET = 0.005
"""Below this nothing sounds."""


class Mic:
    """AudioDevices in the other process."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process = process
        self._folder = folder

    def tell(self, *words: object) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def look(self) -> dict[str, Any]:
        return self.tell("look")

    def play(self, audio: Audio) -> None:
        path = self._folder / "play.npy"
        np.save(path, audio.samples)
        self.tell("play", str(path), audio.rate)

    def heard(self) -> Samples:
        self.tell("save", str(self._folder / "heard.npy"))
        samples: Samples = np.load(self._folder / "heard.npy")
        return samples

    def until(self, condition: Callable[[dict[str, Any]], bool], seconds: float = 60) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while not condition(now := self.look()):
            assert time.monotonic() < end, now
            time.sleep(0.02)
        return now

    def until_well(self) -> dict[str, Any]:
        return self.until(lambda now: now["input"]["state"] == now["output"]["state"] == "ok")

    def until_lost(self, *sides: str) -> dict[str, Any]:
        return self.until(lambda now: all(now[side]["state"] == "lost" for side in sides))


@contextmanager
def listening(
    room: Room,  # noqa: F811
    source: str = "testmic",
    speaker: str = "testspk",
    echo: str = "",
) -> Iterator[Mic]:
    process = subprocess.Popen(
        [sys.executable, "-X", "dev", "-W", "error", HERE / "mic_process.py", source, speaker, echo],
        env={**room.environment, "PYTHONPATH": str(HERE.parent)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield Mic(process, room.folder)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
        assert "Traceback" not in said and "Warning" not in said, said
    finally:
        process.kill()
        process.communicate()


def speech(name: str, seconds: float) -> Samples:
    return decode(HERE / "corpus" / "real" / f"{name}.flac").samples[: int(seconds * RATE)]


def likeness(found: Samples, wanted: Samples, rate: int) -> float:
    """The median correlation of its tenths of a second, each where it fits best: a busy machine may drop a block."""
    size = rate // 10
    pieces = [wanted[start : start + size] for start in range(0, len(wanted) - size + 1, size)]
    loud = [piece for piece in pieces if np.sqrt(np.mean(piece**2)) > 0.01]
    assert len(loud) > len(pieces) / 3
    return float(np.median([correlation(found, piece) for piece in loud]))


def correlation(found: Samples, piece: Samples) -> float:
    """The best of all places."""
    size = 1 << (len(found) + len(piece)).bit_length()
    product = np.fft.irfft(np.fft.rfft(found, size) * np.conj(np.fft.rfft(piece, size)), size)
    sums = np.concatenate([[0.0], np.cumsum(found.astype(np.float64) ** 2)])
    energy = sums[len(piece) :] - sums[: -len(piece)]
    norm = np.sqrt(np.maximum(energy, 1e-3) * np.sum(piece.astype(np.float64) ** 2))
    return float(np.max(product[: len(energy)] / norm))


def test_what_is_said_into_the_microphone_arrives(room: Room) -> None:  # noqa: F811
    said = speech("jfk-16", 2)
    with listening(room) as mic:
        mic.until_well()
        room.play_into_microphone(said).wait(60)
        before = mic.look()["blocks"]
        mic.until(lambda now: now["blocks"] >= before + 10)
        now, heard = mic.look(), mic.heard()
    assert likeness(heard, said, RATE) > 0.9
    assert now["sizes"] == [320]
    assert (now["input"]["dropped"], now["echo"]) == (0, "off")


@pytest.mark.parametrize("rate", [RATE, 22_050])
def test_what_is_played_comes_out_of_the_speaker_and_is_counted(room: Room, rate: int) -> None:  # noqa: F811
    sound = Audio(speech("beckett-12", 1.5), RATE)
    with listening(room) as mic:
        mic.until_well()
        room.record()
        began = time.monotonic()
        mic.play(sound.at(rate))
        late = []
        while (now := mic.look())["playing"]:
            late.append(time.monotonic() - began - now["played"] / RATE)
        end = mic.look()
        time.sleep(0.1)
        recorded = room.recorded()
    assert likeness(recorded, sound.at(SPEAKER_RATE).samples, SPEAKER_RATE) > 0.9
    # Whoever looks may be late himself, but never early.
    assert -0.01 < min(late) < 0.3
    assert abs(end["played"] - len(sound.samples)) <= 1


@pytest.mark.alone
def test_pause_is_silent_resume_goes_on_and_clear_ends_it(room: Room) -> None:  # noqa: F811
    # Each sample of a sweep is unlike all others nearby, so one that is missing would shift the rest.
    times = np.arange(3 * SPEAKER_RATE) / SPEAKER_RATE
    sweep = (0.5 * np.sin(2 * np.pi * (200 + 150 * times) * times)).astype(np.float32)
    with listening(room) as mic:
        mic.until_well()
        room.record()
        mic.play(Audio(sweep, SPEAKER_RATE))
        mic.until(lambda now: now["played"] > 6000)
        mic.tell("pause")
        begun = time.monotonic()
        time.sleep(0.15)
        paused = mic.look()["played"]
        time.sleep(0.25)
        assert mic.look()["played"] == paused
        mic.tell("resume")
        rested = time.monotonic() - begun
        mic.until(lambda now: now["played"] > 20_000)
        assert mic.tell("clear")["playing"] is False
        time.sleep(0.4)
        recorded = room.recorded()
    loud = np.flatnonzero(np.abs(recorded) > QUIET)
    assert len(recorded) - loud[-1] > 0.15 * SPEAKER_RATE
    gap = int(np.argmax(np.diff(loud)))
    silent, again = loud[gap], loud[gap + 1]
    assert 0.2 < (again - silent) / SPEAKER_RATE < rested + 0.3
    heard_before = round(paused * SPEAKER_RATE / RATE)
    assert_same_sweep(recorded[: silent + 1], sweep[:heard_before], at_end=True)
    assert_same_sweep(recorded[again:], sweep[heard_before:], at_end=False)


def assert_same_sweep(recorded: Samples, sweep: Samples, at_end: bool) -> None:
    """The 50 ms next to a pause, where the fade is over, are the sweep's own, give or take a few faded samples."""
    fade, size = SPEAKER_RATE // 100, SPEAKER_RATE // 20
    wanted = sweep[-fade - size : -fade] if at_end else sweep[fade : fade + size]
    around = recorded[-2 * fade - size :] if at_end else recorded[: 2 * fade + size]
    products = [float(np.corrcoef(around[at : at + size], wanted)[0, 1]) for at in range(len(around) - size)]
    place = int(np.argmax(products))
    assert max(products) > 0.999
    assert abs(place - fade) < SPEAKER_RATE // 500


@pytest.mark.alone
def test_the_speakers_echo_is_not_heard(room: Room) -> None:  # noqa: F811
    room.load(f"module-loopback source=spk.monitor sink=micfeed latency_msec=60 rate={RATE}")
    with listening(room, echo="echo") as mic:
        assert mic.until_well()["echo"] == "on"
        mic.play(Audio(speech("two_cities-00", 8), RATE))
        mic.until(lambda now: now["played"] > 3 * RATE)
        heard = mic.heard()
    with listening(room) as mic:
        mic.until_well()
        mic.play(Audio(speech("two_cities-00", 8), RATE))
        mic.until(lambda now: now["played"] > 3 * RATE)
        with_echo = mic.heard()
    power = [float(np.mean(part[-RATE:] ** 2)) for part in (heard, with_echo)]
    assert power[1] > 1e-5
    assert 10 * np.log10(power[0] / power[1]) < -15


def test_a_suspended_microphone_is_back_by_itself(room: Room) -> None:  # noqa: F811
    with listening(room) as mic:
        mic.until_well()
        room.pactl("suspend-source", "mic", "1")
        lost = mic.until_lost("input")
        assert "no sign of life" in lost["input"]["error"] and lost["output"]["state"] == "ok"
        room.pactl("suspend-source", "mic", "0")
        back = mic.until_well()
        assert (back["input"]["reopened"], back["input"]["error"]) == (1, "")
        mic.until(lambda now: now["blocks"] > back["blocks"] + 10)


@pytest.mark.parametrize(("side", "lines"), [("input", (FEED, MICROPHONE)), ("output", (SPEAKER,))])
def test_an_unplugged_device_is_told_and_back_by_itself(room: Room, side: str, lines: tuple[str, ...]) -> None:  # noqa: F811
    with listening(room) as mic:
        mic.until_well()
        # The server moves the stream to some other device without a word: blocks go on.
        for line in reversed(lines):
            room.unload(line)
        lost = mic.until_lost(side)
        assert "is gone" in lost[side]["error"] or "cannot be opened" in lost[side]["error"]
        for line in lines:
            room.load(line)
        back = mic.until_well()
        assert (back["input"]["reopened"], back["output"]["reopened"]) == (int(side == "input"), int(side == "output"))
        if side == "input":
            said = speech("jfk-16", 1.5)
            room.play_into_microphone(said).wait(60)
            mic.until(lambda now: now["blocks"] > back["blocks"] + 10)
            assert likeness(mic.heard(), said, RATE) > 0.9
        else:
            room.record()
            sound = Audio(speech("beckett-12", 1.5), RATE)
            mic.play(sound)
            mic.until(lambda now: not now["playing"])
            time.sleep(0.1)
            assert likeness(room.recorded(), sound.at(SPEAKER_RATE).samples, SPEAKER_RATE) > 0.9


def test_devices_with_names_are_kept_when_others_become_the_default(room: Room) -> None:  # noqa: F811
    room.load(OTHER)
    choose(room, "mic", "spk")
    with listening(room) as mic:
        mic.until_well()
        # The server moves the streams, which are at the default until now, to the next one without a word.
        choose(room, "other.monitor", "other")
        mic.until(lambda now: not streams_at(room, "other") and now["input"]["state"] == now["output"]["state"] == "ok")
        assert_sound_flows(room, mic)
        now = mic.look()
        assert max(now["input"]["reopened"], now["output"]["reopened"]) == 1


def streams_at(room: Room, sink: str) -> int:  # noqa: F811
    """How many play to it, or record what it plays."""
    found = 0
    for devices, streams, name in (("sinks", "sink-inputs", sink), ("sources", "source-outputs", f"{sink}.monitor")):
        listed = (line.split() for line in room.pactl("list", "short", devices).splitlines())
        [number] = [line[0] for line in listed if line[1] == name]
        found += [line.split()[1] for line in room.pactl("list", "short", streams).splitlines()].count(number)
    return found


def test_the_default_is_followed_when_others_become_it(room: Room) -> None:  # noqa: F811
    room.load(OTHER)
    choose(room, "other.monitor", "other")
    alsa = Path(room.environment["ALSA_CONFIG_PATH"])
    alsa.write_text(f'{alsa.read_text()}pcm.!default {{ type pulse server "{room.server}" hint {{ show on }} }}\n')
    with listening(room, source="", speaker="") as mic:
        assert mic.until_well()["output"]["name"] == "default"
        choose(room, "mic", "spk")
        assert_sound_flows(room, mic)
        now = mic.look()
        # The server itself has moved the streams, without a gap.
        assert now["input"]["reopened"] == now["output"]["reopened"] == 0


def test_a_device_that_was_unplugged_for_a_moment_is_back(room: Room) -> None:  # noqa: F811
    room.load(OTHER)
    choose(room, "other.monitor", "other")
    with listening(room) as mic:
        mic.until_well()
        # Whoever asks only now and then whether it is there has not noticed; the stream stays where it was moved to.
        for line in (MICROPHONE, SPEAKER):
            room.unload(line)
            room.load(line)
        mic.until(lambda now: now["input"]["reopened"] == now["output"]["reopened"] == 1)
        assert_sound_flows(room, mic)


def choose(room: Room, source: str, sink: str) -> None:  # noqa: F811
    """What the server's default devices are."""
    room.pactl("set-default-source", source)
    room.pactl("set-default-sink", sink)


def assert_sound_flows(room: Room, mic: Mic) -> None:  # noqa: F811
    """What is said in front of `mic` is heard, and what is played comes out of `spk`."""
    mic.until_well()
    said, sound = speech("jfk-16", 1.5), Audio(speech("beckett-12", 1.5), RATE)
    room.play_into_microphone(said).wait(60)
    before = mic.look()["blocks"]
    mic.until(lambda now: now["blocks"] > before + 10)
    assert likeness(mic.heard(), said, RATE) > 0.9
    room.record()
    mic.play(sound)
    mic.until(lambda now: not now["playing"])
    time.sleep(0.1)
    assert likeness(room.recorded(), sound.at(SPEAKER_RATE).samples, SPEAKER_RATE) > 0.9


@pytest.mark.parametrize("milliseconds", ["1", "20", "5000"])
def test_a_latency_from_outside_makes_no_device_mute(room: Room, milliseconds: str) -> None:  # noqa: F811
    room.environment["PULSE_LATENCY_MSEC"] = milliseconds
    with listening(room) as mic:
        blocks = mic.until_well()["blocks"]
        mic.until(lambda now: now["blocks"] > blocks + 10)
        mic.play(Audio(speech("jfk-16", 0.5), RATE))
        mic.until(lambda now: not now["playing"])


def test_a_killed_sound_server_is_back_by_itself_and_leaves_no_threads(room: Room) -> None:  # noqa: F811
    with listening(room) as mic:
        threads = mic.until_well()["threads"]
        for times in range(1, 4):
            room.kill()
            lost = mic.until_lost("input", "output")
            assert lost["input"]["error"] and lost["output"]["error"]
            room.start()
            back = mic.until_well()
            assert (back["input"]["reopened"], back["output"]["reopened"]) == (times, times)
        blocks = back["blocks"]
        mic.until(lambda now: now["blocks"] > blocks + 10)
        mic.until(lambda now: now["threads"] <= threads)


def test_what_was_to_be_played_waits_for_the_speaker(room: Room) -> None:  # noqa: F811
    sound = Audio(speech("beckett-12", 1.5), RATE)
    room.kill()
    with listening(room) as mic:
        mic.until_lost("output")
        mic.play(sound)
        assert mic.look()["playing"]
        room.start()
        room.record()
        mic.until(lambda now: now["output"]["state"] == "ok")
        assert abs(mic.until(lambda now: not now["playing"])["played"] - len(sound.samples)) <= 1
        time.sleep(0.1)
        assert likeness(room.recorded(), sound.at(SPEAKER_RATE).samples, SPEAKER_RATE) > 0.9


def test_a_microphone_missing_at_the_start_is_used_when_it_comes(room: Room) -> None:  # noqa: F811
    room.unload(MICROPHONE)
    with listening(room) as mic:
        missing = mic.until_lost("input")
        assert "cannot be opened" in missing["input"]["error"]
        mic.until(lambda now: now["output"]["state"] == "ok")
        room.load(MICROPHONE)
        back = mic.until_well()
        mic.until(lambda now: now["blocks"] > back["blocks"] + 10)


def test_names_may_be_parts_or_empty(room: Room) -> None:  # noqa: F811
    with listening(room, source="TESTM", speaker="") as mic:
        now = mic.until_well()
        assert (now["input"]["name"], now["output"]["name"]) == ("testmic", "default")


@pytest.mark.parametrize(("name", "told"), [("test", "may mean any of these"), ("nothing", "there is no input device")])
def test_a_name_that_fits_not_just_one_is_told_with_those_there_are(room: Room, name: str, told: str) -> None:  # noqa: F811
    with listening(room, source=name) as mic:
        now = mic.until_lost("input")
        assert told in now["input"]["error"] and "'testmic'" in now["input"]["error"]
        mic.until(lambda now: now["output"]["state"] == "ok")
