"""Text normalization of the corpus: numbers, dates, durations, units and codes, in nine locales."""

from __future__ import annotations

import re

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


def test_short_parts_of_live_conversation_leave_numbers_in_their_context() -> None:
    wrong = spoken_form.wrong("en-US", 0, hurried=True)
    assert len(wrong) <= 0.015 * len(spoken_form.lines("en-US", 0)), wrong


@pytest.mark.parametrize("language", LANGUAGES)
def test_texts_that_were_held_out_are_spoken_as_well(language: str) -> None:
    """Gives only the number: whoever sees a line can no longer judge the rules by it."""
    wrong, most = len(spoken_form.wrong(language, 1)), MOST_WRONG * len(spoken_form.lines(language, 1))
    assert wrong <= most


def test_a_voice_pronounces_the_texts_like_their_spoken_form() -> None:
    """What espeak-ng makes of the digits that are left to it; the rest differs by capitals, as in AM, and by stress."""
    phonemizer = pytest.importorskip("piper.phonemize_espeak").EspeakPhonemizer()

    def phonemes(text: str) -> str:
        plain = re.sub(r"[.,:;!?()\"“”—-]+(?=\s|$)", " ", text)
        return re.sub(r"[^\w]|[ʲˈˌᵻɪə]", "", "".join("".join(each) for each in phonemizer.phonemize("en-us", plain)))

    lines = spoken_form.lines("en-US", 0)
    different = [
        (text, normalized)
        for text, expected in lines
        if phonemes(normalized := spoken_form.normalized_text(text, "en-US")) != phonemes(expected)
    ]
    assert len(different) <= 0.06 * len(lines), different


@pytest.mark.parametrize("language", LANGUAGES)
def test_normalized_text_stays_when_it_is_normalized_again(language: str) -> None:
    texts = [normalize(text, language) for text, _ in spoken_form.lines(language, 0)]
    changed = [text for text in texts if spoken_form.spoken_form(normalize(text, language), language)
               != spoken_form.spoken_form(text, language)]  # fmt: skip
    assert changed == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("in 30s and 40s of rest", "in 30 seconds and 40 seconds of rest"),
        ("Wait 1800s.", "Wait 1800 seconds."),
        ("a 30s timer", "a 30 second timer"),
        ("1 in 5, 3 in a row, 5 in the morning", "1 in 5, 3 in a row, 5 in the morning"),
        ("a 5K, Room 5A, section 5 A, 3 A's", "a 5K, Room 5A, section 5 A, 3 A's"),
        ("Vitamin C and I, Malcolm X, an IV", "Vitamin C and I, Malcolm X, an IV"),
        ("call 20 people, order 5000 units", "call 20 people, order 5000 units"),
        ("She was number 1000 in line.", "She was number 1000 in line."),
        ("ISO 639-1, UTF-8, F-16, B-52", "ISO 639 1, UTF-8, F-16, B-52"),
        ('He said "I need 5".', 'He said "I need 5".'),
        ("2d animation, section 2d", "2d animation, section 2d"),
        ("The timer ends at 10:30.", "The timer ends at 10 30."),
        ("In 200m turn left.", "In 200 meters turn left."),
        ("a 10 m rope, 10 m away", "a 10 meter rope, 10 meters away"),
        ("5/6 of them, by 5/6", "five sixths of them, by May 6th"),
        ("2-1/2 cups, 1.5-2.5 cups", "2 and a half cups, 1.5 to 2.5 cups"),
        ("risk is <3", "risk is under 3"),
        ("Porsche 911, 911 boxes", "Porsche nine eleven, 911 boxes"),
        ("version 1.2.24", "version 1 point 2 point 24"),
        ("0x1F, 00:1A:3C:4D", "0x1F, 00:1A:3C:4D"),
        ("an alarm for 0630, c. 1850", "an alarm for 6 30, circa eighteen fifty"),
        ("a room of 12' x 14', 2x + 3", "a room of 12 by 14 feet, 2x plus 3"),
        ("45°/32°, 10% - 15%", "45 degrees, 32 degrees, 10 percent to 15 percent"),
        ("3 PM PST/6 PM EST", "3 PM PST, 6 PM EST"),
    ],
)
def test_text_that_looks_alike_is_told_apart(text: str, expected: str) -> None:
    assert normalize(text) == expected


@pytest.mark.parametrize(
    ("locale", "expected"),
    [
        ("en", "March 4th"),
        ("en-US", "March 4th"),
        ("en_GB", "April 3rd"),
        ("en-AU", "April 3rd"),
        ("EN-gb", "April 3rd"),
    ],
)
def test_numeric_date_has_the_order_of_the_locale(locale: str, expected: str) -> None:
    assert normalize("03/04/25", locale) == f"{expected}, twenty twenty-five"
    assert normalize("25.12.2024", locale) == "December 25th, twenty twenty-four"


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
