"""Dates in English words."""

from __future__ import annotations

import re
from collections.abc import Callable

from chatapi.text.normalization.english.numbers import Rule, any_of, applied, compiled, full_year, ordinal, year
from chatapi.text.normalization.english.times import clock

_MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
           "November", "December"]  # fmt: skip
_DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTH = any_of([*_MONTHS, *(month[:3] for month in _MONTHS), "Sept"])
_WEEKDAY = any_of([*(day[:3] for day in _DAYS), "Tues", "Thur", "Thurs", *_DAYS])
_SHORT_MONTH = any_of([*(month[:3] for month in _MONTHS if month != "May"), "Sept"])

_CLOCK = r"(\d\d?):(\d\d)(?::(\d\d)(?:[.,]\d{1,9})?)?"
_ZONE = r"(?: ?(Z|UTC|GMT)\b|([+-])(0\d|1[0-4]):?(\d\d))?"
_BEFORE_A_DATE = (
    r"(?:\b(?:due|dated|by|until|till|through|since|before|after|starting|expires|expired|on|from|week of|"
    rf"(?:[Dd]ay|birthday|date|deadline) is)|(?:{_WEEKDAY})\.?,?) "
)
YEAR_AFTER = frozenset(
    {"in", "since", "by", "from", "until", "till", "of", "year", "before", "after", "during", "to", "and", "early",
     "mid", "late", "around", "summer", "winter", "spring", "fall", "autumn", "fy", "circa", "class", "back", "through",
     "q", "h", "election", "edition", *(month.lower() for month in _MONTHS)}
)  # fmt: skip
"""Words after which 1100 to 2099 is a year; 1500 to 1999 is a year everywhere."""


def date(year_digits: str, month: str, day: str) -> str | None:
    """2026, 08, 29 -> August 29th, twenty twenty-six; None when there is no such date."""
    if not (1 <= int(month) <= 12 and 1 <= int(day) <= 31):
        return None
    return f"{_MONTHS[int(month) - 1]} {ordinal(int(day))}, {year(full_year(year_digits))}"


def _iso(found: re.Match[str]) -> str:
    """2026-08-29T14:30:00Z -> August 29th, twenty twenty-six, at 14 30 UTC"""
    text = date(found[1], found[3], found[4])
    if text is None:
        return found[0]
    return f"{text}, at {_clock_and_zone(found, 5)}" if found[5] else text


def _clock_and_zone(found: re.Match[str], first: int) -> str:
    hour, minute, second, zone, sign, ahead, part = (found[first + index] for index in range(7))
    text = clock(hour, minute, second)
    if zone:
        return f"{text} {'UTC' if zone == 'Z' else zone}"
    if not sign:
        return text
    if not int(ahead) and not int(part):
        return f"{text} UTC"
    return f"{text} UTC {'plus' if sign == '+' else 'minus'} {int(ahead)}" + (f" {part}" if int(part) else "")


def _numeric(day_first: bool) -> Callable[[re.Match[str]], str]:
    """12/25/24 in the order of the locale; with dots the day is first."""

    def place(found: re.Match[str]) -> str:
        first, mark, second, number = found[1], found[2], found[3], found[4]
        days_before = (day_first or mark == ".") and int(second) <= 12
        day, month = (first, second) if days_before or int(first) > 12 else (second, first)
        text = date(number, month, day)
        return found[0] if text is None else text + (", at " if found[5] else "")

    return place


def _without_year(day_first: bool) -> Callable[[re.Match[str]], str]:
    def place(found: re.Match[str]) -> str:
        day, month = (found[2], found[3]) if day_first or int(found[2]) > 12 else (found[3], found[2])
        if not (1 <= int(month) <= 12 and 1 <= int(day) <= 31) or (found[2], found[3]) == ("9", "11"):
            return found[0]
        return f"{found[1]}{_MONTHS[int(month) - 1]} {ordinal(int(day))}"

    return place


def _range(day_first: bool) -> Callable[[re.Match[str]], str]:
    """6/1-11/30, where no fraction is meant: 1/2-3/4."""

    def place(found: re.Match[str]) -> str:
        pairs = [(int(found[1]), int(found[2])), (int(found[3]), int(found[4]))]
        if all(above < below and below in _DENOMINATORS for above, below in pairs):
            return found[0]
        dates = [(first, second) if day_first or first > 12 else (second, first) for first, second in pairs]
        if not all(1 <= month <= 12 and 1 <= day <= 31 for day, month in dates):
            return found[0]
        return " to ".join(f"{_MONTHS[month - 1]} {ordinal(day)}" for day, month in dates)

    return place


