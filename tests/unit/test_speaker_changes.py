"""Changes of the speaker within one utterance, on the voices that the fake speaker encoder tells apart."""

from __future__ import annotations

import numpy as np
import pytest

from chatapi.audio import RATE, Samples
from chatapi.engines.fake_sounds import FakeSpeakerEncoder
from chatapi.services.transcription.speaker_changes import changes
from chatapi.services.transcription.speaker_clusters import unit
from chatapi.settings import Settings
from conftest import tone

PAUSE = np.zeros(RATE // 5, np.float32)


def found(samples: Samples) -> list[float]:
    """Where another speaker begins, in seconds."""
    encoder = FakeSpeakerEncoder(Settings(), [])
    vectors = unit(np.stack(list(encoder.embeddings(samples))))
    return [each / RATE for each in changes(samples, vectors, encoder.threshold)]


def test_one_speaker_has_no_change() -> None:
    assert found(tone(6, 220)) == []
    assert found(np.concatenate([tone(2, 220), PAUSE, tone(3, 220)])) == []
    assert found(tone(0.5, 220)) == [] and found(np.zeros(0, np.float32)) == []


def test_changes_are_near_the_pauses_between_speakers() -> None:
    samples = np.concatenate([tone(3, 220), PAUSE, tone(3, 880), PAUSE, tone(3, 220)])
    assert found(samples) == [pytest.approx(3.1, abs=0.5), pytest.approx(6.3, abs=0.5)]


def test_a_word_in_between_is_no_change() -> None:
    assert found(np.concatenate([tone(3, 220), PAUSE, tone(0.6, 880)])) == []
