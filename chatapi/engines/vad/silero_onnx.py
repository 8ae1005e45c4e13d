"""Voice activity detection by Silero VAD v6 on ONNX Runtime: many frames at once where they are there already.

Of a frame it hears the 64 samples before it too, and its state goes on from frame to frame:
https://github.com/snakers4/silero-vad; the model with a state of two tensors is faster-whisper's export of it.
In a long silence the state drifts, until the next onset is noticed late or not at all: it begins anew in each silence.
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
"""Samples, 32 ms: the only size that v6 takes at 16 kHz."""
BEFORE = 64
"""Samples of the frame before that it hears again."""
AT_ONCE = 938
"""Frames between two looks at whether anybody wants the rest: 30 s of sound, in about 50 ms on one core."""

RESTART = 64
"""Frames, 2 s, of which none is likely speech, after which the state begins anew.

The onset of 24 clips of tests/corpus after a minute of digital silence is found after 0.31 s (median; 95 %: 0.79, more
than is kept of what was before an onset); with a state that begins anew after 0.12 (0.22). The same with a background
at -50 dB: 0.21 (0.46), and 0.11 (0.18).
"""
UNLIKELY = 0.1
"""Probability below which a frame is hardly speech."""

State = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


class SileroOnnx:
    """One session for all streams; each has a state of its own. ModelError when it cannot be loaded."""

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
            # The processor whatever there is: a GPU has to be told of each frame.
            self._session = onnxruntime.InferenceSession(str(onnx), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ModelError(f"{onnx} cannot be loaded: {error}") from error

    def listener(self) -> SpeechStream:
        return _SileroOnnxStream(self._session)

    def probabilities(self, samples: Samples, stop: Stop = never) -> Iterator[float]:
        if stop():
            return
        stream = _SileroOnnxStream(self._session)
        for start in range(0, len(samples), AT_ONCE * FRAME):
            for probability in stream.judged(samples[start : start + AT_ONCE * FRAME]):
                if stop():
                    return
                yield probability


class _SileroOnnxStream:
    """What is remembered of one stream."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._state: State = _anew()
        self._before: Samples = np.zeros(BEFORE, np.float32)
        self._unlikely = 0
        """Frames in a row that are hardly speech, since the state began."""

    def probability(self, frame: Samples) -> float:
        return self.judged(frame)[0]

    def judged(self, samples: Samples) -> list[float]:
        """A probability for each frame; a short last one is padded."""
        clipped = np.clip(samples, -1.0, 1.0).astype(np.float32)
        frames = np.pad(clipped, (0, -len(clipped) % FRAME)).reshape(-1, FRAME)
        found: list[float] = []
        while len(found) < len(frames):
            # No further than the state may go on.
            found += self._run(frames[len(found) : len(found) + RESTART - self._unlikely])
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
        if self._unlikely >= RESTART:
            self._state, self._unlikely = _anew(), 0
        return found


def _anew() -> State:
    nothing = np.zeros((1, 1, 128), np.float32)
    return nothing, nothing