def _full_month(short: str) -> str:
    return next(month for month in _MONTHS if month.startswith(short[:3]))


def _full_weekday(short: str) -> str:
    return next(day for day in _DAYS if day.startswith(short[:3]))


def _day_and_month(found: re.Match[str]) -> str:
    """29 August 2026 -> the 29th of August twenty twenty-six"""
    if not 1 <= int(found[2]) <= 31:
        return found[0]
    last = f" to the {ordinal(int(found[3]))}" if found[3] else ""
    text = f"{found[1] or 'the '}{ordinal(int(found[2]))}{last} of {found[4]}"
    if not found[5]:
        return text
    return f"{text} {year(int(found[5]))}" + (" at " if found[6] else "")


def _month_and_days(found: re.Match[str]) -> str:
    days = f"{found[1]} {ordinal(int(found[2]))}"
    return f"{days} to {ordinal(int(found[3]))}" if found[3] else days


def _year_and_month(found: re.Match[str]) -> str:
    return f"{_MONTHS[int(found[2]) - 1]} {year(int(found[1]))}"


def _season(found: re.Match[str]) -> str:
    """2024-25 -> twenty twenty-four to twenty twenty-five"""
    first, second = int(found[1]), int(found[1][:2] + found[2])
    return f"{year(first)} to {year(second)}" if 1000 < first < second else found[0]


def _month_range(found: re.Match[str]) -> str:
    return f"{_full_month(found[1])} to {_full_month(found[2])}"


def _weekday_range(found: re.Match[str]) -> str:
    return f"{_full_weekday(found[1])} to {_full_weekday(found[2])}"


def _short_year(found: re.Match[str]) -> str:
    """Class of '24, summer of '69."""
    return f"{found[1]} {year(full_year(found[2]))}"


_DENOMINATORS = (2, 3, 4, 5, 6, 8, 10, 16, 32)
_FULL_MONTH = any_of(_MONTHS)
_THEN_A_TIME = r"(,? (?=\d{1,2}:\d\d))?"
_NO_SEASON = r"(?! (?:season|school|campaign|academic|budget|winter)\b)"
_NO_FRACTION = r"(?! (?:of|cup|inch|tsp|tbsp|stars))"
_SHORT_YEAR_AFTER = rf"{_FULL_MONTH}|[Cc]lass of|[Ss]ummer|[Ww]inter|[Ss]pring|[Ff]all|[Ii]n|[Ss]ince|of|from"
_ISO: tuple[Rule, ...] = (
    (rf"(?<![\w./-])(\d{{4}})([/-])(\d\d)\2(\d\d)(?:(?:T|,? ){_CLOCK}{_ZONE})?(?![\w-])", _iso),
    (
        rf"(?<![\w:.]){_CLOCK}(?: ?(Z)\b|(\+|(?<=:\d\d:\d\d)-)(0\d|1[0-4]):(\d\d))(?![\w:])",
        lambda found: _clock_and_zone(found, 1),
    ),
)
_WORDED: tuple[Rule, ...] = (
    (rf"(?<![\w/.,-])((?:19|20)\d\d)-(0[1-9]|1[0-2])(?![\w-]|\.\d){_NO_SEASON}", _year_and_month),
    (r"(?<![\w/.,-])(1\d\d\d|20\d\d)[-–/](\d\d)(?![\w–-]|[.,/]\d)", _season),
    (
        rf"(?<=[AaPp][Mm] )({_WEEKDAY})\b(\.(?= [a-z])|)",
        lambda found: _full_weekday(found[1]),
    ),
    (rf"\b({_WEEKDAY})[-–]({_WEEKDAY})\b", _weekday_range),
    (rf"\b({MONTH})[-–]({MONTH})\b(?! \d)", _month_range),
    (
        rf"\b({_WEEKDAY})\b\.?(?=,? (?:the )?(?:\d{{1,2}}\b(?! [a-z])|\d{{1,2}}(?:st|nd|rd|th)\b|(?:{MONTH})\b))",
        lambda found: _full_weekday(found[1]),
    ),
    (rf"\b({MONTH})\.?(?= (?:\d{{1,2}}|\d{{4}}|['’]\d\d)(?:st|nd|rd|th)?\b)", lambda found: _full_month(found[1])),
    (
        rf"(?<=\d )({MONTH})\b\.?(?=,? \d{{4}}|[,;!?]|\.$|$| at\b)|(?<=\d )({_SHORT_MONTH})\b",
        lambda found: _full_month(found[1] or found[2]),
    ),
    (
        rf"(?<=\bin )({_SHORT_MONTH})\b(?!\.)|(?<=\bsince )({_SHORT_MONTH})\b(?!\.)",
        lambda found: _full_month(found[1] or found[2]),
    ),
    (
        rf"(?<![\w.,:/$-])(the )?(\d{{1,2}})(?: ?[-–] ?(\d{{1,2}}))? ({_FULL_MONTH})\b"
        rf"(?:,? (\d{{4}})\b{_THEN_A_TIME})?",
        _day_and_month,
    ),
    (rf"\b({_FULL_MONTH}) (\d{{1,2}})(?: ?[-–] ?(\d{{1,2}}))?(?!\w|[:.,–/-]\d)", _month_and_days),
    (rf"(?<=\d[a-z][a-z]) ?[-–] ?(?=(?:{_FULL_MONTH}) \d)", " to "),
    (rf"\b({_SHORT_YEAR_AFTER}) ['’](\d\d)(?!\w|['’])", _short_year),
)


