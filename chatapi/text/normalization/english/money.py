"""Money in English words."""

from __future__ import annotations

import re

from chatapi.text.normalization.english.numbers import NUMBER, Rule, any_of, applied, compiled, describes
from chatapi.text.normalization.english.units import PER

_DOLLAR = ("dollar", "dollars", "cent", "cents")
_EURO = ("euro", "euros", "cent", "cents")
_POUND = ("pound", "pounds", "penny", "pence")
_MONEY = {
    "$": _DOLLAR, "€": _EURO, "£": _POUND, "¥": ("yen", "yen", "sen", "sen"),
    "₹": ("rupee", "rupees", "paisa", "paise"), "₽": ("ruble", "rubles", "kopek", "kopeks"),
    "₩": ("won", "won", "jeon", "jeon"),
    "₺": ("lira", "lira", "kurus", "kurus"), "₴": ("hryvnia", "hryvnias", "kopek", "kopeks"),
    "₿": ("bitcoin", "bitcoins", "cent", "cents"), "zł": ("zloty", "zlotys", "grosz", "groszy"),
    "USD": _DOLLAR, "EUR": _EURO, "GBP": _POUND, "JPY": ("yen", "yen", "sen", "sen"),
    "CHF": ("Swiss franc", "Swiss francs", "centime", "centimes"),
    "CAD": ("Canadian dollar", "Canadian dollars", "cent", "cents"),
    "AUD": ("Australian dollar", "Australian dollars", "cent", "cents"),
    "NZD": ("New Zealand dollar", "New Zealand dollars", "cent", "cents"),
    "SEK": ("Swedish krona", "Swedish kronor", "öre", "öre"),
    "NOK": ("Norwegian krone", "Norwegian kroner", "øre", "øre"),
    "DKK": ("Danish krone", "Danish kroner", "øre", "øre"), "PLN": ("zloty", "zlotys", "grosz", "groszy"),
    "CZK": ("Czech koruna", "Czech korunas", "haler", "halers"), "INR": ("rupee", "rupees", "paisa", "paise"),
    "CNY": ("yuan", "yuan", "fen", "fen"), "MXN": ("Mexican peso", "Mexican pesos", "centavo", "centavos"),
    "BRL": ("real", "reais", "centavo", "centavos"), "BTC": ("bitcoin", "bitcoins", "cent", "cents"),
}  # fmt: skip
"""Sign or code -> the currency and its hundredth, each in the singular and the plural."""
_CODES = any_of(code for code in _MONEY if code.isascii() and code.isalpha())
_SCALE = {"k": "thousand", "K": "thousand", "m": "million", "M": "million", "mn": "million", "bn": "billion",
          "B": "billion", "b": "billion", "tn": "trillion", "T": "trillion", "mm": "million",
          "MM": "million"}  # fmt: skip
_COUNTRY = {"US": "US ", "A": "Australian ", "AU": "Australian ", "C": "Canadian ", "CA": "Canadian ",
            "NZ": "New Zealand ", "HK": "Hong Kong ", "S": "Singapore ", "": ""}  # fmt: skip

_SIGN = "[$€£¥₹₽₩₺₴₿]"
_COUNTRIES = "US|AU|CA|NZ|HK|A|C|S"
_SCALES = r"([ -](?:million|billion|trillion|thousand)|mn|bn|tn|[kKmMbBT])?(?!\w)"
_PER_UNIT = rf"(?: ?/ ?({any_of(PER)})(?![\w²³]))?"


def _money(found: re.Match[str]) -> str:
    country, sign, first, number, scale, per = found.groups()
    number = f"{first} to {number}" if first else number
    single = describes(found) and not first
    text = _amount(number, sign, scale, _COUNTRY[country or ""], single=single)
    return text + (f" per {PER[per]}" if per else "")


def _amount(number: str, sign: str, scale: str | None = None, country: str = "", *, single: bool = False) -> str:
    """5.50 -> 5 dollars and 50 cents; a scale, as in 2m, makes it 2 million pounds; `single`: a 5 dollar bill."""
    one, many, small_one, small_many = _MONEY[sign]
    if single:
        many = one
    if scale:
        scale = scale.strip(" -")
        return f"{number} {_SCALE.get(scale, scale)} {country}{many}"
    whole, _, part = number.partition(".")
    if len(part) != 2 or " " in number:
        return f"{number} {country}{one if number == '1' else many}"
    small = f"{int(part)} {small_one if part == '01' else small_many}"
    if whole == "0" and int(part):
        return small
    large = f"{whole} {country}{one if whole == '1' else many}"
    return f"{large} and {small}" if int(part) else large


def _after(found: re.Match[str]) -> str:
    number, scale, country, sign = found.groups()
    return _amount(number, sign, scale, _COUNTRY[country or ""], single=describes(found))


_RULES: tuple[Rule, ...] = (
    # €1.000,50 and €45,50: a decimal comma.
    (rf"({_SIGN} ?\d{{1,3}})\.(\d{{3}}),(\d\d)(?![\d,])", r"\1,\2.\3"),
    (rf"({_SIGN} ?\d{{1,6}}),(\d\d?)(?![\d,])", r"\1.\2"),
    (rf"(?<![\w.,])(\d{{1,6}}),(\d\d?)(?= ?(?:{_SIGN}|{_CODES})(?!\w))", r"\1.\2"),
    (rf"(?<!\w)-(?={_SIGN} ?\d)", "minus "),
    (rf"({_SIGN} ?{NUMBER}) ?/ ?ea\b", r"\1 each"),
    (rf"(?<!\w)({_SIGN}) ?-(?=\d)", r"minus \1"),
    (
        rf"(?<![A-Za-z])({_COUNTRIES})?({_SIGN}) ?(?:({NUMBER})(?: ?– ?|-){_SIGN}?)?({NUMBER}){_SCALES}{_PER_UNIT}",
        _money,
    ),
    (rf"(?<![A-Za-z])()({_CODES}) ?()({NUMBER}){_SCALES}{_PER_UNIT}", _money),
    (
        rf"(?<![\w.,])({NUMBER}) ?(million|billion|trillion|thousand|mn|bn|[kKmM](?= ))? ?"
        rf"({_COUNTRIES})?({_SIGN}|zł|{_CODES})(?!\w)",
        _after,
    ),
    (r" ?([€£¥₹])", lambda found: f" {_MONEY[found[1]][0]} "),
)
_COMPILED = compiled(_RULES)
_MARKED = re.compile(rf"{_SIGN}|zł|{_CODES}")


def money_written_out(text: str) -> str:
    """The text with amounts of money in words."""
    return applied(_COMPILED, text) if _MARKED.search(text) else text
