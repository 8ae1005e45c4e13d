"""Quantities in English words: units, ranges, scores, fractions, exponents."""

from __future__ import annotations

import re
import unicodedata

from chatapi.text.normalization.english.numbers import NUMBER, any_of, applied, compiled, counted, describes, plural
from chatapi.text.normalization.english.units import PER, SPACED, UNITS

_FRACTIONS = {"½", "⅓", "⅔", "¼", "¾", "⅕", "⅖", "⅗", "⅘", "⅙", "⅚", "⅐", "⅛", "⅜", "⅝", "⅞", "⅑", "⅒"}
_GLYPHS = str.maketrans({
    "−": "-", "‑": "-", "μ": "µ", "º": "°", "⁄": "/",
    **{glyph: " " + unicodedata.normalize("NFKC", glyph).replace("⁄", "/") for glyph in _FRACTIONS},
    **dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True)),
})  # fmt: skip
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_PARTS = {2: "half", 3: "third", 4: "quarter", 5: "fifth", 6: "sixth", 7: "seventh", 8: "eighth", 9: "ninth",
          10: "tenth", 12: "twelfth", 16: "sixteenth", 32: "thirty-second", 64: "sixty-fourth"}  # fmt: skip
_COUNTS = ["", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
_PER_UNIT = rf"(?: ?/ ?({any_of(PER)})(?![\w²³]))?"
_AMOUNT = rf"(?:\d{{1,3}} )?\d{{1,2}}/\d{{1,2}}|{NUMBER}"
_TO_A_DECIMAL = re.compile(r"\d\.\d")
_DIRECTIONS = {"N": "north", "E": "east", "S": "south", "W": "west"}


def _raised(found: re.Match[str]) -> str:
    return "^" + found[0].translate(_RAISED)


def _unit(found: re.Match[str]) -> str:
    number, gap, unit, per = found.groups()
    if unit in SPACED and not gap and not _TO_A_DECIMAL.search(number):
        return found[0]
    name = UNITS[unit]
    single = gap == "-" or (not per and found[0][-1] != "." and describes(found))
    if found[0][-1] == "." and re.match(r" [a-z]", found.string[found.end() :][:2]):
        single = single or _described_after_dot(found)
    text = f"{number} {name.replace('|', '')}" if single else counted(number, name)
    return text + (f" per {PER[per]}" if per else "")


def _described_after_dot(found: re.Match[str]) -> bool:
    """A 20 oz. bottle."""
    return describes(found)


def _range(found: re.Match[str]) -> str:
    first, gap, second = found.groups()
    low, high = (float(number.replace(",", "")) for number in (first, second))
    equation = "=" in found.string[found.end() : found.end() + 12]
    if equation or (gap == " - " and low >= high):
        return f"{first} minus {second}"
    if (first, second) == ("24", "7") or (low == high and gap == "-"):
        return f"{first} {second}"
    return f"{first} to {second}"


def _fraction(found: re.Match[str]) -> str:
    whole, above, below = found[1], int(found[2]), int(found[3])
    before = f"{whole.strip()} and " if whole else ""
    if found[0] in ("24/7", "9/11") or (above >= 10 and above + below == 100) or found[0] == "20/20":
        return f"{above} {below}"
    if above < below and below in _PARTS and below != 10:
        count = "a" if whole and above == 1 else _COUNTS[above] if above < len(_COUNTS) else str(above)
        return f"{before}{count} {_PARTS[below]}{'s' if above > 1 else ''}".replace("halfs", "halves")
    return f"{before}{above} {'out of' if above <= below and below in (10, 100) else 'over'} {below}"


def _feet(found: re.Match[str]) -> str:
    """5 ft 3 in: feet and inches; before a noun, a foot and an inch."""
    if describes(found):
        return f"{found[1]} foot {found[2]} inch"
    return f"{counted(found[1], 'foot')} {counted(found[2], 'inch')}"


def _inches(found: re.Match[str]) -> str:
    return f"{found[1]} inch" if describes(found) or found[2] == "-" else counted(found[1], "inch")


def _inch_mark(found: re.Match[str]) -> str:
    """A 55" TV; not the end of a quotation."""
    before = found.string[: found.start()]
    quoted = before.count('"') % 2 or before.count("“") > before.count("”")
    return found[0] if quoted else _inches(found)


def _degrees(found: re.Match[str]) -> str:
    return counted(found[1], f"degree| {'Celsius' if found[2] == 'C' else 'Fahrenheit'}")


def _compass(found: re.Match[str]) -> str:
    """NNW: north northwest; NE: northeast."""
    first, *rest = (_DIRECTIONS[letter] for letter in found[0])
    return f"{first} {''.join(rest)}" if len(rest) == 2 else first + "".join(rest)


def _thousands(found: re.Match[str]) -> str:
    return f"{found[1]} {'thousand' if found[2] == 'k' else 'million'}"


_BARE = "km|cm|mm|kg|mg|lbs?|oz|ft|mph|ml|mL|gal|tsp|tbsp|kB|MB|GB|TB|kWh|kW|mi"
"""Units that are plain without a number, as in: how many cm in 5 ft."""
_POINT = "NW|NE|SW|SE"
_THINGS = r"(?= (?!runs?\b|races?\b|resolution|tv|video|monitor|display|in\b|is\b|and\b|or\b|on\b|for\b|at\b)[a-z]{3,})"
_BIG = r"(?:wide|tall|long|deep|thick|high|across|by|screens?|monitors?|displays?|tv|TV|pipe|nails?|screws?|boards?|bolts?|planks?|diameter|pizza|skillet|pan|blade|thickness|taller|shorter|longer|of (?:\w{1,12} )?(?:snow|rain|ice|water|rainfall|snowfall|sleet|mud|mulch|soil|foam))"
_BEFORE = (
    (r"(?<=[\d\w)])⁻?[⁰¹⁴⁵⁶⁷⁸⁹][⁰¹²³⁴⁵⁶⁷⁸⁹]{0,3}|(?<=[\d\w)])⁻[²³]|(?<=\d)[²³][⁰¹²³⁴⁵⁶⁷⁸⁹]{0,3}", _raised),
    (r"(?<![\w.])(\d{1,9}(?:\.\d{1,9})?)[eE]\+?(-?\d{1,3})(?!\w|\.\d)", r"\1 × 10^\2"),
    # A decimal comma; 1,2,3 and 1, 2 are lists.
    (r"(?<![\w.,])(\d{1,4}),(\d{1,2})(?=(?: ?(?:kg|km|cm|mm|°|%|g\b|l\b|L\b|m\b|kW|W\b|V\b|A\b|€|h\b))|[.!?]?$)", r"\1.\2"),
    (r"(?<![\w.,])\d{1,3}(?:\.\d{3}){2,4}(?![\w.,]\d|\w)", lambda found: found[0].replace(".", ",")),
    (r"(?<!\S)\.(?=\d)", "0."),
    (r"\b(sq|cu)\. (ft|in|m|mi|yd)\b", r"\1 \2"),
    (r"(?<=\d)A(?= (?:fuse|breaker|circuit|charger|plug|socket|outlet|current)s?\b)", " A"),
)  # fmt: skip
_RULES = (
    (r"(?<=[%°])-(?=\d)|(?<=°[CF])-(?=\d)|(?<=[\w%°]) ?– ?(?=\d)|(?<=\w)–(?=\w)", " to "),
    (r"(?<![\w.,:/-])(\d{1,3})-(\d{1,3})(?=-year-olds?\b)", r"\1 to \2"),
    (rf"(?<![\w.,:/-])({NUMBER})(-| - )({NUMBER})(?![\d/]|-\d|[.,]\d)", _range),
    (r"(?<![\w.,])(\d{1,3}) ?ft\.?,? (\d{1,2}) ?in\b\.?(?! (?:the|a|an)\b)", _feet),
    (r"(?<![\w.,])(\d{1,2})['′] ?(\d{1,2})(?:\"|”|''|″|′′)", r"\1 foot \2"),
    (rf"(?<![\w.,])({_AMOUNT})(-| )?[iI]n(?:\.(?!\w)|(?= {_BIG}\b|[,;!?]|$| x | [×x] )|(?=-))", _inches),
    (r"(?<![\w.,])((?:\d{1,3} )?\d{1,2}/\d{1,2})( |-)in\b(?! (?:the|an?|my|this|each|every|all|that|his|her|\d))", _inches),
    (r"(?<=\b[Ff]rom the )[NSEW]\b(?!\.\w)", lambda found: _DIRECTIONS[found[0]]),
    (rf"(?<![\w.,])({_AMOUNT})( )?(?:[\"″”])(?![\w])(?<=\d.)", _inch_mark),
    (r"(?<![\w.,:])(?<!Room )(?<!Seat )(?<!Gate )(?<!Unit )(?<!Size )(?<!Row )(-?\d{1,3}(?:\.\d)?) ?([CF])(?![\w#'’+/:-])", _degrees),
    (rf"(?<![\w.,])({_AMOUNT})(-| ?)({any_of(UNITS)})(?![\w²³])(?!['’]s?\b){_PER_UNIT}(?:\.(?= [a-z]|,))?", _unit),
    (r"(?<![\w.,])(\d{1,4}(?:\.\d{1,2})?)([kM])\b" + _THINGS, _thousands),
    (rf"(?<=\bto )({_BARE})\b(?![/²³])|(?<=\bin )({_BARE})\b(?![/²³])|(?<=\bmany )({_BARE})\b(?![/²³])", lambda found: plural(UNITS[found[0]])),
    (r"(?<![\w/.,])(\d{1,2}\.\d) ?/ ?(5|10|100)(?![\w/]|[.,]\d)", r"\1 out of \2"),
    (r"(?<=\d) / (?=\d[\d.,]{0,9} ?=)", " divided by "),
    (r"(?<=[\w%]) / (?=\w)", ", "),
    (r"\bf/(?=\d)", "f "),
    (r"(?<![\w/.,])(\d{1,3} +)?(\d{1,3})/(\d{1,3})(?![\w/]|[.,]\d)", _fraction),
    (r"(?<=\d)(?<!\b0) ?x ?(?=\d)", " by "),
    (r"(?<=\d)[x×](?!\w)", " times"),
    (r"%", " percent"),
    (r"‰", " per mille"),
    (r" ?°", " degrees"),
    (r"\b(?:[NS][NS][EW]|[EW][NS][EW])\b", _compass),
    (rf"(?<=\b[Ff]rom )(?:{_POINT})\b|(?<=\bfrom the )(?:{_POINT})\b|\b(?:{_POINT})(?= (?:winds?|breeze|gusts?)\b)|(?<=per hour )(?:{_POINT})\b|(?<=per second )(?:{_POINT})\b|(?<=knots )(?:{_POINT})\b|(?<=[Ww]ind )(?:{_POINT})\b|(?<=[Ww]inds )(?:{_POINT})\b|(?<=[Ww]ind: )(?:{_POINT})\b", _compass),
)  # fmt: skip
_BEFORE_RULES, _QUANTITY_RULES = compiled(_BEFORE), compiled(_RULES)


def without_glyphs(text: str) -> str:
    """The text with plain digits and signs for fractions, subscripts, exponents and the minus sign."""
    return applied(_BEFORE_RULES, text.translate(_GLYPHS))


def quantities_written_out(text: str) -> str:
    """The text with units, ranges and fractions in words; plain cardinal numbers are left to the voice."""
    return applied(_QUANTITY_RULES, text)
