"""Times of transcripts of joined speech: none spans a removed pause; each begins and ends with the voice."""

from __future__ import annotations

import numpy as np
import pytest

from chatapi.audio import RATE
from chatapi.engines import Segment, TranscriptToken, Word
from chatapi.services.transcription.pauses import placed
from chatapi.services.transcription.segmenter import SpeechRegion, TrimmedAudio


def joined(*regions: tuple[float, float]) -> TrimmedAudio:
    """Regions of a recording, each from its start to the end of its voice, in seconds, with 0.2 s after the voice."""
    return padded(0.0, *regions)


def padded(pad: float, *regions: tuple[float, float]) -> TrimmedAudio:
    """Regions of a recording, each from the start to the end of its voice, in seconds, with so much before it and 0.2 s
    after it."""
    found = tuple(
        SpeechRegion(
            round((start - pad) * RATE), round((end + 0.2) * RATE), round(end * RATE), 0.9, round(start * RATE)
        )
        for start, end in regions
    )
    return TrimmedAudio(np.zeros(sum(each.end - each.start for each in found), np.float32), found)


APART = joined((0.0, 1.0), (40.0, 41.0))
"""A second of speech, a removed pause of 38.8 seconds, and another second; joined at 1.2 s."""


def segment(text: str, *times: tuple[float, float]) -> Segment:
    """A segment whose words have these times in the joined audio."""
    words = tuple(Word(word.strip('.,"!?'), *time) for word, time in zip(text.split(), times, strict=True))
    return Segment(text, times[0][0], times[-1][1], -0.2, "en", words)


def cues(*segments: Segment, audio: TrimmedAudio = APART) -> list[tuple[str, float, float]]:
    return [(each.text, round(each.start, 2), round(each.end, 2)) for each in placed(segments, audio)]


def test_segment_over_a_removed_pause_is_split_there() -> None:
    found = cues(segment("Hello there. My name is", (0.1, 0.4), (0.4, 1.3), (1.3, 1.5), (1.5, 1.8), (1.8, 2.4)))
    assert found == [("Hello there.", 0.0, 1.0), ("My name is", 40.0, 41.0)]


def test_word_that_begins_in_the_padding_before_a_pause_belongs_to_the_next_speech() -> None:
    found = cues(segment("Hello there. My name", (0.1, 0.4), (0.4, 1.1), (1.1, 1.2), (1.2, 2.1)))
    assert found == [("Hello there.", 0.0, 1.0), ("My name", 40.0, 40.9)]


def test_first_and_last_word_begin_and_end_with_the_voice() -> None:
    (first, second) = placed([segment("One two", (0.2, 1.25), (1.4, 2.4))], APART)
    times = [time for word in (*first.words, *second.words) for time in (word.start, word.end)]
    assert times == pytest.approx([0.0, 1.0, 40.0, 41.0])


def test_punctuation_before_a_word_goes_with_it() -> None:
    found = cues(segment('He said "stop now"', (0.1, 0.4), (0.4, 0.9), (1.4, 1.7), (1.7, 2.0)))
    assert [text for text, *_ in found] == ["He said", '"stop now"']


def test_text_without_spaces_is_split_between_its_words() -> None:
    words = (Word("你", 0.1, 0.4), Word("好", 0.4, 0.9), Word("再", 1.4, 1.7), Word("见", 1.7, 2.0))
    found = cues(Segment("你好,再见", 0.1, 2.0, words=words))
    assert [text.strip(",") for text, *_ in found] == ["你好", "再见"]


def test_tokens_and_their_log_probability_go_with_their_text() -> None:
    whole = segment("Ça va. Merci", (0.1, 0.4), (0.4, 0.9), (1.4, 2.0))
    tokens = [
        (" Ç".encode()[:2], -0.1),
        (" Ç".encode()[2:] + b"a", -0.1),
        (b" va", -0.4),
        (b".", -0.2),
        (b" Merci", -1.0),
    ]
    given = tuple(TranscriptToken(number, *token) for number, token in enumerate(tokens))
    first, second = placed([Segment(whole.text, 0.1, 2.0, -0.4, "fr", whole.words, given)], APART)
    assert [b"".join(token.utf8 for token in each.tokens) for each in (first, second)] == [
        " Ça va.".encode(),
        b" Merci",
    ]
    assert [first.logprob, second.logprob] == pytest.approx([-0.2, -1.0])


def test_segments_keep_their_order_over_three_stretches() -> None:
    audio = joined((1.0, 2.0), (3.5, 4.5), (10.0, 11.0))
    found = cues(
        segment("a b", (0.1, 0.5), (1.3, 1.9)), segment("c d e", (1.9, 2.3), (2.5, 2.9), (2.9, 3.5)), audio=audio
    )
    assert [text for text, *_ in found] == ["a", "b", "c", "d e"]
    times = [time for _, *both in found for time in both]
    assert times == sorted(times)
    assert all(any(start <= begin <= end <= stop for start, stop in ((1, 2), (3.5, 4.5), (10, 11)))
               for _, begin, end in found)  # fmt: skip


@pytest.mark.parametrize(("late", "start"), [(-0.1, 40.0), (0.4, 40.0), (0.7, 40.7)])
def test_first_word_after_a_pause_starts_with_the_voice_unless_sounds_come_before_it(late: float, start: float) -> None:
    audio = padded(0.2, (0.2, 1.0), (40.0, 42.0))
    found = cues(segment("One two three", (0.3, 0.9), (1.4 + late, 2.2), (2.2, 2.6)), audio=audio)
    assert found[1] == ("two three", start, 41.2) and found[0][0] == "One"
    # Another segment of the same voice keeps its time.
    later = cues(segment("One", (0.3, 1.5)), segment("two", (1.6, 1.8)), audio=padded(0.2, (1.0, 3.0)))
    assert later == [("One", 1.0, 2.3), ("two", 2.4, 2.6)]


def test_a_word_that_reaches_as_far_into_both_voices_belongs_to_its_sentence() -> None:
    audio = padded(0.2, (0.2, 1.0), (40.0, 41.0))
    words = ((0.3, 0.86), (0.86, 1.55), (1.55, 2.0))
    assert [text for text, *_ in cues(segment("Boil eggs. Explain", *words), audio=audio)] == ["Boil eggs.", "Explain"]
    assert [text for text, *_ in cues(segment('Boil! "Eggs" explained', *words), audio=audio)] == [
        "Boil!",
        '"Eggs" explained',
    ]


def test_segment_without_words_begins_with_the_voice() -> None:
    assert cues(Segment("Hello", 0.0, 1.2), audio=padded(0.2, (5.0, 6.0))) == [("Hello", 5.0, 6.0)]


def test_segment_without_words_ends_with_the_voice() -> None:
    assert cues(Segment("Hello", 0.0, 1.2)) == [("Hello", 0.0, 1.0)]
    assert cues(Segment("Hello", 0.0, 1.2), audio=joined((5.0, 6.0))) == [("Hello", 5.0, 6.0)]
    assert cues(Segment("Hello", 0.0, 1.2), audio=joined()) == []
