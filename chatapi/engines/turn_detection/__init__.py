"""End-of-turn detection engines."""

from __future__ import annotations

from chatapi.engines import EndOfTurnDetector
from chatapi.engines.call import EngineCall
from chatapi.engines.role import PROBE_SAMPLES, WARM_UP_SAMPLES, EngineEntry, Role, noise
from chatapi.settings import Settings, TurnDetectionSettings


def _warm_up(engine: EndOfTurnDetector, settings: Settings) -> EngineCall[float]:
    return EngineCall.of(EndOfTurnDetector.end_of_turn_probability, noise(WARM_UP_SAMPLES))


def _probe(engine: EndOfTurnDetector) -> EngineCall[float]:
    return EngineCall.of(EndOfTurnDetector.end_of_turn_probability, noise(PROBE_SAMPLES))


def _expected(settings: Settings) -> bool:
    """Every live conversation needs it, and any client may start one."""
    return True


ROLE: Role[EndOfTurnDetector] = Role(
    name="turn_detection",
    title="end-of-turn detection",
    protocol=EndOfTurnDetector,
    settings=TurnDetectionSettings,
    engines={
        "smart_turn": EngineEntry(
            "chatapi.engines.turn_detection.smart_turn:SmartTurn", "onnxruntime", "pip install onnxruntime"
        ),
        "fake": EngineEntry("chatapi.engines.fake:FakeEndOfTurnDetector", needs_model=False),
    },
    warm_up=_warm_up,
    probe=_probe,
    memory_rank=40,
    expected=_expected,
)
