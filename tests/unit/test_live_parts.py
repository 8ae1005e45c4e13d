"""The parts of live conversation that need neither audio nor time."""

from __future__ import annotations

import numpy as np
import pytest

from chatapi.audio import RATE, Audio
from chatapi.events import Speech
from chatapi.services.live.backchannel import (
    EchoLoopDetector,
    SpeechIntent,
    classify_speech,
    is_stop_request,
    is_turn_at_answer_end,
    likeness,
)
from chatapi.services.live.echo_detection import MIN_SHARPNESS, sharpness
from chatapi.services.live.endpointing import (
    CONFIDENT,
    Endpointing,
    EndpointingRules,
    TurnBoundary,
    end_of_turn_probability,
)
from chatapi.services.live.fallback_phrases import delay_phrase, failure_phrase
from chatapi.services.live.playback import PlaybackPosition
from chatapi.services.live.utterance import FINALIZE_AFTER, Utterance
from chatapi.services.transcription.segmenter import FRAME

RULES = EndpointingRules(threshold=0.5, onset=3, interruption=5, min_delay=6, max_delay=44)


def boundaries(*parts: tuple[float, int], during_answer: bool = False) -> list[tuple[int, TurnBoundary]]:
    endpointing, found, at = Endpointing(RULES), [], 0
    for probability, count in parts:
        for _ in range(count):
            if boundary := endpointing.feed(probability, 0.1, during_answer):
                found.append((at, boundary))
            at += 1
    return found


def silent_frames(*levels: float) -> list[int]:
    """Returns the count of silent frames after each of these frames of probable speech."""
    endpointing, found = Endpointing(RULES), []
    for level in levels:
        endpointing.feed(0.9, level)
        found.append(endpointing.silent_frames)
    return found


def test_speech_for_the_onset_duration_starts_a_turn() -> None:
    assert boundaries((0.1, 10), (0.9, 20), (0.1, 30)) == [(12, TurnBoundary.ONSET)]


def test_frames_far_below_the_peak_level_are_silent() -> None:
    assert silent_frames(*[0.2] * 5, 0.009, 0.009, 0.02, 0.009) == [0, 0, 0, 0, 0, 1, 2, 0, 1]


def test_quiet_speaker_after_loud_speaker_is_voiced() -> None:
    assert silent_frames(*[0.5] * 3, *[0.01] * 160)[-1] == 0


def test_click_is_no_onset() -> None:
    assert boundaries((0.1, 10), (0.9, 2), (0.1, 10), (0.9, 2), (0.1, 10)) == []


def test_speech_after_a_pause_resumes_the_turn() -> None:
    assert boundaries((0.9, 10), (0.1, 4), (0.9, 3)) == [(2, TurnBoundary.ONSET), (14, TurnBoundary.RESUMED)]


def test_onset_during_an_answer_needs_more_evidence() -> None:
    assert boundaries((0.6, 20), during_answer=True) == []
    assert boundaries((0.9, 4), (0.1, 5), during_answer=True) == []
    assert boundaries((0.9, 6), during_answer=True) == [(4, TurnBoundary.ONSET)]


def test_onset_without_residual_echo_needs_less_evidence() -> None:
    quiet = (0.1, 24)
    assert boundaries(quiet, (0.7, 6), during_answer=True) == [(25, TurnBoundary.ONSET)]
    assert boundaries(quiet, (0.4, 4), (0.7, 2), during_answer=True) == [(29, TurnBoundary.ONSET)]
    # Residual echo.
    assert boundaries(quiet, (0.4, 7), (0.7, 20), during_answer=True) == []
    assert boundaries((0.1, 23), (0.7, 20), during_answer=True) == []
    assert boundaries(quiet, (0.9, 1), (0.1, 9), (0.9, 1), during_answer=True) == []


