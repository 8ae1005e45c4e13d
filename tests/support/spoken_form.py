"""The words that a voice speaks for a normalized text, to compare it with what a person would say."""

from __future__ import annotations

import re
from pathlib import Path

from chatapi.text.normalization import normalize
from chatapi.text.sentence_splitter import SentenceSplitter

CORPUS = Path(__file__).parents[1] / "corpus" / "text"
"""A file of lines per language: a text, a tab, and its spoken form."""

_ONES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
         "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]  # fmt: skip
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_ORDINALS = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
             "twelve": "twelfth"}  # fmt: skip
_SCALES = ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"), (1000, "thousand"), (100, "hundred"))


def lines(language: str, half: int) -> list[tuple[str, str]]:
    """Every second line of a language's file; half 0 is for improving the rules, half 1 is held out."""
    rows = (CORPUS / f"{language}.tsv").read_text(encoding="utf-8").splitlines()
    return [(row.split("\t")[0], row.split("\t")[1]) for row in rows[half::2]]


def wrong(language: str, half: int, *, hurried: bool = False) -> list[str]:
    """The lines of the half that are not normalized to their spoken form, with both."""
    found = []
    for text, expected in lines(language, half):
        normalized = normalized_text(text, language, hurried=hurried)
        if spoken_form(normalized, language) != spoken_form(expected, language):
            found.append(f"{text!r} -> {normalized!r}, not {expected!r}")
    return found


def normalized_text(text: str, language: str, *, hurried: bool = False) -> str:
    """What the voice gets: the parts of the text, each normalized; `hurried`: those of live conversation."""
    splitter = SentenceSplitter(hurried)
    return " ".join(normalize(piece, language) for piece in [*splitter.feed(text), *splitter.finish()])


def spoken_form(text: str, language: str) -> str:
    """Words in lower case without punctuation; in English, numbers as words."""
    text = text.lower().replace("’", "'")
    if language.startswith("en"):
        text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
        text = re.sub(r"(?<![\w.])-(?=\d)", " minus ", text)
        text = re.sub(r"\d+(?:\.\d+)?(?:(?:st|nd|rd|th)\b)?", lambda found: f" {_number(found[0])} ", text)
        return " ".join(re.sub(r"[^\w' ]|'(?![a-z])|(?<!\w)'", " ", text).split())
    return " ".join(re.sub(r"(?<!\d),|,(?!\d)|[^\w', ]", " ", text).split())


def _number(digits: str) -> str:
    """Digits as espeak-ng reads them, without its "and"."""
    if digits[-1].isalpha():
        *before, last = _cardinal(int(digits[:-2])).split()
        return " ".join([*before, _ORDINALS.get(last) or (last[:-1] + "ie" if last[-1] == "y" else last) + "th"])
    whole, _, part = digits.partition(".")
    zeros = len(whole) - len(whole.lstrip("0") or "0")
    words = ["zero"] * zeros + [_cardinal(int(whole))]
    return " ".join([*words, *(["point"] if part else []), *(_ONES[int(digit)] for digit in part)])


def _cardinal(value: int) -> str:
    if value < 20:
        return _ONES[value]
    if value < 100:
        return _TENS[value // 10 - 2] + (f" {_ONES[value % 10]}" if value % 10 else "")
    unit, name = next((unit, name) for unit, name in _SCALES if unit <= value)
    return f"{_cardinal(value // unit)} {name}" + (f" {_cardinal(value % unit)}" if value % unit else "")
