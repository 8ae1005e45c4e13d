"""What is whisper.cpp's own beyond the engine contract."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import model, tone

from chatapi.audio import RATE, Samples, decode
from chatapi.corpus import coloured
from chatapi.engines.whisper_cpp import TRIMMED, WhisperCpp, _repeats
from chatapi.errors import ModelFault, Unprocessable
from chatapi.settings import Settings
from chatapi.settings import WhisperCpp as Table
from chatapi.wer import words

pytestmark = pytest.mark.real
REAL = Path(__file__).parent / "corpus" / "real"


def clip(name: str) -> Samples:
    return decode(REAL / f"{name}.flac").samples


def heard(engine: WhisperCpp, samples: Samples, language: str | None = "en") -> str:
    return " ".join(segment.text for segment in engine.transcribe(samples, language))


@pytest.fixture(scope="module")
def english() -> WhisperCpp:
    return WhisperCpp(Settings(), [model("whisper-tiny.en")])


@pytest.fixture(scope="module")
def many() -> WhisperCpp:
    return WhisperCpp(Settings(), [model("whisper-base")])


def test_a_short_clip_is_heard_with_a_short_window_and_a_long_one_with_all(english: WhisperCpp) -> None:
    assert english.window(3 * RATE) == english.window(int(8.96 * RATE)) == TRIMMED
    assert english.window(9 * RATE) == 0
    whole = WhisperCpp(Settings(whisper_cpp=Table(trim=False)), [model("whisper-tiny.en")])
    assert whole.window(3 * RATE) == 0
    assert words(heard(english, clip("en-quick_brown_fox"))) == words(heard(whole, clip("en-quick_brown_fox")))


def test_more_than_a_window_is_heard_to_the_end_once(english: WhisperCpp) -> None:
    names = [f"two_cities-{number:02}" for number in range(12)]
    said = np.concatenate([np.concatenate([clip(name), np.zeros(RATE // 2, np.float32)]) for name in names])
    assert len(said) > 40 * RATE
    segments = list(english.transcribe(said, "en"))
    starts = [segment.start for segment in segments]
    assert starts == sorted(starts)
    assert all(0 <= segment.start <= segment.end <= len(said) / RATE for segment in segments)
    assert segments[-1].end > len(said) / RATE - 4
    text = words(" ".join(segment.text for segment in segments))
    assert text.count("wisdom") == text.count("foolishness") == 1


SOUNDS: dict[str, Callable[[], Samples]] = {
    "silence": lambda: np.zeros(4 * RATE, np.float32),
    "white": lambda: 0.1 * coloured(4 * RATE, np.random.default_rng(1), falling=False),
    "pink": lambda: 0.1 * coloured(4 * RATE, np.random.default_rng(2), falling=True),
    "hum": lambda: tone(4, 50, level=0.3),
    "tone": lambda: tone(4, 440),
    "clicks": lambda: np.where(np.arange(4 * RATE) % 8000 < 20, 0.8, 0).astype(np.float32),
    "long silence": lambda: np.zeros(40 * RATE, np.float32),
}


@pytest.mark.parametrize("sound", SOUNDS)
def test_nothing_is_invented_where_nobody_speaks(english: WhisperCpp, sound: str) -> None:
    assert heard(english, SOUNDS[sound]()) == ""


def test_less_than_a_second_is_heard(english: WhisperCpp) -> None:
    sound = clip("en-hello_world")
    loud = np.flatnonzero(np.abs(sound) > 0.02)
    spoken = sound[loud[0] : loud[-1]]
    assert "hello" in words(heard(english, spoken))
    assert heard(english, spoken[: RATE // 100]) == ""


def test_stopping_inside_the_encoder_ends_it_and_leaves_it_usable(english: WhisperCpp) -> None:
    said = np.concatenate([clip(f"two_cities-{number:02}") for number in range(8)])[: 29 * RATE]
    asked = 0

    def stop_after(count: int) -> Callable[[], bool]:
        def stop() -> bool:
            nonlocal asked
            asked += 1
            return asked > count

        return stop

    assert list(english.transcribe(said, "en", stop_after(10**9)))
    whole, asked = asked, 0
    assert list(english.transcribe(said, "en", stop_after(whole // 20))) == []
    assert asked < whole // 20 + 10
    assert words(heard(english, clip("en-hello_world"))) == ["hello", "world"]


def test_a_language_it_does_not_understand_is_refused_with_those_it_does(english: WhisperCpp) -> None:
    with pytest.raises(Unprocessable) as caught:
        list(english.transcribe(clip("en-hello_world"), "fr"))
    assert caught.value.code == "unknown_language"
    assert "en" in caught.value.message


@pytest.mark.parametrize(
    ("name", "language"),
    [("fr-pangrama", "fr"), ("es-pangrama", "es"), ("it-pangrama", "it"), ("ja-pangrama", "ja"), ("jfk-16", "en")],
)
def test_the_language_is_found_when_nobody_names_it(many: WhisperCpp, name: str, language: str) -> None:
    segments = list(many.transcribe(clip(name), None))
    assert {segment.language for segment in segments} == {language}


def test_the_same_clip_gives_the_same_words_whatever_came_before(many: WhisperCpp) -> None:
    alone = heard(many, clip("fr-pangrama"), None)
    heard(many, np.zeros(20 * RATE, np.float32), None)
    heard(many, clip("jfk-17"), "en")
    assert heard(many, clip("fr-pangrama"), None) == alone


@pytest.mark.parametrize("content", [b"", b"not a model", b"lmgg" + bytes(1000)])
def test_a_file_that_is_no_model_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "ggml.bin"
    file.write_bytes(content)

    broken = SimpleNamespace(name="broken", languages=("en",), files={"ggml.bin": file})
    with pytest.raises(ModelFault) as caught:
        WhisperCpp(Settings(), [broken])
    assert str(file) in caught.value.message


@pytest.mark.parametrize(
    ("text", "times", "found"),
    [
        ("the cat the cat sat", 2, True),
        ("no no no", 2, True),
        ("no no", 2, False),
        ("he said that that was so", 2, False),
        ("very very good", 4, False),
        ("la la la la la", 4, True),
        ("你好你好", 2, True),
        ("", 2, False),
    ],
)
def test_going_round_in_circles_is_seen(text: str, times: int, found: bool) -> None:
    assert _repeats(text, times) is found


def test_a_person_who_says_it_again_and_again_is_heard(english: WhisperCpp) -> None:
    said = words(heard(english, np.tile(clip("jfk-16"), 4)))
    assert said.count("americans") >= 4
