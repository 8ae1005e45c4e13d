"""Sound detection engines: which of a few sounds are in a clip, and when."""

from __future__ import annotations

from chatapi.engines import SoundDetector, SoundOptions, SoundWindow
from chatapi.engines.call import EngineCall
from chatapi.engines.role import EngineEntry, Role, noise
from chatapi.engines.sound_protocols import SOUND_RATE
from chatapi.settings import Settings, SoundDetectorSettings

PROBE_SECONDS = 3
"""Seconds of a warm-up's and a probe's clip: the longest window of the shipped front ends."""


def _warm_up(engine: SoundDetector, settings: Settings) -> EngineCall[SoundWindow]:
    return _probe(engine)


def _probe(engine: SoundDetector) -> EngineCall[SoundWindow]:
    return EngineCall.of(SoundDetector.detect, noise(PROBE_SECONDS * SOUND_RATE))


ROLE: Role[SoundDetector] = Role(
    name="sound_detector",
    title="sound detection",
    protocol=SoundDetector,
    settings=SoundDetectorSettings,
    engines={
        "orcahello": EngineEntry(
            "chatapi.engines.sound_detector.orcahello_onnx:OrcaHelloDetector",
            "onnxruntime",
            "pip install onnxruntime",
        ),
        "fake": EngineEntry("chatapi.engines.fake_sounds:FakeSoundDetector", needs_model=False),
    },
    warm_up=_warm_up,
    probe=_probe,
    memory_rank=80,
    counts_pace=True,
    values=(SoundOptions, SoundWindow),
)
