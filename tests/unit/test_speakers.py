"""Speaker labels: groups of embeddings, turns, transcripts split by speaker, and the diarization error rate."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatapi.audio import RATE
from chatapi.bench.diarization_error import TimedSpeaker, diarization_error
from chatapi.engines import SPEAKER_HOP, SPEAKER_WINDOW, Segment, Word, speaker_windows
from chatapi.errors import EngineFailed
from chatapi.services.transcription import speaker_clusters
from chatapi.services.transcription.speaker_clusters import Groups, SpeakerClusters, Vectors, likeliest_path, unit
from chatapi.services.transcription.speaker_turns import SpeakerLabels, SpeakerTurn, VoiceRegion, levels, turns

DIMENSIONS = 32


def voice(speaker: int, count: int, seed: int = 0, spread: float = 0.1) -> Vectors:
    """Embeddings of one speaker, whose direction is an axis."""
    noise = np.random.default_rng(100 * seed + speaker).normal(0, spread, (count, DIMENSIONS))
    return unit((np.eye(DIMENSIONS)[speaker] + noise).astype(np.float32))


def grouped(*parts: Vectors, count: int | None = None, most: int = 20) -> Groups:
    clusters = SpeakerClusters(0.6, count or most, count or 1)
    for part in parts:
        clusters.add(part)
    return clusters.speakers()


@given(st.integers(0, 40 * RATE))
def test_windows_cover_the_audio_and_lie_within_it(samples: int) -> None:
    starts = speaker_windows(samples)
    assert starts[0] == 0 and starts == sorted(set(starts))
    assert all(after - before <= SPEAKER_HOP for before, after in pairwise(starts))
    assert starts[-1] + SPEAKER_WINDOW == max(samples, SPEAKER_WINDOW)


def test_each_speaker_is_a_group_and_the_one_who_speaks_most_is_first() -> None:
    found = grouped(voice(0, 10), voice(1, 30), voice(0, 5, seed=1), voice(2, 20))
    assert list(found.sizes) == [30, 20, 15]
    assert list(np.argmax(found.sums, axis=1)) == [1, 2, 0]


def test_hours_of_speech_keep_their_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speaker_clusters, "BATCH", 40)
    monkeypatch.setattr(speaker_clusters, "MOST_GROUPS", 30)
    found = grouped(*(voice(number % 3, 37, seed=number, spread=0.08) for number in range(60)))
    assert list(found.sizes) == [740, 740, 740]


def test_embeddings_of_no_speaker_found_no_speaker() -> None:
    found = grouped(voice(0, 20), voice(1, 20), voice(5, 1), voice(6, 1))
    assert list(found.sizes) == [20, 20]
    assert len(grouped().sizes) == 0
    assert list(grouped(voice(3, 1)).sizes) == [1]


def test_the_number_of_speakers_can_be_given() -> None:
    own, other = voice(0, 12, spread=0.02), voice(1, 12, spread=0.02)
    near = unit(own + 0.9 * other)
    assert len(grouped(own, near).sizes) == 1
    assert len(grouped(own, near, count=2).sizes) == 2
    assert len(grouped(voice(0, 12), voice(1, 12), voice(2, 12), count=2).sizes) == 2
    assert len(grouped(*(voice(number, 5) for number in range(9)), most=4).sizes) == 4


def test_the_likeliest_path_changes_only_where_it_pays() -> None:
    scores = np.array([[1, 0], [1, 0], [0.4, 0.6], [1, 0], [0, 1], [0, 1]], np.float32)
    assert list(likeliest_path(scores, [0.3] * 6)) == [0, 0, 0, 0, 1, 1]
    assert list(likeliest_path(scores, [0.0] * 6)) == [0, 0, 1, 0, 1, 1]
    assert list(likeliest_path(scores, [9.0] * 6)) == [0] * 6


def region(start: float, *speakers: tuple[int, float]) -> VoiceRegion:
    """A region of speakers with their seconds, with a silence of 60 ms where the speaker changes."""
    length = round(sum(seconds for _, seconds in speakers) * RATE)
    samples = np.full(length, 0.1, np.float32)
    owner = np.zeros(length, np.int64)
    place = 0
    for speaker, seconds in speakers:
        owner[place : place + round(seconds * RATE)] = speaker
        samples[max(0, place - 480) : place + 480] = 0
        place += round(seconds * RATE)
    windows = [owner[first : first + SPEAKER_WINDOW] for first in speaker_windows(length)]
    shares = np.array([np.bincount(window, minlength=DIMENSIONS) for window in windows], np.float32)
    first = round(start * RATE)
    return VoiceRegion(first, first + length, unit(shares).astype(np.float16), levels(samples))


def test_turns_change_where_the_speaker_does() -> None:
    regions = [region(1, (0, 4.1), (1, 3.3)), region(9, (1, 0.7)), region(12, (0, 5.0))]
    found, voices = turns(regions, grouped(*(each.embeddings for each in regions)))
    first = found[0].speaker
    assert [turn.speaker for turn in found] == [first, 1 - first, 1 - first, first]
    assert [(turn.start, turn.end) for turn in found] == [
        (1.0, pytest.approx(5.1, abs=0.05)), (pytest.approx(5.1, abs=0.05), 8.4), (9.0, 9.7), (12.0, 17.0),
    ]  # fmt: skip
    assert voices.shape == (2, DIMENSIONS)


def test_silence_has_no_turns() -> None:
    found, voices = turns([], grouped())
    assert found == [] and len(voices) == 0


def spoken(*words: tuple[str, float, float]) -> Segment:
    text = " ".join(word for word, _, _ in words)
    return Segment(text, words[0][1], words[-1][2], words=tuple(Word(text.strip(".,?"), *at) for text, *at in words))


LABELS = SpeakerLabels((SpeakerTurn(0, 2, 0), SpeakerTurn(2, 4, 1), SpeakerTurn(5, 9, 0)), ("A", "Ann"))


def test_a_segment_is_split_between_words_where_the_speaker_changes() -> None:
    segment = spoken(
        ("Are", 0.5, 0.9), ("you", 0.9, 1.3), ("there?", 1.3, 1.9), ("Yes,", 2.1, 2.6), ("here.", 2.6, 3.2)
    )
    found = LABELS.apply([segment])
    assert [(each.speaker, each.text) for each in found] == [("A", "Are you there?"), ("Ann", "Yes, here.")]
    assert [(each.start, each.end) for each in found] == [(0.5, 1.9), (2.1, 3.2)]
    assert [[word.text for word in each.words] for each in found] == [["Are", "you", "there"], ["Yes", "here"]]


def test_a_word_on_the_border_does_not_split_a_sentence() -> None:
    labels = SpeakerLabels((SpeakerTurn(0, 2, 0), SpeakerTurn(2, 2.3, 1), SpeakerTurn(2.3, 4, 0)), ("A", "B"))
    segment = spoken(("one", 1.5, 1.9), ("two", 2.0, 2.3), ("three", 2.4, 3.0))
    assert [(each.speaker, each.text) for each in labels.apply([segment])] == [("A", "one two three")]


def test_a_segment_without_words_gets_the_speaker_of_most_of_it() -> None:
    found = LABELS.apply([Segment("Both.", 1.0, 3.8), Segment("In the pause.", 4.1, 4.3), Segment("Late.", 20, 21)])
    assert [each.speaker for each in found] == ["Ann", "Ann", "A"]


def test_without_labels_the_transcript_stays_as_it_is() -> None:
    segment = Segment("Hello.", 0, 1)
    assert SpeakerLabels(fault=EngineFailed("It failed.")).apply([segment]) == [segment]


TEN = [TimedSpeaker(0, 5, "a"), TimedSpeaker(5, 10, "b")]


@pytest.mark.parametrize(
    ("found", "collar", "errors"),
    [
        # Speech of the reference, missed, false alarm, confused; in seconds.
        ([TimedSpeaker(0, 5, "x"), TimedSpeaker(5, 10, "y")], 0.0, (10, 0, 0, 0)),
        ([TimedSpeaker(0, 5, "b"), TimedSpeaker(5, 10, "a")], 0.0, (10, 0, 0, 0)),
        ([TimedSpeaker(0, 10, "x")], 0.0, (10, 0, 0, 5)),
        ([TimedSpeaker(0, 4, "x"), TimedSpeaker(5, 10, "y")], 0.0, (10, 1, 0, 0)),
        ([TimedSpeaker(0, 5, "x"), TimedSpeaker(5, 13, "y")], 0.0, (10, 0, 3, 0)),
        ([TimedSpeaker(0, 6, "x"), TimedSpeaker(6, 10, "y")], 0.0, (10, 0, 0, 1)),
        ([TimedSpeaker(0, 5.2, "x"), TimedSpeaker(5.2, 10.2, "y")], 0.25, (9, 0, 0, 0)),
        ([TimedSpeaker(0, 6, "x"), TimedSpeaker(6, 10, "y")], 0.25, (9, 0, 0, 0.75)),
        ([TimedSpeaker(0, 5, "x"), TimedSpeaker(5, 7, "y"), TimedSpeaker(7, 10, "z")], 0.0, (10, 0, 0, 2)),
        ([], 0.0, (10, 10, 0, 0)),
    ],
)
def test_diarization_error_of_cases_computed_by_hand(
    found: list[TimedSpeaker], collar: float, errors: tuple[float, float, float, float]
) -> None:
    judged = diarization_error(TEN, found, collar)
    assert (judged.speech, judged.missed, judged.false_alarm, judged.confusion) == pytest.approx(errors)
    assert judged.rate == pytest.approx(sum(errors[1:]) / errors[0])


def test_in_an_overlap_the_second_speaker_is_missed() -> None:
    reference = [TimedSpeaker(0, 6, "a"), TimedSpeaker(4, 10, "b")]
    found = [TimedSpeaker(0, 5, "x"), TimedSpeaker(5, 10, "y")]
    judged = diarization_error(reference, found, 0.0)
    assert (judged.speech, judged.missed, judged.confusion) == pytest.approx((12, 2, 0))
    assert diarization_error(reference, found, 0.0, overlaps=False).rate == 0
    assert diarization_error([], [TimedSpeaker(0, 1, "x")]).false_alarm == pytest.approx(1)
