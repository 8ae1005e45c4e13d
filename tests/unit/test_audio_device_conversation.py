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
from conftest import TIMEOUT, RunAppliance, tone

pytestmark = pytest.mark.anyio
BLOCK = 320
WAKE_WORD = tone(0.02, hertz=3000)
SILENCE = np.zeros(BLOCK, np.float32)


class FakeDevices:
    """Fake devices: plays one block for every block it captures; captures silence unless `say` queued speech."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {"input": {"state": "ok", "error": ""}, "output": {"state": "ok"}, "echo": "on"}
        self.queued: list[Audio] = []
        """All audio that was queued for playback."""
        self.pace = 0.001
        """Seconds between two blocks of 20 ms: faster than real time, but the engines still get to run."""
        self.stalled = False
        """Whether the speaker plays nothing."""
        self._speech: list[Samples] = []
        self._queue = self._played = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[FakeDevices]:
        yield self

    async def captured(self) -> AsyncIterator[Samples]:
        while True:
            await anyio.sleep(self.pace)
            step = 0 if self.stalled else min(BLOCK, self._queue)
            self._queue, self._played = self._queue - step, self._played + step
            yield self._speech.pop(0) if self._speech else SILENCE

    def say(self, *parts: Samples) -> None:
        speech = np.concatenate(parts)
        self._speech += [speech[at : at + BLOCK] for at in range(0, len(speech) // BLOCK * BLOCK, BLOCK)]

    @property
    def speaking(self) -> bool:
        return bool(self._speech)

    def play(self, audio: Audio) -> None:
        self.queued.append(audio)
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

    def chime_count(self, name: Chime) -> int:
        return sum(queued is chime(name) for queued in self.queued)


class ConversationRun:
    """A local conversation on fake devices, and the events it reported."""

    def __init__(self, appliance: Appliance) -> None:
        self.events: list[tuple[str, str]] = []
        self.devices = FakeDevices()
        self.conversation = LocalConversation(appliance, lambda kind, text: self.events.append((kind, text)))
        self.conversation.devices = cast(AudioDevices, self.devices)

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.events if kind != "partial"]

    async def until(self, condition: Callable[[], bool], seconds: float = TIMEOUT) -> None:
        with anyio.fail_after(seconds):
            while not condition():
                await anyio.sleep(0.005)

    async def said(self) -> None:
        """Waits until the conversation has taken all that was said, and a moment of silence after it."""
        self.devices.say(np.zeros(RATE // 2, np.float32))
        await self.until(lambda: not self.devices.speaking)

    async def state(self, name: str) -> None:
        await self.until(lambda: self.conversation.health["state"] == name)


@asynccontextmanager
async def running_conversation(fake_appliance: RunAppliance, *settings: str) -> AsyncIterator[ConversationRun]:
    async with fake_appliance(*settings) as appliance, anyio.create_task_group() as group:
        run = ConversationRun(appliance)
        await appliance.load((*registry.essential(), *run.conversation.roles))
        group.start_soon(run.conversation.run)
        await run.until(lambda: "listening" in run.kinds())
        yield run
        group.cancel_scope.cancel()


WAKE_WORD_MODE = ("audio_device.mode=wake_word", "audio_device.awake_seconds=2")


async def test_asleep_speech_is_not_answered_or_transcribed(fake_appliance: RunAppliance) -> None:
    async with running_conversation(fake_appliance, *WAKE_WORD_MODE) as run:
        assert run.events == [("listening", "a high tone")]
        run.devices.say(tone(1.0))
        await run.said()
        assert run.kinds() == ["listening"]
        assert run.conversation.health["state"] == "asleep"
        assert run.conversation.health["wake_word"] == "a high tone"
        assert run.conversation._session is not None and run.conversation._session.seconds == 0


async def test_wake_word_starts_a_conversation_that_continues_without_it_and_falls_asleep(
    fake_appliance: RunAppliance,
) -> None:
    async with running_conversation(fake_appliance, *WAKE_WORD_MODE) as run:
        run.devices.say(WAKE_WORD, np.zeros(RATE // 2, np.float32), tone(1.0))
        await run.until(lambda: "answer" in run.kinds())
        assert run.kinds()[:3] == ["listening", "awake", "transcript"]
        assert run.devices.chime_count("listening") == 1
        run.devices.say(tone(0.7))
        await run.until(lambda: run.kinds().count("answer") == 2)
        assert "asleep" not in run.kinds()
        await run.until(lambda: "asleep" in run.kinds())
        assert run.devices.chime_count("done") == 1
        run.devices.say(tone(1.0))
        await run.said()
        assert run.kinds().count("transcript") == 2


async def test_wake_word_interrupts_an_answer(fake_appliance: RunAppliance) -> None:
    async with running_conversation(fake_appliance, *WAKE_WORD_MODE) as run:
        run.devices.say(WAKE_WORD, tone(1.0))
        await run.until(lambda: "awake" in run.kinds())
        # From here on in real time, so that the answer does not end before it can be interrupted.
        run.devices.pace = 0.02
        await run.until(lambda: any(queued.rate == RATE for queued in run.devices.queued))
        assert run.devices.chime_count("listening") == 0
        run.devices.say(WAKE_WORD)
        await run.until(lambda: run.kinds().count("awake") == 2)
        await run.until(lambda: run.devices.chime_count("listening") == 1)
        await run.until(lambda: "interrupted" in run.kinds())
        await run.state("listening")


async def test_without_a_speaker_it_also_falls_asleep(fake_appliance: RunAppliance) -> None:
    async with running_conversation(fake_appliance, *WAKE_WORD_MODE) as run:
        run.devices.state["output"] = {"state": "lost"}
        run.devices.stalled = True
        await run.conversation.wake()
        await run.until(lambda: run.devices.playing)
        await run.until(lambda: "asleep" in run.kinds())
        assert run.conversation.health["state"] == "asleep"


async def test_wake_button_replaces_the_wake_word_but_push_to_talk_is_the_wrong_mode(
    fake_appliance: RunAppliance,
) -> None:
    async with running_conversation(fake_appliance, *WAKE_WORD_MODE) as run:
        await run.conversation.wake()
        await run.conversation.wake()
        run.devices.say(tone(1.0))
        await run.until(lambda: "answer" in run.kinds())
        for button in (run.conversation.press, run.conversation.release):
            with pytest.raises(WrongMode, match=r"audio_device\.mode is wake_word"):
                await button()


async def test_repeated_press_and_release_start_and_end_one_turn(fake_appliance: RunAppliance) -> None:
    async with running_conversation(fake_appliance, "audio_device.mode=push_to_talk") as run:
        assert run.conversation.health["state"] == "asleep"
        await run.conversation.release()
        await run.conversation.press()
        await run.conversation.press()
        assert run.conversation.state == "hearing"
        assert run.devices.chime_count("listening") == 1
        run.devices.say(tone(1.0))
        await run.said()
        await run.conversation.release()
        await run.conversation.release()
        await run.until(lambda: "answer" in run.kinds())
        assert run.kinds().count("transcript") == 1
        await run.state("asleep")
        with pytest.raises(WrongMode, match=r"audio_device\.mode is push_to_talk"):
            await run.conversation.wake()


async def test_a_key_held_too_long_is_released_automatically(fake_appliance: RunAppliance) -> None:
    async with running_conversation(fake_appliance, "audio_device.mode=push_to_talk", "live.turn_seconds=1.1") as run:
        since = time.monotonic()
        await run.conversation.press()
        run.devices.say(tone(0.5))
        await run.until(lambda: not run.conversation.pressed)
        assert time.monotonic() - since > 1.0
        await run.until(lambda: "answer" in run.kinds())


async def test_press_is_rejected_while_the_microphone_is_lost(fake_appliance: RunAppliance) -> None:
    async with running_conversation(fake_appliance, "audio_device.mode=push_to_talk") as run:
        run.devices.state["input"] = {"state": "lost", "error": "'Mic' is gone"}
        with pytest.raises(NotReady, match="'Mic' is gone"):
            await run.conversation.press()


async def test_slow_response_plays_one_chime_that_does_not_count_as_playback(
    fake_appliance: RunAppliance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audio_device_conversation, "THINKING_CHIME_SECONDS", 0.3)
    async with running_conversation(fake_appliance, "fake.delay=0.1") as run:
        assert run.devices.chime_count("listening") == 1
        run.devices.say(tone(1.0))
        await run.until(lambda: "answer" in run.kinds())
        assert run.devices.chime_count("thinking") == 1
        answer = run.conversation._session and run.conversation._session.answer
        assert answer
        await run.until(lambda: not run.devices.playing)
        assert run.devices.played / RATE - run.conversation._chime_seconds == pytest.approx(
            answer.playback.seconds, abs=0.02
        )


async def test_end_of_speech_returns_to_listening(fake_appliance: RunAppliance) -> None:
    async with running_conversation(fake_appliance) as run:
        run.conversation._update_state(SpeechStopped(1.0))
        assert run.conversation.state == "listening"
