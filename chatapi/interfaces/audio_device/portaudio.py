"""PortAudio, through sounddevice: finds a device by name and opens a stream that can always be closed."""

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
"""Length of one block, in seconds."""
BUFFER: dict[Direction, float | str] = {"input": "low", "output": 0.04}
"""Latency of the device's buffer, in seconds or as PortAudio's name. See docs/measurements/interfaces.md."""
NICENESS = -10
"""Niceness of the devices' threads, where the system allows it."""
PREFERRED: dict[Direction, int] = {"input": RATE, "output": DEVICE_RATE}
"""Preferred sample rate, in hertz."""
CARDS = Path("/proc/asound/cards")
"""Linux's list of sound cards."""


class DeviceFault(Exception):
    """A device is missing, ambiguous, or cannot be opened; the message is one sentence."""


def load() -> Any:
    """The module sounddevice. Raises SettingsError (sound_library_missing) that names what to install."""
    # This variable overrides the buffer that every stream requests. A buffer shorter than a period of ALSA never has
    # room for one period, so that the device takes no audio at all, without an error.
    os.environ.pop("PULSE_LATENCY_MSEC", None)
    try:
        # Imported here because the import queries every device of the machine.
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
    """Lets PortAudio search for devices again, which it does only on start. No stream may be open."""
    sounddevice._terminate()
    sounddevice._initialize()


@contextmanager
def suppressed_stderr() -> Iterator[None]:
    """Discards what C libraries write to standard error: ALSA and PortAudio write 40 lines for each failed opening.

    Only C's own `stderr` is redirected; Python writes to the file descriptor, so none of our output is lost.
    """
    try:
        c = ctypes.CDLL(None)
        stderr = ctypes.c_void_p.in_dll(c, "stderr")
        c.fopen.restype = ctypes.c_void_p
    except (OSError, ValueError, AttributeError):
        yield
        return
    _redirect_stderr(c, stderr, +1)
    try:
        yield
    finally:
        _redirect_stderr(c, stderr, -1)


_redirect_lock = threading.Lock()
_redirected: dict[str, Any] = {"times": 0, "to": None, "from": None}
"""How many callers redirect standard error now: an opening that hangs must not block the next one."""


def _redirect_stderr(c: ctypes.CDLL, stderr: ctypes.c_void_p, more: int) -> None:
    with _redirect_lock:
        if _redirected["to"] is None:
            # Never closed, because another thread may still write to it.
            _redirected["to"] = c.fopen(b"/dev/null", b"w")
        if _redirected["times"] == 0:
            _redirected["from"], stderr.value = stderr.value, _redirected["to"]
        _redirected["times"] += more
        if _redirected["times"] == 0:
            stderr.value = _redirected["from"]


def cards() -> str:
    """The list of sound cards, to detect changes; always empty where the system has no such list."""
    try:
        return CARDS.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def find(sounddevice: Any, name: str, direction: Direction) -> tuple[int, str]:
    """Index and name of the device; an empty name means the default. Raises DeviceFault that lists the devices."""
    channels = f"max_{direction}_channels"
    devices = [device for device in sounddevice.query_devices() if device[channels] > 0]
    names = ", ".join(repr(device["name"]) for device in devices) or "none"
    if not name:
        index = sounddevice.default.device[direction]
        chosen = [device for device in devices if device["index"] == index]
        if not chosen:
            raise DeviceFault(f"there is no default {direction} device; there are: {names}")
        return index, chosen[0]["name"]
    # Several host APIs may list one device under the same name: the first is the system's own.
    same = [device for device in devices if device["name"] == name][:1]
    found = same or [device for device in devices if name.casefold() in device["name"].casefold()]
    if not found:
        raise DeviceFault(f"there is no {direction} device named {name!r}; there are: {names}")
    if len({device["name"] for device in found}) > 1:
        listed = ", ".join(repr(device["name"]) for device in found)
        raise DeviceFault(f"{name!r} matches several {direction} devices: {listed}; name one of them")
    return found[0]["index"], found[0]["name"]


def names(sounddevice: Any, direction: Direction) -> list[tuple[str, bool]]:
    """The names of all devices of that direction, each once, and whether it is the default."""
    found: dict[str, bool] = {}
    for device in sounddevice.query_devices():
        if device[f"max_{direction}_channels"] > 0:
            is_default = device["index"] == sounddevice.default.device[direction]
            found[device["name"]] = found.get(device["name"], False) or is_default
    return list(found.items())


@dataclass(frozen=True)
class StreamFormat:
    """The format in which a device was opened."""

    rate: int
    """Sample rate, in hertz."""
    channels: int


