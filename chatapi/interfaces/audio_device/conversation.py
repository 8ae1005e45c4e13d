"""The local conversation: the box's microphone and speaker as one live session."""

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
    FellAsleep,
    Interrupted,
    LiveEvent,
    ResponseStarted,
    Resumed,
    Speech,
    SpeechStarted,
    SpeechStopped,
    TextDelta,
    TextWithdrawn,
    Transcript,
    TurnEnded,
    WaitingForSpeech,
    WokenUp,
)
from chatapi.interfaces.audio_device.chimes import Chime, chime
from chatapi.interfaces.audio_device.devices import AudioDevices
from chatapi.services.live import LiveSession, SessionOptions, SessionOrigin

log = logging.getLogger(__name__)

RESTART_SECONDS = 2.0
"""Delay before a session that ended is restarted, in seconds."""
THINKING_CHIME_SECONDS = 2.0
"""Wait for first audio after which the "thinking" chime plays, in seconds."""

OnEvent = Callable[[str, str], None]
"""Called with the kind of an event (listening, awake, asleep, transcript, partial, answer, interrupted, error) and its
text; the text of `listening` is the wake word, where there is one."""


def ignore_event(kind: str, text: str) -> None:
    """An `OnEvent` for a box without a screen."""


class LocalConversation:
    """A conversation with the local models; it lasts as long as `run`, whatever happens to devices and engines."""

    def __init__(self, appliance: Appliance, on_event: OnEvent = ignore_event) -> None:
        device = appliance.settings.audio_device
        self.devices = AudioDevices(device.input, device.output, device.cancel_echo)
        self.state = "waiting"
        """waiting (for models), asleep (until the wake word or the key), listening, hearing, thinking or failing."""
        self.roles: tuple[str, ...] = ("wake_word",) if device.mode == "wake_word" else ()
        """Roles whose engines it needs beyond those of every turn."""
        self._appliance = appliance
        self._chimes = device.chimes
        self._mode = device.mode
        self._manual = device.mode == "push_to_talk"
        self._key_held = False
        self._key_deadline = 0.0
        """Time on the monotonic clock when a key that is still held counts as released."""
        self._key_lock = anyio.Lock()
        self._session: LiveSession | None = None
        self._wake_words: str | None = None
        """The wake word of the last session; None: it needs none."""
        self._chime_seconds = 0.0
        """Seconds of chimes in what the devices played since they were last cleared."""
        self._response_wait: float | None = None
        """Seconds since the response started, until its first audio; None when no response is pending."""
        self._notify = on_event

    @property
    def health(self) -> dict[str, Any]:
        """Plain values: the mode, the state, the wake word, and the state of both devices."""
        state = "speaking" if self._audible else self.state
        words = self._session.wake_words if self._session is not None else self._wake_words
        return {"mode": self._mode, "state": state, "wake_word": words, **self.devices.state}

    async def run(self) -> None:
        """Runs until cancelled. Raises SettingsError when there is no sound library."""
        async with self.devices.running():
            while True:
                try:
                    await self._run_session()
                except WaitAndRetry:
                    self.state = "waiting"
                except ChatapiError as error:
                    self.state = "failing"
                    log.warning("local conversation failed: %s", error.message)
                    self._notify("error", error.message)
                await anyio.sleep(RESTART_SECONDS)

    async def press(self) -> None:
        """Starts a push-to-talk utterance, of live.turn_seconds at most; does nothing while the key is held.

        Raises WrongMode in another mode, NotReady while models or the microphone are not ready.
        """
        self._require_mode("push_to_talk")
        async with self._key_lock:
            if not self._key_held:
                await self._start_utterance(self._ready_session(), "hearing")
                self._chime("listening")
                self._key_deadline = time.monotonic() + self._appliance.settings.live.turn_seconds
                self._key_held = True

    async def release(self) -> None:
        """Ends the push-to-talk utterance; does nothing when the key is not held. Raises WrongMode in another mode."""
        self._require_mode("push_to_talk")
        async with self._key_lock:
            if self._key_held:
                self._key_held = False
                self._chime("committed")
                if self._session is None or not await self._session.commit():
                    self.state = self._idle_state

    async def wake(self) -> None:
        """Wakes it as the wake word does. Raises WrongMode in another mode, NotReady as `press` does."""
        self._require_mode("wake_word")
        await self._ready_session().wake()

    @property
    def pressed(self) -> bool:
        """Whether the key is held."""
        return self._key_held

    def _require_mode(self, mode: str) -> None:
        if self._mode != mode:
            raise WrongMode(f"audio_device.mode is {self._mode}; this needs {mode}", code="wrong_mode")

    def _ready_session(self) -> LiveSession:
        microphone = self.devices.state["input"]
        if self._session is None or microphone["state"] != "ok":
            raise NotReady(f"the microphone is not ready {microphone['error']}".rstrip(), retry_after=2)
        return self._session

    @property
    def _audible(self) -> bool:
        """Whether audio is playing; audio that waits for a lost speaker is not."""
        return self.devices.playing and self.devices.state["output"]["state"] == "ok"

    @property
    def _idle_state(self) -> str:
        """The state when nobody speaks and no response is pending."""
        if self._manual:
            return "hearing" if self._key_held else "asleep"
        return "asleep" if self._session is not None and self._session.asleep else "listening"

    async def _run_session(self) -> None:
        if not self._appliance.warm:
            return
        settings = self._appliance.settings
        options, device = SessionOptions(not self._manual, commands=settings.commands.listen), settings.audio_device
        awake_seconds = device.awake_seconds if self._mode == "wake_word" else None
        origin = SessionOrigin("audio_device")
        opened = self._appliance.live.session(options, origin=origin, awake_seconds=awake_seconds)
        async with opened as (session, events), anyio.create_task_group() as group:
            self._session, self._wake_words = session, session.wake_words
            self.state = self._idle_state
            group.start_soon(self._handle_events, events)
            if self._mode == "hands_free":
                self._chime("listening")
            self._notify("listening", session.wake_words or "")
            try:
                async for block in self.devices.captured():
                    await self._feed(session, block)
                    session.report_playback(max(0.0, self.devices.played / RATE - self._chime_seconds))
            finally:
                self._session, self._key_held = None, False
                group.cancel_scope.cancel()

    async def _feed(self, session: LiveSession, block: Samples) -> None:
        if self._key_held and time.monotonic() > self._key_deadline:
            await self.release()
        if self._key_held or not self._manual:
            await session.feed(block, self._audible)
        self._chime_when_slow(len(block) / RATE)

    def _chime_when_slow(self, seconds: float) -> None:
        """Plays the "thinking" chime once when first audio takes long; `seconds`: time that passed."""
        if self._response_wait is not None:
            self._response_wait += seconds
            if self._response_wait >= THINKING_CHIME_SECONDS:
                self._response_wait = None
                self._chime("thinking")

    async def _start_utterance(self, session: LiveSession, state: str) -> None:
        """Cancels the current utterance and response, because a new utterance starts."""
        await session.cancel()
        session.clear()
        self._clear()
        self.state, self._response_wait = state, None

    async def _handle_events(self, events: MemoryObjectReceiveStream[LiveEvent]) -> None:
        answer = ""
        async for event in events:
            self._follow_wake_word(event)
            self._play(event)
            if isinstance(event, TextDelta):
                answer += event.text
            elif isinstance(event, (ResponseStarted, TextWithdrawn)):
                answer = ""
            elif isinstance(event, TurnEnded):
                self._notify("answer", answer.strip())
            self._update_state(event)

    def _follow_wake_word(self, event: LiveEvent) -> None:
        """Shows and plays whether the box listens."""
        if isinstance(event, WokenUp):
            self._clear()
            self.state, self._response_wait = "listening", None
            if event.by == "button":
                self._chime("listening")
            self._notify("awake", "")
        elif isinstance(event, WaitingForSpeech):
            # Not while the user speaks on without a pause: cancelling the chime's echo would cost some words.
            self._chime("listening")
        elif isinstance(event, FellAsleep):
            self.state = "asleep"
            self._chime("done")
            self._notify("asleep", self._wake_words or "")

    def _play(self, event: LiveEvent) -> None:
        """Plays, pauses or clears audio for the event."""
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

    def _update_state(self, event: LiveEvent) -> None:
        """Updates the state for the event and notifies the screen."""
        if isinstance(event, SpeechStarted):
            self.state = "hearing"
        elif isinstance(event, ResponseStarted):
            self.state, self._response_wait = "thinking", 0.0
        elif isinstance(event, (SpeechStopped, TurnEnded)) or self._response_cancelled(event):
            self.state, self._response_wait = self._idle_state, None
        elif isinstance(event, Speech):
            self._response_wait = None
        elif isinstance(event, Transcript):
            self._notify("transcript" if event.final else "partial", event.text)
        elif isinstance(event, Failed):
            self._notify("error", event.error.message)
        if isinstance(event, Interrupted):
            self._notify("interrupted", event.text)

    def _response_cancelled(self, event: LiveEvent) -> bool:
        """Whether the pending response was cancelled; during a barge-in the state stays "hearing"."""
        return isinstance(event, Interrupted) and self.state == "thinking"

    def _clear(self) -> None:
        self.devices.clear()
        self._chime_seconds = 0.0

    def _chime(self, name: Chime) -> None:
        """Plays only in silence, and so before a response, whose playback is counted from its first sample."""
        if self._chimes and not self.devices.playing:
            self.devices.play(chime(name))
            self._chime_seconds += chime(name).seconds
