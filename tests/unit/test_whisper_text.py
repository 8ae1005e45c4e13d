"""Which texts of Whisper are kept: decisions by log-probability, probability of no speech, speed and repetitions."""

from __future__ import annotations

import pytest

from chatapi.engines import Segment
from chatapi.engines.asr.whisper import WhisperResult, loops


def kept(text: str, logprob: float, no_speech: float, seconds: float = 1.5) -> bool:
    result = WhisperResult((Segment(text, 0, seconds, logprob),), logprob, no_speech)
    return bool(result.kept(seconds))


@pytest.mark.parametrize(
    ("text", "logprob", "no_speech", "seconds"),
    [
        ("The date is 12/25/24.", -0.97, 0.01, 2.5),
        ("What is the capital of France?", -0.92, 0.12, 1.6),
        ("pause", -2.08, 0.22, 0.4),
        ("Lights off...", -1.06, 0.12, 0.7),
        ("Cancel.", -1.59, 0.35, 0.4),
        ("Stop.", -0.8, 0.55, 0.4),
    ],
)
def test_text_is_kept_where_the_model_is_sure_of_speech(
    text: str, logprob: float, no_speech: float, seconds: float
) -> None:
    assert kept(text, logprob, no_speech, seconds)


@pytest.mark.parametrize(
    ("text", "logprob", "no_speech"),
    [
        ("You", -4.94, 0.6),
        ("I don't know what I'm going to do.", -1.62, 0.67),
        ("Thank you.", -1.51, 0.94),
        ("uh uh uh", -1.76, 0.93),
        ("Oh", -3.98, 0.3),
        ("I don't know what I'm going to do.", -1.4, 0.4),
    ],
)
def test_text_of_sounds_is_dropped(text: str, logprob: float, no_speech: float) -> None:
    assert not kept(text, logprob, no_speech, 6)


def test_repetitions_at_the_pace_of_speech_are_dropped_where_there_is_no_speech() -> None:
    again = "I can't do it, " * 9
    assert not kept(again, -0.34, 0.79, 6)
    assert kept(again, -0.34, 0.2, 6)


def test_clear_text_is_kept_at_two_and_a_half_times_the_speed_of_speech() -> None:
    words = " ".join(map(str, range(20)))
    assert kept(words, -0.33, 0.1, 2.0)
    assert not kept(words, -0.8, 0.1, 2.0)
    assert not kept(words, -0.33, 0.55, 2.0)
    assert not kept(words, -0.33, 0.1, 1.0)


@pytest.mark.parametrize(
    "text",
    [
        "My email is aededededed",
        "My email is aedededededed at home dot com.",
        "Bananananananananas",
        "It costs 10000000000000000000000000",
        "Weeeeeeeeeeeell",
        "The code is 1212121212121212121212121212121212121212",
        "tralatralatralatralatrala",
    ],
)
def test_loop_within_a_word_is_detected(text: str) -> None:
    assert loops(Segment(text, 0, 10))


@pytest.mark.parametrize(
    "text",
    [
        "hahahaha",
        "Hahahahahahaha!",
        "lalalalala",
        "no no no",
        "bye-bye",
        "bye-bye-bye-bye-bye",
        "0.0000",
        "1,000,000,000,000",
        "10000000000",
        "0.3333333333",
        "Mississippi",
        "tatatata",
        "https://example.com/aaaa",
        "Hmmmmm",
        "knock knock knock knock knock",
        "555 555 5555",
    ],
)
def test_repetitions_that_people_say_are_no_loops(text: str) -> None:
    assert not loops(Segment(text, 0, 3))
