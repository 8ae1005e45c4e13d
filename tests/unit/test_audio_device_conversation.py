"""The local conversation with a wake word, push-to-talk and chimes, on fake engines and fake devices."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import anyio
import numpy as np
import pytest

from chatapi.appliance import Appliance
from chatapi.audio import RATE, Audio, Samples
from chatapi.engines import registry
from chatapi.errors import NotReady, WrongMode
from chatapi.events import SpeechStopped
from chatapi.interfaces.audio_device import conversation as audio_device_conversation
from chatapi.interfaces.audio_device.chimes import Chime, chime
from chatapi.interfaces.audio_device.conversation import LocalConversation
from chatapi.interfaces.audio_device.devices import AudioDevices
from conftest import PATIENCE, Running, tone

pytestmark = pytest.mark.anyio
BLOCK = 320
CALL = tone(0.02, hertz=3000)
QUIET = np.zeros(BLOCK, np.float32)


class Room:
    """Fake devices: plays one block for every block it captures; captures silence unless `say` queued speech."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {"input": {"state": "ok", "error": ""}, "output": {"state": "ok"}, "echo": "on"}
        self.given: list[Audio] = []
        """All audio that was queued for playback."""
        self.pace = 0.001
        """Seconds between two blocks of 20 ms: faster than real time, but the engines still get to run."""
        self.stuck = False
        """Whether the speaker plays nothing."""
        self._speech: list[Samples] = []
        self._queue = self._played = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Room]:
        yield self

    async def captured(self) -> AsyncIterator[Samples]:
        while True:
            await anyio.sleep(self.pace)
            step = 0 if self.stuck else min(BLOCK, self._queue)
            self._queue, self._played = self._queue - step, self._played + step
            yield self._speech.pop(0) if self._speech else QUIET

    def say(self, *sounds: Samples) -> None:
        sound = np.concatenate(sounds)
        self._speech += [sound[at : at + BLOCK] for at in range(0, len(sound) // BLOCK * BLOCK, BLOCK)]

    def play(self, audio: Audio) -> None:
        self.given.append(audio)
        self._queue += round(audio.seconds * RATE)

    def pause(self) -> None:
        """Does nothing."""

    def resume(self) -> None:
        """Does nothing."""

    def clear(self) -> None:
        self._queue = self._played = 0

    @property
    def playing(self) -> bool:
        return self._queue > 0

    @property
    def played(self) -> int:
        return self._played

    def chimed(self, name: Chime) -> int:
        return sum(given is chime(name) for given in self.given)


class Scene:
    """A conversation in such a room, and the events it reported."""

    def __init__(self, appliance: Appliance) -> None:
        self.events: list[tuple[str, str]] = []
        self.room = Room()
        self.box = LocalConversation(appliance, lambda kind, text: self.events.append((kind, text)))
        self.box.devices = cast(AudioDevices, self.room)

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.events if kind != "partial"]

    async def until(self, holds: Callable[[], bool], seconds: float = PATIENCE) -> None:
        with anyio.fail_after(seconds):
            while not holds():
                await anyio.sleep(0.005)

    async def state(self, name: str) -> None:
        await self.until(lambda: self.box.health["state"] == name)


@asynccontextmanager
async def scene(echo: Running, *settings: str) -> AsyncIterator[Scene]:
    async with echo(*settings) as appliance, anyio.create_task_group() as group:
        made = Scene(appliance)
        await appliance.load((*registry.essential(), *made.box.roles))
        group.start_soon(made.box.run)
        await made.until(lambda: "listening" in made.kinds())
        yield made
        group.cancel_scope.cancel()


WAKE = ("audio_device.mode=wake_word", "audio_device.awake_seconds=2")


async def test_asleep_speech_is_not_answered_or_transcribed(echo: Running) -> None:
    async with scene(echo, *WAKE) as here:
        assert here.events == [("listening", "a high tone")]
        here.room.say(tone(1.0))
        await anyio.sleep(0.5)
        assert here.kinds() == ["listening"]
        assert here.box.health["state"] == "asleep"
        assert here.box.health["wake_word"] == "a high tone"
        assert here.box._session is not None and here.box._session.seconds == 0


async def test_wake_word_starts_a_conversation_that_continues_without_it_and_falls_asleep(echo: Running) -> None:
    async with scene(echo, *WAKE) as here:
        here.room.say(CALL, np.zeros(RATE // 2, np.float32), tone(1.0))
        await here.until(lambda: "answer" in here.kinds())
        assert here.kinds()[:3] == ["listening", "awake", "transcript"]
        assert here.room.chimed("listening") == 1
        here.room.say(tone(0.7))
        await here.until(lambda: here.kinds().count("answer") == 2)
        assert "asleep" not in here.kinds()
        await here.until(lambda: "asleep" in here.kinds())
        assert here.room.chimed("done") == 1
        here.room.say(tone(1.0))
        await anyio.sleep(0.5)
        assert here.kinds().count("transcript") == 2


async def test_wake_word_interrupts_an_answer(echo: Running) -> None:
    async with scene(echo, *WAKE) as here:
        here.room.say(CALL, tone(1.0))
        await here.until(lambda: "awake" in here.kinds())
        # In real time from here on, so that the answer does not end before it can be interrupted.
        here.room.pace = 0.02
        await here.until(lambda: any(given.rate == RATE for given in here.room.given))
        assert here.room.chimed("listening") == 0
        here.room.say(CALL)
        await here.until(lambda: here.kinds().count("awake") == 2)
        await here.until(lambda: here.room.chimed("listening") == 1)
        await here.until(lambda: "interrupted" in here.kinds())
        await here.state("listening")


async def test_without_a_speaker_it_also_falls_asleep(echo: Running) -> None:
    async with scene(echo, *WAKE) as here:
        here.room.state["output"] = {"state": "lost"}
        here.room.stuck = True
        await here.box.wake()
        assert here.room.playing
        await here.until(lambda: "asleep" in here.kinds())
        assert here.box.health["state"] == "asleep"


async def test_wake_button_replaces_the_wake_word_but_push_to_talk_is_the_wrong_mode(echo: Running) -> None:
    async with scene(echo, *WAKE) as here:
        await here.box.wake()
        await here.box.wake()
        here.room.say(tone(1.0))
        await here.until(lambda: "answer" in here.kinds())
        for button in (here.box.press, here.box.release):
            with pytest.raises(WrongMode, match=r"audio_device\.mode is wake_word"):
                await button()


async def test_repeated_press_and_release_start_and_end_one_turn(echo: Running) -> None:
    async with scene(echo, "audio_device.mode=push_to_talk") as here:
        assert here.box.health["state"] == "asleep"
        await here.box.release()
        await here.box.press()
        await here.box.press()
        assert here.box.state == "hearing"
        assert here.room.chimed("listening") == 1
        here.room.say(tone(1.0))
        await anyio.sleep(0.3)
        await here.box.release()
        await here.box.release()
        await here.until(lambda: "answer" in here.kinds())
        assert here.kinds().count("transcript") == 1
        await here.state("asleep")
        with pytest.raises(WrongMode, match=r"audio_device\.mode is push_to_talk"):
            await here.box.wake()


async def test_a_key_held_too_long_is_released_automatically(echo: Running) -> None:
    async with scene(echo, "audio_device.mode=push_to_talk", "live.turn_seconds=1.1") as here:
        since = time.monotonic()
        await here.box.press()
        here.room.say(tone(0.5))
        await here.until(lambda: not here.box.pressed)
        assert time.monotonic() - since > 1.0
        await here.until(lambda: "answer" in here.kinds())


async def test_press_is_rejected_while_the_microphone_is_lost(echo: Running) -> None:
    async with scene(echo, "audio_device.mode=push_to_talk") as here:
        here.room.state["input"] = {"state": "lost", "error": "'Mic' is gone"}
        with pytest.raises(NotReady, match="'Mic' is gone"):
            await here.box.press()


async def test_slow_response_plays_one_chime_that_does_not_count_as_playback(
    echo: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audio_device_conversation, "THINKING_CHIME_SECONDS", 0.3)
    async with scene(echo, "fake.delay=0.03") as here:
        assert here.room.chimed("listening") == 1
        here.room.say(tone(1.0))
        await here.until(lambda: "answer" in here.kinds())
        assert here.room.chimed("thinking") == 1
        answer = here.box._session and here.box._session.answer
        assert answer
        await here.until(lambda: not here.room.playing)
        assert here.room.played / RATE - here.box._chime_seconds == pytest.approx(answer.playback.seconds, abs=0.02)


async def test_end_of_speech_returns_to_listening(echo: Running) -> None:
    async with scene(echo) as here:
        here.box._update_state(SpeechStopped(1.0))
        assert here.box.state == "listening"
