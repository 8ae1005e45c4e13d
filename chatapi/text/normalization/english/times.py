"""Times of day and ratios in English words."""

from __future__ import annotations

import re

from chatapi.text.normalization.english.durations import clock_duration, lasted
from chatapi.text.normalization.english.numbers import Rule, applied, compiled, counted

_AT = re.compile(
    r"\b(?:at|by|until|till|from|since|before|after|around|to|and|between|on|starts|ends|begins)\s$", re.IGNORECASE
)
"""Words before a time of day, whatever else the sentence is about."""
_SCORED = re.compile(
    r"\b(?:ratio|odds|scores?|scored|won|wins?|lost|beat|aspect|scale|mix|diluted?|lead|led|leads)\b[^.!?]{0,30}$",
    re.IGNORECASE,
)
_SCORES = re.compile(
    r" (?:ratio|odds|scale|win|loss|lead|victory|defeat|mix|dilution|aspect|favou?rite|majority|split)\b"
)
_BOOKS = (
    "Genesis|Exodus|Leviticus|Numbers|Deuteronomy|Joshua|Judges|Ruth|Samuel|Kings|Chronicles|Ezra|Job|Psalms?|Proverbs|"
    "Ecclesiastes|Isaiah|Jeremiah|Ezekiel|Daniel|Hosea|Joel|Amos|Micah|Matthew|Mark|Luke|John|Acts|Romans|Corinthians|"
    "Galatians|Ephesians|Philippians|Colossians|Thessalonians|Timothy|Titus|Hebrews|James|Peter|Jude|Revelation|Surah|"
    "Quran|Qur'an"
)
"""Books whose verses are numbered 5:9."""


def clock(hour: str, minute: str, second: str | None = None, half: str | None = None) -> str:
    """A time of day: 7 o'clock, 7 oh 5, 15 hundred, midnight; `half` is AM or PM."""
    seconds = f" and {counted(str(int(second)), 'second')}" if second and int(second) else ""
    hours = int(hour)
    if hours in (0, 24) and not half:
        if not int(minute) and not seconds:
            return "midnight"
        hours, half = 12, "AM"
    after = f" {half}" if half else ""
    if int(minute):
        text = f"{hours} {'oh ' if minute[0] == '0' else ''}{int(minute)}"
    elif half:
        text = str(hours)
    else:
        text = f"{hours} o'clock" if hours <= 12 else f"{hours} hundred"
    return text + seconds + after


def _time(found: re.Match[str]) -> str:
    hour, minute, second, half = found.groups()
    if half:
        return clock(hour, minute, second, half.strip())
    if _AT.search(found.string[max(0, found.start() - 10) : found.start()]):
        return clock(hour, minute, second)
    if not second and _scored(found):
        return f"{int(hour)} to {int(minute)}"
    return lasted(found) or clock(hour, minute, second)


def _scored(found: re.Match[str]) -> bool:
    """Whether the text around 3:1 is about a ratio or a score."""
    before = found.string[max(0, found.start() - 60) : found.start()]
    return _SCORED.search(before) is not None or _SCORES.match(found.string, found.end()) is not None


def _ratio(found: re.Match[str]) -> str:
    """45:30, which is no time of day: minutes and seconds; 3:1: three to one."""
    first, second = found.groups()
    if len(second) == 2 and int(second) < 60 and 24 < int(first) < 600 and not _scored(found):
        return clock_duration(first, second)
    return f"{first} to {second}"


def _verse(found: re.Match[str]) -> str:
    return f"{found[1]} {found[2]} {found[3]}" + (f" to {found[4]}" if found[4] else "")


def _military(found: re.Match[str]) -> str:
    """An alarm for 0630."""
    return clock(found[1] or found[3], found[2] or found[4])


_HALVES: tuple[Rule, ...] = (
    (r"(?<=noon)[-–](?=\d)|(?<=midnight)[-–](?=\d)", " to "),
    (r"(?<=\d) ?([aApP])[mM]\b", lambda found: f" {found[1].upper()}M"),
    (
        r"(?<![\w:.])(\d{1,2}(?::\d\d)?(?: [AP]M)?)(?: ?[–—] ?| ?- ?)(\d{1,2}:\d\d|\d{1,2} [AP]M)(?![\w:])",
        r"\1 to \2",
    ),
    (r"(?<=\bat )(\d{1,2})h([0-5]\d)\b", lambda found: clock(found[1], found[2])),
    (r"(?<=\b(?:at|by) )(0\d)([0-5]\d)\b|(?<=\bfor )(0\d)([0-5]\d)\b", _military),
    (r"(?<=[AP]M)/(?=\d)|(?<=[A-Z][SD]T)/(?=\d)", ", "),
)
_TIMES: tuple[Rule, ...] = (
    (rf"\b({_BOOKS}) (\d{{1,3}}):(\d{{1,3}})(?:[-–](\d{{1,3}}))?(?![\w:])", _verse),
    (r"(?<![\w:.])([01]?\d|2[0-4]):([0-5]\d)(?::([0-5]\d))?( [AP]M\b)?(?![\w:])", _time),
    (r"(?<![\w:])(\d{1,4}):(\d{1,4})(?![\w:])", _ratio),
)
_HALF_RULES, _TIME_RULES = compiled(_HALVES), compiled(_TIMES)


def halves_of_day_written_out(text: str) -> str:
    """The text with 7pm as 7 PM, and ranges of times with "to"; before durations and times."""
    return applied(_HALF_RULES, text)


def times_written_out(text: str) -> str:
    """The text with times of day and ratios in words."""
    return applied(_TIME_RULES, text) if ":" in text else text
