"""Durations in English words: 5m 30s, 1h30m, PT5M30S, 45:30."""

from __future__ import annotations

import re

from chatapi.text.normalization.english.numbers import Rule, applied, compiled, counted, describes

_NAMES = ("year", "month", "week", "day", "hour", "minute", "second", "millisecond")
"""The parts of a duration, in their order."""
_PARTS = {
    "y": "year", "yr": "year", "yrs": "year", "mo": "month", "mos": "month", "w": "week", "wk": "week", "wks": "week",
    "d": "day", "day": "day", "days": "day", "h": "hour", "hr": "hour", "hrs": "hour", "hour": "hour",
    "hours": "hour", "m": "minute", "min": "minute", "mins": "minute", "minute": "minute", "minutes": "minute",
    "s": "second", "sec": "second", "secs": "second", "second": "second", "seconds": "second", "ms": "millisecond",
}  # fmt: skip
_ANY_PART = "|".join(sorted(_PARTS, key=len, reverse=True))
_PIECE = re.compile(rf"(\d{{1,4}}(?:\.\d{{1,3}})?) ?({_ANY_PART})(?![a-z])(,? ?(?:and )?)")

_LASTED = re.compile(
    r"\b(?:took|takes|lasted|lasts|length|duration|timer|stopwatch|countdown|runtime|elapsed|clocked|finished in|pace|"
    r"(?:marathon|race|lap|swim|best|finish(?:ing)?|running|split) time|song|track|video|clip|in a time of|record of)\b"
    r"(?:(?![.!?] )[^:]){0,40}:?\s?$",
    re.IGNORECASE,
)
_LASTS = re.compile(r" ?(?:remaining|left\b|elapsed|to go\b|long\b|on the (?:clock|timer)|until done)", re.IGNORECASE)

_VERBS = (
    "[Cc]ook|[Bb]ake|[Bb]oil|[Ss]immer|[Ss]teep|[Rr]est|[Pp]aused?|[Nn]ap|[Ss]leep|[Mm]uted?|[Rr]oast|[Ff]ry|[Gg]rill|"
    "[Mm]icrowave|[Cc]harge|[Ss]et|[Pp]lay|on|off|up|down|idle|away|open|closed|asleep"
)
_BEFORE_MINUTES = (
    r"\b(?:[Ee]very|[Ll]ast|[Pp]ast|[Tt]imer(?: of| for|:)?|[Ss]nooz(?:e|ed|ing)(?: for)?|[Ww]ait(?:ing|ed)?(?: for)?|"
    rf"(?:{_VERBS})[a-z ]{{0,30}} for(?: another)?|(?:ready|check|back|done|finish(?:es)?|ends?|starts?|begins?|due|"
    r"expires|again|updates?|refresh|alarm) in|[Uu]ptime:?|ETA:?|[Rr]emaining:?|[Dd]uration:?|[Ee]lapsed:?)"
)
_AFTER_MINUTES = (
    r" (?:remaining|left(?! (?:of|turn))|ago|until|late|later|early|timer|timeout|delay|break|interval|nap|read|"
    r"per day|overdue|elapsed|to go|uptime|session|meeting|call|workout|ETA|average|a day)\b"
)
_NO_LENGTH = r"(?![²³/]|\.\d| (?:of|deep|tall|wide|high|turn)|, (?:turn|keep|exit|merge|take))"
_NO_ADJECTIVE = r"(?!['’-]| (?:animat|game|art|graphics|image|array|plot|model|space|print|map|shape))"


_TIMERS = re.compile(r"\btimers?\b[^.!?]{0,50}$", re.IGNORECASE)
_NUMBERED = re.compile(
    r"\b(?:(?:sub)?section|part|item|figure|fig\.|clause|article|step|table|chapter|room|gate|unit|apt\.?|seat|question|"
    r"paragraph|exercise|number|no\.)s? $",
    re.IGNORECASE,
)
"""Before 2d, which is not two days then."""


def lasted(found: re.Match[str]) -> str | None:
    """The duration for a match of 45:30 or 1:02:45, where the text around it is about one."""
    before = found.string[max(0, found.start() - 60) : found.start()]
    if _LASTED.search(before) or _LASTS.match(found.string, found.end()):
        return clock_duration(found[1], found[2], found[3])
    return None


