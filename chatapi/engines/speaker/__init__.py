"""Speaker embedding engines: vectors by which speakers are distinguished."""

from __future__ import annotations

from chatapi.audio import Samples
from chatapi.engines import SpeakerEncoder
from chatapi.engines.call import EngineCall
from chatapi.engines.role import PROBE_SAMPLES, WARM_UP_SAMPLES, EngineEntry, Role, noise
from chatapi.settings import Settings, SpeakerSettings


def _warm_up(engine: SpeakerEncoder, settings: Settings) -> EngineCall[Samples]:
    return EngineCall.of(SpeakerEncoder.embeddings, noise(WARM_UP_SAMPLES))


def _probe(engine: SpeakerEncoder) -> EngineCall[Samples]:
    return EngineCall.of(SpeakerEncoder.embeddings, noise(PROBE_SAMPLES))


ROLE: Role[SpeakerEncoder] = Role(
    name="speaker",
    title="speaker embeddings",
    protocol=SpeakerEncoder,
    settings=SpeakerSettings,
    engines={
        "resemblyzer": EngineEntry(
            "chatapi.engines.speaker.resemblyzer:Resemblyzer", "onnxruntime", "pip install onnxruntime"
        ),
        "fake": EngineEntry("chatapi.engines.fake_sounds:FakeSpeakerEncoder", needs_model=False),
    },
    warm_up=_warm_up,
    probe=_probe,
    memory_rank=60,
)
