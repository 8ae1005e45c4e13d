"""Voice conversion by the real networks: the words stay, and the voice becomes the reference's."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from chatapi.audio import RATE, Audio, Samples
from chatapi.audio.decode import decode
from chatapi.bench.wer import words
from chatapi.engines.asr.ctranslate2 import CTranslate2
from chatapi.engines.speaker.resemblyzer import Resemblyzer
from chatapi.engines.tts.piper import Piper
from chatapi.engines.voice_converter.knn_vc import KnnVc
from chatapi.settings import Settings
from conftest import installed_model
from paths import CORPUS

pytestmark = pytest.mark.real
TEXT = "The old man walked slowly down to the river, and looked at the water for a long time. "
SENTENCES = (
    TEXT, "Would you please bring me five large boxes of fresh fruit before the shop closes?",
    "My favourite months are May, August and December, because of the weather.", "Joy and anger both change a voice.",
    "Which of these three books have you already finished reading?", "She chose the thick blue cloth for her coat.",
)  # fmt: skip


@pytest.fixture(scope="module")
def converter() -> KnnVc:
    return KnnVc(Settings(), [installed_model("knn-vc-whisper-base")])


@pytest.fixture(scope="module")
def source() -> Samples:
    return decode(CORPUS / "real" / "austen-0870-19.flac").samples


@pytest.fixture(scope="module")
def target() -> Samples:
    """About half a minute of the voice Joe."""
    piper = Piper(Settings(), [installed_model("en_US-joe-medium")])
    spoken = [each.at(RATE).samples for text in SENTENCES for each in piper.synthesize(text, "en_US-joe-medium")]
    return np.concatenate(spoken)


@pytest.fixture(scope="module")
def converted(converter: KnnVc, source: Samples, target: Samples) -> Samples:
    reference = np.concatenate(list(converter.reference(target)))
    parts = list(converter.convert(source, reference))
    return Audio(np.concatenate([each.samples for each in parts]), converter.rate).at(RATE).samples


def embedding(encoder: Resemblyzer, samples: Samples) -> Samples:
    total = np.sum(list(encoder.embeddings(samples)), axis=0)
    found: Samples = total / np.linalg.norm(total)
    return found


def test_the_voice_becomes_that_of_the_reference(converted: Samples, source: Samples, target: Samples) -> None:
    encoder = Resemblyzer(Settings(), [installed_model("resemblyzer")])
    found, to, of = (embedding(encoder, each) for each in (converted, target, source))
    print(f"to {found @ to:.3f}, of {found @ of:.3f}, before {embedding(encoder, source) @ to:.3f}")
    assert found @ to > embedding(encoder, source) @ to + 0.1
    assert found @ to > found @ of


def test_most_words_stay_those_of_the_source(converted: Samples, source: Samples) -> None:
    asr = CTranslate2(Settings(), [installed_model("whisper-base-ct2")])

    def heard(samples: Samples) -> Iterator[str]:
        return (word for segment in asr.transcribe(samples, "en") for word in words(segment.text))

    wanted, found = list(heard(source)), set(heard(converted))
    assert len(wanted) > 15
    assert sum(word in found for word in wanted) / len(wanted) > 0.6
