"""The turn detector alone: frames, transcripts and scores in, decisions out, without engines and without waiting."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatapi.audio import RATE, Samples
from chatapi.errors import EngineFailed
from chatapi.services.live.options import SessionOptions
from chatapi.services.live.turn_detector import (
    AnswerState,
    Continued,
    Decision,
    Hypothesis,
    Onset,
    TurnDetector,
    TurnOver,
)
from chatapi.services.transcription.segmenter import FRAME
from chatapi.services.transcription.transcriber import TranscriptText
from chatapi.settings import LiveSettings

LIVE = LiveSettings()
SOUND: Samples = (0.3 * np.sin(np.arange(FRAME) * 0.2)).astype(np.float32)
SILENCE: Samples = np.zeros(FRAME, np.float32)
FRAME_MS = 1000 * FRAME / RATE
MIN_DELAY, MAX_DELAY = (
    round(each / FRAME_MS) for each in (LIVE.min_endpointing_delay_ms, LIVE.max_endpointing_delay_ms)
)
"""Endpointing delays of the settings, in frames."""
NO_ANSWER = AnswerState()


@pytest.fixture
def detector() -> TurnDetector:
    return TurnDetector(LIVE, 0.5)


def speak(detector: TurnDetector, count: int, answer: AnswerState = NO_ANSWER) -> list[Decision]:
    return [each for _ in range(count) for each in detector.feed(SOUND, 0.99, answer)]


def pause(detector: TurnDetector, count: int, answer: AnswerState = NO_ANSWER) -> list[Decision]:
    return [each for _ in range(count) for each in detector.feed(SILENCE, 0.01, answer)]


def transcribe(detector: TurnDetector, text: str) -> Hypothesis:
    """Finishes the decode that the detector wants."""
    assert detector.decode is not None
    hypothesis = detector.decoded(detector.decode, text)
    assert hypothesis is not None
    return hypothesis


def test_speech_starts_a_turn_at_its_first_frame(detector: TurnDetector) -> None:
    pause(detector, 20)
    decisions = speak(detector, 10)
    assert decisions == [Onset(at=20 * FRAME / RATE, resumed=False)]
    assert detector.utterance is not None
    # The pre-roll of ten frames, which holds the quiet start of the first word, includes the first two of the onset.
    assert detector.utterance.length == (8 + 10) * FRAME


def test_pause_is_decoded_after_two_silent_frames(detector: TurnDetector) -> None:
    speak(detector, 10)
    pause(detector, 1)
    assert detector.decode is None
    pause(detector, 1)
    assert detector.decode is not None and detector.decode.utterance is detector.utterance


def test_certain_end_of_turn_ends_it_after_the_shortest_delay(detector: TurnDetector) -> None:
    speak(detector, 20)
    pause(detector, 2)
    hypothesis = transcribe(detector, "What is the capital of France?")
    hypothesis.completeness, hypothesis.audio_probability, hypothesis.judged = 0.99, 0.99, True
    utterance = detector.utterance
    assert pause(detector, MIN_DELAY - 3) == []
    assert pause(detector, 1) == [TurnOver(utterance, "What is the capital of France?")]
    assert detector.utterance is None


def test_unfinished_sentence_ends_the_turn_only_after_the_longest_delay(detector: TurnDetector) -> None:
    speak(detector, 20)
    pause(detector, 2)
    hypothesis = transcribe(detector, "I would like to")
    hypothesis.completeness, hypothesis.audio_probability, hypothesis.judged = 0.01, 0.01, True
    assert pause(detector, MAX_DELAY - 4) == []
    assert [type(each) for each in pause(detector, 4)] == [TurnOver]


def test_transcript_that_comes_late_ends_the_turn_without_another_frame(detector: TurnDetector) -> None:
    speak(detector, 20)
    assert pause(detector, MAX_DELAY) == []
    transcribe(detector, "Hello.")
    over = detector.turn_over(NO_ANSWER)
    assert over is not None and over.text == "Hello."


def test_resumed_speech_makes_the_decode_obsolete(detector: TurnDetector) -> None:
    speak(detector, 20)
    pause(detector, 3)
    running = detector.decode
    assert running is not None
    assert speak(detector, 5) == [Continued()]
    pause(detector, 2)
    assert detector.decode is not None and detector.decode is not running
    assert detector.decoded(running, "Hello") is None


def test_resumed_speech_before_playback_extends_the_turn(detector: TurnDetector) -> None:
    speak(detector, 20)
    pause(detector, MAX_DELAY)
    utterance = transcribe(detector, "Hello.").utterance
    assert detector.turn_over(NO_ANSWER) is not None
    detector.answered(utterance, True)
    decisions = speak(detector, 5, AnswerState(unplayed=True))
    assert [type(each) for each in decisions] == [Onset] and isinstance(decisions[0], Onset)
    assert decisions[0].resumed and detector.utterance is utterance


@pytest.mark.parametrize(("answered", "unplayed"), [(False, True), (True, False)])
def test_speech_after_a_dismissed_or_played_turn_is_a_new_turn(
    detector: TurnDetector, answered: bool, unplayed: bool
) -> None:
    speak(detector, 20)
    pause(detector, MAX_DELAY)
    utterance = transcribe(detector, "Hello.").utterance
    assert detector.turn_over(NO_ANSWER) is not None
    detector.answered(utterance, answered)
    speak(detector, 5, AnswerState(unplayed=unplayed))
    assert detector.utterance is not None and detector.utterance is not utterance


def test_noise_during_an_answer_ends_after_a_word_gap(detector: TurnDetector) -> None:
    answer = AnswerState(playing=True, during_answer=True)
    speak(detector, 20, answer)
    pause(detector, 2, answer)
    transcribe(detector, "")
    assert [type(each) for each in pause(detector, 5, answer)] == [TurnOver]


def test_speech_during_an_answer_is_decoded_more_often(detector: TurnDetector) -> None:
    answer = AnswerState(playing=True, during_answer=True)
    speak(detector, 6, answer)
    assert detector.utterance is not None
    speak(detector, 12, answer)
    assert detector.decode is not None
    other = TurnDetector(LIVE, 0.5)
    speak(other, 18)
    assert other.decode is None


def test_longest_turn_ends_without_a_pause() -> None:
    detector = TurnDetector(LiveSettings(turn_seconds=2), 0.5)
    speak(detector, 2 * RATE // FRAME + 5)
    assert detector.decode is not None
    transcribe(detector, "and so on")
    assert [type(each) for each in speak(detector, 1)] == [TurnOver]


def test_client_that_ends_turns_gets_no_decisions(detector: TurnDetector) -> None:
    detector.configure(SessionOptions(detect=False))
    assert speak(detector, 40) + pause(detector, 60) == []
    assert detector.utterance is not None and detector.decode is not None
    assert detector.end_turn(detector.utterance, "Hello.").text == "Hello."
    assert detector.decode is None


def test_transcription_error_is_kept_with_the_utterance(detector: TurnDetector) -> None:
    speak(detector, 20)
    assert detector.utterance is not None
    part = detector.undecided(detector.utterance)
    assert part is not None
    error = EngineFailed("the asr engine failed")
    assert detector.transcription_failed(part, error) == "" and detector.utterance.error is error
    assert detector.transcribed(part, TranscriptText("Hello.", "en", -0.2)) == "Hello."
    assert detector.utterance.error is None and detector.detected_language == "en"


@given(
    st.lists(
        st.tuples(
            st.booleans(), st.floats(0, 1), st.booleans(), st.booleans(), st.sampled_from(["", "Hello.", "and", None])
        ),
        max_size=120,
    )
)
def test_any_stream_alternates_between_onset_and_end(
    steps: list[tuple[bool, float, bool, bool, str | None]],
) -> None:
    detector, seen = TurnDetector(LIVE, 0.5), list[Decision]()
    for count, (loud, probability, playing, unplayed, text) in enumerate(steps, start=1):
        answer = AnswerState(playing, unplayed, playing)
        seen += detector.feed(SOUND if loud else SILENCE, probability, answer)
        if text is not None and detector.decode is not None:
            hypothesis = detector.decoded(detector.decode, text)
            if hypothesis is not None and detector.is_current(hypothesis):
                hypothesis.completeness, hypothesis.judged = probability, True
                seen += filter(None, [detector.turn_over(answer)])
        assert detector.clock == count * FRAME
        assert detector.decode is None or detector.decode.utterance is detector.utterance
    boundaries = [type(each) for each in seen if not isinstance(each, Continued)]
    assert boundaries == [Onset, TurnOver] * (len(boundaries) // 2) + [Onset] * (len(boundaries) % 2)
