"""Abbreviations and symbols in English words."""

from __future__ import annotations

import re

from chatapi.text.normalization.english.numbers import Rule, any_of, applied, compiled
from chatapi.text.normalization.english.roman import roman_written_out
from chatapi.text.sentence_splitter import STARTERS, word_set

_ABBREVIATIONS = {
    "e.g.": "for example", "i.e.": "that is", "E.g.": "For example", "I.e.": "That is", "vs.": "versus", "vs": "versus",
    "cf.": "compare", "approx.": "approximately", "ca.": "circa", "a.k.a.": "also known as", "w/o": "without",
    "w/": "with", "Ph.D.": "PhD", "dept.": "department", "Dept.": "Department", "govt.": "government",
    "incl.": "including", "CO2": "C O 2", "EV": "E V", "EVs": "E Vs",
    "ETA": "E T A", "PIN": "pin", "PINs": "pins", "IoT": "I O T", "RAM": "ram", "NAS": "nass", "YoY": "year over year",
    "QoQ": "quarter over quarter", "MoM": "month over month",
}  # fmt: skip
"""Abbreviations that are expanded everywhere."""
_BEFORE_A_NAME = {
    "Dr": "Doctor", "Mr": "Mister", "Mrs": "Mrs", "Ms": "Ms", "Prof": "Professor", "St": "Saint", "Mt": "Mount",
    "Ft": "Fort", "Gen": "General", "Col": "Colonel", "Capt": "Captain", "Lt": "Lieutenant", "Sgt": "Sergeant",
    "Gov": "Governor", "Maj": "Major", "Cmdr": "Commander", "Cpl": "Corporal", "Supt": "Superintendent",
    "Sen": "Senator", "Rep": "Representative", "Rev": "Reverend", "Hon": "Honorable",
}  # fmt: skip
_AFTER_A_NAME = {
    "St": "Street", "Ave": "Avenue", "Blvd": "Boulevard", "Rd": "Road", "Inc": "Incorporated", "Ltd": "Limited",
    "Corp": "Corporation", "Co": "Company", "Jr": "Junior", "Sr": "Senior", "Bros": "Brothers", "Dr": "Drive",
    "Ln": "Lane", "Hwy": "Highway", "Pkwy": "Parkway", "Sq": "Square",
}  # fmt: skip
_BEFORE_A_NUMBER = {
    "No": "number", "no": "number", "Nos": "numbers", "Fig": "figure", "fig": "figure", "Vol": "volume",
    "vol": "volume", "Ch": "chapter", "ch": "chapter", "Sec": "section", "sec": "section", "pp": "pages", "p": "page",
    "Eq": "equation", "Ep": "episode", "ep": "episode", "Apt": "apartment", "apt": "apartment", "Ext": "extension",
    "Hwy": "highway", "Rte": "route", "Rm": "room", "Art": "article", "v": "version", "ver": "version",
}  # fmt: skip


def _ends_sentence(found: re.Match[str]) -> bool:
    """Whether the dot at the end of the match also ends the sentence."""
    rest = found.string[found.end() : found.end() + 24].lstrip("'\"”’)")
    following = re.match(r" [\"'“‘(]?([A-Z][A-Za-z']{0,20})", rest)
    return not rest.strip() or (following is not None and following[1].lower() in STARTERS)


def _dotless(found: re.Match[str]) -> str:
    """U.S. -> US, 7 p.m. -> 7 PM; the voice would pause at every dot."""
    return found[0].replace(".", "").upper() + ("." if _ends_sentence(found) else "")


def _half_of_day(found: re.Match[str]) -> str:
    """p.m. -> PM; what follows in a capital, but for a time zone or a day, is a new sentence."""
    text = _dotless(found).strip()
    following = re.match(r" ([A-Z][a-z]{1,20})\b", found.string[found.end() : found.end() + 24])
    return text + "." if following and following[1] not in _AFTER_A_TIME and text[-1] != "." else text


