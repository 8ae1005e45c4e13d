"""Normalization of English text: abbreviations, names with numerals, and symbols; numbers are in english_numbers."""

from __future__ import annotations

import re

from chatapi.text.normalization.english_numbers import Rule, any_of, numbers_written_out, ordinal
from chatapi.text.sentence_splitter import STARTERS

_ABBREVIATIONS = {
    "e.g.": "for example", "i.e.": "that is", "E.g.": "For example", "I.e.": "That is", "vs.": "versus", "vs": "versus",
    "cf.": "compare", "approx.": "approximately", "ca.": "circa", "a.k.a.": "also known as", "w/o": "without",
    "w/": "with", "Ph.D.": "PhD", "dept.": "department", "Dept.": "Department", "govt.": "government",
    "incl.": "including", "CO2": "C O 2",
}  # fmt: skip
"""Abbreviations that are expanded everywhere."""
_BEFORE_A_NAME = {
    "Dr": "Doctor", "Mr": "Mister", "Mrs": "Mrs", "Ms": "Ms", "Prof": "Professor", "St": "Saint", "Mt": "Mount",
    "Ft": "Fort", "Gen": "General", "Col": "Colonel", "Capt": "Captain", "Lt": "Lieutenant", "Sgt": "Sergeant",
    "Gov": "Governor", "Sen": "Senator", "Rep": "Representative", "Rev": "Reverend", "Hon": "Honorable",
}  # fmt: skip
_AFTER_A_NAME = {
    "St": "Street", "Ave": "Avenue", "Blvd": "Boulevard", "Rd": "Road", "Inc": "Incorporated", "Ltd": "Limited",
    "Corp": "Corporation", "Co": "Company", "Jr": "Junior", "Sr": "Senior", "Bros": "Brothers",
}  # fmt: skip
_BEFORE_A_NUMBER = {
    "No": "number", "no": "number", "Nos": "numbers", "Fig": "figure", "fig": "figure", "Vol": "volume",
    "vol": "volume", "Ch": "chapter", "ch": "chapter", "Sec": "section", "sec": "section", "pp": "pages", "p": "page",
    "Eq": "equation", "Art": "article", "v": "version", "ver": "version",
}  # fmt: skip
_ROMAN = {"II": 2, "III": 3, "IV": 4, "V": 5, "VI": 6, "VII": 7, "VIII": 8, "IX": 9, "X": 10, "XI": 11, "XII": 12,
          "XIII": 13, "XIV": 14, "XV": 15, "XVI": 16, "XXIII": 23}  # fmt: skip
_MONARCHS = (
    "Alexander|Benedict|Catherine|Charles|Edward|Elizabeth|Francis|Frederick|George|Gregory|Gustav|Harald|Henry|Ivan|"
    "James|John|Juan Carlos|Paul|Leo|Leopold|Louis|Mary|Napoleon|Nicholas|Otto|Peter|Philip|Pius|Pope|Ramesses|Richard|"
    "Rudolf|Urban|Victoria|Wilhelm|William"
)


def _ends_sentence(found: re.Match[str]) -> bool:
    """Whether the dot at the end of the match also ends the sentence."""
    rest = found.string[found.end() : found.end() + 24].lstrip("'\"”’)")
    following = re.match(r" [\"'“‘(]?([A-Z][A-Za-z']{0,20})", rest)
    return not rest.strip() or (following is not None and following[1].lower() in STARTERS)


def _dotless(found: re.Match[str]) -> str:
    """U.S. -> US, 7 p.m. -> 7 PM; the voice would pause at every dot."""
    return found[0].replace(".", "").upper() + ("." if _ends_sentence(found) else "")


def _initials(found: re.Match[str]) -> str:
    """J. K. Rowling, John F. Kennedy; but not: plan B. Oranges are next."""
    name, initials = found[1] or "", found[2]
    part_of_name = name or len(initials) > 3 or found.start() == 0
    following = re.match(r"[A-Za-z']{1,20}", found.string[found.end() : found.end() + 21])
    starts = following is not None and following[0].lower() in STARTERS
    return name + initials.replace(".", "") if part_of_name and not starts else found[0]


def _after_name(found: re.Match[str]) -> str:
    ends = _ends_sentence(found)
    if found[2] == "St" and not ends and re.match(r" [A-Z]", found.string[found.end() : found.end() + 2]):
        return found[0]
    return found[1] + _AFTER_A_NAME[found[2]] + ("." if ends else "")