@pytest.mark.parametrize(
    ("probability", "level", "found"),
    [(0.4, 0.025, TurnBoundary.ONSET), (0.2, 0.5, None), (0.4, 0.015, None)],
    ids=["loud speech", "a loud noise", "no louder than the residual echo"],
)
def test_one_loud_frame_is_a_barge_in(probability: float, level: float, found: TurnBoundary | None) -> None:
    endpointing = Endpointing(RULES)
    assert not any(endpointing.feed(0.1, level, True) for level in [0.002, 0.01] * 12)
    assert endpointing.feed(probability, level, True) is found


def test_one_loud_frame_before_the_residual_echo_is_known_is_no_barge_in() -> None:
    endpointing = Endpointing(RULES)
    assert not any(endpointing.feed(0.1, 0.01, True) for _ in range(22))
    assert endpointing.feed(0.4, 0.5, True) is None


@pytest.mark.parametrize(("probability", "silence"), [(1.0, 6), (0.6, 6), (0.3, 25), (0.0, 44), (0.15, 34)])
def test_lower_end_of_turn_probability_gives_a_longer_endpointing_delay(probability: float, silence: int) -> None:
    assert RULES.endpointing_delay(probability) == pytest.approx(silence, abs=1)


def test_text_weighs_more_than_audio() -> None:
    whole, cut = "What is the capital of France?", "What is the capital."
    assert end_of_turn_probability(0.1, 0.9, whole) > CONFIDENT > end_of_turn_probability(0.99, 0.02, cut)
    assert end_of_turn_probability(None, 0.9, whole) > CONFIDENT > end_of_turn_probability(None, 0.02, cut)
    assert end_of_turn_probability(0.99, 0.5, whole) > end_of_turn_probability(0.01, 0.5, whole)
    assert end_of_turn_probability(None, None, whole) == 0


@pytest.mark.parametrize(
    "text", ["Set a timer for", "Set a timer for...", "I would like the.", "Well,", "how far is it", "Where is my?"]
)
def test_unfinished_sentence_is_no_end_of_turn(text: str) -> None:
    assert end_of_turn_probability(0.99, None, text) == 0
    assert end_of_turn_probability(0.99, 0.3, text) < end_of_turn_probability(0.99, 0.3, "That is all.")


@pytest.mark.parametrize(
    "text", ["Set a timer for ten minutes.", "Why?", "How?", "Stop!", "Where are you from?", "今日はいい天気です。"]
)
def test_complete_sentence_is_as_probable_as_its_audio(text: str) -> None:
    assert end_of_turn_probability(0.99, None, text) == 0.99


@pytest.mark.parametrize(
    ("transcript", "answer_text", "intent"),
    [
        ("", "The sea is wide.", SpeechIntent.NOISE),
        ("Mhm.", "The sea is wide.", SpeechIntent.BACKCHANNEL),
        ("Uh-huh, okay.", "The sea is wide.", SpeechIntent.BACKCHANNEL),
        ("Stop!", "The sea is wide.", SpeechIntent.STOP),
        ("Okay, stop.", "The sea is wide.", SpeechIntent.STOP),
        ("Be quiet.", "Be quiet, said the man.", SpeechIntent.STOP),
        ("The see is white.", "The sea is wide.", SpeechIntent.ECHO),
        ("sea is", "The sea is wide.", SpeechIntent.ECHO),
        ("Where is the stop?", "The sea is wide.", SpeechIntent.INTERRUPTION),
        ("What about the mountains?", "The sea is wide.", SpeechIntent.INTERRUPTION),
        ("Yes but why is the sea salty", "The sea is wide.", SpeechIntent.INTERRUPTION),
        ("No.", "The sea is wide.", SpeechIntent.INTERRUPTION),
    ],
)
def test_speech_during_an_answer_is_classified(transcript: str, answer_text: str, intent: SpeechIntent) -> None:
    assert classify_speech(transcript, answer_text) is intent


