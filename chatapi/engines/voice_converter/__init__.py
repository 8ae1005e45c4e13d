"""Voice conversion engines: say what one voice says with another."""

from __future__ import annotations

from chatapi.audio import Samples
from chatapi.engines import ConversionWindow, VoiceConverter
from chatapi.engines.call import EngineCall
from chatapi.engines.role import PROBE_SAMPLES, WARM_UP_SAMPLES, EngineEntry, Role, noise
from chatapi.settings import Settings, VoiceConverterSettings


def _warm_up(engine: VoiceConverter, settings: Settings) -> EngineCall[Samples]:
    return EngineCall.of(VoiceConverter.reference, noise(WARM_UP_SAMPLES))


def _probe(engine: VoiceConverter) -> EngineCall[Samples]:
    return EngineCall.of(VoiceConverter.reference, noise(PROBE_SAMPLES))


ROLE: Role[VoiceConverter] = Role(
    name="voice_converter",
    title="voice conversion",
    protocol=VoiceConverter,
    settings=VoiceConverterSettings,
    engines={
        "knn_vc": EngineEntry("chatapi.engines.voice_converter.knn_vc:KnnVc", "onnxruntime", "pip install onnxruntime"),
        "fake": EngineEntry("chatapi.engines.fake_sounds:FakeVoiceConverter", needs_model=False),
    },
    warm_up=_warm_up,
    probe=_probe,
    memory_rank=70,
    values=(ConversionWindow,),
)
