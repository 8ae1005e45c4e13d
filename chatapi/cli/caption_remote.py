"""Captions by a server: audio goes to a Realtime session that only transcribes, and transcripts come back."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import anyio
import numpy as np

from chatapi.audio import RATE, Audio, Resampled, Samples, wav
from chatapi.errors import BadInput, NotReady, WaitAndRetry
from chatapi.events import Transcript
from chatapi.interfaces.audio_device.realtime_link import Event, RealtimeAddress, RealtimeLink, open_link
from chatapi.services.captions.captioner import SILENCE_MS, SPEAKER_SILENCE_MS, CaptionOptions

WIRE_RATE = 24_000
"""Sample rate on the wire, in hertz, 16 bits a sample."""
BATCH = RATE // 25
"""Least samples of a message: 40 ms."""
RECONNECT_SECONDS, MAX_RECONNECT_SECONDS = 0.5, 10.0
"""First and longest delay between two attempts to reconnect, in seconds."""
LAST_WORDS_SECONDS = 30.0
"""Longest wait for the transcript of the last words, in seconds."""
LABEL_SECONDS = 2.0
"""Longest wait for the speaker of the last words, in seconds."""
TRANSCRIPTION = "conversation.item.input_audio_transcription."
HIDDEN_ERRORS = ("input_audio_buffer_commit_empty",)


@dataclass
class _Times:
    """When an utterance starts and ends, in seconds of the session."""

    start: float = 0.0
    end: float = 0.0


class RemoteCaptioner:
    """The captions of one stream. `run` keeps it connected; audio is dropped while it is not."""

    def __init__(
        self,
        address: RealtimeAddress,
        options: CaptionOptions,
        show: Callable[[Transcript], None],
        notice: Callable[[str], None],
    ) -> None:
        self.connected = anyio.Event()
        """Set when the server has answered for the first time."""
        self._address, self._options, self._show, self._notice = address, options, show, notice
        self._link: RealtimeLink | None = None
        self._fed = self._offset = 0.0
        """Audio received, and what was received before the present session, in seconds."""
        self._waiting: list[Samples] = []
        self._resampled = Resampled(RATE, WIRE_RATE)
        self._times: dict[str, _Times] = {}
        self._unlabelled: Transcript | None = None
        """A line whose speaker may follow."""
        self._labelled = anyio.Event()
        """Set when that line has its speaker, or gets none."""
        self._finished = anyio.Event()
        """Set when the last words have come."""

    async def feed(self, samples: Samples, settled: bool = False) -> None:
        """Sends the next samples, 16 kHz mono; `settled`: in real time, for a source that waits."""
        self._fed += len(samples) / RATE
        self._waiting.append(samples)
        if sum(map(len, self._waiting)) >= BATCH:
            together, self._waiting = np.concatenate(self._waiting), []
            await self._append(self._resampled.feed(together))
        if settled:
            await anyio.sleep(len(samples) / RATE)

    async def finish(self) -> None:
        """Waits for the last words."""
        link = self._link
        if link is None:
            return
        await self._append(
            np.concatenate(
                [
                    self._resampled.feed(np.concatenate([*self._waiting, np.zeros(0, np.float32)])),
                    self._resampled.finish(),
                ]
            )
        )
        self._finished = anyio.Event()
        await link.send("input_audio_buffer.commit")
        with anyio.move_on_after(LAST_WORDS_SECONDS):
            await self._finished.wait()
            if self._unlabelled is not None:
                # The speaker follows the words at once, if there is a label.
                with anyio.move_on_after(LABEL_SECONDS):
                    await self._labelled.wait()
        self._release()

    async def run(self) -> None:
        """Connects, and again after every loss, until cancelled. Raises the errors of the first connection, and those
        that a retry does not fix."""
        pause, lost = RECONNECT_SECONDS, False
        while True:
            try:
                async with open_link(self._address, None, transcribes=True) as link:
                    if lost:
                        self._notice(f"connected to {self._address.name} again")
                    pause, lost = RECONNECT_SECONDS, False
                    await self._handle_events(link)
            except WaitAndRetry as error:
                if not self.connected.is_set() and not isinstance(error, NotReady):
                    raise
                if not lost:
                    self._notice(f"{error.message}; connecting again")
                lost = True
            await anyio.sleep(pause)
            pause = min(MAX_RECONNECT_SECONDS, pause * 2)

    async def _append(self, samples: Samples) -> None:
        if self._link is not None and len(samples):
            # Events of a server are limited in size; a file comes in larger blocks than a microphone.
            for start in range(0, len(samples), WIRE_RATE):
                audio = base64.b64encode(Audio(samples[start : start + WIRE_RATE], WIRE_RATE).pcm16()).decode()
                await self._link.send("input_audio_buffer.append", audio=audio)

    def _session(self) -> dict[str, Any]:
        options = self._options
        silence = SPEAKER_SILENCE_MS if options.speakers else SILENCE_MS
        transcription = {"language": options.language, "prompt": options.transcription.prompt or None}
        extension: dict[str, Any] = {"pausing": True, "speakers": options.speakers}
        if options.known:
            extension["known_speaker_names"] = [each.name for each in options.known]
            extension["known_speaker_references"] = [
                f"data:audio/wav;base64,{base64.b64encode(wav(Audio(each.samples, RATE))).decode()}"
                for each in options.known
            ]
        return {
            "type": "transcription",
            "chatapi": extension,
            "audio": {
                "input": {
                    "transcription": {name: value for name, value in transcription.items() if value},
                    "turn_detection": {"type": "server_vad", "silence_duration_ms": silence},
                }
            },
        }

    async def _handle_events(self, link: RealtimeLink) -> None:
        await link.send("session.update", session=self._session())
        try:
            async for event in link.events():
                if event["type"] == "session.updated":
                    self._offset, self._link, self._times = self._fed, link, {}
                    self.connected.set()
                self._handle(event)
        finally:
            self._link = None
            self._release()

    def _handle(self, event: Event) -> None:
        kind, times = event["type"], self._times
        if self._unlabelled is not None:
            speaker = event["speaker"] if kind == f"{TRANSCRIPTION}segment" else ""
            self._release(speaker)
        if kind == "input_audio_buffer.speech_started":
            times[event["item_id"]] = _Times(event["audio_start_ms"] / 1000)
        elif kind == "input_audio_buffer.speech_stopped" and event["item_id"] in times:
            times[event["item_id"]].end = event["audio_end_ms"] / 1000
        elif kind == "chatapi.transcript.partial":
            start = max((each.start for each in times.values()), default=0.0)
            self._show(Transcript(event["text"], False, self._offset + start))
        elif kind == f"{TRANSCRIPTION}completed":
            self._completed(event)
        elif kind == "error":
            self._error(event["error"])

    def _completed(self, event: Event) -> None:
        found = self._times.pop(event["item_id"], _Times())
        if event["transcript"]:
            self._labelled = anyio.Event()
            start, end = self._offset + found.start, self._offset + max(found.start, found.end)
            self._unlabelled = Transcript(event["transcript"], True, start, end, self._options.language or "")
        if not self._options.speakers:
            self._release()
        if self._times:
            return
        self._finished.set()

    def _release(self, speaker: str = "") -> None:
        line, self._unlabelled = self._unlabelled, None
        self._labelled.set()
        if line is not None:
            self._show(replace(line, speaker=speaker))

    def _error(self, error: Event) -> None:
        self._finished.set()
        if not self.connected.is_set():
            raise BadInput(f"{self._address.name} rejects the session: {error['message']}", code=str(error.get("code")))
        if error.get("code") not in HIDDEN_ERRORS:
            self._notice(error["message"])
