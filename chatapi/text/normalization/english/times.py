"""Times of day, durations and ratios in English words."""

from __future__ import annotations

import re

from chatapi.text.normalization.english.numbers import applied, compiled, counted, describes

_PARTS = {"y": "year", "yr": "year", "yrs": "year", "mo": "month", "mos": "month", "w": "week", "wk": "week",
          "wks": "week", "d": "day", "day": "day", "days": "day", "h": "hour", "hr": "hour", "hrs": "hour",
          "hour": "hour", "hours": "hour", "m": "minute", "min": "minute", "mins": "minute", "minute": "minute",
          "minutes": "minute", "s": "second", "sec": "second", "secs": "second", "second": "second",
          "seconds": "second", "ms": "millisecond"}  # fmt: skip
"""Parts of a duration of several, such as 5m 30s."""
_ORDER = ["year", "month", "week", "day", "hour", "minute", "second", "millisecond"]
_ANY_PART = "|".join(sorted(_PARTS, key=len, reverse=True))

_LASTED = re.compile(
    r"\b(?:took|takes|lasted|lasts|length|duration|timer|stopwatch|countdown|runtime|elapsed|clocked|finished in|(?:marathon|race|lap|swim|best|finish(?:ing)?|running|split) time|pace|"
    r"song|track|video|clip|in a time of|record of)\b(?:(?![.!?] )[^:]){0,40}:?\s?$",
    re.IGNORECASE,
)
_LASTS = re.compile(r" ?(?:remaining|left\b|elapsed|to go\b|long\b|on the (?:clock|timer)|until done)", re.IGNORECASE)
_SCORED = re.compile(
    r"\b(?:ratio|odds|scores?|scored|won|wins?|lost|beat|aspect|scale|mix|diluted?|lead|led|leads)\b[^.!?]{0,30}$",
    re.IGNORECASE,
)
_SCORES = re.compile(
    r" (?:ratio|odds|scale|win|loss|lead|victory|defeat|mix|dilution|aspect|favou?rite|majority|split)\b|:\d"
)
_BOOKS = (
    "Genesis|Exodus|Leviticus|Numbers|Deuteronomy|Joshua|Judges|Ruth|Samuel|Kings|Chronicles|Ezra|Job|Psalms?|Proverbs|"
    "Ecclesiastes|Isaiah|Jeremiah|Ezekiel|Daniel|Hosea|Joel|Amos|Micah|Matthew|Mark|Luke|John|Acts|Romans|Corinthians|"
    "Galatians|Ephesians|Philippians|Colossians|Thessalonians|Timothy|Titus|Hebrews|James|Peter|Jude|Revelation|Surah|"
    "Quran|Qur'an"
)
_MINUTES_BEFORE = (
    r"\b(?:[Ee]very|[Ll]ast|[Pp]ast|[Tt]imer(?: of| for|:)?|[Ss]nooz(?:e|ed|ing)(?: for)?|[Ww]ait(?:ing|ed)?(?: for)?|"
    r"(?:[Cc]ook|[Bb]ake|[Bb]oil|[Ss]immer|[Ss]teep|[Rr]est|[Pp]aus(?:e|ed)|[Nn]ap|[Ss]leep|[Mm]ute|[Mm]uted|[Rr]oast|"
    r"[Ff]ry|[Gg]rill|[Mm]icrowave|[Cc]harge|[Ss]et|[Pp]lay|on|off|up|down|idle|away|open|closed|asleep)[a-z ]{0,30}"
    r" for(?: another)?|ready in|check in|back in|done in|finish(?:es)? in|ends? in|starts? in|begins? in|due in|"
    r"expires in|again in|update in|refresh in|alarm in|in about|uptime:?|[Uu]ptime:?|ETA:?|[Rr]emaining:?|"
    r"[Dd]uration:?|[Ee]lapsed:?)"
)
_MINUTES_AFTER = (
    r" (?:remaining|left(?! (?:of|turn))|ago|until|late|later|early|timer|timeout|delay|break|interval|nap|read|per day|"
    r"overdue|elapsed|to go|uptime|session|meeting|call|workout|ETA|average|a day)\b"
)


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


def duration(*parts: tuple[str | None, str]) -> str:
    """The parts that are there and not 0, such as 5 minutes 30 seconds."""
    named = [(str(int(number)) if number.isdigit() else number, name) for number, name in parts if number]
    kept = [(number, name) for number, name in named if number != "0"] or named[-1:]
    return " ".join(counted(number, name) for number, name in kept)


def _time(found: re.Match[str]) -> str:
    hour, minute, second, half = found.groups()
    before, after = found.string[max(0, found.start() - 60) : found.start()], found.string[found.end() :][:24]
    if not half and not second and (_SCORED.search(before) or _SCORES.match(after)):
        return f"{int(hour)} to {int(minute)}"
    if not half and (_LASTED.search(before) or _LASTS.match(after)):
        return _clock_duration(found)
    return clock(hour, minute, second, half.strip() if half else None)


def _clock_duration(found: re.Match[str]) -> str:
    """45:30 or 1:02:45 as a duration."""
    first, second, third = found[1], found[2], found[3]
    if third is None:
        return duration((first, "minute"), (second, "second"))
    return duration((first, "hour"), (second, "minute"), (third, "second"))


