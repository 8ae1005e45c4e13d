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


def test_everyday_texts_of_several_locales_are_spoken_as_people_say_them() -> None:
    rows = [row.split("\t") for row in (spoken_form.CORPUS / "everyday.tsv").read_text(encoding="utf-8").splitlines()]
    wrong = [
        (text, normalized)
        for locale, text, expected in rows
        if spoken_form.spoken_form(normalized := spoken_form.normalized_text(text, locale), locale)
        != spoken_form.spoken_form(expected, locale)
    ]
    assert len(rows) == 178
    assert len(wrong) <= MOST_WRONG * len(rows), wrong


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
        ("2026-08-29T14:30:00Z", "August 29th, twenty twenty-six, at 14 30 UTC"),
        ("2026-08-29 14:30", "August 29th, twenty twenty-six, at 14 30"),
        ("2026-08-29T14:30:00.123456+00:00", "August 29th, twenty twenty-six, at 14 30 UTC"),
        ("2026-08-29T14:30:00-05:00", "August 29th, twenty twenty-six, at 14 30 UTC minus 5"),
        ("v2.1.0", "version 2 point 1 point 0"),
        ("the mid-1800s", "the mid-eighteen hundreds"),
        ("1h30m", "1 hour 30 minutes"),
        ("Set two timers: 5m and 10m.", "Set two timers: 5 minutes and 10 minutes."),
        ("The Fed cut rates by 25 bps.", "The Fed cut rates by 25 basis points."),
        ("Open from 6/1-11/30.", "Open from June 1st to November 30th."),
        ("Dinner is at 7ish.", "Dinner is at seven-ish."),
        ("The lamp is at 2700K.", "The lamp is at 2700 kelvin."),
        ("1d 2h 3m 4s", "1 day 2 hours 3 minutes 4 seconds"),
        ("5min 30sec", "5 minutes 30 seconds"),
        ("$5m deal", "5 million dollar deal"),
        ("3 in of snow", "3 inches of snow"),
        ("Sunrise at 06:05.", "Sunrise at 6 oh 5."),
        ("1914–18", "nineteen fourteen to nineteen eighteen"),
        ("10 ms", "10 milliseconds"),
        ("2 GiB", "2 gibibytes"),
        ("7bn people, 3.5mn jobs, 2 bn", "7 billion people, 3.5 million jobs, 2 bn"),
        ("1,5 € or 0,5 EUR", "1.5 euros or 0.5 euros"),
        ("€1,5 and $2,75", "1.5 euros and 2 dollars and 75 cents"),
        ("Open until 9 pm Sun.", "Open until 9 PM Sunday."),
        ("It scored 9.7/12.", "It scored 9.7 out of 12."),
        ("22 µg/m3", "22 micrograms per cubic meter"),
        ("Arsenal 3 - 1 Chelsea", "Arsenal 3 to 1 Chelsea"),
        ('Use a 9x13" pan.', "Use a 9 by 13 inch pan."),
        ("$1.99/ea", "1 dollar and 99 cents each"),
        ("10 Main St. NW, Austin, TX 73301", "10 Main Street northwest, Austin, TX 7 3 3 0 1"),
        ("apt. 4C, exit 12C, flat 3F", "apartment 4C, exit 12C, flat 3F"),
        ("2x - 3 = 7", "2x minus 3 equals 7"),
    ],
)
def test_reported_texts_and_their_like_are_spoken_right(text: str, expected: str) -> None:
    assert normalize(text) == expected


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
        ("It is 4C in the flat, room: 20C", "It is 4 degrees Celsius in the flat, room: 20 degrees Celsius"),
        ("He won, 5 - 3 in all; 5x - 3 sets", "He won, 5 minus 3 in all; 5x — 3 sets"),
        ("gears 3.5/2", "gears 3.5/2"),
        ("In the city of Boston, MA 20000 people voted.", "In the city of Boston, MA 20000 people voted."),
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


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("Am 3. Mai um 9:05 Uhr.", "de", "Am dritten Mai um 9 Uhr 5."),
        ("Es ist 14:00 Uhr.", "de", "Es ist 14 Uhr."),
        ("Vom 12.05.2026 bis 1.6.2026", "de", "Vom zwölften Mai 2026 bis ersten Juni 2026"),
        ("Der 1. Platz, das 20. Jahrhundert", "de", "Der erste Platz, das zwanzigste Jahrhundert"),
        ("Das sind z. B. 3 Äpfel bzw. Birnen.", "de", "Das sind zum Beispiel 3 Äpfel beziehungsweise Birnen."),
        ("Friedrich II.", "de", "Friedrich der Zweite."),
        ("Kapitel IV. Fall X. Elisabeth II. regierte.", "de", "Kapitel 4. Fall X. Elisabeth die Zweite regierte."),
        ("Rayos X, capítulo IV", "es", "Rayos X, capítulo IV"),
        ("Deel II", "nl", "Deel 2"),
        ("Version 1.2.3, 3. und 4.", "de", "Version 1.2.3, 3. und 4."),
        ("Il est 14h30, puis 8h.", "fr", "Il est 14 heures 30, puis 8 heures."),
        ("Louis XIV et François Ier", "fr", "Louis 14 et François premier"),
        ("le XXe siècle, la 2e fois", "fr", "le vingtième siècle, la deuxième fois"),
        ("El 12/05/2026, Felipe VI e Isabel II", "es", "El 12 de mayo de 2026, Felipe sexto e Isabel segunda"),
        ("São 14h30 de 1/6/2026.", "pt", "São 14 horas e 30 de 1 de junho de 2026."),
        ("Willem II op 3-5-2026", "nl", "Willem de tweede op 3 mei 2026"),
        ("3 maja, XXI wiek, Jan III", "pl", "trzeciego maja, dwudziesty pierwszy wiek, Jan trzeci"),
        ("la sala è occupata il 1/6/2026", "it", "la sala è occupata il primo giugno 2026"),
    ],
)  # fmt: skip
def test_what_voices_of_other_languages_misread_is_written_out(text: str, language: str, expected: str) -> None:
    assert normalize(text, language) == expected
