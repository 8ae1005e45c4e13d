"""The word error rate is jiwer's, and the spelling of a number does not count as an error."""

from __future__ import annotations

import jiwer
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatapi.bench.wer import word_error_rate, words

SENTENCES = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=9).map(" ".join)


@given(st.lists(st.tuples(SENTENCES, SENTENCES), max_size=4))
def test_the_rate_is_that_of_jiwer(pairs: list[tuple[str, str]]) -> None:
    references, hypotheses = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    assert word_error_rate(pairs) == pytest.approx(jiwer.wer(references, hypotheses))


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("0, 7 and 13", "zero seven and thirteen"),
        ("20, 42 and 99", "twenty forty-two and ninety-nine"),
        ("300 or 512", "three hundred or five hundred twelve"),
        ("1,234", "one thousand two hundred thirty-four"),
        ("5,000,017", "five million seventeen"),
        ("1,000,000,000,000", "one trillion"),
        ("1998, 2005 and 1900", "nineteen ninety-eight two thousand five and nineteen hundred"),
        ("0815", "zero eight one five"),
        ("the 1st, 12th, 20th and 103rd", "the first twelfth twentieth and one hundred third"),
        ("$5 is 50%", "five dollars is fifty percent"),
    ],
)
def test_digits_are_the_words_they_are_spoken_as(written: str, spoken: str) -> None:
    assert words(written) == words(spoken)
    assert word_error_rate([(spoken, written)]) == 0


def test_long_numbers_are_words_too() -> None:
    assert words("7" * 5000) == ["seven"] * 5000
    assert words("1" + ",000" * 2000)
    assert words("1" * 5000 + "st")[-1] == "eleventh"
