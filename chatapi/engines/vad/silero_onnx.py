"""Voice activity detection with Silero VAD v6 on ONNX Runtime; many frames at once where they are available.

The input of a frame includes the 64 samples before it, and the state carries over from frame to frame:
https://github.com/snakers4/silero-vad; the model with a state of two tensors is faster-whisper's export of it. In a
long silence the state drifts, until the next onset is detected late or not at all, so it restarts in each silence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnxruntime  # type: ignore[import-untyped]

from chatapi.audio import Samples
from chatapi.engines import SpeechStream, Stop, never
from chatapi.errors import EngineFailed, ModelError
from chatapi.settings import Settings

if TYPE_CHECKING:
    from chatapi.catalog import InstalledModel

FRAME = 512
"""Samples per frame: 32 ms, the only size that v6 supports at 16 kHz."""
BEFORE = 64
"""Samples of the previous frame that are part of a frame's input."""
FRAMES_PER_RUN = 938
"""Frames between two polls of `stop`: 30 s of audio, in about 50 ms on one core."""

RESTART_FRAMES = 64
"""Consecutive frames (2 s) below `UNLIKELY` after which the state restarts. See docs/measurements/eng.md."""
UNLIKELY = 0.1
"""Probability below which a frame hardly contains speech."""

State = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


class SileroOnnx:
    """One session for all streams; each stream has its own state. ModelError when the model cannot be loaded."""

    def __init__(self, settings: Settings, models: Sequence[InstalledModel]) -> None:
        if not models:
            raise ModelError("the silero_onnx engine needs a model and was given none; `chatapi models` lists them")
        onnx = next(path for path in models[0].files.values() if path.suffix == ".onnx")
        options = onnxruntime.SessionOptions()
        # A frame takes 60 microseconds: waking other threads for it would take longer.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = False
        options.log_severity_level = 3
        try:
            # Always the CPU: a GPU would have to be started for each frame.
            self._session = onnxruntime.InferenceSession(str(onnx), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ModelError(f"{onnx} cannot be loaded: {error}") from error

    def stream(self) -> SpeechStream:
        return _SileroOnnxStream(self._session)

    def probabilities(self, samples: Samples, stop: Stop = never) -> Iterator[float]:
        if stop():
            return
        stream = _SileroOnnxStream(self._session)
        for start in range(0, len(samples), FRAMES_PER_RUN * FRAME):
            for probability in stream.probabilities(samples[start : start + FRAMES_PER_RUN * FRAME]):
                if stop():
                    return
                yield probability


class _SileroOnnxStream:
    """The VAD state of one stream."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._state: State = _initial_state()
        self._before: Samples = np.zeros(BEFORE, np.float32)
        self._unlikely = 0
        """Consecutive frames that hardly contain speech, since the state started."""

    def probability(self, frame: Samples) -> float:
        return self.probabilities(frame)[0]

    def probabilities(self, samples: Samples) -> list[float]:
        """A probability for each frame; a short last one is padded."""
        clipped = np.clip(samples, -1.0, 1.0).astype(np.float32)
        frames = np.pad(clipped, (0, -len(clipped) % FRAME)).reshape(-1, FRAME)
        found: list[float] = []
        while len(found) < len(frames):
            # No further than the frame at which the state may restart.
            found += self._run(frames[len(found) : len(found) + RESTART_FRAMES - self._unlikely])
        return found

    def _run(self, frames: Samples) -> list[float]:
        before = np.vstack([self._before, frames[:-1, -BEFORE:]])
        self._before = frames[-1, -BEFORE:]
        feeds = {"input": np.hstack([before, frames]), "h": self._state[0], "c": self._state[1]}
        try:
            output, *state = self._session.run(None, feeds)
        except Exception as error:
            raise EngineFailed("Silero VAD failed; the log says why") from error
        self._state = (state[0], state[1])
        found = [float(each) for each in output.reshape(-1)]
        for probability in found:
            self._unlikely = self._unlikely + 1 if probability < UNLIKELY else 0
        if self._unlikely >= RESTART_FRAMES:
            self._state, self._unlikely = _initial_state(), 0
        return found


def _initial_state() -> State:
    zeros = np.zeros((1, 1, 128), np.float32)
    return zeros, zeros