def _roman(found: re.Match[str]) -> str:
    name, numeral = found.groups()
    if re.fullmatch(_MONARCHS, name):
        return f"{name} the {ordinal(_ROMAN[numeral])}"
    return found[0] if len(numeral) == 1 else f"{name} {_ROMAN[numeral]}"


def _power(found: re.Match[str]) -> str:
    known = {"2": "squared", "²": "squared", "3": "cubed", "³": "cubed"}
    return f" {known.get(found[1], f'to the power of {found[1]}')}"


def _alternatives(found: re.Match[str]) -> str:
    first, second = found.groups()
    both = first == "and" or not (first.islower() and second.islower())
    return f"{first} {second}" if both else f"{first} or {second}"


_ABBREVIATED: tuple[Rule, ...] = ((r"(?<=\d) ?[aApP]\.[mM]\.", lambda found: f" {_dotless(found).strip()}"),)
_WORDS: tuple[Rule, ...] = (
    (rf"(?<![\w.])({any_of(_ABBREVIATIONS)})(?!\w)", lambda found: _ABBREVIATIONS[found[1]]),
    (r"\betc\.", lambda found: "et cetera" + ("." if _ends_sentence(found) else "")),
    (rf"\b({any_of(_BEFORE_A_NUMBER)})\. ?(?=\d)", lambda found: f"{_BEFORE_A_NUMBER[found[1]]} "),
    (rf"(\b[A-Z][\w'’]{{1,20}},? |\b\d{{1,3}}(?:st|nd|rd|th) )({any_of(_AFTER_A_NAME)})\.", _after_name),
    (rf"\b({any_of(_BEFORE_A_NAME)})\.(?= ?[A-Z])", lambda found: _BEFORE_A_NAME[found[1]]),
    (r"\b(?:[A-Z]\.){2,5}", _dotless),
    (r"\b([A-Z][a-z]{1,15} )?((?:[A-HJ-Z]\. ){1,3})(?=[A-Z][a-z])", _initials),
    (rf"\b([A-Z][a-z]{{1,15}}) ({any_of(_ROMAN)})\b(?!\.\w|['’])", _roman),
)
_SYMBOLS: tuple[Rule, ...] = (
    (r"(?<=\b[CF])#(?!\w)", " sharp"),
    (r"(?<!\w)#(?=\d)", "number "),
    (r"(?<!\w)#(?=[A-Za-z])", "hashtag "),
    (r" ?& ?", " and "),
    (r"(?<=[\w)])\^\(?(-?\w{1,9})\)?", _power),
    (r"(?<=[A-Za-z)])([²³])", _power),
    (r"√\(?", " the square root of "),
    (r" ?(?:!=|≠) ?", " is not equal to "),
    (r" ?(?:<=|≤) ?", " is at most "),
    (r" ?(?:>=|≥) ?", " is at least "),
    (r"(?<=\w) ?[=-]> ?(?=\w)|(?<=\d) ?→ ?(?=\d)", " to "),
    (r" ?={1,3} ?", " equals "),
    (r"(?<=\w) < (?=[\w-])|(?<=\w)<(?=\d)", " is less than "),
    (r"(?<=\w) > (?=[\w-])|(?<=\w)>(?=\d)", " is greater than "),
    (r"(?<!\w)[<>](?=\s?\d)", lambda found: "under " if found[0] == "<" else "over "),
    (r"(?<=\w)\+\+", " plus plus"),
    (r"(?<=[\w)]) ?\+ ?(?=[\w(])|(?<!\w)\+(?=\d)", " plus "),
    (r"(?<=\d)\+", " plus"),
    (r" ?× ?", " times "),
    (r" ?÷ ?", " divided by "),
    (r" ?± ?", " plus or minus "),
    (r" ?≈ ?", " is about "),
    (r"∞", " infinity "),
    (r"~ ?(?=\d)", "about "),
    (r"(?<!\w)@ ?(?=\w)", "at "),
    (r"§{1,2} ?", "section "),
    (r"(?<![\w/])([A-Za-z]{2,20})/([A-Za-z]{2,20})(?![\w/])", _alternatives),
    (r"[#$<>^~=+]", " "),
)
_BEFORE_NUMBERS = [(re.compile(pattern), place) for pattern, place in _ABBREVIATED]
_AFTER_NUMBERS = [(re.compile(pattern), place) for pattern, place in (*_WORDS, *_SYMBOLS)]


def written_out(text: str) -> str:
    """The normalized text; one line in, one line out."""
    for pattern, place in _BEFORE_NUMBERS:
        text = pattern.sub(place, text)
    text = numbers_written_out(text)
    for pattern, place in _AFTER_NUMBERS:
        text = pattern.sub(place, text)
    return text
