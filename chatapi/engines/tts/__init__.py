"""Speech synthesis engines."""

from __future__ import annotations

from collections.abc import Iterator

from chatapi.audio import Audio
from chatapi.engines import Stop, Synthesizer
from chatapi.engines.role import EngineEntry, Role
from chatapi.settings import Settings, TtsSettings


def _warm_up(engine: Synthesizer, settings: Settings) -> Iterator[Audio]:
    return engine.synthesize("Ready.", engine.voices[0].name)


def _probe(engine: Synthesizer, stop: Stop) -> Iterator[Audio]:
    return engine.synthesize("Yes.", engine.voices[0].name, stop)


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
