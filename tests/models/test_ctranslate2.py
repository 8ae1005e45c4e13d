"""CTranslate2, beyond what all engines with Whisper share."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ctranslate2  # type: ignore[import-untyped]
import numpy as np
import pytest

from chatapi.audio import RATE, Samples
from chatapi.audio.decode import decode
from chatapi.bench.corpus import coloured
from chatapi.bench.wer import word_error_rate, words
from chatapi.engines import TranscriptionOptions
from chatapi.engines.asr.ctranslate2 import CTranslate2
from chatapi.engines.asr.ctranslate2_loading import loaded
from chatapi.errors import ModelError
from chatapi.settings import CTranslate2Settings as Table
from chatapi.settings import Settings
from conftest import installed_model
from paths import CORPUS
from test_whisper import SOUNDS, clip

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def english() -> CTranslate2:
    return CTranslate2(Settings(), [installed_model("whisper-tiny.en-ct2")])


@pytest.mark.skipif(ctranslate2.get_cuda_device_count() > 0, reason="this machine has a GPU")
def test_a_gpu_that_does_not_work_leaves_speech_recognition_to_the_cpu(caplog: pytest.LogCaptureFixture) -> None:
    folder = installed_model("whisper-tiny.en-ct2").files["model.bin"].parent
    assert loaded(folder, Table(), 1, 1).device == "cpu" and not caplog.records
    assert loaded(folder, Table(), 1, 1, gpus=lambda: 1).device == "cpu"
    [line] = caplog.records
    assert "the GPU does not run whisper-tiny.en-ct2, so the CPU does" in line.getMessage()
    with pytest.raises(ModelError, match="CUDA"):
        loaded(folder, Table(device="cuda"), 1, 1)


def transcript(engine: CTranslate2, name: str) -> list[str]:
    return words(" ".join(segment.text for segment in engine.transcribe(clip(name), "en")))


def test_a_cancelled_transcription_yields_nothing_and_the_engine_stays_usable(english: CTranslate2) -> None:
    speech = np.concatenate([clip(f"two_cities-{number:02}") for number in range(12)])
    answers = iter([False, False, False, False])
    segments = list(english.transcribe(speech, "en", lambda: next(answers, True)))
    assert all(segment.end < 31 for segment in segments)
    assert transcript(english, "en-hello_world") == ["hello", "world"]


@pytest.mark.parametrize(("sound", "passes"), [("silence", 1), ("white", 1), ("hum", 1), ("speech", 2)])
def test_sound_of_no_speech_is_encoded_once(
    english: CTranslate2, monkeypatch: pytest.MonkeyPatch, sound: str, passes: int
) -> None:
    encoded: list[int] = []
    encode = english._encode

    def counted(window: Samples, length: int, *others: Any) -> Any:
        encoded.append(length)
        return encode(window, length, *others)

    monkeypatch.setattr(english, "_encode", counted)
    # A command that the trimmed encoder is not sure of is encoded again.
    unsure = decode(CORPUS / "commands" / "03-pico-en-GB.flac").samples
    found = list(english.transcribe(unsure if sound == "speech" else SOUNDS[sound]()[:RATE], "en"))
    assert len(encoded) == passes
    assert bool(found) is (sound == "speech")


def test_one_beam_transcribes_clear_speech(english: CTranslate2) -> None:
    greedy = CTranslate2(Settings(ctranslate2=Table(beams=1, threads=1)), [installed_model("whisper-tiny.en-ct2")])
    assert greedy.threads == 1
    assert transcript(greedy, "en-quick_brown_fox") == transcript(english, "en-quick_brown_fox")


def joined(*names: str) -> Samples:
    """Clips with half a second of silence after each."""
    return np.concatenate([np.concatenate([clip(name), np.zeros(RATE // 2, np.float32)]) for name in names])


LONG = [f"two_cities-{number:02}" for number in range(6)]
"""About 19 seconds."""


def test_two_clips_at_once_have_the_transcripts_of_each_alone(english: CTranslate2) -> None:
    assert english.slots == 2
    names = ("en-quick_brown_fox", "jfk-16")
    alone = [transcript(english, name) for name in names]
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(lambda name: transcript(english, name), names)) == alone


def test_the_threads_are_shared_by_the_slots() -> None:
    given = [installed_model("whisper-tiny.en-ct2")]
    assert [CTranslate2(Settings(ctranslate2=Table(slots=slots, threads=4)), given).threads for slots in (1, 2, 8)] == [
        4,
        2,
        1,
    ]


def test_the_log_probability_of_a_short_clip_is_that_of_its_words(english: CTranslate2) -> None:
    (plain,) = english.transcribe(clip("jfk-16"), "en")
    (with_tokens,) = english.transcribe(clip("jfk-16"), "en", options=TranscriptionOptions(tokens=True))
    assert (
        plain.logprob == with_tokens.logprob == pytest.approx(np.mean([token.logprob for token in with_tokens.tokens]))
    )


def test_a_long_clip_has_the_same_words_with_and_without_timestamps(english: CTranslate2) -> None:
    plain = list(english.transcribe(joined(*LONG), "en"))
    with_words = list(english.transcribe(joined(*LONG), "en", options=TranscriptionOptions(words=True)))
    assert [(each.text, each.start, each.end) for each in plain] == [
        (each.text, each.start, each.end) for each in with_words
    ]
    assert all(not each.words and -0.5 <= each.logprob < 0 for each in plain)
    assert all(each.words for each in with_words)


def test_a_long_noisy_clip_is_transcribed_to_its_end(english: CTranslate2) -> None:
    speech = joined(*LONG)
    noisy = speech + 0.02 * coloured(len(speech), np.random.default_rng(3), falling=False)
    wanted = [word for name in LONG for word in transcript(english, name)]
    found = words(" ".join(segment.text for segment in english.transcribe(noisy, "en")))
    assert word_error_rate([(" ".join(wanted), " ".join(found))]) < 0.2
    assert found[-1] == wanted[-1]


@pytest.mark.parametrize("sound", ["silence", "white", "pink", "hum"])
def test_a_long_clip_without_speech_has_no_transcript(english: CTranslate2, sound: str) -> None:
    nobody = np.tile(SOUNDS[sound](), 4)
    assert list(english.transcribe(nobody, "en")) == []
    between = np.concatenate([clip("en-hello_world"), nobody[: 8 * RATE], clip("en-quick_brown_fox")])
    found = words(" ".join(segment.text for segment in english.transcribe(between, "en")))
    assert found == [*transcript(english, "en-hello_world"), *transcript(english, "en-quick_brown_fox")]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model.bin", b""),
        ("model.bin", b"not a model"),
        ("vocabulary.txt", b"\xff\xfe"),
        ("vocabulary.txt", b"a\nb\n"),
        ("vocabulary.txt", b"a\n<|endoftext|>\n"),
        ("vocabulary.txt", None),
    ],
)
def test_invalid_model_file_is_named(tmp_path: Path, file: str, content: bytes | None) -> None:
    whole = installed_model("whisper-tiny.en-ct2")
    files = {name: Path(shutil.copy(path, tmp_path)) for name, path in whole.files.items()}
    files[file].unlink() if content is None else files[file].write_bytes(content)
    with pytest.raises(ModelError) as caught:
        CTranslate2(Settings(), [SimpleNamespace(name="broken", languages=("en",), files=files)])
    assert file in caught.value.message or str(tmp_path) in caught.value.message
