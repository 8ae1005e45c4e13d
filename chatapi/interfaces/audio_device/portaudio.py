"""PortAudio, through sounddevice: finding a device by its name and opening it so that it can always be left."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from chatapi.audio import RATE, Samples
from chatapi.errors import SettingsError
from chatapi.interfaces.audio_device.playback import DEVICE_RATE
from chatapi.interfaces.audio_device.sound_server import SoundServer

Direction = Literal["input", "output"]
BLOCK_SECONDS: dict[Direction, float] = {"input": 0.02, "output": 0.01}
BUFFER: dict[Direction, float | str] = {"input": "low", "output": 0.04}
"""Seconds that wait in the device. Of the speaker's, enough for what runs beside us on the same cores: while two of two
are busy, a tone of 10 s breaks off 9 to 20 times with 20 ms; with 40 twice at most where we may be urgent, else up to 5
times. 60 to 80 ms of sound are still heard when somebody interrupts, so it is no more than that."""
URGENT = -10
"""The niceness of the devices' own threads, where the system lets us be so."""
PREFERRED: dict[Direction, int] = {"input": RATE, "output": DEVICE_RATE}
CARDS = Path("/proc/asound/cards")
"""Where Linux lists its sound cards."""


class DeviceFault(Exception):
    """A device that is not there, not the only one of its name, or cannot be opened: one sentence."""


def load() -> Any:
    """The module sounddevice. Raises SettingsError (sound_library_missing) naming what to install."""
    # It replaces, of every stream, the buffer that the stream asked for. One that is then shorter than a period of
    # ALSA's is never found to have room for one, so that the device takes nothing at all, without an error.
    os.environ.pop("PULSE_LATENCY_MSEC", None)
    try:
        # Imported here because importing it asks every device of the machine.
        import sounddevice
    except ImportError as error:
        raise SettingsError(
            "the microphone needs sounddevice: pip install 'chatapi-appliance[audio_device]'",
            code="sound_library_missing",
        ) from error
    except OSError as error:
        raise SettingsError(
            "the microphone needs PortAudio: apt-get install libportaudio2", code="sound_library_missing"
        ) from error
    return sounddevice


def refresh(sounddevice: Any) -> None:
    """Let PortAudio look for devices again; it does so only when it starts. No stream may be open."""
    sounddevice._terminate()
    sounddevice._initialize()


@contextmanager
def quiet() -> Iterator[None]:
    """Without what C libraries write to standard error: ALSA and PortAudio write 40 lines for each failed opening.

    Only C's own `stderr` is turned away; Python writes to the file descriptor, so nothing of ours is lost.
    """
    try:
        c = ctypes.CDLL(None)
        stderr = ctypes.c_void_p.in_dll(c, "stderr")
        c.fopen.restype = ctypes.c_void_p
    except (OSError, ValueError, AttributeError):
        yield
        return
    _turn_away(c, stderr, +1)
    try:
        yield
    finally:
        _turn_away(c, stderr, -1)


_quiet = threading.Lock()
_turned: dict[str, Any] = {"times": 0, "to": None, "from": None}
"""How often standard error is turned away at the moment: an opening that hangs must not hold up the next."""


def _turn_away(c: ctypes.CDLL, stderr: ctypes.c_void_p, more: int) -> None:
    with _quiet:
        if _turned["to"] is None:
            # Never closed: another thread may still write to it afterwards.
            _turned["to"] = c.fopen(b"/dev/null", b"w")
        if _turned["times"] == 0:
            _turned["from"], stderr.value = stderr.value, _turned["to"]
        _turned["times"] += more
        if _turned["times"] == 0:
            stderr.value = _turned["from"]


def cards() -> str:
    """Something that changes when a sound card comes or goes; always the same where there is no such list."""
    try:
        return CARDS.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def find(sounddevice: Any, name: str, direction: Direction) -> tuple[int, str]:
    """Index and name of the device; an empty name means the default. Raises DeviceFault with the names there are."""
    channels = f"max_{direction}_channels"
    devices = [device for device in sounddevice.query_devices() if device[channels] > 0]
    names = ", ".join(repr(device["name"]) for device in devices) or "none"
    if not name:
        index = sounddevice.default.device[direction]
        chosen = [device for device in devices if device["index"] == index]
        if not chosen:
            raise DeviceFault(f"there is no default {direction} device; there are: {names}")
        return index, chosen[0]["name"]
    # One device may be listed by several of the system's interfaces under the same name: the first is the system's own.
    same = [device for device in devices if device["name"] == name][:1]
    found = same or [device for device in devices if name.casefold() in device["name"].casefold()]
    if not found:
        raise DeviceFault(f"there is no {direction} device named {name!r}; there are: {names}")
    if len({device["name"] for device in found}) > 1:
        listed = ", ".join(repr(device["name"]) for device in found)
        raise DeviceFault(f"{name!r} may mean any of these {direction} devices: {listed}; name one of them")
    return found[0]["index"], found[0]["name"]


def names(sounddevice: Any, direction: Direction) -> list[tuple[str, bool]]:
    """Every device of that direction, each name once, and whether it is the default."""
    found: dict[str, bool] = {}
    for device in sounddevice.query_devices():
        if device[f"max_{direction}_channels"] > 0:
            usual = device["index"] == sounddevice.default.device[direction]
            found[device["name"]] = found.get(device["name"], False) or usual
    return list(found.items())


@dataclass(frozen=True)
class StreamFormat:
    """How a device was opened."""

    rate: int
    channels: int