def clock_duration(first: str, second: str, third: str | None = None) -> str:
    """Minutes and seconds, or with a third part hours, minutes and seconds."""
    if third is None:
        return _duration((first, "minute"), (second, "second"))
    return _duration((first, "hour"), (second, "minute"), (third, "second"))


def _duration(*parts: tuple[str | None, str]) -> str:
    """The parts that are there and not 0."""
    named = [(number.lstrip("0") or "0", name) for number, name in parts if number]
    kept = [(number, name) for number, name in named if number != "0"] or named[-1:]
    return " ".join(counted(number, name) for number, name in kept)


def _compound(found: re.Match[str]) -> str:
    """1d 2h 3m 4s; in any other order than the usual one it stays."""
    pieces = _PIECE.findall(found[0])
    names = [_PARTS[unit] for _, unit, _ in pieces]
    places = [_NAMES.index(name) for name in names]
    if len(places) < 2 or places != sorted(set(places)):
        return found[0]
    words = []
    for (number, _, gap), name in zip(pieces, names, strict=True):
        linked = ("," if "," in gap else "") + (" and" if "and" in gap else "")
        words.append(counted(number.lstrip("0") or "0", name) + linked)
    return " ".join(words)


def _iso_duration(found: re.Match[str]) -> str:
    return _duration(*zip(found.groups(), _NAMES[:7], strict=True)) if any(found.groups()) else found[0]


def _minutes(found: re.Match[str]) -> str:
    before = found[0][: found.start(1) - found.start()]
    return before + (f"{found[1]} minute" if not before and describes(found) else counted(found[1], "minute"))


def _listed(found: re.Match[str]) -> str:
    """Timers: 5m, 10m and 1h."""
    before = found.string[max(0, found.start() - 60) : found.start()]
    return counted(found[1], "minute") if _TIMERS.search(before) else found[0]


def _days(found: re.Match[str]) -> str:
    """2d, but not section 2d."""
    before = found.string[max(0, found.start() - 16) : found.start()]
    return found[0] if _NUMBERED.search(before) else counted(found[1], "day")


_DURATIONS: tuple[Rule, ...] = (
    (
        r"\bP(?=T?\d)(?:(\d{1,4})Y)?(?:(\d{1,4})M)?(?:(\d{1,4})W)?(?:(\d{1,4})D)?"
        r"(?:T(?:(\d{1,4})H)?(?:(\d{1,4})M)?(?:(\d{1,4}(?:\.\d{1,6})?)S)?)?(?!\w)",
        _iso_duration,
    ),
    (
        rf"(?<![\w.,$€£-])(?:\d{{1,4}}(?:\.\d{{1,3}})? ?(?:{_ANY_PART})(?![a-z])(?:,? (?:and )?)?){{2,7}}(?<! )(?!\w)",
        _compound,
    ),
    (r"(?<![\w.])(\d{1,3})h([0-5]\d)\b", lambda found: _duration((found[1], "hour"), (found[2], "minute"))),
    (r"(?<![\w.])(\d{1,2})'(1[2-9]|[2-5]\d)(?:\"|”|''|′′|″)", lambda found: clock_duration(found[1], found[2])),
    (rf"{_BEFORE_MINUTES} (\d{{1,4}}) ?m\b{_NO_LENGTH}", _minutes),
    (rf"\bin (\d{{1,2}})m\b{_NO_LENGTH}", _minutes),
    (rf"(?<![\w.,$€£-])(\d{{1,4}}) ?m(?={_AFTER_MINUTES})", _minutes),
    (r"(?<![\w.,$€£-])(\d{1,3})m(?=[,.!?]?(?: |$))(?![.]\d)", _listed),
    (rf"(?<![\w.,$€£-])(\d{{1,4}})d\b{_NO_ADJECTIVE}", _days),
)
_COMPILED = compiled(_DURATIONS)


def durations_written_out(text: str) -> str:
    """The text with durations in words; before times of day, which look similar."""
    return applied(_COMPILED, text)
