"""Wake word engines."""

from __future__ import annotations

from chatapi.engines import WAKE_WORD_FRAME, WakeWordDetector
from chatapi.engines.call import EngineCall
from chatapi.engines.role import WARM_UP_SAMPLES, EngineEntry, Role, noise
from chatapi.settings import Settings, WakeWordSettings


def _warm_up(engine: WakeWordDetector, settings: Settings) -> EngineCall[float]:
    return EngineCall.of(WakeWordDetector.probabilities, noise(WARM_UP_SAMPLES))


def _probe(engine: WakeWordDetector) -> EngineCall[float]:
    return EngineCall.of(WakeWordDetector.probabilities, noise(WAKE_WORD_FRAME))


def _expected(settings: Settings) -> bool:
    return settings.audio_device.enabled and settings.audio_device.mode == "wake_word"


ROLE: Role[WakeWordDetector] = Role(
    name="wake_word",
    title="wake word detection",
    protocol=WakeWordDetector,
    settings=WakeWordSettings,
    engines={
        "pymicro_wakeword": EngineEntry(
            "chatapi.engines.wake_word.pymicro_wakeword:PymicroWakeword",
            "pymicro_wakeword",
            "pip install pymicro-wakeword",
        ),
        "fake": EngineEntry("chatapi.engines.fake:FakeWakeWordDetector", needs_model=False),
    },
    warm_up=_warm_up,
    probe=_probe,
    memory_rank=60,
    expected=_expected,
)
