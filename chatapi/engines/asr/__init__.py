"""Speech recognition engines."""

from __future__ import annotations

from chatapi.engines import Segment, Transcriber
from chatapi.engines.call import EngineCall
from chatapi.engines.role import PROBE_SAMPLES, EngineEntry, Role, noise
from chatapi.settings import AsrSettings, Settings


def _warm_up(engine: Transcriber, settings: Settings) -> EngineCall[Segment]:
    # Whisper transcribes noise several times, which takes longer than loading it.
    return EngineCall.of(Transcriber.transcribe, noise(0 if engine.is_warm else PROBE_SAMPLES))


def _probe(engine: Transcriber) -> EngineCall[Segment]:
    return EngineCall.of(Transcriber.transcribe, noise(PROBE_SAMPLES))


ROLE: Role[Transcriber] = Role(
    name="asr",
    title="speech recognition",
    protocol=Transcriber,
    settings=AsrSettings,
    engines={
        "ctranslate2": EngineEntry(
            "chatapi.engines.asr.ctranslate2:CTranslate2", "ctranslate2", "pip install ctranslate2"
        ),
        "whisper_cpp": EngineEntry(
            "chatapi.engines.asr.whisper_cpp:WhisperCpp", "pywhispercpp", "pip install pywhispercpp"
        ),
        "fake": EngineEntry("chatapi.engines.fake:FakeTranscriber", needs_model=False),
    },
    warm_up=_warm_up,
    probe=_probe,
    memory_rank=20,
    essential=True,
)
