"""Numbers in English words, and the rules that replace parts of a text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TypeAlias

from chatapi.text.sentence_splitter import word_set

Place: TypeAlias = "str | Callable[[re.Match[str]], str]"
Rule: TypeAlias = "tuple[str, Place]"
"""A pattern and its replacement."""
Compiled: TypeAlias = "tuple[tuple[re.Pattern[str], Place], ...]"

_ONES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
         "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]  # fmt: skip
_TENS = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_ORDINALS = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
             "twelve": "twelfth"}  # fmt: skip

NUMBER = r"(?:\d{1,3}(?:,\d{3}){1,5}|\d{1,15})(?:\.\d{1,9})?"
"""A number; the surrounding patterns make sure that it is complete."""
NOT_A_NOUN = word_set(
    "a about above across after again ago all am an and another apart are around as at away be because been before "
    "below between but by can could daily did do does down during each earlier east else equals even ever every "
    "faster for from gone had has have he here high if in into is it its just late later left less long lost lower me "
    "minus monthly more most my near next north not now of off older on once only onto or out over past per plus "
    "remain remaining remains right she should since slower so south still tall than that the their then there they "
    "thick this till times to today together tomorrow tonight too toward towards under until up versus vs was we "
    "weekly were west when where which while who why wide will with within without would yearly yesterday yet you "
    "younger your deep gets got makes made means say says said seems stays took takes went goes came comes"
)
"""Words that follow an amount but are not what it describes; a 5 mile walk, but 5 miles away."""


def compiled(*groups: Iterable[Rule]) -> Compiled:
    """The rules of all groups, in order."""
    return tuple((re.compile(pattern), place) for rules in groups for pattern, place in rules)


def applied(rules: Compiled, text: str) -> str:
    """The text after all rules."""
    for pattern, place in rules:
        text = pattern.sub(place, text)
    return text


def any_of(names: Iterable[str]) -> str:
    """A pattern for any of the names, longest first."""
    return "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))


def below_hundred(number: int) -> str:
    """A number from 0 to 99 in words, such as forty-two."""
    if number < 20:
        return _ONES[number]
    return _TENS[number // 10] + (f"-{_ONES[number % 10]}" if number % 10 else "")


def ordinal(number: int) -> str:
    """21 -> 21st, which every voice can speak."""
    suffix = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"


def ordinal_words(number: int) -> str:
    """A number from 1 to 99, such as twenty-first."""
    before, dash, last = below_hundred(number).rpartition("-")
    return before + dash + (_ORDINALS.get(last) or (last[:-1] + "ie" if last[-1] == "y" else last) + "th")


def paired(number: int) -> str:
    """A number of three or four digits as people read names: 370 three seventy, 1204 twelve oh four, 1600 sixteen
    hundred; 500 and 2000 stay."""
    first, rest = divmod(number, 100)
    if rest == 0:
        return f"{below_hundred(first)} hundred" if first > 9 and first % 10 else str(number)
    return f"{below_hundred(first)} {'oh ' if rest < 10 else ''}{below_hundred(rest)}"


def year(number: int) -> str:
    """1998 nineteen ninety-eight, 1900 nineteen hundred, 2005 stays."""
    return str(number) if 2000 <= number < 2010 or not 1000 < number < 2100 else paired(number)


def full_year(digits: str) -> int:
    """The year of two or four digits; two are from 1951 to 2050."""
    number = int(digits)
    return number if len(digits) > 2 else number + (2000 if number <= 50 else 1900)


def spelled(digits: str) -> str:
    """Digit by digit, with a pause between groups: 555-1234 -> 5 5 5, 1 2 3 4."""
    return ", ".join(" ".join(group) for group in re.findall(r"\d{1,40}", digits))


def counted(number: str, name: str) -> str:
    """A number and its unit, in the singular after 1 and fractions; the plural's s goes to the end or to the bar."""
    if number == "1" or ("/" in number and " " not in number):
        return f"{number} {name.replace('|', '')}"
    return f"{number} {plural(name)}"


def plural(name: str) -> str:
    """The plural of a unit's name."""
    if name in _ODD or name.endswith(_SAME):
        return _ODD.get(name, name)
    return name.replace("|", "s") if "|" in name else name + "s"


_ODD = {"foot": "feet", "square foot": "square feet", "cubic foot": "cubic feet", "inch": "inches",
        "square inch": "square inches", "cubic inch": "cubic inches", "inch| of mercury": "inches of mercury",
        "part| per million": "parts per million", "lux": "lux", "bar": "bar"}  # fmt: skip
_SAME = ("hertz", "percent", "kelvin", "siemens", "lux", "per mille")


def describes(found: re.Match[str]) -> bool:
    """Whether the amount describes the noun after it, so that its unit is singular: a 20 ounce bottle."""
    following = _NOUN.match(found.string, found.end())
    if following is None:
        return False
    noun = following[1].lower()
    if noun in NOT_A_NOUN or noun.endswith(("ly", "ing")):
        return False
    return noun in _DESCRIBED or _ARTICLE.search(found.string[max(0, found.start() - 16) : found.start()]) is not None


_NOUN = re.compile(r" ([A-Za-z]{2,20})\b(?!['’])")
_ARTICLE = re.compile(
    r"(?:^|[\s(\"“])(?:an?|the|one|another|every|each|my|your|his|her|our|this|that|that['’]s an?) (?:new )?$",
    re.IGNORECASE,
)
_DESCRIBED = word_set(
    "adapter angle apartment bag battery belt bill board bolt bottle bulb cable camera charger circuit clock coin "
    "contract deal deposit diameter display dose drill fee fuse glass grant gun home house jar jug ladder lawsuit "
    "lens limit loan lot monitor motor nail note old pack pan pill pipe pizza plank race radius resistor screen "
    "screw socket tablet tank timer weight window zone"
)
"""Nouns that an amount before them describes, also without an article."""