def _ratio(found: re.Match[str]) -> str:
    first, second = found[1], found[2]
    before, after = found.string[max(0, found.start() - 60) : found.start()], found.string[found.end() :][:24]
    scored = _SCORED.search(before) or _SCORES.match(after)
    if len(second) == 2 and int(second) < 60 and 24 < int(first) < 600 and not scored:
        return duration((first, "minute"), (second, "second"))
    return f"{first} to {second}"


def _compound(found: re.Match[str]) -> str:
    """5m 30s, 1h30m, 1d 2h 3m 4s; in any other order than the usual one it stays."""
    pieces = re.findall(rf"(\d{{1,4}}(?:\.\d{{1,3}})?) ?({_ANY_PART})(?![a-z])(\.?,? ?(?:and )?)", found[0])
    names = [_PARTS[unit] for _, unit, _ in pieces]
    places = [_ORDER.index(name) for name in names]
    if len(places) < 2 or places != sorted(set(places)):
        return found[0]
    words = []
    for (number, _, gap), name in zip(pieces, names, strict=True):
        words.append(counted(number.lstrip("0") or "0", name) + ("," if "," in gap else "") + (" and" if "and" in gap else ""))
    return " ".join(words)


def _iso_duration(found: re.Match[str]) -> str:
    names = ("year", "month", "week", "day", "hour", "minute", "second")
    if not any(found.groups()):
        return found[0]
    return duration(*zip(found.groups(), names, strict=True))


def _minutes(found: re.Match[str]) -> str:
    before = found[0][: found.start(1) - found.start()]
    return before + (f"{found[1]} minute" if not before and describes(found) else counted(found[1], "minute"))


_HALVES = (
    (r"(?<=noon)[-–](?=\d)|(?<=midnight)[-–](?=\d)", " to "),
    (r"(?<=\d) ?([aApP])[mM]\b", lambda found: f" {found[1].upper()}M"),
    (
        r"(?<![\w:.])(\d{1,2}(?::\d\d)?(?: [AP]M)?)(?: ?[–—] ?| ?- ?)(\d{1,2}:\d\d|\d{1,2} [AP]M)(?![\w:])",
        r"\1 to \2",
    ),
)
_TIMES = (
    (rf"\b({_BOOKS}) (\d{{1,3}}):(\d{{1,3}})(?:[-–](\d{{1,3}}))?(?![\w:])",
     lambda found: f"{found[1]} {found[2]} {found[3]}" + (f" to {found[4]}" if found[4] else "")),
    (r"(?<![\w:.])(\d?\d):([0-5]\d):([0-5]\d)(?= ?(?:remaining|left\b|elapsed))", _clock_duration),
    (r"(?<![\w:.])([01]?\d|2[0-4]):([0-5]\d)(?::([0-5]\d))?( [AP]M\b)?(?![\w:])", _time),
    (r"(?<![\w:])(\d{1,4}):(\d{1,4})(?![\w:])", _ratio),
    (r"(?<=\bat )(\d{1,2})h([0-5]\d)\b", lambda found: clock(found[1], found[2])),
)  # fmt: skip
_DURATIONS = (
    (r"\bP(?=T?\d)(?:(\d{1,4})Y)?(?:(\d{1,4})M)?(?:(\d{1,4})W)?(?:(\d{1,4})D)?"
     r"(?:T(?:(\d{1,4})H)?(?:(\d{1,4})M)?(?:(\d{1,4}(?:\.\d{1,6})?)S)?)?(?!\w)", _iso_duration),
    (rf"(?<![\w.,$€£-])(?:\d{{1,4}}(?:\.\d{{1,3}})? ?(?:{_ANY_PART})(?![a-z])(?:,? (?:and )?)?){{2,7}}(?<! )(?!\w)", _compound),
    (r"(?<![\w.])(\d{1,3})h([0-5]\d)\b", lambda found: duration((found[1], "hour"), (found[2], "minute"))),
    (r"(?<![\w.])(\d{1,2})'(1[2-9]|[2-5]\d)(?:\"|”|''|′′|″)", lambda found: duration((found[1], "minute"), (found[2], "second"))),
    (rf"{_MINUTES_BEFORE} (\d{{1,4}}) ?m\b(?![²³/]|\.\d| (?:of|deep|tall|wide|high))", _minutes),
    (r"(?<![\w.,$€£-])\bin (\d{1,2})m\b(?![²³/]|\.\d| (?:of|deep|tall|wide|high|turn)|, (?:turn|keep|exit|merge|take))", _minutes),
    (rf"(?<![\w.,$€£-])(\d{{1,4}}) ?m(?={_MINUTES_AFTER})", _minutes),
    (r"(?<![\w.,$€£-])(\d{1,4})d\b(?!['’-]| (?:animat|game|art|graphics|image|array|plot|model|space|print|map|shape))",
     lambda found: counted(found[1], "day")),
)  # fmt: skip
_HALF_RULES, _TIME_RULES, _DURATION_RULES = compiled(_HALVES), compiled(_TIMES), compiled(_DURATIONS)


def times_written_out(text: str) -> str:
    """The text with times of day, durations and ratios in words."""
    text = applied(_DURATION_RULES, applied(_HALF_RULES, text))
    return applied(_TIME_RULES, text) if ":" in text or "h" in text else text