def _initials(found: re.Match[str]) -> str:
    """J. K. Rowling, John F. Kennedy; but not: plan B. Oranges are next."""
    name, initials = found[1] or "", found[2]
    part_of_name = name or len(initials) > 3 or found.start() == 0
    following = re.match(r"[A-Za-z']{1,20}", found.string[found.end() : found.end() + 21])
    starts = following is not None and following[0].lower() in STARTERS
    return name + initials.replace(".", "") if part_of_name and not starts else found[0]


def _after_name(found: re.Match[str]) -> str:
    ends = _ends_sentence(found)
    if found[2] in ("St", "Dr") and not ends and re.match(r" [A-Z]", found.string[found.end() : found.end() + 2]):
        return found[0]
    return found[1] + _AFTER_A_NAME[found[2]] + ("." if ends else "")


def _power(found: re.Match[str]) -> str:
    known = {"2": "squared", "²": "squared", "3": "cubed", "³": "cubed"}
    exponent = found[1].replace("-", "minus ")
    return f" {known.get(exponent, f'to the power of {exponent}')}"


def _difference(found: re.Match[str]) -> str:
    """3x - 4 in an equation."""
    return f"{found[1]} minus " if "=" in found.string else found[0]


def _alternatives(found: re.Match[str]) -> str:
    first, second = found.groups()
    both = first == "and" or not (first.islower() and second.islower())
    return f"{first} {second}" if both else f"{first} or {second}"


_AFTER_A_TIME = word_set(
    "Eastern Pacific Central Mountain Greenwich British European Standard Daylight Monday Tuesday Wednesday "
    "Thursday Friday Saturday Sunday Mondays Tuesdays Wednesdays Thursdays Fridays Saturdays Sundays January "
    "February March April May June July August September October November December"
)
"""Words in capitals that continue a sentence after 7 p.m."""
_ENTITY = (
    "sensor|binary[ _]sensor|light|switch|climate|media[ _]player|automation|script|scene|cover|lock|fan|vacuum|camera|"
    "person|device[ _]tracker|input[ _](?:boolean|number|select|text|datetime)|sun|weather|zone|timer|counter|group|"
    "alarm[ _]control[ _]panel|button|number|select|update|remote|water[ _]heater|humidifier|siren|calendar|todo|event"
)
_EXTENSION = "yaml|yml|json|txt|pdf|py|mp3|wav|flac|png|jpe?g|csv|md|zip|exe|conf|toml|log|xml|docx?|xlsx?|mp4|js|sh|gz"
"""Domains of Home Assistant entities, and extensions of files: the dot after or before them is read."""