@pytest.mark.parametrize(
    ("transcript", "avg_logprob", "intent"),
    [
        ("And make sure.", -0.65, SpeechIntent.NOISE),
        ("Hey, my mom.", -0.67, SpeechIntent.NOISE),
        ("Lunch.", -0.11, SpeechIntent.BACKCHANNEL),
        ("Go back.", -0.2, SpeechIntent.INTERRUPTION),
        ("Wait!", -0.9, SpeechIntent.INTERRUPTION),
        ("Stop.", -0.9, SpeechIntent.STOP),
        ("What about the mountains?", -0.3, SpeechIntent.INTERRUPTION),
        ("What about the mountains?", -0.65, SpeechIntent.NOISE),
        ("And what about the mountains?", -0.6, SpeechIntent.INTERRUPTION),
        ("And what about the mountains?", -0.8, SpeechIntent.NOISE),
        ("山はどうですか", -0.3, SpeechIntent.INTERRUPTION),
    ],
)
def test_low_log_probability_is_noise(transcript: str, avg_logprob: float, intent: SpeechIntent) -> None:
    assert classify_speech(transcript, "The sea is wide.", avg_logprob) is intent


@pytest.mark.parametrize(
    ("transcript", "seconds", "intent"),
    [
        ("And make sure.", 0.32, SpeechIntent.NOISE),
        ("Lights off.", 0.45, SpeechIntent.INTERRUPTION),
        ("What time is it?", 0.7, SpeechIntent.INTERRUPTION),
        ("And make sure to subscribe to our channel.", 0.55, SpeechIntent.NOISE),
        ("Please stop.", 0.1, SpeechIntent.STOP),
    ],
)
def test_more_words_than_fit_the_time_are_noise(transcript: str, seconds: float, intent: SpeechIntent) -> None:
    assert classify_speech(transcript, "The sea is wide.", -0.1, seconds) is intent


def test_only_a_request_for_silence_is_a_stop_request() -> None:
    assert is_stop_request("Stop.") and is_stop_request("Never mind.")
    assert (
        not is_stop_request("Where does the bus stop?")
        and not is_stop_request("")
        and not is_stop_request("Stop the music in the kitchen")
    )


@pytest.mark.parametrize("transcript", ["Arrête !", "Hör auf!", "Basta.", "Para.", "Hou op."])
def test_stop_requests_in_other_languages_are_detected(transcript: str) -> None:
    assert is_stop_request(transcript)


def test_fallback_phrases_are_in_the_language_of_the_voice() -> None:
    assert failure_phrase("de") != failure_phrase("en") == failure_phrase("xx")
    assert delay_phrase("fr") != delay_phrase("en") == delay_phrase("")


def test_likeness_is_a_share_of_the_transcript() -> None:
    assert likeness("The sea is white", "the sea is wide and blue") == 1
    assert likeness("The sea was cold yesterday", "the sea is wide") == pytest.approx(2 / 5)
    scattered = "who knows where the best of all things is kept by the painters of the old chapel in the hills"
    assert likeness("Who painted the ceiling of the chapel?", scattered) < 0.5
    assert likeness("", "the sea") == likeness("the sea", "") == 0


def test_two_consecutive_echoes_are_an_echo_loop_for_a_minute() -> None:
    detector = EchoLoopDetector()
    assert not detector.add_turn(0.5, 10) and not detector.add_turn(0.1, 20) and not detector.add_turn(0.5, 30)
    assert not detector.active(31)
    assert detector.add_turn(0.6, 40)
    assert detector.active(41) and detector.active(99) and not detector.active(101)


def speech(seconds: float, text: str) -> Speech:
    return Speech(Audio(np.zeros(int(seconds * RATE), np.float32), RATE), text)


def test_playback_without_reports_follows_the_clock() -> None:
    playback = PlaybackPosition()
    assert not playback.audible(0)
    playback.add(speech(2, "one two three four"), 10)
    playback.add(speech(1, "five"), 10.5)
    assert [playback.played(now) for now in (10, 11, 12.5, 14)] == [0, 1, 2.5, 3]
    assert playback.audible(12.9) and not playback.audible(13)
    assert playback.words(0) == ""
    assert playback.words(1) == "one two"
    assert playback.words(2.5) == "one two three four"
    assert playback.words(3) == "one two three four five"