class AudioStream:
    """One open stream of one device. Blocking; opened and closed on a thread that may be abandoned.

    `on_block(block, latency)` runs on PortAudio's thread for each block, mono float32 of shape (n,) at `format.rate`:
    it reads the microphone's block and writes the speaker's. `ended()` is called there when the device is gone.
    """

    def __init__(
        self,
        sounddevice: Any,
        direction: Direction,
        name: str,
        on_block: Callable[[Samples, float], None],
        ended: Callable[[], None],
    ) -> None:
        """Opens the stream without starting it. Raises DeviceFault."""
        self._sounddevice, self._direction = sounddevice, direction
        self._named = bool(name)
        self._server, self._server_device = SoundServer(direction), ""
        self._on_block = on_block
        self._last_block = time.monotonic()
        self.blocks = 0
        """Blocks that the device has recorded or played."""
        self._index, self.name = find(sounddevice, name, direction)
        with suppressed_stderr():
            self._open(sounddevice, self._index, ended)
        self._probe_works = False
        self.latency = float(self._stream.latency)
        """Latency between the device and `on_block` that the device reports, in seconds."""

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
                callback=self._capture_callback if direction == "input" else self._playback_callback,
                finished_callback=ended,
            )
        except (sounddevice.PortAudioError, ValueError) as error:
            raise DeviceFault(f"{self.name!r} cannot be opened: {error.args[0]}") from error

    def start(self) -> None:
        """Starts the stream. Raises DeviceFault."""
        try:
            with suppressed_stderr():
                self._stream.start()
        except Exception as error:
            raise DeviceFault(f"{self.name!r} cannot be started: {error}") from error
        self._last_block = time.monotonic()
        # A device that supports a single stream answers no while ours is open; then the probe proves nothing.
        self._probe_works = self._can_open()
        self._server_device = self._server.device_name()

    @property
    def age(self) -> float:
        """Seconds since the device's last block."""
        return time.monotonic() - self._last_block

    @property
    def active(self) -> bool:
        """False when PortAudio itself reports that the device is gone."""
        try:
            return bool(self._stream.active)
        except Exception:
            return False

    def displacement(self) -> str:
        """Why the stream is not on its device any more; empty when it is, or that is unknown. Blocks for 1 to 5 ms.

        A sound server silently moves the stream of a device that is unplugged, or is no longer the default, to another
        device (a microphone's to the speaker's monitor), and may leave it there when the device is back.
        """
        device_name = self._server.device_name() if self._server_device else ""
        if device_name and device_name == self._server_device:
            return ""
        if self._probe_works and not self._can_open():
            return f"{self.name!r} is gone"
        if device_name and self._named:
            return f"the sound server moved {self.name!r} to {device_name!r}"
        # The default device follows the server, which moves our stream along when the default changes.
        self._server_device = device_name or self._server_device
        return ""

    def _can_open(self) -> bool:
        check = _check(self._sounddevice, self._direction)
        try:
            with suppressed_stderr():
                check(device=self._index, samplerate=self.format.rate, channels=self.format.channels, dtype="float32")
        except (self._sounddevice.PortAudioError, ValueError):
            return False
        return True

    def close(self) -> None:
        """Closes the stream; with `abort`, because `stop` waits for a device that may never play the rest."""
        try:
            self._stream.abort(ignore_errors=True)
        finally:
            self._stream.close(ignore_errors=True)
            self._server.close()

    def _capture_callback(self, data: Any, frames: int, times: Any, status: Any) -> None:
        self._count_block()
        self._on_block(data.mean(axis=1) if data.shape[1] > 1 else data[:, 0].copy(), self.latency)

    def _playback_callback(self, data: Any, frames: int, times: Any, status: Any) -> None:
        self._count_block()
        mono = np.empty(frames, np.float32)
        self._on_block(mono, max(self.latency, times.outputBufferDacTime - times.currentTime))
        data[:] = mono[:, np.newaxis]

    def _count_block(self) -> None:
        if self.blocks == 0:
            _raise_priority()
        self._last_block, self.blocks = time.monotonic(), self.blocks + 1


def _raise_priority() -> None:
    """Raises the priority of this thread; does nothing where the system forbids it."""
    if sys.platform == "linux":
        # Elsewhere this sets the priority of the whole process.
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def _check(sounddevice: Any, direction: Direction) -> Callable[..., None]:
    """The function that raises PortAudioError or ValueError for an unsupported format."""
    check: Callable[..., None] = getattr(sounddevice, f"check_{direction}_settings")
    return check


def _format(sounddevice: Any, index: int, direction: Direction) -> StreamFormat:
    """Mono at our sample rate when the device supports it, else its own. Raises PortAudioError, ValueError."""
    device = sounddevice.query_devices(index)
    check = _check(sounddevice, direction)
    own_rate = int(device["default_samplerate"])
    most = device[f"max_{direction}_channels"]
    for rate in (PREFERRED[direction], own_rate):
        # Microphone arrays often open only with all their channels.
        for channels in (1, min(2, most), most):
            try:
                check(device=index, samplerate=rate, channels=channels, dtype="float32")
            except (sounddevice.PortAudioError, ValueError):
                continue
            return StreamFormat(rate, channels)
    return StreamFormat(own_rate, most)


def call_on_thread(function: Callable[[], object], done: Callable[[BaseException | None], None], name: str) -> None:
    """Runs a call that may hang on its own thread; `done` is called there with the exception it raised, or None."""

    def run() -> None:
        try:
            function()
        except BaseException as error:
            done(error)
        else:
            done(None)

    threading.Thread(target=run, name=name, daemon=True).start()
