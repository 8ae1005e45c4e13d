"""Units, signs and money in languages other than English; numbers themselves are left to the voice."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

_GERMAN = {
    "°C": "Grad Celsius", "°F": "Grad Fahrenheit", "°": "Grad", "%": "Prozent", "‰": "Promille",
    "km": "Kilometer", "m": "Meter", "cm": "Zentimeter", "mm": "Millimeter", "m²": "Quadratmeter",
    "km²": "Quadratkilometer", "m³": "Kubikmeter", "ha": "Hektar",
    "kg": "Kilogramm", "g": "Gramm", "mg": "Milligramm", "µg": "Mikrogramm", "t": "Tonne|Tonnen",
    "l": "Liter", "L": "Liter", "ml": "Milliliter",
    "s": "Sekunde|Sekunden", "min": "Minute|Minuten", "h": "Stunde|Stunden", "ms": "Millisekunde|Millisekunden",
    "km/h": "Kilometer pro Stunde", "m/s": "Meter pro Sekunde", "mm/h": "Millimeter pro Stunde",
    "l/min": "Liter pro Minute", "µg/m³": "Mikrogramm pro Kubikmeter", "l/m²": "Liter pro Quadratmeter",
    "W": "Watt", "kW": "Kilowatt", "MW": "Megawatt", "Wh": "Wattstunden", "kWh": "Kilowattstunde|Kilowattstunden",
    "V": "Volt", "A": "Ampere", "mA": "Milliampere", "Hz": "Hertz", "kHz": "Kilohertz", "MHz": "Megahertz",
    "GHz": "Gigahertz", "lx": "Lux", "lm": "Lumen", "dB": "Dezibel", "hPa": "Hektopascal", "bar": "Bar",
    "mbar": "Millibar", "GB": "Gigabyte", "MB": "Megabyte", "TB": "Terabyte", "Mbit/s": "Megabit pro Sekunde",
    "Gbit/s": "Gigabit pro Sekunde", "MB/s": "Megabyte pro Sekunde", "$": "Dollar", "£": "Pfund",
}  # fmt: skip
_FRENCH = {
    "°C": "degré Celsius|degrés Celsius", "°F": "degré Fahrenheit|degrés Fahrenheit", "°": "degré|degrés",
    "%": "pour cent", "‰": "pour mille", "km": "kilomètre|kilomètres", "m": "mètre|mètres",
    "cm": "centimètre|centimètres", "mm": "millimètre|millimètres", "m²": "mètre carré|mètres carrés",
    "km²": "kilomètre carré|kilomètres carrés", "m³": "mètre cube|mètres cubes", "ha": "hectare|hectares",
    "kg": "kilogramme|kilogrammes", "g": "gramme|grammes", "mg": "milligramme|milligrammes",
    "µg": "microgramme|microgrammes", "l": "litre|litres", "L": "litre|litres", "ml": "millilitre|millilitres",
    "cl": "centilitre|centilitres", "s": "seconde|secondes", "min": "minute|minutes", "h": "heure|heures",
    "ms": "milliseconde|millisecondes", "km/h": "kilomètre heure|kilomètres heure",
    "m/s": "mètre par seconde|mètres par seconde", "mm/h": "millimètre par heure|millimètres par heure",
    "l/min": "litre par minute|litres par minute", "l/m²": "litre par mètre carré|litres par mètre carré",
    "µg/m³": "microgramme par mètre cube|microgrammes par mètre cube",
    "W": "watt|watts", "kW": "kilowatt|kilowatts", "MW": "mégawatt|mégawatts", "Wh": "wattheure|wattheures",
    "kWh": "kilowattheure|kilowattheures", "V": "volt|volts", "mA": "milliampère|milliampères", "Hz": "hertz",
    "kHz": "kilohertz", "MHz": "mégahertz", "GHz": "gigahertz", "lx": "lux", "lm": "lumen|lumens",
    "dB": "décibel|décibels", "hPa": "hectopascal|hectopascals", "mbar": "millibar|millibars",
    "GB": "gigaoctet|gigaoctets", "Go": "gigaoctet|gigaoctets", "MB": "mégaoctet|mégaoctets",
    "Mo": "mégaoctet|mégaoctets", "To": "téraoctet|téraoctets",
    "Mbit/s": "mégabit par seconde|mégabits par seconde", "Gbit/s": "gigabit par seconde|gigabits par seconde",
    "Mo/s": "mégaoctet par seconde|mégaoctets par seconde", "€": "euro|euros", "$": "dollar|dollars",
    "£": "livre|livres",
}  # fmt: skip
_SPANISH = {
    "°C": "grado centígrado|grados centígrados", "°F": "grado Fahrenheit|grados Fahrenheit", "°": "grado|grados",
    "%": "por ciento", "‰": "por mil", "km": "kilómetro|kilómetros", "m": "metro|metros",
    "cm": "centímetro|centímetros", "mm": "milímetro|milímetros", "m²": "metro cuadrado|metros cuadrados",
    "km²": "kilómetro cuadrado|kilómetros cuadrados", "m³": "metro cúbico|metros cúbicos", "ha": "hectárea|hectáreas",
    "kg": "kilogramo|kilogramos", "g": "gramo|gramos", "mg": "miligramo|miligramos", "µg": "microgramo|microgramos",
    "l": "litro|litros", "L": "litro|litros", "ml": "mililitro|mililitros", "s": "segundo|segundos",
    "min": "minuto|minutos", "h": "hora|horas", "ms": "milisegundo|milisegundos",
    "km/h": "kilómetro por hora|kilómetros por hora", "m/s": "metro por segundo|metros por segundo",
    "l/m²": "litro por metro cuadrado|litros por metro cuadrado",
    "mm/h": "milímetro por hora|milímetros por hora", "l/min": "litro por minuto|litros por minuto",
    "µg/m³": "microgramo por metro cúbico|microgramos por metro cúbico", "W": "vatio|vatios",
    "kW": "kilovatio|kilovatios", "MW": "megavatio|megavatios", "Wh": "vatio hora|vatios hora",
    "kWh": "kilovatio hora|kilovatios hora", "V": "voltio|voltios", "A": "amperio|amperios",
    "mA": "miliamperio|miliamperios", "Hz": "hercio|hercios", "kHz": "kilohercio|kilohercios",
    "MHz": "megahercio|megahercios", "GHz": "gigahercio|gigahercios", "lx": "lux", "lm": "lumen|lúmenes",
    "dB": "decibelio|decibelios", "hPa": "hectopascal|hectopascales", "mbar": "milibar|milibares",
    "GB": "gigabyte|gigabytes", "MB": "megabyte|megabytes", "TB": "terabyte|terabytes",
    "Mbit/s": "megabit por segundo|megabits por segundo", "Gbit/s": "gigabit por segundo|gigabits por segundo",
    "MB/s": "megabyte por segundo|megabytes por segundo", "€": "euro|euros", "$": "dólar|dólares",
    "£": "libra|libras",
}  # fmt: skip
_ITALIAN = {
    "°C": "grado Celsius|gradi Celsius", "°F": "grado Fahrenheit|gradi Fahrenheit", "°": "grado|gradi",
    "%": "per cento", "‰": "per mille", "km": "chilometro|chilometri", "m": "metro|metri",
    "cm": "centimetro|centimetri", "mm": "millimetro|millimetri", "m²": "metro quadrato|metri quadrati",
    "km²": "chilometro quadrato|chilometri quadrati", "m³": "metro cubo|metri cubi", "ha": "ettaro|ettari",
    "kg": "chilogrammo|chilogrammi", "g": "grammo|grammi", "mg": "milligrammo|milligrammi",
    "µg": "microgrammo|microgrammi", "l": "litro|litri", "L": "litro|litri", "ml": "millilitro|millilitri",
    "s": "secondo|secondi", "min": "minuto|minuti", "h": "ora|ore", "ms": "millisecondo|millisecondi",
    "km/h": "chilometro all'ora|chilometri all'ora", "m/s": "metro al secondo|metri al secondo",
    "mm/h": "millimetro all'ora|millimetri all'ora",
    "l/m²": "litro per metro quadrato|litri per metro quadrato", "l/min": "litro al minuto|litri al minuto",
    "µg/m³": "microgrammo per metro cubo|microgrammi per metro cubo", "W": "watt", "kW": "chilowatt",
    "MW": "megawatt", "Wh": "wattora", "kWh": "chilowattora", "V": "volt", "A": "ampere", "mA": "milliampere",
    "Hz": "hertz", "kHz": "chilohertz", "MHz": "megahertz", "GHz": "gigahertz", "lx": "lux", "lm": "lumen",
    "dB": "decibel", "hPa": "ettopascal", "mbar": "millibar", "GB": "gigabyte", "MB": "megabyte", "TB": "terabyte",
    "Mbit/s": "megabit al secondo", "Gbit/s": "gigabit al secondo", "MB/s": "megabyte al secondo", "€": "euro",
    "$": "dollaro|dollari", "£": "sterlina|sterline",
}  # fmt: skip
_DUTCH = {
    "°C": "graad Celsius|graden Celsius", "°F": "graad Fahrenheit|graden Fahrenheit", "°": "graad|graden",
    "%": "procent", "‰": "promille", "km": "kilometer", "m": "meter", "cm": "centimeter", "mm": "millimeter",
    "m²": "vierkante meter", "km²": "vierkante kilometer", "m³": "kubieke meter", "ha": "hectare", "kg": "kilo",
    "g": "gram", "mg": "milligram", "µg": "microgram", "l": "liter", "L": "liter", "ml": "milliliter",
    "s": "seconde|seconden", "min": "minuut|minuten", "ms": "milliseconde|milliseconden",
    "km/h": "kilometer per uur", "km/u": "kilometer per uur", "m/s": "meter per seconde",
    "mm/u": "millimeter per uur", "mm/h": "millimeter per uur", "l/min": "liter per minuut",
    "l/m²": "liter per vierkante meter",
    "µg/m³": "microgram per kubieke meter", "W": "watt", "kW": "kilowatt", "MW": "megawatt", "Wh": "wattuur",
    "kWh": "kilowattuur", "V": "volt", "A": "ampère", "mA": "milliampère", "Hz": "hertz", "kHz": "kilohertz",
    "MHz": "megahertz", "GHz": "gigahertz", "lx": "lux", "lm": "lumen", "dB": "decibel", "hPa": "hectopascal",
    "mbar": "millibar", "GB": "gigabyte", "MB": "megabyte", "TB": "terabyte", "Mbit/s": "megabit per seconde",
    "Gbit/s": "gigabit per seconde", "MB/s": "megabyte per seconde", "€": "euro", "$": "dollar", "£": "pond",
}  # fmt: skip
_POLISH = {
    "°C": "stopień Celsjusza|stopnie Celsjusza|stopni Celsjusza|stopnia Celsjusza",
    "°F": "stopień Fahrenheita|stopnie Fahrenheita|stopni Fahrenheita|stopnia Fahrenheita",
    "°": "stopień|stopnie|stopni|stopnia", "%": "procent|procent|procent|procent",
    "km": "kilometr|kilometry|kilometrów|kilometra", "m": "metr|metry|metrów|metra",
    "cm": "centymetr|centymetry|centymetrów|centymetra", "mm": "milimetr|milimetry|milimetrów|milimetra",
    "m²": "metr kwadratowy|metry kwadratowe|metrów kwadratowych|metra kwadratowego",
    "m³": "metr sześcienny|metry sześcienne|metrów sześciennych|metra sześciennego",
    "ha": "hektar|hektary|hektarów|hektara", "kg": "kilogram|kilogramy|kilogramów|kilograma",
    "g": "gram|gramy|gramów|grama", "mg": "miligram|miligramy|miligramów|miligrama", "l": "litr|litry|litrów|litra",
    "ml": "mililitr|mililitry|mililitrów|mililitra", "s": "sekunda|sekundy|sekund|sekundy",
    "min": "minuta|minuty|minut|minuty", "h": "godzina|godziny|godzin|godziny",
    "godz.": "godzina|godziny|godzin|godziny",
    "l/m²": "litr na metr kwadratowy|litry na metr kwadratowy|litrów na metr kwadratowy|litra na metr kwadratowy",
    "km/h": "kilometr na godzinę|kilometry na godzinę|kilometrów na godzinę|kilometra na godzinę",
    "m/s": "metr na sekundę|metry na sekundę|metrów na sekundę|metra na sekundę",
    "mm/h": "milimetr na godzinę|milimetry na godzinę|milimetrów na godzinę|milimetra na godzinę",
    "µg/m³": "mikrogram na metr sześcienny|mikrogramy na metr sześcienny|mikrogramów na metr sześcienny"
             "|mikrograma na metr sześcienny",
    "W": "wat|waty|watów|wata", "kW": "kilowat|kilowaty|kilowatów|kilowata",
    "kWh": "kilowatogodzina|kilowatogodziny|kilowatogodzin|kilowatogodziny", "V": "wolt|wolty|woltów|wolta",
    "A": "amper|ampery|amperów|ampera", "Hz": "herc|herce|herców|herca",
    "GHz": "gigaherc|gigaherce|gigaherców|gigaherca",
    "lx": "luks|luksy|luksów|luksa", "dB": "decybel|decybele|decybeli|decybela",
    "hPa": "hektopaskal|hektopaskale|hektopaskali|hektopaskala", "GB": "gigabajt|gigabajty|gigabajtów|gigabajta",
    "MB": "megabajt|megabajty|megabajtów|megabajta",
    "Mbit/s": "megabit na sekundę|megabity na sekundę|megabitów na sekundę|megabita na sekundę",
    "zł": "złoty|złote|złotych|złotego", "€": "euro", "$": "dolar|dolary|dolarów|dolara",
    "£": "funt|funty|funtów|funta",
}  # fmt: skip
_PORTUGUESE = {
    "°C": "grau Celsius|graus Celsius", "°F": "grau Fahrenheit|graus Fahrenheit", "°": "grau|graus",
    "%": "por cento", "‰": "por mil", "km": "quilômetro|quilômetros", "m": "metro|metros",
    "cm": "centímetro|centímetros", "mm": "milímetro|milímetros", "m²": "metro quadrado|metros quadrados",
    "km²": "quilômetro quadrado|quilômetros quadrados", "m³": "metro cúbico|metros cúbicos", "ha": "hectare|hectares",
    "kg": "quilo|quilos", "g": "grama|gramas", "mg": "miligrama|miligramas", "µg": "micrograma|microgramas",
    "l": "litro|litros", "L": "litro|litros", "ml": "mililitro|mililitros", "s": "segundo|segundos",
    "min": "minuto|minutos", "h": "hora|horas", "ms": "milissegundo|milissegundos",
    "km/h": "quilômetro por hora|quilômetros por hora", "m/s": "metro por segundo|metros por segundo",
    "mm/h": "milímetro por hora|milímetros por hora", "l/min": "litro por minuto|litros por minuto",
    "l/m²": "litro por metro quadrado|litros por metro quadrado",
    "µg/m³": "micrograma por metro cúbico|microgramas por metro cúbico", "W": "watt|watts",
    "kW": "quilowatt|quilowatts", "MW": "megawatt|megawatts", "Wh": "watt-hora|watts-hora",
    "kWh": "quilowatt-hora|quilowatts-hora",
    "V": "volt|volts", "A": "ampere|amperes", "mA": "miliampere|miliamperes", "Hz": "hertz", "kHz": "quilohertz",
    "MHz": "megahertz", "GHz": "gigahertz", "lx": "lux", "lm": "lúmen|lúmens", "dB": "decibel|decibéis",
    "hPa": "hectopascal|hectopascais", "mbar": "milibar|milibares", "GB": "gigabyte|gigabytes",
    "MB": "megabyte|megabytes", "TB": "terabyte|terabytes", "Mbit/s": "megabit por segundo|megabits por segundo",
    "Gbit/s": "gigabit por segundo|gigabits por segundo", "MB/s": "megabyte por segundo|megabytes por segundo",
    "R$": "real|reais", "€": "euro|euros", "$": "dólar|dólares", "£": "libra|libras",
}  # fmt: skip


@dataclass(frozen=True)
class _Words:
    """How a language reads signs and units."""

    minus: str
    to: str
    """Between the numbers of a range."""
    units: dict[str, str]
    """Unit -> its name, or its forms: for 1 and more; in Polish for 1, for 2 to 4, for 5 and more, and for decimals."""
    below_two: bool = False
    """Whether decimals below 2 take the singular."""


_LANGUAGES = {
    "de": _Words("minus", "bis", _GERMAN),
    "fr": _Words("moins", "à", _FRENCH, below_two=True),
    "es": _Words("menos", "a", _SPANISH),
    "it": _Words("meno", "a", _ITALIAN),
    "nl": _Words("min", "tot", _DUTCH),
    "pl": _Words("minus", "do", _POLISH),
    "pt": _Words("menos", "a", _PORTUGUESE, below_two=True),
}
_GLYPHS = str.maketrans({"−": "-", "μ": "µ", "℃": "°C", "℉": "°F"})
_NUMBER = r"\d{1,3}(?:[. ]\d{3}){1,4}(?:,\d{1,9})?|\d{1,15}(?:[.,]\d{1,9})?"
_MONEY = re.compile(rf"(R\$|[$€£]) ?(-?)({_NUMBER})(?!\w)")
_GENITIVE = re.compile(r"\b(?:od|do|około|powyżej|poniżej|z) $", re.IGNORECASE)
_ACCUSATIVE = re.compile(r"\b(?:na|za|o|co|przez) $", re.IGNORECASE)
"""Polish prepositions before an amount, by the case they take."""
_MINUS = re.compile(r"(?:(?<=\s)|(?<=[(:])|^)-(?=\d)")


@cache
def _patterns(language: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """The patterns of a range before a unit, and of a number with its unit."""
    names = "|".join(re.escape(unit) for unit in sorted(_LANGUAGES[language].units, key=len, reverse=True))
    end = rf"(?:{names})(?![\w²³/$])"
    ranged = rf"(?<![\w.,/-])({_NUMBER}) ?[-–] ?(?={_NUMBER}\s?{end})"
    # 5A is a room or a seat.
    return re.compile(ranged), re.compile(rf"(?<![\w.,])({_NUMBER})(?:\s|(?!A\b))({names})(?![\w²³/$])")


def units_written_out(text: str, language: str) -> str:
    """Units, ranges of them, minus signs and money, in a language of the table; other languages stay unchanged."""
    words = _LANGUAGES.get(language)
    if words is None or not any(char.isdigit() for char in text):
        return text
    ranged, counted = _patterns(language)
    text = _MONEY.sub(r"\2\3 \1", text.translate(_GLYPHS))
    text = ranged.sub(rf"\1 {words.to} ", text)
    form = _polish_form if language == "pl" else _form
    text = counted.sub(lambda found: f"{found[1]} {form(words, found)}", text)
    return _MINUS.sub(f"{words.minus} ", text)


def _form(words: _Words, found: re.Match[str]) -> str:
    number, forms = found[1], words.units[found[2]].split("|")
    if len(forms) == 1 or number == "1":
        return forms[0]
    return forms[0] if words.below_two and re.match(r"[01](?:,|$)", number) else forms[1]


def _polish_form(words: _Words, found: re.Match[str]) -> str:
    """The form after the number, in the case of the preposition before it."""
    number, forms = found[1], words.units[found[2]].split("|")
    before = found.string[max(0, found.start() - 12) : found.start()]
    if len(forms) == 1:
        return forms[0]
    if "," in number:
        return forms[3]
    if _GENITIVE.search(before):
        return forms[3] if number == "1" else forms[2]
    if number == "1":
        name, _, rest = forms[0].partition(" ")
        accusative = name.endswith("a") and _ACCUSATIVE.search(before)
        return " ".join(filter(None, (name[:-1] + "ę" if accusative else name, rest)))
    few = number[-1] in "234" and number[-2:] not in ("12", "13", "14")
    return forms[1] if few else forms[2]
