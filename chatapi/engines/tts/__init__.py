"""Speech synthesis engines."""

from __future__ import annotations

from chatapi.audio import Audio
from chatapi.engines import Synthesizer
from chatapi.engines.call import EngineCall
from chatapi.engines.role import EngineEntry, Role
from chatapi.settings import Settings, TtsSettings


def _warm_up(engine: Synthesizer, settings: Settings) -> EngineCall[Audio]:
    return EngineCall.of(Synthesizer.synthesize, "" if engine.is_warm else "Ready.", engine.voices[0].name)


def _probe(engine: Synthesizer) -> EngineCall[Audio]:
    return EngineCall.of(Synthesizer.synthesize, "Yes.", engine.voices[0].name)


ROLE: Role[Synthesizer] = Role(
    name="tts",
    title="speech synthesis",
    protocol=Synthesizer,
    settings=TtsSettings,
    engines={
        "piper": EngineEntry("chatapi.engines.tts.piper:Piper", "piper", "pip install piper-tts"),
        "coqui": EngineEntry("chatapi.engines.tts.coqui:Coqui", "TTS", "pip install 'chatapi-appliance[coqui]'"),
        "fake": EngineEntry("chatapi.engines.fake:FakeSynthesizer", needs_model=False),
    },
    warm_up=_warm_up,
    probe=_probe,
    memory_rank=30,
    essential=True,
    # Each is a voice.
    every_model=True,
)