class AudioStream:
    """One open stream of one device. Blocking; made and left on a thread that may be given up.

    `move(block, latency)` runs on PortAudio's thread for each block, mono float32 of shape (n,) at `format.rate`: the
    microphone's is to be read, the speaker's to be written. `ended()` is called there when the device is gone.
    """

    def __init__(
        self,
        sounddevice: Any,
        direction: Direction,
        name: str,
        move: Callable[[Samples, float], None],
        ended: Callable[[], None],
    ) -> None:
        """Opens, does not start. Raises DeviceFault."""
        self._sounddevice, self._direction = sounddevice, direction
        self._named = bool(name)
        self._server, self._place = SoundServer(direction), ""
        self._move = move
        self._called = time.monotonic()
        self.calls = 0
        """Blocks the device has given or taken."""
        self._index, self.name = find(sounddevice, name, direction)
        with quiet():
            self._open(sounddevice, self._index, ended)
        self._tells = False
        self.latency = float(self._stream.latency)
        """Seconds between the device and `move`, as it states them."""

    def _open(self, sounddevice: Any, index: int, ended: Callable[[], None]) -> None:
        direction = self._direction
        try:
            self.format = _format(sounddevice, index, direction)
            kind = sounddevice.InputStream if direction == "input" else sounddevice.OutputStream
            self._stream = kind(
                device=index,
                samplerate=self.format.rate,
                blocksize=round(self.format.rate * BLOCK_SECONDS[direction]),
                channels=self.format.channels,
                dtype="float32",
                latency=BUFFER[direction],
                callback=self._heard if direction == "input" else self._wanted,
                finished_callback=ended,
            )
        except (sounddevice.PortAudioError, ValueError) as error:
            raise DeviceFault(f"{self.name!r} cannot be opened: {error.args[0]}") from error

    def start(self) -> None:
        """Raises DeviceFault."""
        try:
            with quiet():
                self._stream.start()
        except Exception as error:
            raise DeviceFault(f"{self.name!r} cannot be started: {error}") from error
        self._called = time.monotonic()
        # Of a device that takes one stream only the same question says no, for we have that one.
        self._tells = self._opens()
        self._place = self._server.place()

    @property
    def age(self) -> float:
        """Seconds since the device last gave or took a block."""
        return time.monotonic() - self._called

    @property
    def active(self) -> bool:
        """False when PortAudio itself knows that the device is gone."""
        try:
            return bool(self._stream.active)
        except Exception:
            return False

    def astray(self) -> str:
        """Why it is not at the device of its name any more; empty when it is, or that cannot be told. Blocks for 1 to
        5 ms.

        A sound server moves the stream of a device that is unplugged, or is no longer the default, to another one
        without a word, the microphone's to what hears the speaker, and may leave it there when the device is back.
        """
        place = self._server.place() if self._place else ""
        if place and place == self._place:
            return ""
        if self._tells and not self._opens():
            return f"{self.name!r} is gone"
        if place and self._named:
            return f"the sound server moved {self.name!r} to {place!r}"
        # The default device is where the server has it: it moves our stream along when another becomes the default.
        self._place = place or self._place
        return ""

    def _opens(self) -> bool:
        check = _check(self._sounddevice, self._direction)
        try:
            with quiet():
                check(device=self._index, samplerate=self.format.rate, channels=self.format.channels, dtype="float32")
        except (self._sounddevice.PortAudioError, ValueError):
            return False
        return True

    def leave(self) -> None:
        """End it; with `abort`, because `stop` waits for a device that may never take the rest."""
        try:
            self._stream.abort(ignore_errors=True)
        finally:
            self._stream.close(ignore_errors=True)
            self._server.close()

    def _heard(self, data: Any, frames: int, times: Any, status: Any) -> None:
        self._count()
        self._move(data.mean(axis=1) if data.shape[1] > 1 else data[:, 0].copy(), self.latency)

    def _wanted(self, data: Any, frames: int, times: Any, status: Any) -> None:
        self._count()
        mono = np.empty(frames, np.float32)
        self._move(mono, max(self.latency, times.outputBufferDacTime - times.currentTime))
        data[:] = mono[:, np.newaxis]

    def _count(self) -> None:
        if self.calls == 0:
            _hurry()
        self._called, self.calls = time.monotonic(), self.calls + 1


def _hurry() -> None:
    """Let this thread go before others; a system that allows no such thing is no reason to be silent."""
    if sys.platform == "linux":
        # Elsewhere it would be of the whole process.
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), URGENT)


def _check(sounddevice: Any, direction: Direction) -> Callable[..., None]:
    """What raises PortAudioError or ValueError for a device that would not open so."""
    check: Callable[..., None] = getattr(sounddevice, f"check_{direction}_settings")
    return check


def _format(sounddevice: Any, index: int, direction: Direction) -> StreamFormat:
    """Mono at the rate we work at when the device can, else its own. Raises PortAudioError, ValueError."""
    device = sounddevice.query_devices(index)
    check = _check(sounddevice, direction)
    own = int(device["default_samplerate"])
    most = device[f"max_{direction}_channels"]
    for rate in (PREFERRED[direction], own):
        # Arrays of microphones often open only with all their channels.
        for channels in (1, min(2, most), most):
            try:
                check(device=index, samplerate=rate, channels=channels, dtype="float32")
            except (sounddevice.PortAudioError, ValueError):
                continue
            return StreamFormat(rate, channels)
    return StreamFormat(own, most)


def call_on_thread(function: Callable[[], object], done: Callable[[BaseException | None], None], name: str) -> None:
    """Run something that may hang on a thread of its own; `done` is called there with what it raised."""

    def run() -> None:
        try:
            function()
        except BaseException as error:
            done(error)
        else:
            done(None)

    threading.Thread(target=run, name=name, daemon=True).start()