def test_words_that_were_withdrawn_are_no_part_of_the_answer() -> None:
    playback = PlaybackPosition()
    playback.add(speech(2, "I should greet"), 0)
    playback.withdraw()
    playback.add(speech(1, "Hello"), 0)
    # They sound nevertheless, so that their echo is known.
    assert (playback.seconds, playback.words(3)) == (3, "I should greet Hello")
    assert (playback.words_of_answer(1), playback.words_of_answer(3)) == ("", "Hello")


def test_pause_keeps_the_position() -> None:
    playback = PlaybackPosition()
    playback.add(speech(2, "one two"), 0)
    playback.pause(0.5)
    assert playback.played(5) == 0.5
    playback.add(speech(1, "three"), 6)
    playback.resume(7)
    assert playback.played(7) == 0.5 and playback.played(8) == 1.5
    assert playback.silent_since(9) is None and playback.silent_since(20) == 9.5


def test_late_audio_is_played_late() -> None:
    playback = PlaybackPosition()
    playback.add(speech(1, "one"), 0)
    playback.add(speech(1, "two"), 3)
    assert playback.played(3.5) == 1.5


def test_reported_position_replaces_the_clock() -> None:
    playback = PlaybackPosition()
    playback.add(speech(2, "one two"), 0)
    playback.report(0.3, 0.5)
    assert playback.played(3) == 0.3
    playback.report(9, 3)
    assert playback.played(3) == 2


def test_stale_report_is_extended_by_the_clock() -> None:
    playback = PlaybackPosition()
    playback.add(speech(6, "one two"), 0)
    playback.report(1, 1)
    assert playback.played(4) == 1 and playback.played(6) == 3
    playback.pause(6)
    assert playback.played(20) == 1
    playback.resume(20)
    playback.report(1.5, 21)
    assert playback.played(22) == 1.5


def test_stopped_playback_keeps_its_position() -> None:
    playback = PlaybackPosition()
    playback.add(speech(6, "one two"), 0)
    playback.stop(2)
    assert playback.played(9) == 2 and not playback.audible(3) and playback.silent_since(9) == 2


@pytest.mark.parametrize(
    ("transcript", "answer_text", "turn"),
    [
        ("Yes.", "The sea is wide.", True),
        ("Germany?", "The sea is wide.", True),
        ("Mhm.", "The sea is wide.", False),
        ("Mhm.", "Shall I go on?", True),
        ("", "Shall I go on?", False),
    ],
)
def test_all_but_fillers_at_the_end_of_an_answer_is_a_turn(transcript: str, answer_text: str, turn: bool) -> None:
    assert is_turn_at_answer_end(transcript, answer_text) is turn


def test_echo_is_sharper_than_another_voice() -> None:
    random = np.random.default_rng(1)

    def voice() -> np.ndarray:
        return random.normal(0, 0.1, 3 * RATE).astype(np.float32) * np.repeat(random.random(30), RATE // 10)

    played, other = voice().astype(np.float32), voice().astype(np.float32)
    room = random.normal(0, 0.3, RATE // 8) * np.exp(-np.arange(RATE // 8) / (RATE / 40))
    room[0] = 4
    echo = np.convolve(played, room)[RATE : 2 * RATE].astype(np.float32)
    found, chance = sharpness(0.1 * echo, played), sharpness(other[:RATE], played)
    assert found is not None and chance is not None and chance < MIN_SHARPNESS < found
    assert sharpness(echo[: RATE // 4], played) is None


def test_final_transcript_is_not_decoded_again() -> None:
    frame = np.ones(FRAME, np.float32)
    utterance = Utterance([frame], 0)
    while not utterance.can_finalize:
        utterance.add(frame, True)
    assert len(utterance.undecided_samples()) >= FINALIZE_AFTER
    utterance.finalize("once upon", utterance.length)
    utterance.add(frame * 2, False)
    assert utterance.undecided_samples().tolist() == [2.0] * FRAME
    assert utterance.full_text("a time") == "once upon a time"
    assert utterance.speech_end == utterance.length - FRAME
    assert len(utterance.samples()) == utterance.length
