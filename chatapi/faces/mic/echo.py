"""Takes out of what the microphone heard what the speaker played: WebRTC's echo canceller, through livekit."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np

from chatapi.audio import RATE, Samples
from chatapi.errors import SettingsFault

if TYPE_CHECKING:
    from livekit.rtc import AudioFrame

FRAME = RATE // 100
"""Samples the canceller cleans at once: 10 ms."""


def _nobody() -> Any:
    """Whom livekit tells its log, in place of its own function in Python: a function in C that does nothing with it.

    Its threads tell it also when the process ends, and one that then waits for Python, which ends meanwhile, is ended
    inside Rust, which aborts the process.
    """
    told = ctypes.CFUNCTYPE(None, ctypes.POINTER(ctypes.c_uint8), ctypes.c_size_t)
    return told(("labs", ctypes.CDLL(None)))


class EchoCanceller:
    """One microphone and one speaker. Both streams are given in the order in which they were played and heard.

    It learns the room within a second or two of sound. Real-time factor 0.01 on one core.
    """

    def __init__(self, noise_suppression: bool = False) -> None:
        """Raises SettingsFault (echo_library_missing) when livekit is not installed."""
        try:
            # Imported here because it takes 0.2 s and 20 MB, and the devices work without it.
            from livekit import rtc
            from livekit.rtc import _ffi_client
        except ImportError as error:
            raise SettingsFault(
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
            self._module.process_reverse_stream(self._frame(waiting[start : start + size], rate))
        self._played = waiting[whole:]

    def clean(self, samples: Samples) -> Samples:
        """What the microphone heard, float32 at 16 kHz, without echo, in whole frames of 10 ms; the rest is kept.

        Give it what was played up to now first.
        """
        waiting = np.concatenate([self._heard, samples])
        whole = len(waiting) - len(waiting) % FRAME
        cleaned: list[Samples] = [np.zeros(0, np.float32)]
        for start in range(0, whole, FRAME):
            frame = self._frame(waiting[start : start + FRAME], RATE)
            self._module.set_stream_delay_ms(round(self.delay * 1000))
            self._module.process_stream(frame)
            cleaned.append(np.frombuffer(bytes(frame.data), "<i2").astype(np.float32) / np.float32(32767))
        self._heard = waiting[whole:]
        joined: Samples = np.concatenate(cleaned)
        return joined

    def _frame(self, samples: Samples, rate: int) -> AudioFrame:
        data = bytearray((np.clip(samples, -1.0, 1.0) * np.float32(32767)).round().astype("<i2").tobytes())
        return self._rtc.AudioFrame(data, rate, 1, len(samples))
