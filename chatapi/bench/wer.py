"""Word error rate."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

from chatapi.text.normalization.english.numbers import below_hundred

UNITS = ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"), (1000, "thousand"), (100, "hundred"))
SAME = {
    "ok": "okay", "mr": "mister", "mrs": "missus", "dr": "doctor", "tyre": "tire", "colour": "color", "grey": "gray",
    "theatre": "theater", "goodnight": "good night",
}  # fmt: skip
"""Spellings of one word, mapped to one of them."""


def words(text: str, language: str = "en") -> list[str]:
    """The words to compare: lower case, without punctuation; English numbers as words.

    In scripts without spaces each character counts as a word.
    """
    plain = unicodedata.normalize("NFKC", text).lower().replace("’", "'")
    plain = re.sub(r"\[[^\]]*\]|\([^)]*\)", " ", plain)
    if language == "en":
        plain = _english(plain)
    if language in ("zh", "ja"):
        return [char for char in plain if char.isalnum()]
    kept = "".join(
        char if char.isalnum() or char in "' " or unicodedata.category(char).startswith("M") else " " for char in plain
    )
    return [word.strip("'") for word in kept.split() if word.strip("'")]


def _english(text: str) -> str:
    text = re.sub(r"\b([ap])\.m\b\.?", r"\1m", text)
    text = re.sub(r"\d{1,3}(,\d{3}){1,9}", lambda found: _counted(int(found[0].replace(",", ""))), text)
    text = re.sub(r"\$(\d+)", r"\1 dollars", text).replace("%", " percent ").replace("&", " and ")
    text = re.sub(r"(\d{1,30})(st|nd|rd|th)\b", lambda found: _ordinal(int(found[1])), text)
    text = re.sub(r"\d+", lambda found: f" {_number(found[0])} ", text)
    return " ".join(SAME.get(word, word) for word in re.sub(r"[^\w' ]", " ", text).split())


def _number(digits: str) -> str:
    """Digits as words: 24 twenty four, 1912 nineteen twelve, 0815 digit by digit."""
    if len(digits) > 4 or (digits.startswith("0") and len(digits) > 1):
        return " ".join(below_hundred(int(digit)) for digit in digits)
    value = int(digits)
    if value >= 1000 and value % 1000 >= 100:
        return (
            f"{_number(digits[:2])} {_number(str(int(digits[2:])))}"
            if value % 100
            else f"{_number(digits[:2])} hundred"
        )
    return _counted(value)


def _counted(value: int) -> str:
    """A cardinal number in words, without hyphens."""
    if value < 100:
        return below_hundred(value).replace("-", " ")
    unit, name = next((unit, name) for unit, name in UNITS if unit <= value)
    return f"{_counted(value // unit)} {name}" + (f" {_counted(value % unit)}" if value % unit else "")


def _ordinal(value: int) -> str:
    *before, last = _counted(value).split()
    special = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
               "twelve": "twelfth"}  # fmt: skip
    last = special.get(last) or (last[:-1] + "ieth" if last.endswith("y") else last + "th")
    return " ".join([*before, last])


def edits(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    """Smallest number of inserted, deleted or replaced words (Levenshtein distance over words)."""
    row = list(range(len(hypothesis) + 1))
    for position, expected in enumerate(reference, 1):
        diagonal, row[0] = row[0], position
        for column, word in enumerate(hypothesis, 1):
            substituted = diagonal + (expected != word)
            diagonal, row[column] = row[column], min(substituted, row[column] + 1, row[column - 1] + 1)
    return row[-1]


def word_error_rate(pairs: Iterable[tuple[str, str]], language: str = "en") -> float:
    """Errors per word of the reference, over all pairs of reference and hypothesis; may be above 1."""
    errors = total = 0
    for reference, hypothesis in pairs:
        expected = words(reference, language)
        errors += edits(expected, words(hypothesis, language))
        total += len(expected)
    return errors / max(1, total)
