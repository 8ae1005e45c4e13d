"""Echo cancellation (AEC): removes playback from the microphone's audio with WebRTC's canceller, through livekit."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np

from chatapi.audio import RATE, Samples
from chatapi.errors import SettingsError

if TYPE_CHECKING:
    from livekit.rtc import AudioFrame

FRAME = RATE // 100
"""Samples of one frame of the canceller: 10 ms."""
LOUD = 0.01
"""RMS from which a frame counts as audible playback: -40 dB."""
PROVEN, ABSENT = 0.5, 1e-4
"""Seconds of playback that are judged, and the share of its power (-40 dB) below which the capture has no echo."""
LEARNT = 10.0
"""Seconds of playback after which the canceller itself detects that there is no echo.

See docs/measurements/interfaces.md.
"""


def _discarding_log_callback() -> Any:
    """A log callback for livekit that does nothing: a C function in place of livekit's Python callback.

    livekit's threads also log while the process exits. A thread that then waits for the interpreter, which is being
    finalized, is terminated inside Rust, and that aborts the process.
    """
    callback_type = ctypes.CFUNCTYPE(None, ctypes.POINTER(ctypes.c_uint8), ctypes.c_size_t)
    return callback_type(("labs", ctypes.CDLL(None)))


class _EchoPresence:
    """Decides whether there is an echo at all, until the canceller has learnt it."""

    def __init__(self) -> None:
        self._seconds = self._since = 0.0
        """Seconds of audible playback: in total, and since the last decision."""
        self._power = self._echo = 0.0
        """Power times seconds of the playback, and of the capture during it."""
        self._audible = self._no_echo = False

    @property
    def absent(self) -> bool:
        """Whether the capture has no echo, although the canceller would still attenuate speech as if it had."""
        return self._no_echo and self._seconds < LEARNT

    def process_playback(self, frame: Samples, seconds: float) -> None:
        power = float(np.mean(frame**2))
        self._audible = power >= LOUD**2
        if self._audible and self._seconds < LEARNT:
            self._power += power * seconds
            self._since += seconds
            self._seconds += seconds

    def process_capture(self, frame: Samples) -> None:
        if self._audible:
            self._echo += float(np.mean(frame**2)) * FRAME / RATE
        if self._since >= PROVEN:
            # Speech during playback proves nothing about an echo, so that a decision for "no echo" stays.
            self._no_echo = self._no_echo or self._echo < ABSENT * self._power
            self._power = self._echo = self._since = 0.0


class EchoCanceller:
    """Cancels the echo of one speaker in one microphone. Pass both streams in the order in which they happened.

    It adapts to the room within one or two seconds of playback. Real-time factor 0.01 on one core.
    """

    def __init__(self, noise_suppression: bool = False) -> None:
        """Raises SettingsError (echo_library_missing) when livekit is not installed."""
        try:
            # Imported here because the import takes 0.2 s and 20 MB, and the devices work without it.
            from livekit import rtc
            from livekit.rtc import _ffi_client
        except ImportError as error:
            raise SettingsError(
                f"echo cancellation is off: livekit cannot be loaded ({error}): pip install 'livekit>=1.2'",
                code="echo_library_missing",
            ) from error
        _ffi_client.ffi_event_callback = _discarding_log_callback()
        self._rtc = rtc
        self._module = rtc.AudioProcessingModule(
            echo_cancellation=True,
            noise_suppression=noise_suppression,
            high_pass_filter=True,
            auto_gain_control=False,
        )
        self._played: Samples = np.zeros(0, np.float32)
        self._captured: Samples = np.zeros(0, np.float32)
        self._played_rate = RATE
        self._echo_presence = _EchoPresence()
        self.delay = 0.0
        """Seconds from a sample in `process_playback` to its echo in `process_capture`: both devices' latency."""

    def process_playback(self, samples: Samples, rate: int = RATE) -> None:
        """Takes played samples: float32, any number of them, at the speaker's sample rate."""
        if rate != self._played_rate:
            self._played, self._played_rate = np.zeros(0, np.float32), rate
        waiting = np.concatenate([self._played, samples])
        size = rate // 100
        whole = len(waiting) - len(waiting) % size
        for start in range(0, whole, size):
            frame = waiting[start : start + size]
            self._echo_presence.process_playback(frame, size / rate)
            self._module.process_reverse_stream(self._frame(frame, rate))
        self._played = waiting[whole:]

    def process_capture(self, samples: Samples) -> Samples:
        """Captured samples, float32 at 16 kHz, without echo, in whole frames of 10 ms; the rest waits.

        Call `process_playback` with everything played so far first.
        """
        waiting = np.concatenate([self._captured, samples])
        whole = len(waiting) - len(waiting) % FRAME
        cleaned: list[Samples] = [np.zeros(0, np.float32)]
        for start in range(0, whole, FRAME):
            captured = waiting[start : start + FRAME]
            self._echo_presence.process_capture(captured)
            frame = self._frame(captured, RATE)
            self._module.set_stream_delay_ms(round(self.delay * 1000))
            self._module.process_stream(frame)
            clean = np.frombuffer(bytes(frame.data), "<i2").astype(np.float32) / np.float32(32767)
            cleaned.append(captured if self._echo_presence.absent else clean)
        self._captured = waiting[whole:]
        joined: Samples = np.concatenate(cleaned)
        return joined

    def _frame(self, samples: Samples, rate: int) -> AudioFrame:
        data = bytearray((np.clip(samples, -1.0, 1.0) * np.float32(32767)).round().astype("<i2").tobytes())
        return self._rtc.AudioFrame(data, rate, 1, len(samples))
