"""Voice activity detection with Silero VAD v6 on ONNX Runtime; a recording is judged many frames at a time.

The input of a frame includes the 64 samples before it, and a recurrent state goes from frame to frame:
https://github.com/snakers4/silero-vad. The model, whose state is two tensors, is faster-whisper's export.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnxruntime  # type: ignore[import-untyped]

from chatapi.audio import Samples
from chatapi.engines import VAD_FRAME, SpeechStream, Stop, never
from chatapi.engines.vad.restart import SilenceCounter
from chatapi.errors import EngineFailed, ModelError
from chatapi.settings import Settings

if TYPE_CHECKING:
    from chatapi.catalog import InstalledModel

CONTEXT = 64
"""Samples before a frame that are part of its input."""
BATCH_FRAMES = 938
"""Frames between two checks for cancellation: 30 s of audio, which take about 50 ms on one core."""

State = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


class SileroOnnx:
    """Judges any number of streams with one ONNX session; each stream has a state of its own.

    Raises ModelError when the model cannot be loaded.
    """

    def __init__(self, settings: Settings, models: Sequence[InstalledModel]) -> None:
        if not models:
            raise ModelError("the silero_onnx engine needs a model and was given none; `chatapi models` lists them")
        onnx = next(path for path in models[0].files.values() if path.suffix == ".onnx")
        options = onnxruntime.SessionOptions()
        # A frame takes 60 microseconds; waking other threads for it would take longer.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = False
        options.log_severity_level = 3
        try:
            # Always on the CPU: a GPU would add the latency of a launch to each frame.
            self._session = onnxruntime.InferenceSession(str(onnx), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ModelError(f"{onnx} cannot be loaded: {error}") from error

    def stream(self) -> SpeechStream:
        return _SileroOnnxStream(self._session)

    def probabilities(self, samples: Samples, stop: Stop = never) -> Iterator[float]:
        if stop():
            return
        stream = _SileroOnnxStream(self._session)
        for start in range(0, len(samples), BATCH_FRAMES * VAD_FRAME):
            for probability in stream.probabilities(samples[start : start + BATCH_FRAMES * VAD_FRAME]):
                if stop():
                    return
                yield probability


class _SileroOnnxStream:
    """The state of one stream, which restarts in silence."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._state: State = _initial_state()
        self._context: Samples = np.zeros(CONTEXT, np.float32)
        self._input = np.zeros((1, CONTEXT + VAD_FRAME), np.float32)
        """The input of a single frame, used again for each: to build it as `_run` does takes half as long as the
        network."""
        self._silence = SilenceCounter()

    def probability(self, frame: Samples) -> float:
        if len(frame) != VAD_FRAME:
            return self.probabilities(frame)[0]
        filled = self._input[0]
        filled[:CONTEXT] = self._context
        np.clip(frame, -1.0, 1.0, out=filled[CONTEXT:])
        self._context = filled[-CONTEXT:].copy()
        return self._judge(self._input)[0]

    def probabilities(self, samples: Samples) -> list[float]:
        """Returns a probability for each frame; a short last frame is padded."""
        clipped = np.clip(samples, -1.0, 1.0).astype(np.float32)
        frames = np.pad(clipped, (0, -len(clipped) % VAD_FRAME)).reshape(-1, VAD_FRAME)
        found: list[float] = []
        while len(found) < len(frames):
            # A run ends no later than the state may restart.
            found += self._run(frames[len(found) : len(found) + self._silence.frames_left])
        return found

    def _run(self, frames: Samples) -> list[float]:
        contexts = np.vstack([self._context, frames[:-1, -CONTEXT:]])
        self._context = frames[-1, -CONTEXT:]
        return self._judge(np.hstack([contexts, frames]))

    def _judge(self, inputs: Samples) -> list[float]:
        """Runs the network on frames with their contexts."""
        feeds = {"input": inputs, "h": self._state[0], "c": self._state[1]}
        try:
            output, *state = self._session.run(None, feeds)
        except Exception as error:
            raise EngineFailed("Silero VAD failed; the log says why") from error
        self._state = (state[0], state[1])
        found = [float(each) for each in output.reshape(-1)]
        restarts = [self._silence.add(probability) for probability in found]
        if restarts[-1]:
            self._state = _initial_state()
        return found


def _initial_state() -> State:
    zeros = np.zeros((1, 1, 128), np.float32)
    return zeros, zeros
