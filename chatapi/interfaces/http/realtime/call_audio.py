"""The audio of a call over WebRTC: the client's microphone, and the box's answers."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction

import anyio
import numpy as np
import numpy.typing as npt
from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError
from av import AudioFrame

from chatapi.audio import RATE, Resampled, Samples
from chatapi.interfaces.http.realtime.audio_format import RATES, decode_audio

OUTPUT_RATE = RATES["audio/pcm"]
"""Sample rate of the output track, in hertz; the encoder resamples it."""
FRAME = OUTPUT_RATE // 50
"""Samples of a frame of output, 20 ms."""
LATE_SECONDS = 0.5
"""Time without input after which silence is processed, in seconds: the turn of a client that mutes itself ends."""
MOST_SECONDS = 900
"""Most queued audio, in seconds; further audio is dropped."""

Pcm = npt.NDArray[np.int16]


@dataclass
class _QueuedResponse:
    """The audio of one response that is not played yet."""

    id: str
    parts: deque[Pcm] = field(default_factory=deque)
    samples: int = 0
    started: bool = False
    complete: bool = False
    """Whether no further audio follows."""

    def take(self, count: int) -> Pcm:
        """The next samples; fewer when there are no more."""
        taken: list[Pcm] = []
        while self.parts and count:
            part = self.parts.popleft()
            taken.append(part[:count])
            if len(part) > count:
                self.parts.appendleft(part[count:])
            count -= len(taken[-1])
            self.samples -= len(taken[-1])
        return np.concatenate(taken) if taken else np.zeros(0, np.int16)


class CallOutput(MediaStreamTrack):
    """The output track: the responses one after another in real time, and silence between them."""

    kind = "audio"

    def __init__(self, notify: Callable[[str, str], None]) -> None:
        """`notify` is called with the type of an event and the id of its response when the playback of a response
        starts or ends."""
        super().__init__()
        self._notify = notify
        self._responses: deque[_QueuedResponse] = deque()
        self._cleared: deque[str] = deque(maxlen=16)
        """Ids of the last responses that were cleared, of which further audio may still come."""
        self._begin: float | None = None
        self._position = 0
        """Samples sent."""

    async def play(self, response_id: str, audio: str) -> None:
        """Queues base64 audio, PCM at 24 kHz, for a response."""
        if response_id in self._cleared:
            return
        queued = next((each for each in self._responses if each.id == response_id), None)
        if queued is None:
            queued = _QueuedResponse(response_id)
            self._responses.append(queued)
        pcm = np.rint(decode_audio(audio, "audio/pcm") * 32768).astype(np.int16)
        if sum(each.samples for each in self._responses) + len(pcm) <= MOST_SECONDS * OUTPUT_RATE:
            queued.parts.append(pcm)
            queued.samples += len(pcm)

    def clear(self, response_id: str | None) -> str | None:
        """Stops the playback, drops what is queued and further audio of this response; returns the id of the response
        that was being played."""
        playing = self._responses[0].id if self._responses and self._responses[0].started else None
        self._cleared.extend(each.id for each in self._responses)
        if response_id is not None:
            self._cleared.append(response_id)
        self._responses.clear()
        return playing

    async def response_done(self, response_id: str) -> None:
        """No further audio of this response follows."""
        for each in self._responses:
            each.complete = each.complete or each.id == response_id

    async def recv(self) -> AudioFrame:
        """The next frame, when it is due."""
        if self.readyState != "live":
            raise MediaStreamError
        now = time.monotonic()
        if self._begin is None:
            self._begin = now
        due = self._begin + self._position / OUTPUT_RATE
        if now - due > 1:
            # The machine was suspended or overloaded: a burst of old frames would be played late.
            self._begin += now - due
        await asyncio.sleep(max(0.0, due - now))
        samples = np.zeros(FRAME, np.int16)
        taken = self._next(FRAME)
        samples[: len(taken)] = taken
        frame = AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = OUTPUT_RATE, self._position, Fraction(1, OUTPUT_RATE)
        self._position += FRAME
        return frame

    def _next(self, count: int) -> Pcm:
        """The next samples of the first response; tells when it starts and ends."""
        while self._responses:
            first = self._responses[0]
            if first.samples:
                if not first.started:
                    first.started = True
                    self._notify("output_audio_buffer.started", first.id)
                return first.take(count)
            if not first.complete:
                break
            self._responses.popleft()
            if first.started:
                self._notify("output_audio_buffer.stopped", first.id)
        return np.zeros(0, np.int16)


class CallInput:
    """The client's microphone, as samples at 16 kHz."""

    def __init__(self, track: MediaStreamTrack) -> None:
        self._track = track
        self._rate = 0
        self._resampled: Resampled | None = None

    async def next(self) -> Samples | None:
        """The next samples; silence when the client sends nothing; None: the track has ended."""
        try:
            with anyio.move_on_after(LATE_SECONDS):
                frame = await self._track.recv()
                return self._converted(frame) if isinstance(frame, AudioFrame) else np.zeros(0, np.float32)
        except MediaStreamError:
            return None
        return np.zeros(round(LATE_SECONDS * RATE), np.float32)

    def _converted(self, frame: AudioFrame) -> Samples:
        samples = frame.to_ndarray().reshape(-1, len(frame.layout.channels)).mean(axis=1, dtype=np.float32)
        if self._resampled is None or frame.sample_rate != self._rate:
            self._rate, self._resampled = frame.sample_rate, Resampled(frame.sample_rate, RATE)
        return self._resampled.feed(samples / np.float32(32768))
