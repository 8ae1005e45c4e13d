"""The room's own conversation: the box's microphone and speaker as one live session."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

from chatapi.abilities.live import Options, Session
from chatapi.appliance import Appliance
from chatapi.audio import RATE
from chatapi.errors import ChatapiError, WaitAndRetry
from chatapi.events import (
    AnswerStarted,
    Failed,
    Interrupted,
    LiveEvent,
    Resumed,
    Speech,
    SpeechStarted,
    SpeechStopped,
    TextDelta,
    Transcript,
    TurnEnded,
)
from chatapi.faces.mic.chimes import chime
from chatapi.faces.mic.devices import SoundDevices

log = logging.getLogger(__name__)

AGAIN = 2.0
"""Seconds until a session that ended is begun anew."""

Tell = Callable[[str, str], None]
"""Told what happens (listening, heard, partial, answer, interrupted, error) and the words that go with it."""


def tell_nobody(kind: str, words: str) -> None:
    """For a box without a screen."""


class MicConversation:
    """Goes on for as long as `run` does, whatever happens to devices and engines."""

    def __init__(self, appliance: Appliance, tell: Tell = tell_nobody) -> None:
        mic = appliance.settings.mic
        self.devices = SoundDevices(mic.input, mic.output, mic.cancel_echo)
        self.state = "waiting"
        """waiting (for the models), listening, hearing, thinking or failing."""
        self._appliance = appliance
        self._chimes = mic.chimes
        self._manual = mic.mode == "push_to_talk"
        self._held = False
        self._session: Session | None = None
        self._tell = tell

    @property
    def health(self) -> dict[str, Any]:
        """Plain values: the state, and that of both devices."""
        return {"state": "speaking" if self.devices.playing else self.state, **self.devices.state}

    async def run(self) -> None:
        """Talk until cancelled. Raises SettingsFault when there is no sound library."""
        async with self.devices.running():
            while True:
                try:
                    await self._converse()
                except WaitAndRetry:
                    self.state = "waiting"
                except ChatapiError as error:
                    self.state = "failing"
                    log.warning("the conversation at the microphone broke off: %s", error.message)
                    self._tell("error", error.message)
                await anyio.sleep(AGAIN)

    async def press(self) -> None:
        """Push-to-talk: what is said from now on is meant."""
        if self._session is not None:
            await self._session.cancel()
            self._session.clear()
            self.devices.clear()
        self._held = True
        self._chime("listening")

    async def release(self) -> None:
        """Push-to-talk: all has been said."""
        self._held = False
        if self._session is not None and await self._session.commit():
            self._chime("heard")

    async def _converse(self) -> None:
        if not self._appliance.warm:
            return
        options = Options(detect=not self._manual)
        async with self._appliance.live.session(options) as (session, events), anyio.create_task_group() as group:
            self._session, self.state = session, "listening"
            group.start_soon(self._follow, events)
            self._chime("listening")
            self._tell("listening", "")
            try:
                async for block in self.devices.heard():
                    if self._held or not self._manual:
                        await session.hear(block)
                    session.played(self.devices.played / RATE)
            finally:
                self._session = None
                group.cancel_scope.cancel()

    async def _follow(self, events: MemoryObjectReceiveStream[LiveEvent]) -> None:
        answer = ""
        async for event in events:
            self._play(event)
            if isinstance(event, TextDelta):
                answer += event.text
            elif isinstance(event, AnswerStarted):
                answer = ""
            elif isinstance(event, TurnEnded):
                self._tell("answer", answer.strip())
            self._show(event)

    def _play(self, event: LiveEvent) -> None:
        """What is to be heard."""
        if isinstance(event, Speech):
            self.devices.play(event.audio)
        elif isinstance(event, SpeechStarted) and event.during_answer:
            self.devices.pause()
        elif isinstance(event, Resumed):
            self.devices.resume()
        elif isinstance(event, (Interrupted, AnswerStarted)):
            self.devices.clear()
        elif isinstance(event, Failed):
            self._chime("error")

    def _show(self, event: LiveEvent) -> None:
        """What is to be seen."""
        if isinstance(event, SpeechStarted):
            self.state = "hearing"
        elif isinstance(event, SpeechStopped):
            self.state = "thinking" if event.heard else "listening"
        elif isinstance(event, Transcript):
            self._tell("heard" if event.final else "partial", event.text)
        elif isinstance(event, Interrupted):
            self._tell("interrupted", event.text)
        elif isinstance(event, TurnEnded):
            self.state = "listening"
        elif isinstance(event, Failed):
            self._tell("error", event.error.message)

    def _chime(self, name: str) -> None:
        if self._chimes and not self.devices.playing:
            self.devices.play(chime(name))
