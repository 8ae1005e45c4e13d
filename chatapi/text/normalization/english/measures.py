"""Measures in English words: a number with its unit, feet and inches, points of the compass."""

from __future__ import annotations

import re

from chatapi.text.normalization.english.numbers import (
    NUMBER,
    Rule,
    any_of,
    applied,
    compiled,
    counted,
    describes,
    plural,
)
from chatapi.text.normalization.english.units import PER, SPACED, UNITS

AMOUNT = rf"(?:\d{{1,3}} )?\d{{1,2}}/\d{{1,2}}|{NUMBER}"
"""A number or a fraction."""
_FRACTION = r"(?:\d{1,3} )?\d{1,2}/\d{1,2}"
_PER_UNIT = rf"(?: ?/ ?({any_of(PER)})(?![\w²³]))?"
_DECIMAL = re.compile(r"\d\.\d")
_BARE = "km|cm|mm|kg|mg|lbs?|oz|ft|mph|ml|mL|gal|tsp|tbsp|kB|MB|GB|TB|kWh|kW|mi"
"""Units that are plain without a number, as in: how many cm in 5 ft."""
_MEASURED = (
    "wide|tall|long|deep|thick|high|across|by|screens?|monitors?|displays?|tv|TV|pipe|nails?|screws?|boards?|bolts?|"
    "planks?|diameter|pizza|skillet|pan|blade|thickness|taller|shorter|longer|"
    r"of (?:\w{1,12} )?(?:snow|rain|ice|water|rainfall|snowfall|sleet|mud|mulch|soil|foam)"
)
"""What follows "in" where it means inches."""
_NUMBERED = re.compile(r"\b(?:section|room|unit|gate|seat|exit|apartment|apt\.?|no\.|number) $", re.IGNORECASE)
_HUNDREDS = re.compile(r"[1-9]\d00|10000")
_LIT = re.compile(
    r"\b(?:colou?rs?|temp(?:erature)?|whites?|lights?|lamps?|bulbs?|warm|cool|LEDs?|lit)\b", re.IGNORECASE
)
"""Before 2700K, which is the color of a light then."""
_CAPITAL = re.compile(r" [A-Z][a-z]")
_PLACE = re.compile(
    r"\b(?:apt|apartment|suite|ste|flat|exit|gate|seat|unit|row|platform|aisle|door|bay|terminal|track|bldg|building|block|"
    r"stall|lot|locker|class|figure|fig|table|appendix|type|grade|model)\.? $",
    re.IGNORECASE,
)
"""Before 4C, which is the name of a place or a part then."""
_NO_PLACE = r"(?<!Room )(?<!Seat )(?<!Gate )(?<!Unit )(?<!Size )(?<!Row )"
_DIRECTIONS = {"N": "north", "E": "east", "S": "south", "W": "west"}
_BLOWS_FROM = re.compile(
    r"\b(?:from(?: the)?|per (?:hour|second)|miles?|kilometers?|knots|winds?:?|gusts?:?|heading|out of the|to the)\s$"
    r"|\b(?:street|st|avenue|ave|road|rd|boulevard|blvd|drive|dr|lane|ln|way|place|pl|court|ct)\.?\s$",
    re.IGNORECASE,
)
_BLOWS = re.compile(r" (?:winds?|breeze|gusts?)\b")


def _unit(found: re.Match[str]) -> str:
    number, gap, unit, per = found.groups()
    if unit in SPACED and not _spaced(found, number, gap, unit):
        return found[0]
    name = UNITS[unit]
    single = gap == "-" or (not per and describes(found))
    text = f"{number} {name.replace('|', '')}" if single else counted(number, name)
    return text + (f" per {PER[per]}" if per else "")


def _spaced(found: re.Match[str], number: str, gap: str, unit: str) -> bool:
    """Whether a capital after a number is its unit: 5 A, but not 5A, section 5 A or 5 A Street."""
    before = found.string[max(0, found.start() - 40) : found.start()]
    if not gap and (unit == "N" or not _DECIMAL.search(number)):
        return unit == "K" and _HUNDREDS.fullmatch(number) is not None and _LIT.search(before) is not None
    if unit == "K":
        return _DECIMAL.search(number) is not None or len(number) > 2
    return not (_NUMBERED.search(before) or _CAPITAL.match(found.string, found.end()))


