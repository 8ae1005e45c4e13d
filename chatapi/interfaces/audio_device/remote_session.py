"""A conversation with a remote box: the microphone and speaker of this machine, the models of the box.

Audio and events go over the box's Realtime API. Echo cancellation runs here, where the speaker is.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import numpy as np

from chatapi.audio import RATE, Audio, Resampled, Samples
from chatapi.errors import NotFound, NotReady, WaitAndRetry
from chatapi.interfaces.audio_device.chimes import Chime, chime
from chatapi.interfaces.audio_device.devices import AudioDevices
from chatapi.interfaces.audio_device.realtime_link import Event, RealtimeAddress, RealtimeLink, open_link
from chatapi.settings import AudioDeviceSettings

log = logging.getLogger(__name__)

WIRE_RATE = 24_000
"""Sample rate on the wire, in hertz, 16 bits a sample: the highest that the API supports."""
BATCH = 2
"""Blocks of 20 ms in one message: half as many messages for 20 ms more latency."""
RECONNECT_SECONDS, MAX_RECONNECT_SECONDS = 0.5, 10.0
"""First and longest delay between two attempts to reconnect, in seconds."""
HIDDEN_ERRORS = ("input_audio_buffer_commit_empty", "session_idle")
"""Error codes that are not shown to the user: no speech, and an idle session."""

OnEvent = Callable[[str, str], None]
"""Called with the kind of an event (listening, transcript, partial, answer, interrupted, error, disconnected,
reconnected) and its text."""


class RemoteConversation:
    """A conversation that lasts as long as `run`, whatever happens to devices, the network and the box."""

    def __init__(self, settings: AudioDeviceSettings, address: RealtimeAddress, on_event: OnEvent) -> None:
        self.devices = AudioDevices(settings.input, settings.output, settings.cancel_echo)
        self._chimes = settings.chimes
        self._manual = settings.mode == "push_to_talk"
        self._address = address
        self._notify = on_event
        self._key_held = False
        self._link: RealtimeLink | None = None
        self._conversation: str | None = None
        self._answered = False
        """Whether the box has stored a turn of this conversation."""
        self._outgoing = _Outgoing()
        self._response = ""
        """Id of the response that plays; empty once it is done or interrupted."""
        self._incoming: Resampled | None = None
        self._rate = WIRE_RATE
        """Sample rate of its output, in hertz."""
        self._reported: tuple[str, int] = ("", 0)
        self._handlers: dict[str, Callable[[Event], Awaitable[None] | None]] = {
            "input_audio_buffer.speech_started": self._stop_playback,
            "input_audio_buffer.committed": self._on_committed,
            "chatapi.output_audio.paused": lambda _: self.devices.pause(),
            "chatapi.output_audio.resumed": lambda _: self.devices.resume(),
            "chatapi.transcript.partial": lambda event: self._notify("partial", event["text"]),
            "chatapi.interrupted": self._on_interrupted,
            "conversation.item.input_audio_transcription.completed": self._on_transcript,
            "conversation.item.input_audio_transcription.failed": self._on_error,
            "response.created": self._on_response_created,
            "response.output_audio.delta": self._on_audio_delta,
            "response.output_audio.done": self._on_audio_done,
            "response.done": self._on_response_done,
            "error": self._on_error,
        }

    async def run(self) -> None:
        """Runs until cancelled. Raises SettingsError without a sound library, and errors of the box that a retry does
        not fix; also when the box was never reached."""
        async with self.devices.running(), anyio.create_task_group() as group:
            group.start_soon(self._send_audio)
            await self._stay_connected()

    @property
    def pressed(self) -> bool:
        """Whether the key is held."""
        return self._key_held

    async def press(self) -> None:
        """Starts a push-to-talk utterance."""
        self._stop_playback()
        if self._link is not None:
            await self._link.send("output_audio_buffer.clear")
            await self._link.send("input_audio_buffer.clear")
        self._outgoing = _Outgoing()
        self._key_held = True
        self._chime("listening")

    async def release(self) -> None:
        """Ends the push-to-talk utterance."""
        self._key_held = False
        if self._link is not None:
            await self._append(self._link, self._outgoing.finish())
            await self._link.send("input_audio_buffer.commit")

    # Connection

    async def _stay_connected(self) -> None:
        """Connects to the box, and reconnects after every loss."""
        connected_before = disconnected = False
        pause = RECONNECT_SECONDS
        while True:
            try:
                async with open_link(self._address, self._conversation) as link:
                    self._on_connected(link, connected_before, disconnected)
                    connected_before, disconnected, pause = True, False, RECONNECT_SECONDS
                    await self._handle_events(link)
            except NotFound:
                if self._answered:
                    self._notify("error", "the box has no such conversation any more; a new one starts")
                self._conversation, self._answered = None, False
                continue
            except WaitAndRetry as error:
                if not connected_before and not isinstance(error, NotReady):
                    raise
                if not disconnected:
                    self._notify("disconnected", error.message)
                disconnected = True
            await anyio.sleep(pause)
            pause = min(MAX_RECONNECT_SECONDS, pause * 2)

    def _on_connected(self, link: RealtimeLink, connected_before: bool, disconnected: bool) -> None:
        self._conversation = link.conversation
        if disconnected:
            self._notify("reconnected", self._address.name)
        if not connected_before:
            self._notify("listening", "")
        if disconnected or not connected_before:
            self._chime("listening")

    async def _handle_events(self, link: RealtimeLink) -> None:
        """Handles events until the connection ends. Raises WaitAndRetry when it is lost."""
        session: dict[str, Any] = {"type": "realtime", "chatapi": {"pausing": True}}
        if self._manual:
            session["audio"] = {"input": {"turn_detection": None}}
        await link.send("session.update", session=session)
        self._outgoing, self._link, self._reported = _Outgoing(), link, ("", 0)
        paused = False
        try:
            async for event in link.events():
                kind = event["type"]
                paused = kind == "chatapi.output_audio.paused" or (paused and kind != "chatapi.output_audio.resumed")
                if (handler := self._handlers.get(kind)) is not None and (pending := handler(event)) is not None:
                    await pending
                if event.get("error", {}).get("code") == "session_idle":
                    return
        finally:
            self._link, self._response = None, ""
            if paused:
                # The box can no longer resume or interrupt it.
                self.devices.clear()

    # The microphone

    async def _send_audio(self) -> None:
        """Sends captured audio to the box; drops it while disconnected."""
        async for block in self.devices.captured():
            if (link := self._link) is None:
                continue
            if self._key_held or not self._manual:
                await self._append(link, self._outgoing.feed(block))
            await self._report_playback(link)

    @staticmethod
    async def _append(link: RealtimeLink, samples: Samples) -> None:
        if len(samples):
            audio = base64.b64encode(Audio(samples, WIRE_RATE).pcm16()).decode()
            await link.send("input_audio_buffer.append", audio=audio)

    async def _report_playback(self, link: RealtimeLink) -> None:
        """Reports how much of the response has been played, whenever that has changed by 50 ms."""
        response, played = self._response, round(self.devices.played / RATE * 1000)
        if response and (self._reported[0] != response or abs(played - self._reported[1]) >= 50 or (
            played != self._reported[1] and not self.devices.playing
        )):  # fmt: skip
            self._reported = (response, played)
            await link.send("chatapi.played", audio_end_ms=played, response_id=response)

    # Server events

    def _stop_playback(self, _: Event | None = None) -> None:
        """Stops playback of the response."""
        self._response = ""
        self.devices.clear()

    def _on_committed(self, _: Event) -> None:
        if self._manual:
            self._chime("committed")

    async def _on_transcript(self, event: Event) -> None:
        self._notify("transcript", event["transcript"])
        if self._manual and event["transcript"] and self._link is not None:
            await self._link.send("response.create")

    def _on_response_created(self, event: Event) -> None:
        self.devices.clear()
        self._response = event["response"]["id"]
        self._incoming = None

    def _on_audio_delta(self, event: Event) -> None:
        if event["response_id"] == self._response:
            ints = np.frombuffer(base64.b64decode(event["delta"]), "<i2")
            self._play(ints.astype(np.float32) / np.float32(32768))

    def _on_audio_done(self, event: Event) -> None:
        if event["response_id"] == self._response:
            if self._incoming is not None:
                self.devices.play(Audio(self._incoming.finish(), self._rate))
            self._incoming = None

    def _play(self, samples: Samples) -> None:
        # Resampled to the device's own rate.
        rate = self.devices.rate
        if self._incoming is None:
            self._incoming, self._rate = Resampled(WIRE_RATE, rate), rate
        self.devices.play(Audio(self._incoming.feed(samples), self._rate))

    def _on_response_done(self, event: Event) -> None:
        response = event["response"]
        status, details = response["status"], response.get("status_details") or {}
        if status == "cancelled":
            self._stop_playback()
            return
        self._answered = True
        if status == "failed" and details.get("error"):
            self._on_error(details)
        parts = [part for item in response["output"] for part in item["content"]]
        self._notify("answer", " ".join(part.get("transcript") or part.get("text") or "" for part in parts).strip())

    def _on_interrupted(self, event: Event) -> None:
        self._stop_playback()
        self._answered = True
        self._notify("interrupted", event["text"])

    def _on_error(self, event: Event) -> None:
        if event["error"].get("code") not in HIDDEN_ERRORS:
            self._notify("error", event["error"]["message"])
            self._chime("error")

    def _chime(self, name: Chime) -> None:
        if self._chimes and not self.devices.playing:
            self.devices.play(chime(name))


class _Outgoing:
    """Batches and resamples captured blocks for the wire."""

    def __init__(self) -> None:
        self._resampled = Resampled(RATE, WIRE_RATE)
        self._waiting: list[Samples] = []

    def feed(self, block: Samples) -> Samples:
        """Samples at the wire's rate; empty until there are enough for a message."""
        self._waiting.append(block)
        if len(self._waiting) < BATCH:
            return np.zeros(0, np.float32)
        together, self._waiting = np.concatenate(self._waiting), []
        return self._resampled.feed(together)

    def finish(self) -> Samples:
        """The rest; `feed` must not be called afterwards."""
        return np.concatenate([*map(self._resampled.feed, self._waiting), self._resampled.finish()])