_ABBREVIATED: tuple[Rule, ...] = (
    (r"(?<=\d) ?[aApP]\.[mM]\.", lambda found: f" {_half_of_day(found)}"),
    (r"\b[ap]\.m\.", _dotless),
    (r"\bc\. ?(?=\d{3,4}\b)", "circa "),
)
_WORDS: tuple[Rule, ...] = (
    (
        rf"(?<![\w.-])({_ENTITY})\.(?=[a-z]\w)|(?<=\w)\.(?=(?:{_EXTENSION})\b(?!\.\w))",
        lambda found: f"{found[1] or ''} dot ",
    ),
    (r"(?<=\bsaid )no\. (?=\d)|(?<=\bsays )no\. (?=\d)", "no, "),
    (r"\b([Nn])o\. (?=\d{1,4} (?:seconds?|minutes?|hours?|days?|weeks?|months?|years?|people)\b)", r"\1o, "),
    (r"(?<=\s)(?<!\bis )(?<!\bare )(?<!\bbe )(?<!\bof )(?<!\bat )(?<!\bwas )<3+(?!\w)(?=\s*$|\s[^\w\s])", ""),
    (r"(?<!\w)π(?!\w)", "pi"),
    (rf"(?<![\w.])({any_of(_ABBREVIATIONS)})(?!\w)", lambda found: _ABBREVIATIONS[found[1]]),
    (r"\betc\.", lambda found: "et cetera" + ("." if _ends_sentence(found) else "")),
    (rf"\b({any_of(_BEFORE_A_NUMBER)})\. ?(?=\d)", lambda found: f"{_BEFORE_A_NUMBER[found[1]]} "),
    (rf"(\b[A-Z][\w'’]{{1,20}},? |\b\d{{1,3}}(?:st|nd|rd|th) )({any_of(_AFTER_A_NAME)})\.", _after_name),
    (rf"\b({any_of(_BEFORE_A_NAME)})\.(?= ?[A-Z]| (?:&|and) [A-Z])", lambda found: _BEFORE_A_NAME[found[1]]),
    (r"\b(?:[A-Z]\.){2,5}", _dotless),
    (r"\b([A-Z][a-z]{1,15} )?((?:[A-HJ-Z]\. ){1,3})(?=[A-Z][a-z])", _initials),
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
    (r"(?:^|(?<=\bis )|(?<=[(,;:] ))(?:>=|≥) ?", "at least "),
    (r"(?:^|(?<=\bis )|(?<=[(,;:] ))(?:<=|≤) ?", "at most "),
    (r" ?(?:>=|≥) ?", " is at least "),
    (r" ?(?:<=|≤) ?", " is at most "),
    (r"(?<=\w) ?[=-]> ?(?=\w)|(?<=\d) ?→ ?(?=\d)", " to "),
    (r"(?<!\w)(\d{0,4}[a-z](?: squared| cubed)?|\d{1,9}) [-–−] (?=\d{0,9}[a-z]?(?!\w))", _difference),
    (r" ?={1,3} ?", " equals "),
    (r"(?<=[\w)]) < (?=[\w-])|(?<=\w)<(?=\w)", " is less than "),
    (r"(?<=[\w)]) > (?=[\w-])|(?<=\w)>(?=\w)", " is greater than "),
    (r"(?<!\w)[<>](?=\s?\d)", lambda found: "under " if found[0] == "<" else "over "),
    (r"(?<=\w)\+\+", " plus plus"),
    (r"(?<=[\w)]) ?\+ ?(?=[\w(])|(?<!\w)\+(?=\d)", " plus "),
    (r"(?<=\d)\+", " plus"),
    (r" ?× ?", " times "),
    (r" ?÷ ?", " divided by "),
    (r" ?± ?", " plus or minus "),
    (r"^≈ ?|(?<=\bis )≈ ?|(?<=\bby )≈ ?|(?<=\bat )≈ ?|(?<=[(,;:] )≈ ?", "about "),
    (r" ?≈ ?", " is about "),
    (r"∞", " infinity "),
    (r"~ ?(?=\d)", "about "),
    (r"(?<!\w)@ ?(?=\w)", "at "),
    (r"§{1,2} ?", "section "),
    (r"(?<![\w/])([A-Za-z]{2,20})/([A-Za-z]{2,20})(?![\w/])", _alternatives),
    (r"[#$<>^~=+]", " "),
)
_BEFORE_RULES, _WORD_RULES, _SYMBOL_RULES = compiled(_ABBREVIATED), compiled(_WORDS), compiled(_SYMBOLS)
_SYMBOL = re.compile(r"[#&^²³√!<>=≠≤≥→+×÷±≈∞~@§/$]")


def halves_of_day_undotted(text: str) -> str:
    """7 p.m. -> 7 PM; before the numbers, which expect it so."""
    return applied(_BEFORE_RULES, text)


def words_written_out(text: str) -> str:
    """The text with abbreviations, numerals in names and symbols in words; after the numbers."""
    text = roman_written_out(applied(_WORD_RULES, text))
    return applied(_SYMBOL_RULES, text) if _SYMBOL.search(text) else text
