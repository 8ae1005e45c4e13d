"""Takes out of what the microphone heard what the speaker played: WebRTC's echo canceller, through livekit."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np

from chatapi.audio import RATE, Samples
from chatapi.errors import SettingsError

if TYPE_CHECKING:
    from livekit.rtc import AudioFrame

FRAME = RATE // 100
"""Samples the canceller cleans at once: 10 ms."""
LOUD = 0.01
"""RMS from which something counts as played: -40 dB."""
PROVEN, ABSENT = 0.5, 1e-4
"""Seconds of played sound, and the share of its power, -40 dB, below which what is heard meanwhile holds no echo."""
LEARNT = 10.0
"""Seconds of played sound after which the canceller itself knows that there is no echo.

Until then it takes 5 to 9 dB of what somebody says against an answer (medians of 8 clips of tests/corpus against a
voice of Piper's; 24 at worst), and short words are lost; with an echo of -20 to -6 dB 1 to 3 from the first second on.
"""


def _nobody() -> Any:
    """Whom livekit tells its log, in place of its own function in Python: a function in C that does nothing with it.

    Its threads tell it also when the process ends, and one that then waits for Python, which ends meanwhile, is ended
    inside Rust, which aborts the process.
    """
    told = ctypes.CFUNCTYPE(None, ctypes.POINTER(ctypes.c_uint8), ctypes.c_size_t)
    return told(("labs", ctypes.CDLL(None)))


class _Presence:
    """Whether the microphone hears the speaker at all, as long as the canceller does not know it."""

    def __init__(self) -> None:
        self._seconds = self._since = 0.0
        """Of played sound: all, and since it was last looked at."""
        self._power = self._echo = 0.0
        """Power times seconds, of what was played and of what was heard meanwhile."""
        self._sounds = self._none = False

    @property
    def absent(self) -> bool:
        """Whether what is heard holds no echo, though the canceller would take some of it for one."""
        return self._none and self._seconds < LEARNT

    def played(self, frame: Samples, seconds: float) -> None:
        power = float(np.mean(frame**2))
        self._sounds = power >= LOUD**2
        if self._sounds and self._seconds < LEARNT:
            self._power += power * seconds
            self._since += seconds
            self._seconds += seconds

    def heard(self, frame: Samples) -> None:
        if self._sounds:
            self._echo += float(np.mean(frame**2)) * FRAME / RATE
        if self._since >= PROVEN:
            # Somebody may have spoken meanwhile: that says nothing of an echo.
            self._none = self._none or self._echo < ABSENT * self._power
            self._power = self._echo = self._since = 0.0


class EchoCanceller:
    """One microphone and one speaker. Both streams are given in the order in which they were played and heard.

    It learns the room within a second or two of sound. Real-time factor 0.01 on one core.
    """

    def __init__(self, noise_suppression: bool = False) -> None:
        """Raises SettingsError (echo_library_missing) when livekit is not installed."""
        try:
            # Imported here because it takes 0.2 s and 20 MB, and the devices work without it.
            from livekit import rtc
            from livekit.rtc import _ffi_client
        except ImportError as error:
            raise SettingsError(
                f"echo is not cancelled, for livekit cannot be loaded ({error}): pip install 'livekit>=1.2'",
                code="echo_library_missing",
            ) from error
        _ffi_client.ffi_event_callback = _nobody()
        self._rtc = rtc
        self._module = rtc.AudioProcessingModule(
            echo_cancellation=True,
            noise_suppression=noise_suppression,
            high_pass_filter=True,
            auto_gain_control=False,
        )
        self._played: Samples = np.zeros(0, np.float32)
        self._heard: Samples = np.zeros(0, np.float32)
        self._played_rate = RATE
        self._presence = _Presence()
        self.delay = 0.0
        """Seconds from giving a sample to `played` to giving its echo to `clean`: both devices' latency."""

    def played(self, samples: Samples, rate: int = RATE) -> None:
        """What the speaker was given, float32, any number of samples, at the speaker's own rate."""
        if rate != self._played_rate:
            self._played, self._played_rate = np.zeros(0, np.float32), rate
        waiting = np.concatenate([self._played, samples])
        size = rate // 100
        whole = len(waiting) - len(waiting) % size
        for start in range(0, whole, size):
            frame = waiting[start : start + size]
            self._presence.played(frame, size / rate)
            self._module.process_reverse_stream(self._frame(frame, rate))
        self._played = waiting[whole:]

    def clean(self, samples: Samples) -> Samples:
        """What the microphone heard, float32 at 16 kHz, without echo, in whole frames of 10 ms; the rest is kept.

        Give it what was played up to now first.
        """
        waiting = np.concatenate([self._heard, samples])
        whole = len(waiting) - len(waiting) % FRAME
        cleaned: list[Samples] = [np.zeros(0, np.float32)]
        for start in range(0, whole, FRAME):
            heard = waiting[start : start + FRAME]
            self._presence.heard(heard)
            frame = self._frame(heard, RATE)
            self._module.set_stream_delay_ms(round(self.delay * 1000))
            self._module.process_stream(frame)
            clean = np.frombuffer(bytes(frame.data), "<i2").astype(np.float32) / np.float32(32767)
            cleaned.append(heard if self._presence.absent else clean)
        self._heard = waiting[whole:]
        joined: Samples = np.concatenate(cleaned)
        return joined

    def _frame(self, samples: Samples, rate: int) -> AudioFrame:
        data = bytearray((np.clip(samples, -1.0, 1.0) * np.float32(32767)).round().astype("<i2").tobytes())
        return self._rtc.AudioFrame(data, rate, 1, len(samples))
