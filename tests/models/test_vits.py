"""Voices that are synthesized in chunks: a small decoder of convolutions, and a real voice where installed."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatapi.audio import joined
from chatapi.audio.loudness import LEVEL, LoudnessNormalizer, loudness, loudness_normalized
from chatapi.catalog import InstalledModel
from chatapi.engines import onnx_graph
from chatapi.engines.tts import vits
from chatapi.engines.tts.vits import FIRST_DECODER_WEIGHT, WINDOWS, Vits, windows
from chatapi.settings import Settings
from conftest import installed_model

pytest.importorskip("piper")
from chatapi.engines.tts.piper import Piper, _phonemes

VOICE = "en_US-joe-medium"


def open_session(onnx: Path, encoded: bytes | None) -> Any:
    return onnxruntime.InferenceSession(str(onnx) if encoded is None else encoded)


@pytest.fixture(scope="module")
def joe() -> InstalledModel:
    return installed_model(VOICE)


@pytest.fixture(scope="module")
def speaking(joe: InstalledModel) -> Piper:
    return Piper(Settings(), [joe])


def feeds(engine: Piper, text: str) -> dict[str, Any]:
    """The input of the model, without noise, so that two runs are equal."""
    model = engine._model(engine._files[VOICE])
    [phonemes] = _phonemes(model.piper, text)
    ids = model.piper.phonemes_to_ids(phonemes)
    return {
        "input": np.array([ids], np.int64),
        "input_lengths": np.array([len(ids)], np.int64),
        "scales": np.array([0, 1, 0], np.float32),
    }


@given(st.integers(1, 3000))
def test_windows_cover_all_frames_once(frames: int) -> None:
    found = list(windows(frames))
    assert found[0][0] == 0 and found[-1][1] == frames
    assert all(before[1] == after[0] for before, after in pairwise(found))
    assert all(0 < end - start <= WINDOWS[-1] * 3 // 2 for start, end in found)


@given(st.binary(max_size=300))
def test_bytes_that_are_no_model_are_named(data: bytes) -> None:
    try:
        assert onnx_graph.cut(data, FIRST_DECODER_WEIGHT) is None
    except ValueError as error:
        assert str(error)


@pytest.mark.real
def test_cut_off_model_is_reported_as_damaged(joe: InstalledModel) -> None:
    onnx = next(path for path in joe.files.values() if path.suffix == ".onnx")
    with pytest.raises(ValueError, match="cut off"):
        onnx_graph.cut(onnx.read_bytes()[:-1000], FIRST_DECODER_WEIGHT)
    assert onnx_graph.cut(onnx.read_bytes(), "another.weight") is None


@pytest.mark.real
def test_windows_of_a_real_voice_sound_as_the_whole(joe: InstalledModel, speaking: Piper) -> None:
    onnx = next(path for path in joe.files.values() if path.suffix == ".onnx")
    cut = Vits([open_session(onnx, part) for part in vits.parts(onnx)])
    given = feeds(speaking, "Whales sing for hours, and their songs change.")
    assert cut.is_cut
    parts = list(cut.run(given))
    whole = open_session(onnx, None).run(None, given)[0].reshape(-1)
    together = np.concatenate(parts)
    assert len(parts) > 2 and len(together) == len(whole)
    assert np.corrcoef(together, whole)[0, 1] > 0.9999
    assert np.abs(together - whole).max() < 1e-4


@pytest.mark.real
def test_joins_of_a_real_voice_do_not_click(speaking: Piper) -> None:
    parts = [part.samples for part in speaking.synthesize("Whales sing for hours, and their songs change.", VOICE)]
    together = np.concatenate(parts)
    steps = np.abs(np.diff(together, 2))
    for at in np.cumsum([len(part) for part in parts])[:-1]:
        # A click is a step larger than those of the voice around it.
        nearby = np.concatenate([steps[at - 400 : at - 10], steps[at + 10 : at + 400]])
        assert steps[at - 2 : at + 1].max() <= 2 * nearby.max()


@pytest.mark.real
def test_stop_is_polled_between_windows(speaking: Piper) -> None:
    text = "The old lighthouse keeper climbed the stairs slowly, and nobody saw him come down again that evening."
    whole = joined(list(speaking.synthesize(text, VOICE)))
    parts: list[Any] = []
    parts.extend(speaking.synthesize(text, VOICE, stop=lambda: len(parts) >= 2))
    assert len(parts) == 2 and joined(parts).seconds < whole.seconds / 3


def tone(seconds: float, amplitude: float) -> Any:
    return (amplitude * np.sin(np.arange(int(22050 * seconds)) * 0.1)).astype(np.float32)


@pytest.mark.parametrize("amplitude", [0.02, 0.1, 0.4, 0.95])
def test_stream_approaches_the_level_without_a_step(amplitude: float) -> None:
    samples = tone(3, amplitude)
    normalizer = LoudnessNormalizer(usual=loudness(tone(1, 0.1)))
    scaled = np.concatenate([normalizer.add(part) for part in np.array_split(samples, 9)])
    assert (
        abs(20 * np.log10(np.sqrt(loudness(scaled[-22050:])) / LEVEL)) < abs(20 * np.log10(amplitude / 0.1)) / 2 + 0.1
    )
    assert np.abs(scaled).max() < 1
    assert np.abs(np.diff(scaled)).max() <= 0.11 * np.abs(scaled).max()


def test_stream_of_usual_loudness_is_scaled_as_a_whole_is() -> None:
    samples = tone(2, 0.1)
    normalizer = LoudnessNormalizer(usual=loudness(samples))
    scaled = np.concatenate([normalizer.add(part) for part in np.array_split(samples, 5)])
    assert np.allclose(scaled, loudness_normalized(samples), atol=1e-3)


def test_silence_stays_silent() -> None:
    normalizer = LoudnessNormalizer(usual=0.01)
    assert not normalizer.add(np.zeros(5000, np.float32)).any()
    assert len(normalizer.add(np.zeros(0, np.float32))) == 0
