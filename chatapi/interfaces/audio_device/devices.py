"""The microphone and the speaker as one object that outlives its devices: a lost device is opened again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal

import anyio
import anyio.to_thread

from chatapi.audio import Audio, Samples
from chatapi.errors import NotReady, SettingsError, collapse_exception_group
from chatapi.interfaces.audio_device import portaudio
from chatapi.interfaces.audio_device.capture import Capture
from chatapi.interfaces.audio_device.echo_cancellation import EchoCanceller
from chatapi.interfaces.audio_device.playback import Playback
from chatapi.interfaces.audio_device.portaudio import AudioStream, DeviceFault, Direction
from chatapi.runtime.engine_threads import call_in

log = logging.getLogger(__name__)

CHECK = 0.1
"""Interval between checks of the devices, in seconds."""
SILENT = 0.5
"""Time without a block after which a device counts as lost, in seconds."""
FIRST_BLOCK = 1.5
"""Longest time to the first block, in seconds; wireless devices need more than one second."""
PROBE = 0.5
"""Interval between probes whether a working stream is still on the device that was opened, in seconds."""
RETRY = 0.5
"""Delay before a device is opened again, in seconds."""
CLOSE_TIMEOUT, OPEN_TIMEOUT = 1.0, 5.0
"""Longest time for closing and for opening, in seconds; a call that takes longer is abandoned on its thread."""
RESCAN = 30.0
"""Interval between rescans for a missing device that interrupt the other device, in seconds."""


class _Side:
    """One of the two devices, with its stream and state."""

    def __init__(self, direction: Direction, requested: str) -> None:
        self.direction: Direction = direction
        self.requested = requested
        self.stream: AudioStream | None = None
        self.name = requested
        self.state: Literal["opening", "ok", "lost"] = "opening"
        self.error = ""
        self.reopened = 0
        self.ended = False
        """Whether PortAudio reported the end of the stream."""
        self.opened: list[AudioStream] = []
        """Holds its newest stream once that is open."""
        self.retry = 0.0
        """Time of the next attempt to open it, on the monotonic clock."""
        self.probed = 0.0
        """Time of the last probe, on the monotonic clock."""
        self._was_lost = False

    def fault(self) -> str:
        """Why its stream cannot be used any more; empty while it works."""
        if (stream := self.stream) is None:
            return ""
        if self.ended or not stream.active:
            return f"{self.name!r} is gone"
        limit = SILENT if stream.blocks else FIRST_BLOCK
        return f"{self.name!r} delivered no audio for {limit:g} s" if stream.age > limit else ""

    def mark_lost(self, error: str) -> None:
        if self.state != "lost":
            log.warning("%s device lost: %s", self.direction, error)
        self.state, self.error, self._was_lost = "lost", error, True
        self.retry = time.monotonic() + RETRY

    def mark_ok(self) -> None:
        """Records that its stream works."""
        if self.state != "ok":
            self.reopened += self._was_lost
            log.info("%s device opened: %r", self.direction, self.name)
        self.state, self.error, self._was_lost = "ok", "", False


class AudioDevices:
    """Microphone and speaker by name, reopened after every loss.

    An empty name is the system's default device; a part of a name is enough when only one device matches. A device that
    is missing, at the start or later, is no error: `state` reports it, and it is used as soon as it is available.
    """

    def __init__(
        self,
        input: str = "",  # noqa: A002
        output: str = "",
        cancel_echo: bool = True,
        playback: bool = True,
    ) -> None:
        """`playback`: whether the speaker is opened too."""
        self._input, self._output = _Side("input", input), _Side("output", output)
        self._sides = (self._input, self._output) if playback else (self._input,)
        self._cancel_echo = cancel_echo
        self._playback = Playback()
        self._capture: Capture | None = None
        self._changed = anyio.Event()
        self._pending_calls = 0
        self._cards = ""
        self._rescanned = 0.0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[AudioDevices]:
        """Opens the devices and keeps them open until the block ends.

        Raises SettingsError (sound_library_missing) when there is no sounddevice or no PortAudio.
        """
        self._sounddevice = await anyio.to_thread.run_sync(portaudio.load)
        self._loop = asyncio.get_running_loop()
        self._capture = Capture(*await anyio.to_thread.run_sync(self._canceller))
        self._cards, self._rescanned = portaudio.cards(), time.monotonic()
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._watch)
                yield self
                group.cancel_scope.cancel()
        except Exception as error:
            raise collapse_exception_group(error) from None
        finally:
            self._capture.close()
            with anyio.CancelScope(shield=True):
                for side in self._sides:
                    await self._close(side)

    def captured(self) -> AsyncIterator[Samples]:
        """Captured blocks of 20 ms, float32 mono 16 kHz, without echo; none while the microphone is lost.

        For one listener, which must keep up: beyond 2 s of waiting blocks the oldest is dropped and counted. Raises
        NotReady before `running`.
        """
        if self._capture is None:
            raise NotReady("the microphone is not running")
        return self._capture.blocks()

    def captured_too(self) -> AsyncGenerator[Samples, None]:
        """The blocks of `captured` for a further listener. Raises NotReady before `running`."""
        if self._capture is None:
            raise NotReady("the microphone is not running")
        return self._capture.copied()

    def play(self, audio: Audio) -> None:
        """Queues audio for playback and returns at once. It waits, up to 2 minutes, while the speaker is lost."""
        self._playback.add(audio)

    def pause(self) -> None:
        """Pauses playback with a fade-out within 20 ms."""
        self._playback.pause()

    def resume(self) -> None:
        """Resumes playback at the next sample."""
        self._playback.resume()

    def clear(self) -> None:
        """Drops everything queued by `play`; ends a pause."""
        self._playback.clear()

    @property
    def played(self) -> int:
        """Samples at 16 kHz, queued by `play` since the last `clear`, that have left the speaker."""
        return self._playback.played

    @property
    def rate(self) -> int:
        """Sample rate of the speaker in hertz; audio for `play` at this rate is not resampled."""
        return self._playback.rate

    @property
    def playing(self) -> bool:
        """Whether queued audio has not been played yet, paused or not."""
        return self._playback.playing

    @property
    def state(self) -> dict[str, Any]:
        """Plain values: `input` and `output`, each with name, state, reopened, dropped (samples at 16 kHz) and error
        (a sentence or empty), and `echo`: on, off or why it is off."""
        capture = self._capture
        return {
            "input": self._device_state(self._input, capture.dropped if capture else 0),
            "output": self._device_state(self._output, self._playback.dropped),
            "echo": capture.echo if capture else "off",
        }

    @staticmethod
    def _device_state(side: _Side, dropped: int) -> dict[str, Any]:
        state = {"name": side.name, "state": side.state, "reopened": side.reopened}
        return {**state, "dropped": dropped, "error": side.error}

    def _canceller(self) -> tuple[EchoCanceller | None, str]:
        """The echo canceller, if it is enabled and installed, and the state to report. Takes 0.3 s."""
        if not self._cancel_echo:
            return None, "off"
        try:
            return EchoCanceller(), "on"
        except SettingsError as fault:
            log.warning(fault.message)
            return None, fault.message

    async def _watch(self) -> None:
        """Supervises both devices until cancelled."""
        while True:
            for side in self._sides:
                await self._supervise(side)
            with anyio.move_on_after(CHECK):
                await self._changed.wait()
            self._changed = anyio.Event()

    async def _supervise(self, side: _Side) -> None:
        if fault := side.fault():
            side.mark_lost(fault)
            await self._close(side)
        elif side.stream is not None and side.stream.blocks:
            side.mark_ok()
            await self._probe(side, side.stream)
        elif side.stream is None and time.monotonic() >= side.retry:
            await self._rescan(side)
            await self._try_open(side)

    async def _probe(self, side: _Side, stream: AudioStream) -> None:
        """Closes a stream that the sound server has moved to another device."""
        now = time.monotonic()
        if self._pending_calls or now < side.probed + PROBE:
            return
        side.probed, moved = now, list[str]()
        try:
            await self._on_thread(lambda: moved.append(stream.displacement()), CLOSE_TIMEOUT, f"probe-{side.direction}")
        except DeviceFault as fault:
            log.warning("%s device cannot be probed: %s", side.direction, fault)
        if any(moved):
            side.mark_lost(moved[0])
            await self._close(side)
            # The device may be present although our stream was moved away; then it can be opened at once.
            await self._try_open(side)

    async def _rescan(self, side: _Side) -> None:
        """Lets PortAudio see new devices; it requires that no stream is open."""
        other = self._output if side is self._input else self._input
        if self._pending_calls or side.state != "lost":
            return
        if other.stream is not None:
            late = time.monotonic() - self._rescanned > RESCAN and not self._playback.playing
            if portaudio.cards() == self._cards and not late:
                return
            await self._close(other)
            other.retry = 0.0
        self._cards, self._rescanned = portaudio.cards(), time.monotonic()
        try:
            await self._on_thread(lambda: portaudio.refresh(self._sounddevice), OPEN_TIMEOUT, "refresh")
        except DeviceFault as fault:
            side.mark_lost(str(fault))

    async def _try_open(self, side: _Side) -> None:
        try:
            await self._open(side)
        except DeviceFault as fault:
            side.mark_lost(str(fault))

    async def _open(self, side: _Side) -> None:
        """Opens and starts its stream. Raises DeviceFault."""
        opened: list[AudioStream] = []
        outcome: dict[str, str] = {}

        def open_stream() -> None:
            opened.append(
                AudioStream(
                    self._sounddevice, side.direction, side.requested, self._block_callback(side, opened), ended
                )
            )
            if side is self._output:
                self._playback.set_rate(opened[0].format.rate)
            try:
                opened[0].start()
            except DeviceFault:
                opened[0].close()
                raise
            # One atomic step decides whether the stream is used or was abandoned before.
            if outcome.setdefault("stream", "used") != "used":
                opened[0].close()

        def ended() -> None:
            call_in(self._loop, lambda: self._stream_ended(side, opened))

        side.ended, side.opened = False, opened
        try:
            await self._on_thread(open_stream, OPEN_TIMEOUT, f"open-{side.direction}")
        except DeviceFault:
            if outcome.setdefault("stream", "abandoned") != "used":
                raise
        side.stream, side.name = opened[0], opened[0].name

    async def _close(self, side: _Side) -> None:
        """Closes its stream, if it has one; abandons one that hangs."""
        stream, side.stream = side.stream, None
        if stream is None:
            return
        try:
            await self._on_thread(stream.close, CLOSE_TIMEOUT, f"close-{side.direction}")
        except DeviceFault as fault:
            log.warning("%s device cannot be closed: %s", side.direction, fault)
        if side is self._output:
            self._playback.device_lost()

    def _stream_ended(self, side: _Side, opened: list[AudioStream]) -> None:
        if side.opened is opened:
            side.ended = True
            self._changed.set()

    def _block_callback(self, side: _Side, opened: list[AudioStream]) -> Callable[[Samples, float], None]:
        """The callback for each block of the stream in `opened`, on the device's thread."""

        def from_microphone(samples: Samples, latency: float) -> None:
            if side.opened is opened and self._capture is not None:
                self._capture.from_microphone(opened[0], samples, opened[0].format.rate, latency)

        def to_speaker(samples: Samples, latency: float) -> None:
            if side.opened is not opened:
                # An abandoned stream that still runs.
                samples[:] = 0
                return
            self._playback.fill(samples, latency)
            if self._capture is not None and self._input.state == "ok":
                self._capture.from_speaker(samples, opened[0].format.rate, latency)

        return from_microphone if side is self._input else to_speaker

    async def _on_thread(self, function: Callable[[], object], seconds: float, name: str) -> None:
        """Runs a call on a thread that may be abandoned. Raises DeviceFault when it fails or times out."""
        over = anyio.Event()
        raised: list[BaseException] = []

        def done(error: BaseException | None) -> None:
            if error is not None:
                raised.append(error)
            call_in(self._loop, finish)

        def finish() -> None:
            self._pending_calls -= 1
            over.set()

        self._pending_calls += 1
        portaudio.call_on_thread(function, done, f"sound-{name}")
        with anyio.move_on_after(seconds, shield=True):
            await over.wait()
        if not over.is_set():
            raise DeviceFault(f"the sound system timed out after {seconds:g} s")
        if raised:
            raise raised[0] if isinstance(raised[0], DeviceFault) else DeviceFault(str(raised[0])) from raised[0]
