"""What is spoken for the texts of the corpus: numbers, dates, units and codes as a newsreader says them."""

from __future__ import annotations

import pytest

import spoken_form
from chatapi.text.normalization import normalize

LANGUAGES = ["en-US", "en-GB", "de", "fr", "es", "it", "nl", "pl", "pt"]
MOST_WRONG = 0.01
"""Share of lines that may be wrong, of either half."""


@pytest.mark.parametrize("language", LANGUAGES)
def test_texts_are_spoken_as_a_newsreader_says_them(language: str) -> None:
    wrong = spoken_form.wrong(language, 0)
    assert len(wrong) <= MOST_WRONG * len(spoken_form.lines(language, 0)), wrong


@pytest.mark.parametrize("language", LANGUAGES)
def test_texts_that_were_held_out_are_spoken_as_well(language: str) -> None:
    """Gives only the number: whoever sees a line can no longer judge the rules by it."""
    wrong, most = len(spoken_form.wrong(language, 1)), MOST_WRONG * len(spoken_form.lines(language, 1))
    assert wrong <= most


@pytest.mark.parametrize("language", LANGUAGES)
def test_normalized_text_stays_when_it_is_normalized_again(language: str) -> None:
    texts = [normalize(text, language) for text, _ in spoken_form.lines(language, 0)]
    changed = [text for text in texts if spoken_form.spoken_form(normalize(text, language), language)
               != spoken_form.spoken_form(text, language)]  # fmt: skip
    assert changed == []


@pytest.mark.parametrize(
    ("digits", "words"),
    [
        ("1,234.05", "one thousand two hundred thirty four point zero five"),
        ("-5", "minus five"),
        ("21st and 30th", "twenty first and thirtieth"),
        ("007", "zero zero seven"),
        ("GPT-4", "gpt four"),
    ],
)
def test_digits_that_are_left_to_the_voice_are_compared_as_words(digits: str, words: str) -> None:
    assert spoken_form.spoken_form(digits, "en") == words
