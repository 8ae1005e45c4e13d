"""What all engines with Whisper share, beyond the engine contract."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from chatapi.audio import RATE, Samples
from chatapi.audio.decode import decode
from chatapi.bench.commands import understood
from chatapi.bench.corpus import coloured, commands
from chatapi.bench.wer import words
from chatapi.engines import Segment, TranscriptionOptions
from chatapi.engines.asr.whisper import loops, repeats, too_fast
from chatapi.engines.registry import load
from chatapi.errors import Unprocessable
from chatapi.settings import CTranslate2Settings, Settings, WhisperCppSettings
from conftest import installed_model, tone
from paths import CORPUS

REAL = CORPUS / "real"
ENGLISH = {"ctranslate2": "whisper-tiny.en-ct2", "whisper_cpp": "whisper-tiny.en"}
MANY = {"ctranslate2": "whisper-base-ct2", "whisper_cpp": "whisper-base"}
WHOLE = Settings(ctranslate2=CTranslate2Settings(trim=False), whisper_cpp=WhisperCppSettings(trim=False))


def clip(name: str) -> Samples:
    return decode(REAL / f"{name}.flac").samples


def transcript(engine: Any, samples: Samples, language: str | None = "en") -> str:
    return " ".join(segment.text for segment in engine.transcribe(samples, language))


@pytest.fixture(scope="module", params=ENGLISH)
def english(request: pytest.FixtureRequest) -> Any:
    return load("asr", request.param)(Settings(), [installed_model(ENGLISH[request.param])])


@pytest.fixture(scope="module", params=MANY)
def many(request: pytest.FixtureRequest) -> Any:
    return load("asr", request.param)(Settings(), [installed_model(MANY[request.param])])


@pytest.mark.real
@pytest.mark.parametrize("name", ENGLISH)
def test_a_short_clip_uses_a_trimmed_encoder_and_a_long_one_the_full_encoder(name: str) -> None:
    trimmed, whole = (load("asr", name)(each, [installed_model(ENGLISH[name])]) for each in (Settings(), WHOLE))
    assert 0 < trimmed.window(3 * RATE) == trimmed.window(8 * RATE) < 750
    assert trimmed.window(12 * RATE) == whole.window(3 * RATE) == 0
    assert words(transcript(trimmed, clip("en-quick_brown_fox"))) == words(
        transcript(whole, clip("en-quick_brown_fox"))
    )


@pytest.mark.real
def test_audio_longer_than_a_window_is_transcribed_once_to_the_end(english: Any) -> None:
    names = [f"two_cities-{number:02}" for number in range(12)]
    speech = np.concatenate([np.concatenate([clip(name), np.zeros(RATE // 2, np.float32)]) for name in names])
    assert len(speech) > 40 * RATE
    segments = list(english.transcribe(speech, "en"))
    starts = [segment.start for segment in segments]
    assert starts == sorted(starts)
    assert all(0 <= segment.start <= segment.end <= len(speech) / RATE for segment in segments)
    assert segments[-1].end > len(speech) / RATE - 4
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


@pytest.mark.real
@pytest.mark.parametrize("sound", SOUNDS)
def test_audio_without_speech_has_no_transcript(english: Any, sound: str) -> None:
    assert transcript(english, SOUNDS[sound]()) == ""


@pytest.mark.real
def test_audio_shorter_than_a_second_is_transcribed(english: Any) -> None:
    sound = clip("en-hello_world")
    loud = np.flatnonzero(np.abs(sound) > 0.02)
    spoken = sound[loud[0] : loud[-1]]
    assert "hello" in words(transcript(english, spoken))
    assert transcript(english, spoken[: RATE // 100]) == ""


@pytest.mark.real
def test_an_unsupported_language_is_rejected_with_the_supported_ones(english: Any) -> None:
    with pytest.raises(Unprocessable) as caught:
        list(english.transcribe(clip("en-hello_world"), "fr"))
    assert caught.value.code == "unknown_language"
    assert "en" in caught.value.message


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "language"),
    [("fr-pangrama", "fr"), ("pt-pangrama", "pt"), ("it-pangrama", "it"), ("ja-pangrama", "ja"), ("jfk-16", "en")],
)
def test_the_language_is_detected_when_none_is_requested(many: Any, name: str, language: str) -> None:
    segments = list(many.transcribe(clip(name), None))
    assert {segment.language for segment in segments} == {language}


@pytest.mark.real
def test_a_transcript_does_not_depend_on_earlier_ones(many: Any) -> None:
    alone = transcript(many, clip("fr-pangrama"), None)
    transcript(many, np.zeros(20 * RATE, np.float32), None)
    transcript(many, clip("jfk-17"), "en")
    assert transcript(many, clip("fr-pangrama"), None) == alone


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
def test_loops_are_detected(text: str, times: int, found: bool) -> None:
    assert repeats(text, times) is found


@pytest.mark.real
def test_repeated_phrase_of_a_speaker_is_transcribed(english: Any) -> None:
    spoken_words = words(transcript(english, np.tile(clip("jfk-16"), 4)))
    assert spoken_words.count("americans") >= 4


@pytest.mark.parametrize(
    ("text", "seconds", "found"),
    [("no, no, no, no, no", 4, False), ("la " * 40, 4, True), ("aaaaaaaaaaaaaah", 4, True), ("Aaah!", 1, False)],
)
def test_impossible_text_is_detected(text: str, seconds: float, found: bool) -> None:
    assert loops(Segment(text, 0, seconds)) is found


@pytest.mark.real
def test_words_and_tokens_are_in_order_and_match_the_text(english: Any) -> None:
    samples = clip("jfk-16")
    (segment,) = english.transcribe(samples, "en", options=TranscriptionOptions(words=True, tokens=True))
    assert words(" ".join(word.text for word in segment.words)) == words(segment.text)
    times = [time for word in segment.words for time in (word.start, word.end)]
    assert times == sorted(times) and times[0] >= 0 and times[-1] <= len(samples) / RATE
    assert times[-1] - times[0] > 1
    assert b"".join(token.utf8 for token in segment.tokens).decode().strip() == segment.text
    assert all(token.logprob <= 0 for token in segment.tokens)


@pytest.mark.real
def test_names_in_the_prompt_are_preferred(english: Any) -> None:
    spelled = [
        "".join(
            segment.text
            for segment in english.transcribe(clip("jfk-16"), "en", options=TranscriptionOptions(prompt=prompt))
        )
        for prompt in ("", "the fellow amerikans, my fellow amerikans")
    ]
    assert spelled[0] != spelled[1]


@pytest.mark.parametrize(
    ("text", "seconds", "found"),
    [
        ("And make sure to subscribe to our channel. " * 6, 0.8, True),
        ("and make sure to make sure to subscribe to our channel for more videos", 1.0, True),
        ("What time is it?", 0.7, False),
        ("I do not know what you want me to do", 1.4, False),
        ("No.", 0.1, False),
    ],
)
def test_more_words_than_fit_the_time_are_dropped(text: str, seconds: float, found: bool) -> None:
    assert too_fast(text, seconds) is found


@pytest.mark.real
@pytest.mark.parametrize("command", ["01", "03", "04", "05", "07"])
def test_command_cut_tightly_is_transcribed(english: Any, command: str) -> None:
    assert words(transcript(english, decode(CORPUS / "commands" / f"{command}-piper-joe-1.flac").samples))


@pytest.mark.real
@pytest.mark.parametrize("silence", [0.0, 0.2])
def test_single_words_of_a_person_are_understood(english: Any, silence: float) -> None:
    padding = np.zeros(round(silence * RATE), np.float32)
    recorded = [clip for clip in commands(CORPUS) if clip.voice == "asterisk-en_US"]
    for clip in recorded:
        found = transcript(english, np.concatenate([padding, clip.samples, padding]))
        assert understood(clip.text, found), (clip.text, found)


@pytest.mark.real
def test_unclear_audio_has_the_same_transcript_each_time_and_at_once(english: Any) -> None:
    unclear = decode(CORPUS / "commands" / "06-piper-joe-1.flac").samples
    with ThreadPoolExecutor(english.slots) as threads:
        found = set(threads.map(lambda _: transcript(english, unclear), range(6)))
    assert len(found) == 1
