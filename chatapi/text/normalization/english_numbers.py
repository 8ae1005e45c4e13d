"""English numbers in words: money, units, dates, times, ranges, fractions, years, telephone numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TypeAlias

Rule: TypeAlias = "tuple[str, str | Callable[[re.Match[str]], str]]"
"""A pattern and its replacement."""

_ONES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
         "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]  # fmt: skip
_TENS = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
           "November", "December"]  # fmt: skip
_PARTS = ["", "", "half", "third", "quarter", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"]

_UNITS = {
    "km": "kilometer", "m": "meter", "cm": "centimeter", "mm": "millimeter", "nm": "nanometer", "µm": "micrometer",
    "mi": "mile", "yd": "yard", "ft": "foot", "m²": "square meter", "km²": "square kilometer",
    "cm²": "square centimeter", "m2": "square meter", "km2": "square kilometer", "sq ft": "square foot",
    "sq km": "square kilometer", "sq mi": "square mile", "m³": "cubic meter", "cm³": "cubic centimeter",
    "kg": "kilogram", "g": "gram", "mg": "milligram", "µg": "microgram", "lb": "pound", "lbs": "pound", "oz": "ounce",
    "L": "liter", "l": "liter", "mL": "milliliter", "ml": "milliliter", "cl": "centiliter", "dl": "deciliter",
    "dL": "deciliter", "gal": "gallon", "tsp": "teaspoon", "tbsp": "tablespoon",
    "s": "second", "sec": "second", "ms": "millisecond", "µs": "microsecond", "ns": "nanosecond", "min": "minute",
    "mins": "minute", "h": "hour", "hr": "hour", "hrs": "hour", "yrs": "year",
    "km/h": "kilometer| per hour", "kmh": "kilometer| per hour", "kph": "kilometer| per hour",
    "mph": "mile| per hour", "rpm": "revolution| per minute", "fps": "frame| per second", "mpg": "mile| per gallon",
    "psi": "pound| per square inch", "dpi": "dot| per inch",
    "kB": "kilobyte", "KB": "kilobyte", "MB": "megabyte", "GB": "gigabyte", "TB": "terabyte", "PB": "petabyte",
    "KiB": "kibibyte", "MiB": "mebibyte", "GiB": "gibibyte", "kbps": "kilobit| per second",
    "Mbps": "megabit| per second", "Gbps": "gigabit| per second",
    "Hz": "hertz", "kHz": "kilohertz", "MHz": "megahertz", "GHz": "gigahertz", "dB": "decibel",
    "W": "watt", "kW": "kilowatt", "MW": "megawatt", "GW": "gigawatt", "kWh": "kilowatt hour", "Wh": "watt hour",
    "V": "volt", "mV": "millivolt", "kV": "kilovolt", "mA": "milliamp", "mAh": "milliamp hour", "Ω": "ohm",
    "kΩ": "kilohm", "J": "joule", "kJ": "kilojoule", "kcal": "kilocalorie", "cal": "calorie", "Pa": "pascal",
    "kPa": "kilopascal", "hPa": "hectopascal", "px": "pixel", "MP": "megapixel",
    "°C": "degree| Celsius", "°F": "degree| Fahrenheit", "℃": "degree| Celsius", "℉": "degree| Fahrenheit",
    "°": "degree", "%": "percent", "¢": "cent",
}  # fmt: skip
"""Unit -> its name; the plural's s goes to the end or to the bar."""
_SAME_OR_ODD = {"foot": "feet", "square foot": "square feet", "percent": "percent"}
_PER = {"s": "second", "sec": "second", "min": "minute", "h": "hour", "hr": "hour", "day": "day", "mo": "month",
        "month": "month", "yr": "year", "year": "year", "week": "week", "night": "night", "person": "person",
        "hour": "hour", "minute": "minute", "second": "second", "kg": "kilogram", "lb": "pound", "L": "liter",
        "l": "liter", "dL": "deciliter", "m²": "square meter", "m³": "cubic meter", "s²": "second squared",
        "gallon": "gallon", "token": "token", "user": "user", "unit": "unit"}  # fmt: skip
"""What may follow a slash after a unit or money."""

