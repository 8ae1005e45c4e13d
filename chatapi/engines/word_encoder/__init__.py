"""Word encoding engines: vectors that are alike for the same word, by which taught words are distinguished."""

from __future__ import annotations

import numpy as np

from chatapi.audio import Samples
from chatapi.engines import COMMAND_SAMPLES, WordEncoder
from chatapi.engines.call import EngineCall
from chatapi.engines.role import EngineEntry, Role, noise
from chatapi.settings import Settings, WordEncoderSettings

NOTHING = np.zeros(0, np.float32)
"""No embedding of a classifier."""


def _warm_up(engine: WordEncoder, settings: Settings) -> EngineCall[Samples]:
    return _probe(engine)


def _probe(engine: WordEncoder) -> EngineCall[Samples]:
    return EngineCall.of(WordEncoder.encode, noise(COMMAND_SAMPLES), NOTHING)


ROLE: Role[WordEncoder] = Role(
    name="word_encoder",
    title="word encoding",
    protocol=WordEncoder,
    settings=WordEncoderSettings,
    engines={
        "whisper_words": EngineEntry(
            "chatapi.engines.word_encoder.whisper_words:WhisperWords", "onnxruntime", "pip install onnxruntime"
        ),
        "fake": EngineEntry("chatapi.engines.fake_sounds:FakeWordEncoder", needs_model=False),
    },
    warm_up=_warm_up,
    probe=_probe,
    memory_rank=75,
)
