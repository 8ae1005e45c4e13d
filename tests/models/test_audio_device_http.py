"""The audio device over HTTP, and wake word and push-to-talk with real models on a virtual sound card."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from chatapi.audio import RATE, Samples
from chatapi.audio.decode import decode
from chatapi.errors import NotReady, WrongMode
from conftest import DEFAULTS, FAKE_ENGINES, TIMEOUT, RunningServer, installed_model
from paths import CORPUS
from test_talk_local import TalkProcess, run_talk, transcribe, words
from virtual_sound_card import SoundCard, sound_card

__all__ = ["sound_card"]
PUSH_TO_TALK = ("audio_device.mode=push_to_talk", "audio_device.chimes=false")
PAUSE = np.zeros(RATE // 2, np.float32)
DEVICE = {"name": "", "state": "ok", "reopened": 0, "dropped": 0, "error": ""}


class Buttons:
    """A fake audio device that records which of its buttons were pressed."""

    def __init__(self) -> None:
        self.pressed: list[str] = []

    @property
    def health(self) -> dict[str, Any]:
        return {"mode": "push_to_talk", "state": "asleep", "wake_word": None, "input": DEVICE, "output": DEVICE,
                "echo": "on"}  # fmt: skip

    async def press(self) -> None:
        self.pressed.append("press")

    async def release(self) -> None:
        raise NotReady("the microphone is not ready", retry_after=2)

    async def wake(self) -> None:
        raise WrongMode("audio_device.mode is push_to_talk; this needs wake_word", code="wrong_mode")


@pytest.mark.parametrize(
    "path", ["GET /audio-device", "POST /audio-device/press", "POST /audio-device/release", "POST /audio-device/wake"]
)
def test_without_an_audio_device_every_route_is_not_found(fake_server: RunningServer, path: str) -> None:
    reply = fake_server.client.request(*path.split())
    assert (reply.status_code, reply.json()["code"]) == (404, "no_microphone")


def test_buttons_return_the_state_or_a_problem(fake_server: RunningServer) -> None:
    fake_server.appliance.microphone = buttons = Buttons()
    assert fake_server.client.get("/audio-device").json() == buttons.health
    assert fake_server.client.post("/audio-device/press").json() == buttons.health
    assert buttons.pressed == ["press"]
    rejected = fake_server.client.post("/audio-device/wake")
    assert (rejected.status_code, rejected.json()["code"]) == (409, "wrong_mode")
    assert rejected.json()["detail"] == "audio_device.mode is push_to_talk; this needs wake_word"
    later = fake_server.client.post("/audio-device/release")
    assert (later.status_code, later.headers["retry-after"]) == (503, "2")
    foreign = fake_server.client.post("/audio-device/press", headers={"Origin": "https://elsewhere.example"})
    assert foreign.status_code == 403


def clip(name: str) -> Samples:
    """Piper's voice Joe says the wake word and a question; in `pause`, a pause of one second separates them."""
    return decode(CORPUS / "wake" / f"{name}.flac").samples


@contextmanager
def run_server(sound_card: SoundCard, data: Path, *chosen: str) -> Iterator[tuple[httpx.Client, TalkProcess]]:
    """Runs `chatapi serve` with the devices of the sound card and yields once it is ready."""
    settings = (f"data={data}", "server.port=0", "audio_device.enabled=true", *chosen)
    command = [sys.executable, "-m", "chatapi", "serve"]
    command += [option for each in settings for option in ("--set", each)]
    environment = {name: value for name, value in sound_card.environment.items() if not name.startswith("CHATAPI_")}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=sound_card.folder
    )
    running = TalkProcess(process)
    try:
        url = running.wait("chatapi ready").rpartition(" ")[2]
        with httpx.Client(base_url=url, timeout=TIMEOUT) as client:
            yield client, running
        process.send_signal(signal.SIGTERM)
        # The server exits with the signal it received.
        assert process.wait(TIMEOUT) in (0, -signal.SIGTERM), running.lines
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def wait_until_asleep(client: httpx.Client, seconds: float = TIMEOUT) -> None:
    """Waits until the microphone is open and the state is asleep."""
    end = time.monotonic() + seconds
    while (now := client.get("/audio-device").json())["state"] != "asleep" or now["input"]["state"] != "ok":
        assert time.monotonic() < end, now
        time.sleep(0.02)