def _feet(found: re.Match[str]) -> str:
    """5 ft 3 in: feet and inches; before a noun, a foot and an inch."""
    if describes(found):
        return f"{found[1]} foot {found[2]} inch"
    return f"{counted(found[1], 'foot')} {counted(found[2], 'inch')}"


def _inches(found: re.Match[str]) -> str:
    return f"{found[1]} inch" if describes(found) or found[2] == "-" else counted(found[1], "inch")


def _inch_mark(found: re.Match[str]) -> str:
    """A 55" TV; not the end of a quotation."""
    before = found.string[max(0, found.start() - 200) : found.start()]
    quoted = before.count('"') % 2 or before.count("“") > before.count("”")
    return found[0] if quoted else _inches(found)


def _by_inches(found: re.Match[str]) -> str:
    """A 9x13" pan: nine by thirteen inches; not the end of a quotation."""
    if found.string[max(0, found.start() - 200) : found.start()].count('"') % 2:
        return found[0]
    return f"{found[1]} by {found[2]} {'inch' if describes(found) else 'inches'}"


def _degrees(found: re.Match[str]) -> str:
    if _PLACE.search(found.string[max(0, found.start() - 16) : found.start()]) and " " not in found[0]:
        return found[0]
    return counted(found[1], f"degree| {'Celsius' if found[2] == 'C' else 'Fahrenheit'}")


def _compass(found: re.Match[str]) -> str:
    """NNW: north northwest; NE: northeast, where the text is about the wind or an address."""
    first, *rest = (_DIRECTIONS[letter] for letter in found[0])
    if len(rest) == 2:
        return f"{first} {''.join(rest)}"
    before = found.string[max(0, found.start() - 16) : found.start()]
    blows = _BLOWS_FROM.search(before) or _BLOWS.match(found.string, found.end())
    return first + "".join(rest) if blows else found[0]


_RULES: tuple[Rule, ...] = (
    (r"\b(sq|cu)\. (ft|in|m|mi|yd)\b", r"\1 \2"),
    (r"(?<=\d)A(?= (?:fuse|breaker|circuit|charger|plug|socket|outlet|current)s?\b)", " A"),
    (r"(?<![\w.,])(\d{1,3}) ?ft\.?,? (\d{1,2}) ?in\b\.?(?! (?:the|a|an)\b)", _feet),
    (r"(?<![\w.,])(\d{1,4})['′] ?[x×] ?(\d{1,4})['′](?!\w)", r"\1 by \2 feet"),
    (r"(?<![\w.,])(\d{1,2})['′] ?(\d{1,2})(?:\"|”|''|″|′′)", r"\1 foot \2"),
    (rf"(?<![\w.,])({AMOUNT})(-| )?[iI]n(?:\.(?!\w)|(?= (?:{_MEASURED})\b|[,;!?]|$| [×x] )|(?=-(?!\d)))", _inches),
    (rf"(?<![\w.,])({_FRACTION})( |-)in\b(?! (?:the|an?|my|this|each|every|all|that|his|her|\d))", _inches),
    (r"(?<![\w.,])(\d{1,4}(?:\.\d)?) ?[x×] ?(\d{1,4}(?:\.\d)?)[\"″”](?!\w)", _by_inches),
    (rf"(?<![\w.,])({AMOUNT})( )?[\"″”](?!\w)", _inch_mark),
    (rf"(?<![\w.,:]){_NO_PLACE}(-?(?!0\d)\d{{1,3}}(?:\.\d)?) ?([CF])(?![\w#'’+/:-]|\.\w| of\b)", _degrees),
    (
        rf"(?<![\w.,])({AMOUNT})(-| ?)({any_of(UNITS)})(?![\w²³])(?!['’]s?\b){_PER_UNIT}(?:\.(?= [a-z]|,))?",
        _unit,
    ),
    (
        rf"(?<=\bto )(?:{_BARE})\b(?![/²³])|(?<=\bin )(?:{_BARE})\b(?![/²³])|(?<=\bmany )(?:{_BARE})\b(?![/²³])",
        lambda found: plural(UNITS[found[0]]),
    ),
    (r"(?<=\b[Ff]rom the )[NSEW]\b(?!\.\w)", lambda found: _DIRECTIONS[found[0]]),
    (r"\b(?:[NS][NS][EW]|[EW][NS][EW]|[NS][EW])\b", _compass),
)
_COMPILED = compiled(_RULES)


def measures_written_out(text: str) -> str:
    """The text with units in words, in the singular where they describe a noun."""
    return applied(_COMPILED, text)
