"""Decades and centuries in English words: the low 60s, the 1800s."""

from __future__ import annotations

import re

from chatapi.text.normalization.english.numbers import Rule, applied, below_hundred, compiled

_PART = r"(?:early|late|mid|low|lower|upper|high|middle|roaring|swinging)"
_OWNER = r"(?:the|his|her|their|my|our|your|its|both)"
_SINCE = rf"(?i:\b(?:{_OWNER}|{_PART})[ -])"
_OF_A_DECADE = (
    r"(?=[ -](?:music|hits?|songs?|rock|pop|disco|style|era|fashion|movies?|films?|bands?|part(?:y|ies)|vibes?|decor|"
    r"kids?|playlists?|classics?|tunes?|icons?|sitcoms?|cartoons?|nostalgia|child)\b)"
)
_NO_TIMER = r"(?! (?:timer|timeouts?|window|delay|countdown|limit|break|interval|clip|rest|cooldown|penalty)\b)"
_WAITED = re.compile(r"\b(?:wait|timeout|timeout of|took|takes|within|exactly|every|interval|limit):? $", re.IGNORECASE)
"""Before seconds."""


def _tens(number: int) -> str:
    return f"{below_hundred(number).removesuffix('y')}ies" if number >= 20 else f"{below_hundred(number)}s"


def _century_decade(found: re.Match[str]) -> str:
    """1970s nineteen seventies, 1800s eighteen hundreds, 2000s two thousands; after "wait" they are seconds."""
    if _WAITED.search(found.string[max(0, found.start() - 16) : found.start()]):
        return found[0]
    century, tens = int(found[1]), int(found[2])
    if tens:
        return f"{below_hundred(century)} {_tens(tens)}"
    return "two thousands" if century == 20 else f"{below_hundred(century)} hundreds"


def _decade(found: re.Match[str]) -> str:
    return found[1] + _tens(int(found[2]))


def _hundreds(found: re.Match[str]) -> str:
    """The low 100s, the 300s, the mid-110s."""
    hundred, tens = divmod(int(found[2]), 100)
    if not tens:
        return found[1] + ("hundreds" if hundred == 1 else f"{below_hundred(hundred)} hundreds")
    return f"{found[1]}{below_hundred(hundred)} {_tens(tens)}"


_TENS = "|".join(_tens(number) for number in range(20, 100, 10))
_AFTER_A_DECADE = (
    rf"(\b(?:{_TENS}|hundreds|thousands|tens|[Tt]eens)(?:,? (?:and|or|to|through|into)(?: in)? |, | ?[-–] ?)"
    rf"(?:{_OWNER} )?(?:{_PART}[ -])?)['’]?([1-9]0)['’]?s\b"
)
_DECADES: tuple[Rule, ...] = (
    (r"(?<=\d0s) ?[-–] ?(?=\d{0,2}\d0s\b)", " to "),
    (r"(?<![\w.,$])(1\d|20)([0-9]0)['’]?s\b", _century_decade),
    (rf"({_SINCE})['’]?([1-9]0)['’]?s\b{_NO_TIMER}", _decade),
    (rf"({_SINCE})([1-9]\d0)['’]?s\b{_NO_TIMER}", _hundreds),
    (r"(?<!\w)()['’]([2-9]0)s\b", _decade),
    (rf"(?<![\w.,$:-])()([2-9]0)s{_OF_A_DECADE}", _decade),
    (rf"(?<![\w.,$:-])()([2-9]0)s(?= (?:and|or|to) [2-9]0s{_OF_A_DECADE})", _decade),
)
_RULES = compiled(_DECADES, [(_AFTER_A_DECADE, _decade)] * 3)
"""The last rule is for "the 20s, 30s and 40s"."""


def decades_written_out(text: str) -> str:
    """The text with decades in words; 30s alone are seconds."""
    return applied(_RULES, text) if "0" in text else text
