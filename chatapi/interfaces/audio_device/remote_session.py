"""A conversation with a box elsewhere: this machine's microphone and speaker, its thoughts.

What is heard and said goes over the box's Realtime door, whose words stand here as they are on the wire. The echo of
the speaker is taken out here, where the speaker is.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import numpy as np

from chatapi.audio import RATE, Audio, Resampled, Samples
from chatapi.client.realtime import Event, RealtimeAddress, RealtimeLink, open_link
from chatapi.errors import NotFound, NotReady, WaitAndRetry
from chatapi.interfaces.audio_device.chimes import Chime, chime
from chatapi.interfaces.audio_device.devices import AudioDevices
from chatapi.settings import AudioDeviceSettings

log = logging.getLogger(__name__)

WIRE = 24_000
"""Samples a second on the wire, 16 bits each: the most that the door takes."""
BATCH = 2
"""Blocks of 20 ms sent at once: half the messages for 20 ms."""
AGAIN, RARELY = 0.5, 10.0
"""Seconds between the first two attempts to reach the box again, and the most that they become."""
NO_MATTER = ("input_audio_buffer_commit_empty", "session_idle")
"""Errors that mean nothing to whoever speaks: nothing was said, and for long."""

Tell = Callable[[str, str], None]
"""Told what happens (listening, heard, partial, answer, interrupted, error, gone, back) and the words with it."""


class RemoteConversation:
    """Goes on for as long as `run` does, whatever happens to devices, the network and the box."""

    def __init__(self, mic: AudioDeviceSettings, at: RealtimeAddress, tell: Tell) -> None:
        self.devices = AudioDevices(mic.input, mic.output, mic.cancel_echo)
        self._chimes = mic.chimes
        self._manual = mic.mode == "push_to_talk"
        self._place = at
        self._tell = tell
        self._held = False
        self._link: RealtimeLink | None = None
        self._conversation: str | None = None
        self._answered = False
        """Whether the box has something of this conversation to remember."""
        self._outgoing = _Outgoing()
        self._response = ""
        """The answer that may be heard; empty once it is over or was cut short."""
        self._incoming: Resampled | None = None
        self._rate = WIRE
        """Samples a second that come out of it."""
        self._reported: tuple[str, int] = ("", 0)
        self._takers: dict[str, Callable[[Event], Awaitable[None] | None]] = {
            "input_audio_buffer.speech_started": self._hush,
            "input_audio_buffer.committed": self._committed,
            "chatapi.output_audio.paused": lambda _: self.devices.pause(),
            "chatapi.output_audio.resumed": lambda _: self.devices.resume(),
            "chatapi.transcript.partial": lambda event: self._tell("partial", event["text"]),
            "chatapi.interrupted": self._interrupted,
            "conversation.item.input_audio_transcription.completed": self._heard,
            "conversation.item.input_audio_transcription.failed": self._fault,
            "response.created": self._created,
            "response.output_audio.delta": self._speech,
            "response.output_audio.done": self._spoken,
            "response.done": self._done,
            "error": self._fault,
        }

    async def run(self) -> None:
        """Talk until cancelled. Raises SettingsError without a sound library, and what keeps the box from answering
        that waiting does not mend; when it was never reached, that as well."""
        async with self.devices.running(), anyio.create_task_group() as group:
            group.start_soon(self._listen)
            await self._stay()

    @property
    def pressed(self) -> bool:
        """Whether the key is held."""
        return self._held

    async def press(self) -> None:
        """Push-to-talk: what is said from now on is meant."""
        self._hush()
        if self._link is not None:
            await self._link.send("output_audio_buffer.clear")
            await self._link.send("input_audio_buffer.clear")
        self._outgoing = _Outgoing()
        self._held = True
        self._chime("listening")

    async def release(self) -> None:
        """Push-to-talk: all has been said."""
        self._held = False
        if self._link is not None:
            await self._append(self._link, self._outgoing.finish())
            await self._link.send("input_audio_buffer.commit")

    # The box

    async def _stay(self) -> None:
        """Be with the box, and come back to it."""
        met = lost = False
        pause = AGAIN
        while True:
            try:
                async with open_link(self._place, self._conversation) as link:
                    self._welcome(link, met, lost)
                    met, lost, pause = True, False, AGAIN
                    await self._converse(link)
            except NotFound:
                if self._answered:
                    self._tell("error", "the box has forgotten what was said; a new conversation begins")
                self._conversation, self._answered = None, False
                continue
            except WaitAndRetry as error:
                if not met and not isinstance(error, NotReady):
                    raise
                if not lost:
                    self._tell("gone", error.message)
                lost = True
            await anyio.sleep(pause)
            pause = min(RARELY, pause * 2)

    def _welcome(self, link: RealtimeLink, met: bool, lost: bool) -> None:
        self._conversation = link.conversation
        if lost:
            self._tell("back", self._place.name)
        if not met:
            self._tell("listening", "")
        if lost or not met:
            self._chime("listening")

    async def _converse(self, link: RealtimeLink) -> None:
        """Until the box is gone, of which it raises WaitAndRetry."""
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
                if (taker := self._takers.get(kind)) is not None and (rest := taker(event)) is not None:
                    await rest
                if event.get("error", {}).get("code") == "session_idle":
                    return
        finally:
            self._link, self._response = None, ""
            if paused:
                # Nobody is left to say how it goes on.
                self.devices.clear()

    # The microphone

    async def _listen(self) -> None:
        """What is heard, to the box; while it is gone, to nobody."""
        async for block in self.devices.heard():
            if (link := self._link) is None:
                continue
            if self._held or not self._manual:
                await self._append(link, self._outgoing.feed(block))
            await self._report(link)

    @staticmethod
    async def _append(link: RealtimeLink, samples: Samples) -> None:
        if len(samples):
            sound = base64.b64encode(Audio(samples, WIRE).pcm16()).decode()
            await link.send("input_audio_buffer.append", audio=sound)

    async def _report(self, link: RealtimeLink) -> None:
        """How much of the answer has been heard, whenever that has changed by 50 ms."""
        response, played = self._response, round(self.devices.played / RATE * 1000)
        if response and (self._reported[0] != response or abs(played - self._reported[1]) >= 50 or (
            played != self._reported[1] and not self.devices.playing
        )):  # fmt: skip
            self._reported = (response, played)
            await link.send("chatapi.played", audio_end_ms=played, response_id=response)

    # What the box tells

    def _hush(self, _: Event | None = None) -> None:
        """Nothing more of the answer is to be heard."""
        self._response = ""
        self.devices.clear()

    def _committed(self, _: Event) -> None:
        if self._manual:
            self._chime("heard")

    async def _heard(self, event: Event) -> None:
        self._tell("heard", event["transcript"])
        if self._manual and event["transcript"] and self._link is not None:
            await self._link.send("response.create")

    def _created(self, event: Event) -> None:
        self.devices.clear()
        self._response = event["response"]["id"]
        self._incoming = None

    def _speech(self, event: Event) -> None:
        if event["response_id"] == self._response:
            ints = np.frombuffer(base64.b64decode(event["delta"]), "<i2")
            self._play(ints.astype(np.float32) / np.float32(32768))

    def _spoken(self, event: Event) -> None:
        if event["response_id"] == self._response:
            if self._incoming is not None:
                self.devices.play(Audio(self._incoming.finish(), self._rate))
            self._incoming = None

    def _play(self, samples: Samples) -> None:
        # At the device's own rate.
        rate = self.devices.rate
        if self._incoming is None:
            self._incoming, self._rate = Resampled(WIRE, rate), rate
        self.devices.play(Audio(self._incoming.feed(samples), self._rate))

    def _done(self, event: Event) -> None:
        response = event["response"]
        status, details = response["status"], response.get("status_details") or {}
        if status == "cancelled":
            self._hush()
            return
        self._answered = True
        if status == "failed" and details.get("error"):
            self._fault(details)
        parts = [part for item in response["output"] for part in item["content"]]
        self._tell("answer", " ".join(part.get("transcript") or part.get("text") or "" for part in parts).strip())

    def _interrupted(self, event: Event) -> None:
        self._hush()
        self._answered = True
        self._tell("interrupted", event["text"])

    def _fault(self, event: Event) -> None:
        if event["error"].get("code") not in NO_MATTER:
            self._tell("error", event["error"]["message"])
            self._chime("error")

    def _chime(self, name: Chime) -> None:
        if self._chimes and not self.devices.playing:
            self.devices.play(chime(name))


class _Outgoing:
    """Blocks of the microphone on their way to the wire."""

    def __init__(self) -> None:
        self._resampled = Resampled(RATE, WIRE)
        self._waiting: list[Samples] = []

    def feed(self, block: Samples) -> Samples:
        """At the wire's rate; nothing until there is enough for a message."""
        self._waiting.append(block)
        if len(self._waiting) < BATCH:
            return np.zeros(0, np.float32)
        together, self._waiting = np.concatenate(self._waiting), []
        return self._resampled.feed(together)

    def finish(self) -> Samples:
        """The rest; it takes no more."""
        return np.concatenate([*map(self._resampled.feed, self._waiting), self._resampled.finish()])
