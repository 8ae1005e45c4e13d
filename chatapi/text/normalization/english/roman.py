"""Roman numerals in English: Henry VIII, Chapter V, World War II."""

from __future__ import annotations

import re

from chatapi.text.normalization.english.numbers import applied, compiled, ordinal, ordinal_words

_MONARCHS = (
    "Albert|Alexander|Baldwin|Benedict|Boniface|Carl|Carlos|Catherine|Charles|Christian|Clement|Constantine|Darius|Edward|"
    "Elizabeth|Eric|Felipe|Ferdinand|Francis|Frederick|Frederik|George|Gregory|Gustav|Haakon|Harald|Henry|Innocent|"
    "Isabella|Ivan|James|John|Joseph|Juan Carlos|Julius|Justinian|Leo|Leopold|Louis|Margrethe|Mary|Mehmed|Mohammed|"
    "Murad|Napoleon|Nicholas|Olav|Otto|Paul|Pedro|Peter|Philip|Pius|Pope|Ptolemy|Ramesses|Ramses|Richard|Robert|Rudolf|"
    "Selim|Sixtus|Theodore|Umberto|Urban|Victoria|Wilhelm|William|Xerxes"
)
_TITLES = "King|Queen|Pope|Emperor|Empress|Tsar|Czar|Kaiser|Prince|Sultan|Saint|Pharaoh"
_NUMBERED = (
    "Act|Scene|Chapter|Part|Book|Volume|Vol|Phase|Type|Title|Section|Article|Figure|Stage|Level|Appendix|Episode|Season|"
    "War|Bowl|WrestleMania|Apollo|Class|Division|Schedule|Grade|Canto|Annex|Tier|Round|Game|Rocky|Rambo|Vatican|"
    "Amendment|Table|Lesson|Unit|Group|Category|Schengen|Factor|Region|Exhibit|Protocol|Tome|Movement|Symphony"
)
"""Words after which I, V and X are numerals too."""
_EVENTS = (
    "Olympic|Olympiad|Olympics|Winter|Summer|Games|Congress|Corps|Army|century|Century|Legion|Dynasty|International"
)
_VALUES = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100}
_NUMERAL = r"(?=[IVXL]{1,9}\b)(?:XL|L?X{0,3})(?:IX|IV|V?I{0,3})"
_SMALL = r"(?=[IVX]{1,9}\b)X{0,3}(?:IX|IV|V?I{0,3})"
_END = r"\b(?![IVXLCDM])(?!\.\w)(?![-/])"


def _value(numeral: str) -> int:
    values = [_VALUES[letter] for letter in numeral]
    return sum(-value if value < max(values[place:]) else value for place, value in enumerate(values))


def _monarch(found: re.Match[str]) -> str:
    """Henry VIII's: the eighth's, a word, since a voice spells 8th's."""
    name, numeral = found[1], _value(found[2])
    if found.string[found.end() : found.end() + 2] in ("'s", "’s"):
        return f"{name} the {ordinal_words(numeral)}"
    return f"{name} the {ordinal(numeral)}"


def _numbered(found: re.Match[str]) -> str:
    return f"{found[1]} {_value(found[2])}"


def _event(found: re.Match[str]) -> str:
    return f"{found[1]} {ordinal(_value(found[2]))}"


def _named(found: re.Match[str]) -> str:
    """Final Fantasy VII, Malcolm X: one letter alone is no numeral."""
    return found[0] if len(found[2]) == 1 else _numbered(found)


_RULES = compiled(
    (
        (rf"\b((?:[Tt]he|[A-Z][a-z]+['’]s)) ({_NUMERAL})(?![IVXLCDM])(?= (?:{_EVENTS})\b)", _event),
        (rf"()(?<![\w-])({_NUMERAL})(?![IVXLCDM])(?= [Cc]entury\b)", lambda found: ordinal(_value(found[2]))),
        (rf"\b((?:{_TITLES}) [A-Z][a-z]{{2,15}}(?: [A-Z][a-z]{{2,15}})?) ({_SMALL}){_END}", _monarch),
        (rf"\b({_MONARCHS}) (I)(?=['’]s\b| (?:of|was|reigned|became|ruled)\b)", _monarch),
        (rf"\b({_MONARCHS}) (?!I\b)({_SMALL}){_END}", _monarch),
        (rf"\b((?:{_NUMBERED})s?) ({_NUMERAL}){_END}(?! (?:am|think|have)\b)", _numbered),
        # A person may be called Mark: "To Mark I will write."
        (rf"\b(Mark(?! I\b)) ({_NUMERAL}){_END}", _numbered),
        (rf"\b([A-Z][a-z]{{1,15}}) ({_SMALL}){_END}", _named),
    )
)


def roman_written_out(text: str) -> str:
    """The text with Roman numerals as numbers."""
    return applied(_RULES, text)
