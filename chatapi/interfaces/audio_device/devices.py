"""The microphone and the speaker as one thing, which outlives its devices: what is lost is opened again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
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
from chatapi.runtime.workers import call_in

log = logging.getLogger(__name__)

CHECK = 0.1
"""Seconds between two looks at the devices."""
SILENT = 0.5
"""Seconds without a block after which a device is taken for lost."""
WAKING = 1.5
"""Seconds a device may take to its first block; wireless ones need more than one."""
ASK = 0.5
"""Seconds between two questions whether a device that works is still the one that was opened."""
RETRY = 0.5
"""Seconds between two attempts to open a device."""
LEAVING, OPENING = 1.0, 5.0
"""Seconds given to PortAudio; it is left to itself on its thread when it takes longer."""
LOOK_AGAIN = 30.0
"""Seconds between two searches for a missing device that interrupt the other one."""


class _Side:
    """One of the two devices."""

    def __init__(self, direction: Direction, wanted: str) -> None:
        self.direction: Direction = direction
        self.wanted = wanted
        self.line: AudioStream | None = None
        self.name = wanted
        self.state: Literal["opening", "ok", "lost"] = "opening"
        self.error = ""
        self.reopened = 0
        self.ended = False
        """PortAudio said that the line is over."""
        self.made: list[AudioStream] = []
        """Where its newest line is put once it is open."""
        self.retry = 0.0
        """When to try again, on the monotonic clock."""
        self.asked = 0.0
        """When it was last asked whether it is there."""
        self._was_lost = False

    def trouble(self) -> str:
        """Why its open line is of no use any more; empty while it is well."""
        if (line := self.line) is None:
            return ""
        if self.ended or not line.active:
            return f"{self.name!r} is gone"
        patience = SILENT if line.calls else WAKING
        return f"{self.name!r} gave no sign of life for {patience:g} s" if line.age > patience else ""

    def lose(self, error: str) -> None:
        if self.state != "lost":
            log.warning("the %s device is lost: %s", self.direction, error)
        self.state, self.error, self._was_lost = "lost", error, True
        self.retry = time.monotonic() + RETRY

    def find_well(self) -> None:
        """Its line works."""
        if self.state != "ok":
            self.reopened += self._was_lost
            log.info("the %s device is %r", self.direction, self.name)
        self.state, self.error, self._was_lost = "ok", "", False


class AudioDevices:
    """Microphone and speaker by name, that survive what happens to devices.

    An empty name is the system's default device; part of a name is enough when only one device has it. A device that
    is missing, at the start or later, is no error: `state` says so, and it is used as soon as it is there.
    """

    def __init__(self, input: str = "", output: str = "", cancel_echo: bool = True) -> None:  # noqa: A002
        self._input, self._output = _Side("input", input), _Side("output", output)
        self._cancel_echo = cancel_echo
        self._playback = Playback()
        self._hearing: Capture | None = None
        self._wake = anyio.Event()
        self._hung = 0
        self._cards = ""
        self._looked = 0.0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[AudioDevices]:
        """Open the devices, and keep them open until the block ends.

        Raises SettingsError (sound_library_missing) when there is no sounddevice or no PortAudio.
        """
        self._sounddevice = await anyio.to_thread.run_sync(portaudio.load)
        self._loop = asyncio.get_running_loop()
        self._hearing = Capture(*await anyio.to_thread.run_sync(self._canceller))
        self._cards, self._looked = portaudio.cards(), time.monotonic()
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._watch)
                yield self
                group.cancel_scope.cancel()
        except Exception as error:
            raise collapse_exception_group(error) from None
        finally:
            self._hearing.close()
            with anyio.CancelScope(shield=True):
                for side in (self._input, self._output):
                    await self._leave(side)

    def heard(self) -> AsyncIterator[Samples]:
        """20 ms blocks, float32 mono 16 kHz, without echo, as long as it runs; none while the microphone is lost.

        For one listener, who must keep up: of more than 2 s that wait the oldest is dropped and counted. Raises
        NotReady before it runs.
        """
        if self._hearing is None:
            raise NotReady("the microphone is not running yet")
        return self._hearing.blocks()

    def play(self, audio: Audio) -> None:
        """Add to what is to be played; returns at once. It waits, up to 2 minutes, while the speaker is lost."""
        self._playback.give(audio)

    def pause(self) -> None:
        """Fade out within 20 ms."""
        self._playback.pause()

    def resume(self) -> None:
        """Go on with the very next sample."""
        self._playback.resume()

    def clear(self) -> None:
        """Forget everything given to `play`; ends a pause."""
        self._playback.clear()

    @property
    def played(self) -> int:
        """Samples at 16 kHz given to `play` since the last `clear` that have really left the speaker."""
        return self._playback.played

    @property
    def rate(self) -> int:
        """Samples a second at which the speaker works; what `play` is given at this rate is not resampled."""
        return self._playback.rate

    @property
    def playing(self) -> bool:
        """Whether something is still to be heard, be it paused."""
        return self._playback.playing

    @property
    def state(self) -> dict[str, Any]:
        """Plain values: `input` and `output`, each with name, state, reopened, dropped (samples at 16 kHz) and error
        (a sentence or empty), and `echo`: on, off or why it is off."""
        hearing = self._hearing
        return {
            "input": self._told(self._input, hearing.dropped if hearing else 0),
            "output": self._told(self._output, self._playback.dropped),
            "echo": hearing.echo if hearing else "off",
        }

    @staticmethod
    def _told(side: _Side, dropped: int) -> dict[str, Any]:
        told = {"name": side.name, "state": side.state, "reopened": side.reopened}
        return {**told, "dropped": dropped, "error": side.error}

    def _canceller(self) -> tuple[EchoCanceller | None, str]:
        """The echo canceller, if it is wanted and installed, and what to say about it. Takes 0.3 s."""
        if not self._cancel_echo:
            return None, "off"
        try:
            return EchoCanceller(), "on"
        except SettingsError as fault:
            log.warning(fault.message)
            return None, fault.message

    async def _watch(self) -> None:
        """Look after both devices, for ever."""
        while True:
            for side in (self._input, self._output):
                await self._look_after(side)
            with anyio.move_on_after(CHECK):
                await self._wake.wait()
            self._wake = anyio.Event()

    async def _look_after(self, side: _Side) -> None:
        if trouble := side.trouble():
            side.lose(trouble)
            await self._leave(side)
        elif side.line is not None and side.line.calls:
            side.find_well()
            await self._ask(side, side.line)
        elif side.line is None and time.monotonic() >= side.retry:
            await self._look_for_devices(side)
            await self._try(side)

    async def _ask(self, side: _Side, line: AudioStream) -> None:
        """Leave a device that the sound server has replaced by another one."""
        now = time.monotonic()
        if self._hung or now < side.asked + ASK:
            return
        side.asked, astray = now, list[str]()
        try:
            await self._apart(lambda: astray.append(line.astray()), LEAVING, f"ask-{side.direction}")
        except DeviceFault as fault:
            log.warning("whether the %s device is there cannot be told: %s", side.direction, fault)
        if any(astray):
            side.lose(astray[0])
            await self._leave(side)
            # It may be there all the same, only without us: then there is nothing to wait for.
            await self._try(side)

    async def _look_for_devices(self, side: _Side) -> None:
        """Let PortAudio see devices that came; for that no stream may be open."""
        other = self._output if side is self._input else self._input
        if self._hung or side.state != "lost":
            return
        if other.line is not None:
            late = time.monotonic() - self._looked > LOOK_AGAIN and not self._playback.playing
            if portaudio.cards() == self._cards and not late:
                return
            await self._leave(other)
            other.retry = 0.0
        self._cards, self._looked = portaudio.cards(), time.monotonic()
        try:
            await self._apart(lambda: portaudio.refresh(self._sounddevice), OPENING, "refresh")
        except DeviceFault as fault:
            side.lose(str(fault))

    async def _try(self, side: _Side) -> None:
        try:
            await self._open(side)
        except DeviceFault as fault:
            side.lose(str(fault))

    async def _open(self, side: _Side) -> None:
        """Raises DeviceFault."""
        made: list[AudioStream] = []
        outcome: dict[str, str] = {}

        def open_line() -> None:
            made.append(AudioStream(self._sounddevice, side.direction, side.wanted, self._mover(side, made), ended))
            if side is self._output:
                self._playback.set_rate(made[0].format.rate)
            try:
                made[0].start()
            except DeviceFault:
                made[0].leave()
                raise
            # One atomic step decides whether the line is used or was given up before.
            if outcome.setdefault("line", "used") != "used":
                made[0].leave()

        def ended() -> None:
            call_in(self._loop, lambda: self._ended(side, made))

        side.ended, side.made = False, made
        try:
            await self._apart(open_line, OPENING, f"open-{side.direction}")
        except DeviceFault:
            if outcome.setdefault("line", "given up") != "used":
                raise
        side.line, side.name = made[0], made[0].name

    async def _leave(self, side: _Side) -> None:
        """Close its line, if it has one; gives up on one that hangs."""
        line, side.line = side.line, None
        if line is None:
            return
        try:
            await self._apart(line.leave, LEAVING, f"leave-{side.direction}")
        except DeviceFault as fault:
            log.warning("the %s device cannot be closed: %s", side.direction, fault)
        if side is self._output:
            self._playback.settle()

    def _ended(self, side: _Side, made: list[AudioStream]) -> None:
        if side.made is made:
            side.ended = True
            self._wake.set()

    def _mover(self, side: _Side, made: list[AudioStream]) -> Callable[[Samples, float], None]:
        """What the line in `made` does with each block, on the device's thread."""

        def from_microphone(samples: Samples, latency: float) -> None:
            if side.made is made and self._hearing is not None:
                self._hearing.from_microphone(made[0], samples, made[0].format.rate, latency)

        def to_speaker(samples: Samples, latency: float) -> None:
            if side.made is not made:
                # A line that was given up, and is not dead after all.
                samples[:] = 0
                return
            self._playback.fill(samples, latency)
            if self._hearing is not None and self._input.state == "ok":
                self._hearing.from_speaker(samples, made[0].format.rate, latency)

        return from_microphone if side is self._input else to_speaker

    async def _apart(self, function: Callable[[], object], seconds: float, name: str) -> None:
        """Run something on a thread that may be given up. Raises DeviceFault when it fails or takes too long."""
        over = anyio.Event()
        raised: list[BaseException] = []

        def done(error: BaseException | None) -> None:
            if error is not None:
                raised.append(error)
            call_in(self._loop, finish)

        def finish() -> None:
            self._hung -= 1
            over.set()

        self._hung += 1
        portaudio.call_on_thread(function, done, f"sound-{name}")
        with anyio.move_on_after(seconds, shield=True):
            await over.wait()
        if not over.is_set():
            raise DeviceFault(f"the sound system did not answer for {seconds:g} s")
        if raised:
            raise raised[0] if isinstance(raised[0], DeviceFault) else DeviceFault(str(raised[0])) from raised[0]