_MONEY = {"$": ("dollar", "dollars", "cent", "cents"), "€": ("euro", "euros", "cent", "cents"),
          "£": ("pound", "pounds", "penny", "pence"), "¥": ("yen", "yen", "sen", "sen"),
          "₹": ("rupee", "rupees", "paisa", "paise"), "USD": ("dollar", "dollars", "cent", "cents"),
          "EUR": ("euro", "euros", "cent", "cents"), "GBP": ("pound", "pounds", "penny", "pence")}  # fmt: skip
_SCALE = {"k": "thousand", "K": "thousand", "m": "million", "M": "million", "mn": "million", "bn": "billion",
          "B": "billion", "b": "billion", "tn": "trillion", "T": "trillion"}  # fmt: skip
_COUNTRY = {"US": "US ", "A": "Australian ", "C": "Canadian ", "NZ": "New Zealand ", "HK": "Hong Kong ", "": ""}

_GLYPHS = str.maketrans({"−": "-", "μ": "µ", "½": " 1/2", "⅓": " 1/3", "⅔": " 2/3", "¼": " 1/4", "¾": " 3/4",
                         "⅕": " 1/5", "⅛": " 1/8", **dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True))})  # fmt: skip
_YEAR_AFTER = frozenset(
    {"in", "since", "by", "from", "until", "till", "of", "year", "before", "after", "during", "to", "and", "early",
     "mid", "late", "around", "summer", "winter", "spring", "fall", "autumn", *_MONTHS}
)  # fmt: skip
"""Words after which 1100 to 2099 is a year; 1500 to 1999 is a year everywhere."""