def wait_for_state(client: httpx.Client, state: str, seconds: float = TIMEOUT) -> None:
    """Waits until the audio device reports that state."""
    end = time.monotonic() + seconds
    while (now := client.get("/audio-device").json())["state"] != state:
        assert time.monotonic() < end, now
        time.sleep(0.02)


def test_press_over_http_needs_the_api_key_and_starts_a_turn(sound_card: SoundCard, data: Path) -> None:
    with run_server(sound_card, data, *FAKE_ENGINES, *PUSH_TO_TALK, "server.api_key=secret") as (client, _):
        assert client.post("/audio-device/press").status_code == 401
        client.headers["Authorization"] = "Bearer secret"
        wait_until_asleep(client)
        assert client.post("/audio-device/wake").status_code == 409
        assert client.post("/audio-device/press").json()["mode"] == "push_to_talk"
        wait_for_state(client, "hearing")
        sound_card.play_into_microphone(PAUSE + 0.3).wait()
        assert client.post("/audio-device/release").status_code == 200
        wait_for_state(client, "speaking")
        wait_for_state(client, "asleep")
        assert client.get("/health").json()["audio_device"]["state"] == "asleep"


@pytest.mark.real
@pytest.mark.alone
def test_a_question_between_press_and_release_is_answered(sound_card: SoundCard, data: Path) -> None:
    question = clip("pause")[RATE:]
    with run_server(sound_card, data, *DEFAULTS, "llm.temperature=0", "llm.max_tokens=10", *PUSH_TO_TALK) as (
        client,
        _,
    ):
        wait_until_asleep(client)
        sound_card.play_into_microphone(question).wait()
        assert client.get("/audio-device").json()["state"] == "asleep"
        client.post("/audio-device/press").raise_for_status()
        sound_card.play_into_microphone(question).wait()
        time.sleep(0.2)
        sound_card.record()
        client.post("/audio-device/release").raise_for_status()
        wait_for_state(client, "speaking")
        wait_for_state(client, "asleep")
        assert {"capital", "france", "paris"} & set(transcribe(sound_card.recorded()))


@pytest.mark.real
@pytest.mark.alone
def test_wake_word_starts_a_conversation_until_silence(sound_card: SoundCard, data: Path) -> None:
    installed_model("okay_nabu")
    question, other = clip("pause")[RATE:], decode(CORPUS / "made" / "005-piper-joe-0.92.flac").samples
    brief = ("llm.temperature=0", "llm.max_tokens=10", "audio_device.mode=wake_word", "audio_device.awake_seconds=5")
    with run_talk(sound_card, data, *DEFAULTS, *brief) as talk:
        assert talk.wait("listening") == 'listening: say "okay nabu", then speak; Ctrl-C ends'
        sound_card.play_into_microphone(np.concatenate([question, PAUSE, PAUSE, PAUSE])).wait()
        sound_card.play_into_microphone(clip("at_once")).wait()
        talk.wait("awake")
        # The virtual sound card of a busy machine may lose a syllable.
        assert words(talk.wait("you:"))[:6] == words("you: What is the capital of")
        talk.wait("box:")
        # Wait until the answer has been played.
        time.sleep(3)
        sound_card.play_into_microphone(other).wait()
        assert talk.wait("you:", 2).startswith("you: How far is it to")
        talk.wait("asleep")
        sound_card.play_into_microphone(np.concatenate([question, PAUSE, PAUSE, PAUSE])).wait()
        assert len([line for line in talk.lines if line.startswith("you:")]) == 2, talk.lines