def _numeric_rules(day_first: bool) -> tuple[Rule, ...]:
    place = _numeric(day_first)
    return (
        (rf"(?<![\w/.-])(\d{{1,2}})([/.-])(\d{{1,2}})\2(\d{{4}})(?![\w/-]|\.\d){_THEN_A_TIME}", place),
        (rf"(?<![\w/.-])(\d{{1,2}})(/)(\d{{1,2}})/(\d\d)(?![\w/]|[.-]\d){_THEN_A_TIME}", place),
        (rf"(?<![\w/.-])(\d\d)([.-])(\d\d)\2(\d\d)(?![\w/-]|\.\d){_THEN_A_TIME}", place),
        (
            rf"({_BEFORE_A_DATE})(\d{{1,2}})/(\d{{1,2}})(?![\w/]|[.-]\d){_NO_FRACTION}",
            _without_year(day_first),
        ),
        (
            rf"(\d(?:st|nd|rd|th) (?:to|and|or|through) )(\d{{1,2}})/(\d{{1,2}})(?![\w/]){_NO_FRACTION}",
            _without_year(day_first),
        ),
        (r"(?<![\w/.-])(\d{1,2})/(\d{1,2}) ?[-–] ?(\d{1,2})/(\d{1,2})(?![\w/]|[.-]\d)", _range(day_first)),
        (r"\b24/7/365\b", "24 7 365"),
    )


_ORDERS = {day_first: compiled(_ISO, _numeric_rules(day_first), _WORDED) for day_first in (False, True)}


def _years(found: re.Match[str]) -> str:
    before, number = found[1] or "", int(found[2])
    word = before.strip(" ,'’\"“").lower()
    context = word in YEAR_AFTER or before[:1].isdigit() or re.fullmatch(r"[qh]\d|fy", word) is not None
    if number < 1100:
        known = word in ("in", "since", "year") and not re.match(
            r" [a-z]{1,20}s\b", found.string[found.end() : found.end() + 24]
        )
        return before + (year(number) if known else found[2])
    if number % 100 == 0 and not context:
        return found[0]
    return before + (year(number) if 1500 <= number < 2000 or context else found[2])


_YEARS = compiled(
    (
        (r"\b(FY) ?(20\d\d)\b", lambda found: f"fiscal year {year(int(found[2]))}"),
        (
            r"(\b[A-Za-z]{1,9},? [\"“]?|\b[QH][1-4],? |\b\d{1,2}(?:st|nd|rd|th),? )?(?<![\w.,$-])((?:1\d|20)\d\d)"
            r"(?!\w|[.,:]\d|[-/]\d| by \d)",
            _years,
        ),
    )
)


def dates_written_out(text: str, day_first: bool) -> str:
    """The text with dates in words; `day_first` is the order of 03/04/25."""
    return applied(_ORDERS[day_first], text)


def years_written_out(text: str) -> str:
    """The text with the years that no date has, as two pairs."""
    return applied(_YEARS, text)