def below_hundred(number: int) -> str:
    """A number from 0 to 99 in words, such as forty-two."""
    if number < 20:
        return _ONES[number]
    return _TENS[number // 10] + (f"-{_ONES[number % 10]}" if number % 10 else "")


def ordinal(number: int) -> str:
    """21 -> 21st, which every voice can speak."""
    suffix = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"


def _year(number: int) -> str:
    century, rest = divmod(number, 100)
    if rest == 0 or 2000 <= number < 2010 or not 1100 <= number < 2100:
        return str(number)
    return f"{below_hundred(century)} {'oh ' if rest < 10 else ''}{below_hundred(rest)}"


def _years(found: re.Match[str]) -> str:
    before, number = found[1] or "", int(found[2])
    context = before.strip(" ,") in _YEAR_AFTER or before[:1].isdigit()
    return before + (_year(number) if 1500 <= number < 2000 or context else found[2])


def _century_decade(found: re.Match[str]) -> str:
    return f"{below_hundred(int(found[1]))} {_decade(int(found[2]))}"


def _decade(number: int) -> str:
    return f"{below_hundred(number).removesuffix('y')}ies" if number >= 20 else f"{below_hundred(number)}s"


def _decades(found: re.Match[str]) -> str:
    """The '90s; 30s alone are seconds."""
    lone = not found[1] and found[0][0].isdigit()
    return found[0] if lone else found[1] + _decade(int(found[2]))


def _date(year: str, month: str, day: str) -> str | None:
    if not (1 <= int(month) <= 12 and 1 <= int(day) <= 31):
        return None
    return f"{_MONTHS[int(month) - 1]} {ordinal(int(day))}, {_year(int(year))}"


def _short_date(found: re.Match[str]) -> str:
    first, mark, second, year = found.groups()
    if mark == "." or int(first) > 12:
        return _date(year, second, first) or found[0]
    if int(second) > 12 or first == second:
        return _date(year, first, second) or found[0]
    return f"{int(first)}, {int(second)}, {_year(int(year))}"


def _month(found: re.Match[str]) -> str:
    return next(month for month in _MONTHS if month.startswith((found[1] or found[2])[:3]))


def _time(found: re.Match[str]) -> str:
    hour, minute, second, half = found.groups()
    if int(minute):
        text = f"{int(hour)} {'oh ' if minute[0] == '0' else ''}{int(minute)}"
    elif half or second:
        text = str(int(hour))
    else:
        text = f"{int(hour)} o'clock" if 0 < int(hour) <= 12 else f"{int(hour)} hundred"
    return text + (f" and {_counted(str(int(second)), 'second')}" if second else "") + (half or "")


def _counted(number: str, name: str) -> str:
    """A number and its unit, in the singular after 1 and fractions."""
    if number == "1" or ("/" in number and " " not in number):
        return f"{number} {name.replace('|', '')}"
    if name in _SAME_OR_ODD or name.endswith("hertz"):
        return f"{number} {_SAME_OR_ODD.get(name, name)}"
    return f"{number} {name.replace('|', 's') if '|' in name else name + 's'}"


def _unit(found: re.Match[str]) -> str:
    number, gap, unit, per = found.groups()
    name = _UNITS[unit]
    text = f"{number} {name.replace('|', '')}" if gap == "-" else _counted(number, name)
    return text + (f" per {_PER[per]}" if per else "")


def _money(found: re.Match[str]) -> str:
    country, sign, first, number, scale, per = found.groups()
    number = f"{first} to {number}" if first else number
    return _amount(number, sign, scale, _COUNTRY[country or ""]) + (f" per {_PER[per]}" if per else "")


def _amount(number: str, sign: str, scale: str | None = None, country: str = "") -> str:
    """5.50 -> 5 dollars and 50 cents; a scale, as in 2m, makes it 2 million pounds."""
    one, many, small_one, small_many = _MONEY[sign]
    if scale:
        scale = scale.strip(" -")
        return f"{number} {_SCALE.get(scale, scale)} {country}{many}"
    whole, _, part = number.partition(".")
    if len(part) != 2 or " " in number:
        return f"{number} {country}{one if number == '1' else many}"
    small = f"{int(part)} {small_one if part == '01' else small_many}"
    if whole == "0":
        return small
    large = f"{whole} {country}{one if whole == '1' else many}"
    return f"{large} and {small}" if int(part) else large


def _range(found: re.Match[str]) -> str:
    first, gap, second = found.groups()
    if gap == " - ":
        return f"{first} minus {second}"
    low, high = (float(re.sub(r"\D", "", number) or 0) for number in (first, second))
    years = len(first) == 4 and len(second) == 2
    return f"{first} to {second}" if low < high or years or ":" in first else f"{first} {second}"


def _fraction(found: re.Match[str]) -> str:
    whole, above, below = found[1], int(found[2]), int(found[3])
    before = f"{whole.strip()} and " if whole else ""
    if found[0] in ("24/7", "9/11"):
        return f"{above} {below}"
    if above < below < len(_PARTS) - 1:
        count = "a" if whole and above == 1 else _ONES[above]
        return f"{before}{count} {_PARTS[below]}{'s' if above > 1 else ''}"
    return f"{before}{above} {'out of' if above <= below and below in (10, 100) else 'over'} {below}"


def _phone(found: re.Match[str]) -> str:
    """Digit by digit with a pause between groups."""
    groups = re.findall(r"\d{1,20}", found[0])
    round_range = len(groups) == 2 and groups[1][0] != "0" and int(groups[1]) % 50 == 0
    if round_range or sum(map(len, groups)) < 7:
        return found[0]
    return ("plus " if found[0].startswith("+") else "") + ", ".join(" ".join(group) for group in groups)


def _groups(found: re.Match[str]) -> str:
    """A version or an IP address."""
    return found[0].replace(".", " dot " if found[0].count(".") == 3 else " point ")


def any_of(names: Iterable[str]) -> str:
    """A pattern for any of the names, longest first."""
    return "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))


_N = r"(?:\d{1,3}(?:,\d{3}){1,5}|\d{1,15})(?:\.\d{1,9})?"
"""A number; the surrounding patterns make sure that it is complete."""
_MONTH = any_of([*_MONTHS, *(month[:3] for month in _MONTHS), "Sept"])
_SIGN = "[$€£¥₹]"
_PER_UNIT = rf"(?: ?/ ?({any_of(_PER)})(?![\w²³]))?"

DIGITS: tuple[Rule, ...] = (
    (r"(?<![\w.+-])\+\d{1,3}(?:[ .-]?\(?\d{2,4}\)?){2,5}(?![\w-])", _phone),
    (r"(?<![\w.-])(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[.-]\d{4}(?![\w-])", _phone),
    (r"(?<![\w.-])(?:\d{3}-\d{4}|\d{3}-\d\d-\d{4}|0\d{2,4}(?:[ -]\d{3,8}){1,3})(?![\w-])", _phone),
    (r"(?<![\w.,$€£-])(?:0\d{6,19}|\d{10,20})(?![.,]\d|\w)", _phone),
    (r"(?<![\w.])\d{1,5}(?:\.\d{1,5}){2,5}(?!\.?\w)", _groups),
)
DATES: tuple[Rule, ...] = (
    (rf"\b({_MONTH})\.?(?= (?:\d{{1,2}}|\d{{4}})\b)|(?<=\d )({_MONTH})\b\.?(?=,? \d{{4}})", _month),
    (rf"\b({any_of(_MONTHS)}) (\d{{1,2}})(?![\w:]|[.,–/-]\d)", lambda found: f"{found[1]} {ordinal(int(found[2]))}"),
    (r"(?<![\w-])(\d{4})-(\d\d)-(\d\d)(?![\w-])", lambda found: _date(*found.groups()) or found[0]),
    (r"(?<![\w/.])(\d{1,2})([/.])(\d{1,2})\2(\d{4})(?![\w/])", _short_date),
)
TIMES: tuple[Rule, ...] = (
    (r"(?<=\d) ?([aApP])[mM]\b", lambda found: f" {found[1].upper()}M"),
    (r"(?<![\w:.])(\d{1,2}(?::\d\d)?(?: [AP]M)?)(?: ?– ?|-)(\d{1,2}:\d\d|\d{1,2} [AP]M)(?![\w:])", r"\1 to \2"),
    (r"(?<![\w:.])([01]?\d|2[0-4]):([0-5]\d)(?::([0-5]\d))?( [AP]M\b)?(?![\w:])", _time),
    (r"(?<![\w:])(\d{1,4}):(\d{1,4})(?![\w:])", r"\1 to \2"),
)
MONEY: tuple[Rule, ...] = (
    (rf"(?<!\w)-(?={_SIGN}\d)", "minus "),
    (
        rf"(?<![A-Za-z])(US|A|C|NZ|HK)?({_SIGN}) ?(?:({_N})(?: ?– ?|-){_SIGN}?)?({_N})"
        rf"([ -](?:million|billion|trillion|thousand)|mn|bn|tn|[kKmMbBT])?(?!\w){_PER_UNIT}",
        _money,
    ),
    (rf"(?<![\w.,])({_N}) ?({_SIGN}|USD|EUR|GBP)(?!\w)", lambda found: _amount(found[1], found[2])),
    (r" ?([€£¥₹])", lambda found: f" {_MONEY[found[1]][0]} "),
)
QUANTITIES: tuple[Rule, ...] = (
    (r"(?<=[%°CF])-(?=\d)|(?<=[\w%°]) ?– ?(?=\d)|(?<=\w)–(?=\w)", " to "),
    (rf"(?<![\w.,:/-])({_N})(-| - )({_N})(?![\d/]|-\d|[.,]\d)", _range),
    (r"(?<=\d) ?ft (\d{1,2}) ?in\b", r" feet \1 inches"),
    (
        rf"(?<![\w.,])((?:\d{{1,3}} )?\d{{1,2}}/\d{{1,2}}|{_N})(-| ?)({any_of(_UNITS)})(?![\w²³]){_PER_UNIT}"
        r"(?:\.(?= [a-z]|,))?",
        _unit,
    ),
    (r"(?<=\d)'(\d{1,2})(?:\"|”|'')", r" foot \1"),
    (r"(?<![\w/.,])(\d{1,3} +)?(\d{1,3})/(\d{1,3})(?![\w/]|[.,]\d)", _fraction),
    (r"(?<=\d)x(?=\d)", " by "),
    (r"(?<=\d)x(?!\w)", " times"),
    (r"%", " percent"),
    (r" ?°", " degrees"),
)
DECADES: tuple[Rule, ...] = (
    (r"(?<![\w.,$-])(1[1-9]|20)([1-9]0)['’]?s\b", _century_decade),
    (r"((?:\b(?:the|his|her|their|my|early|late|mid)[ -])|(?<!\w))['’]?([2-9]0)['’]?s\b", _decades),
)
YEARS: tuple[Rule, ...] = (
    (
        r"(\b[A-Za-z]{2,9},? |\b\d{1,2}(?:st|nd|rd|th),? )?(?<![\w.,$-])((?:1[1-9]|20)\d\d)"
        r"(?!\w|[.,:]\d|[-/]\d| by \d)",
        _years,
    ),
)

_RULES = [
    (re.compile(pattern), place) for pattern, place in (*DIGITS, *DATES, *TIMES, *MONEY, *DECADES, *QUANTITIES, *YEARS)
]


def numbers_written_out(text: str) -> str:
    """Replaces numbers by words; plain cardinal numbers are left to the voice."""
    text = text.translate(_GLYPHS)
    for pattern, place in _RULES:
        text = pattern.sub(place, text)
    return text
