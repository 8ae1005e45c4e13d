"""Quantities in English words: ranges, scores, fractions, exponents."""

from __future__ import annotations

import re
import unicodedata

from chatapi.text.normalization.english.measures import measures_written_out
from chatapi.text.normalization.english.numbers import NUMBER, Rule, applied, below_hundred, compiled

_FRACTIONS = {"½", "⅓", "⅔", "¼", "¾", "⅕", "⅖", "⅗", "⅘", "⅙", "⅚", "⅐", "⅛", "⅜", "⅝", "⅞", "⅑", "⅒"}
_GLYPHS = str.maketrans({
    "−": "-", "‑": "-", "μ": "µ", "º": "°", "⁄": "/",
    **{glyph: " " + unicodedata.normalize("NFKC", glyph).replace("⁄", "/") for glyph in _FRACTIONS},
    **dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True)),
})  # fmt: skip
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_PARTS = {2: "half", 3: "third", 4: "quarter", 5: "fifth", 6: "sixth", 7: "seventh", 8: "eighth", 9: "ninth",
          12: "twelfth", 16: "sixteenth", 32: "thirty-second", 64: "sixty-fourth"}  # fmt: skip
"""Denominators that are read as parts; 7/10 is seven out of ten."""
_COUNTS = ["", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
_SCALES = {"k": "thousand", "M": "million", "mn": "million", "bn": "billion", "tn": "trillion"}
_STANDARD = re.compile(r"\b[A-Z]{2,8} $")
"""Before a number such as 639-1, of ISO."""
_TEAM, _TEAM_AFTER = re.compile(r"\b[A-Z][\w'’.]{2,20} $"), re.compile(r" [A-Z][a-z]")
"""Around the result of a match: Arsenal 3 - 1 Chelsea."""
_UNITS_WITH_A_COMMA = r"kg|km|cm|mm|°|%|g\b|l\b|L\b|m\b|kW|W\b|V\b|A\b|h\b"


def _raised(found: re.Match[str]) -> str:
    return "^" + found[0].translate(_RAISED)


def _range(found: re.Match[str]) -> str:
    first, gap, second = found.groups()
    low, high = (float(number.replace(",", "")) for number in (first, second))
    if gap == " - " and _TEAM.search(found.string[: found.start()]) and _TEAM_AFTER.match(found.string, found.end()):
        return f"{first} to {second}"
    equation = "=" in found.string[found.end() : found.end() + 12]
    if equation or (gap == " - " and low >= high):
        return f"{first} minus {second}"
    numbered = _STANDARD.search(found.string[max(0, found.start() - 12) : found.start()])
    if (first, second) == ("24", "7") or (gap == "-" and (low == high or (low > high and numbered))):
        return f"{first} {second}"
    return f"{first} to {second}"


def _fraction(found: re.Match[str]) -> str:
    whole, above, below = found[1], int(found[2]), int(found[3])
    before = f"{whole.strip(' -')} and " if whole else ""
    if found[0] in ("24/7", "9/11", "20/20") or (above >= 10 and above + below == 100):
        return f"{above} {below}"
    if above < below and below in _PARTS:
        count = "a" if whole and above == 1 else _COUNTS[above] if above < len(_COUNTS) else str(above)
        return f"{before}{count} {_PARTS[below]}{'s' if above > 1 else ''}"
    return f"{before}{above} {'out of' if above <= below and below in (10, 100) else 'over'} {below}"


def _score(found: re.Match[str]) -> str:
    """A mark of a scale: 7.5/10, 9.7/12."""
    return f"{found[1]} out of {found[2]}" if float(found[1]) <= int(found[2]) else found[0]


def _scaled(found: re.Match[str]) -> str:
    """10k followers: 10 thousand; 5k run stays."""
    return f"{found[1]} {_SCALES[found[2] or found[3]]}"


_PLAIN: tuple[Rule, ...] = (
    (
        r"(?<=\bby )(\d{1,3}) ?bps\b"
        r"|(?<![\w.,])(\d{1,3})[ -]?bps(?= (?:cuts?|hikes?|rises?|increases?|moves?|points?)\b)",
        lambda found: f"{found[1] or found[2]} basis point{'s' if found[1] else ''}",
    ),
    (r"(?<=[\w)])⁻?[⁰¹⁴⁵⁶⁷⁸⁹][⁰¹²³⁴⁵⁶⁷⁸⁹]{0,3}|(?<=[\w)])⁻[²³]|(?<=\d)[²³][⁰¹²³⁴⁵⁶⁷⁸⁹]{0,3}", _raised),
    (r"(?<![\w.])(\d{1,9}(?:\.\d{1,9})?)[eE]\+?(-?\d{1,3})(?!\w|\.\d)", r"\1 × 10^\2"),
    # A decimal comma; 1,2,3 and 1, 2 are lists.
    (rf"(?<![\w.,])(\d{{1,4}}),(\d{{1,2}})(?= ?(?:{_UNITS_WITH_A_COMMA})|[.!?]?$)", r"\1.\2"),
    (r"(?<![\w.,])\d{1,3}(?:\.\d{3}){2,4}(?![\w.,]\d|\w)", lambda found: found[0].replace(".", ",")),
    (r"(?<!\S)\.(?=\d)", "0."),
)
_RANGES: tuple[Rule, ...] = (
    (r"(?<=[%°])/(?=\d)", ", "),
    (r"(?<=[%°]) ?- ?(?=\d)|(?<=°[CF])-(?=\d)|(?<=[\w%°]) ?– ?(?=\d)|(?<=\w)–(?=\w)", " to "),
    (r"(?<![\w.,:/-])(\d{1,3})-(\d{1,3})(?=-year-olds?\b)", r"\1 to \2"),
    (rf"(?<![\w.,:/-])({NUMBER})(-| - )({NUMBER})(?![\d/]|-\d|[.,]\d)", _range),
    (r"(?<![\w.,-])(\d{1,2})-(?=\d/\d\b)", r"\1 "),
)
_REST: tuple[Rule, ...] = (
    (
        r"(?<![\w.,])(\d{1,4}(?:\.\d{1,2})?)(?:([kM])\b"
        r"(?= (?!(?:runs?|races?|resolution|tv|video|monitor|display|in|is|and|or|on|for|at)\b)[a-z]{3,})"
        r"|(mn|bn|tn)\b)",
        _scaled,
    ),
    (r"(?<![\w/.,])(\d{1,2}\.\d) ?/ ?([1-9]\d{0,2})(?![\w/]|[.,]\d)", _score),
    (
        r"(?<![\w/.,])(\d{1,5}(?:\.\d{1,2})?) ?/ ?(\d{1,5}(?:\.\d{1,2})?)(?= (?:kilo|mega|giga|tera)bytes?\b)",
        r"\1 of \2",
    ),
    (r"(?<=\d) / (?=\d[\d.,]{0,9} ?=)", " divided by "),
    (r"(?<=\w) / (?=[a-z]\b)", " over "),
    (r"(?<=[\w%]) / (?=\w)", ", "),
    (r"\bf/(?=\d)", "f "),
    (r"(?<![\w/.,])(\d{1,3} {1,3})?(\d{1,3})/(\d{1,3})(?![\w/]|[.,]\d)", _fraction),
    (r"(?<=\d) ?x ?(?=\d{1,9} ?=)", " times "),
    (r"(?<=\d)(?<!\b0) ?x ?(?=\d)", " by "),
    (r"(?<![\w.,:])(\d{1,2})-?ish\b", lambda found: f"{below_hundred(int(found[1]))}-ish"),
    (r"(?<=\d)[x×](?!\w| ?[-+=*/^²³)])", " times"),
    (r"(?<= percent) RH\b", " relative humidity"),
    (r"%", " percent"),
    (r"‰", " per mille"),
    # espeak-ng drops some of the signs.
    (r"(?:^|(?<=[\s(]))-(?=\d)", "minus "),
    (r" ?°", " degrees"),
)
_PLAIN_RULES, _RANGE_RULES, _REST_RULES = compiled(_PLAIN), compiled(_RANGES), compiled(_REST)


def without_glyphs(text: str) -> str:
    """The text with plain digits and signs for fractions, subscripts, exponents and the minus sign."""
    return applied(_PLAIN_RULES, text.translate(_GLYPHS))


def quantities_written_out(text: str) -> str:
    """The text with ranges, units and fractions in words; plain cardinal numbers are left to the voice."""
    return applied(_REST_RULES, measures_written_out(applied(_RANGE_RULES, text)))
