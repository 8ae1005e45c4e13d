"""The room's own conversation: the box's microphone and speaker as one live session."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

from chatapi.appliance import Appliance
from chatapi.audio import RATE, Samples
from chatapi.errors import ChatapiError, NotReady, WaitAndRetry, WrongMode
from chatapi.events import (
    Failed,
    Interrupted,
    LiveEvent,
    ResponseStarted,
    Resumed,
    Speech,
    SpeechStarted,
    SpeechStopped,
    TextDelta,
    Transcript,
    TurnEnded,
)
from chatapi.interfaces.audio_device.chimes import Chime, chime
from chatapi.interfaces.audio_device.devices import AudioDevices
from chatapi.services.live import LiveSession, SessionOptions, SessionOrigin
from chatapi.services.wake_word import WakeWordGate

log = logging.getLogger(__name__)

AGAIN = 2.0
"""Seconds until a session that ended is begun anew."""
LONG = 2.0
"""Seconds without a sound of the answer after which a short one says that it is being thought of."""

Tell = Callable[[str, str], None]
"""Told what happens (listening, awake, asleep, heard, partial, answer, interrupted, error) and the words that go with
it; with listening those that wake it, where it has to be woken."""


def tell_nobody(kind: str, words: str) -> None:
    """For a box without a screen."""


class LocalConversation:
    """Goes on for as long as `run` does, whatever happens to devices and engines."""

    def __init__(self, appliance: Appliance, tell: Tell = tell_nobody) -> None:
        mic = appliance.settings.audio_device
        self.devices = AudioDevices(mic.input, mic.output, mic.cancel_echo)
        self.state = "waiting"
        """waiting (for the models), asleep (until it is woken or the key pressed), listening, hearing, thinking or
        failing."""
        self.roles: tuple[str, ...] = ("wake_word",) if mic.mode == "wake_word" else ()
        """Whose engines it needs beyond those that every turn does."""
        self._appliance = appliance
        self._chimes = mic.chimes
        self._mode = mic.mode
        self._manual = mic.mode == "push_to_talk"
        self._held = False
        self._until = 0.0
        """When a key that is still held counts as released, on the monotonic clock."""
        self._key = anyio.Lock()
        self._session: LiveSession | None = None
        self._waking: WakeWordGate | None = None
        self._chimed = 0.0
        """Seconds of our own short sounds among what the devices played since they were last cleared."""
        self._silence: float | None = None
        """Seconds the answer has been waited for; None: none is, or it sounds."""
        self._tell = tell

    @property
    def health(self) -> dict[str, Any]:
        """Plain values: the mode, the state, the wake word, and the state of both devices."""
        state = "speaking" if self._sounding else self.state
        words = self._waking.words if self._waking is not None else None
        return {"mode": self._mode, "state": state, "wake_word": words, **self.devices.state}

    async def run(self) -> None:
        """Talk until cancelled. Raises SettingsError when there is no sound library."""
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
        """Push-to-talk: what is said from now on is meant, for live.turn_seconds at most. Nothing when it is pressed.

        Raises WrongMode in another mode, NotReady while models or the microphone are not there.
        """
        self._only("push_to_talk")
        async with self._key:
            if not self._held:
                await self._begin_anew(self._ready(), "hearing")
                self._chime("listening")
                self._until = time.monotonic() + self._appliance.settings.live.turn_seconds
                self._held = True

    async def release(self) -> None:
        """Push-to-talk: all has been said. Nothing when it is not pressed. Raises WrongMode in another mode."""
        self._only("push_to_talk")
        async with self._key:
            if self._held:
                self._held = False
                self._chime("heard")
                if self._session is None or not await self._session.commit():
                    self.state = self._resting

    async def wake(self) -> None:
        """As the wake word does. Raises WrongMode where there is none, NotReady as `press` does."""
        self._only("wake_word")
        session = self._ready()
        if self._waking is not None:
            self._waking.wake()
        self._appliance.metrics.wakes.labels("button").inc()
        await self._begin_anew(session, "listening")
        self._chime("listening")
        self._tell("awake", "")

    @property
    def pressed(self) -> bool:
        """Whether the key is held."""
        return self._held

    def _only(self, mode: str) -> None:
        if self._mode != mode:
            raise WrongMode(f"audio_device.mode is {self._mode}; this is for {mode}", code="wrong_mode")

    def _ready(self) -> LiveSession:
        microphone = self.devices.state["input"]
        if self._session is None or microphone["state"] != "ok":
            raise NotReady(f"the microphone does not listen yet {microphone['error']}".rstrip(), retry_after=2)
        return self._session

    @property
    def _sounding(self) -> bool:
        """Whether something is to be heard; what waits for a speaker that is lost is not."""
        return self.devices.playing and self.devices.state["output"]["state"] == "ok"

    @property
    def _resting(self) -> str:
        """The state in which nobody speaks and nothing is answered."""
        if self._manual:
            return "hearing" if self._held else "asleep"
        return "asleep" if self._waking is not None and self._waking.asleep else "listening"

    async def _converse(self) -> None:
        if not self._appliance.warm:
            return
        await self._fall_asleep()
        options = SessionOptions(detect=not self._manual)
        opened = self._appliance.live.session(options, origin=SessionOrigin("mic"))
        async with opened as (session, events), anyio.create_task_group() as group:
            self._session, self.state = session, self._resting
            group.start_soon(self._follow, events)
            if self._mode == "hands_free":
                self._chime("listening")
            self._tell("listening", self._waking.words if self._waking is not None else "")
            try:
                async for block in self.devices.heard():
                    await self._hear(session, block)
                    session.report_playback(max(0.0, self.devices.played / RATE - self._chimed))
            finally:
                self._session, self._held = None, False
                group.cancel_scope.cancel()

    async def _fall_asleep(self) -> None:
        """A new stream begins: it has to be woken, where it has a wake word."""
        if self._mode == "wake_word":
            settings, engines = self._appliance.settings, self._appliance.engines
            await engines.wake_word.open()
            self._waking = WakeWordGate(engines, settings.audio_device.awake_seconds, settings.vad.threshold)

    async def _hear(self, session: LiveSession, block: Samples) -> None:
        """Give the session what is meant for it."""
        meant = block
        if self._waking is not None:
            meant, change = self._waking.hear(block, session.busy or self._sounding)
            if change == "woken":
                self._appliance.metrics.wakes.labels("word").inc()
                await self._begin_anew(session, "listening")
                self._tell("awake", "")
            elif change == "waiting":
                # Not while somebody goes on without a pause: cancelling its echo would cost some of their words.
                self._chime("listening")
            elif change == "asleep":
                self.state = "asleep"
                self._chime("done")
                self._tell("asleep", self._waking.words)
        elif self._held and time.monotonic() > self._until:
            await self.release()
        if len(meant) and (self._held or not self._manual):
            await session.feed(meant)
        self._wait(len(block) / RATE)

    def _wait(self, seconds: float) -> None:
        """Say that it takes long, once."""
        if self._silence is not None:
            self._silence += seconds
            if self._silence >= LONG:
                self._silence = None
                self._chime("thinking")

    async def _begin_anew(self, session: LiveSession, state: str) -> None:
        """Whatever was being said or answered, somebody calls now."""
        await session.cancel()
        session.clear()
        self._clear()
        self.state, self._silence = state, None

    async def _follow(self, events: MemoryObjectReceiveStream[LiveEvent]) -> None:
        answer = ""
        async for event in events:
            self._play(event)
            if isinstance(event, TextDelta):
                answer += event.text
            elif isinstance(event, ResponseStarted):
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
        elif isinstance(event, (Interrupted, ResponseStarted)):
            self._clear()
        elif isinstance(event, Failed):
            self._chime("error")

    def _show(self, event: LiveEvent) -> None:
        """What is to be seen."""
        if isinstance(event, SpeechStarted):
            self.state = "hearing"
        elif isinstance(event, ResponseStarted):
            self.state, self._silence = "thinking", 0.0
        elif isinstance(event, (SpeechStopped, TurnEnded)) or self._gave_up(event):
            self.state, self._silence = self._resting, None
        elif isinstance(event, Speech):
            self._silence = None
        elif isinstance(event, Transcript):
            self._tell("heard" if event.final else "partial", event.text)
        elif isinstance(event, Failed):
            self._tell("error", event.error.message)
        if isinstance(event, Interrupted):
            self._tell("interrupted", event.text)

    def _gave_up(self, event: LiveEvent) -> bool:
        """Whether the answer it is thinking of will not come; while somebody speaks against one, they are heard."""
        return isinstance(event, Interrupted) and self.state == "thinking"

    def _clear(self) -> None:
        self.devices.clear()
        self._chimed = 0.0

    def _chime(self, name: Chime) -> None:
        """Only in silence, and so before all of an answer, whose sound is counted from its first sample on."""
        if self._chimes and not self.devices.playing:
            self.devices.play(chime(name))
            self._chimed += chime(name).seconds
