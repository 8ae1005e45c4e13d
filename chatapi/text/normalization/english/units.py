"""Units that follow a number in English, and what may follow them."""

from __future__ import annotations

UNITS = {
    "km": "kilometer", "m": "meter", "cm": "centimeter", "mm": "millimeter", "nm": "nanometer", "µm": "micrometer",
    "mi": "mile", "yd": "yard", "yds": "yard", "ft": "foot", "m²": "square meter", "km²": "square kilometer",
    "cm²": "square centimeter", "mm²": "square millimeter", "m2": "square meter", "km2": "square kilometer",
    "sq ft": "square foot", "sq km": "square kilometer", "sq mi": "square mile", "sq m": "square meter",
    "sq in": "square inch", "sq yd": "square yard", "ft²": "square foot",
    "m³": "cubic meter", "cm³": "cubic centimeter", "m3": "cubic meter",
    "cu ft": "cubic foot", "cu in": "cubic inch", "cu m": "cubic meter", "cu yd": "cubic yard",
    "ft³": "cubic foot", "ha": "hectare", "ly": "light year",
    "kg": "kilogram", "g": "gram", "mg": "milligram", "µg": "microgram", "mcg": "microgram", "lb": "pound",
    "lbs": "pound", "oz": "ounce", "t": "ton",
    "L": "liter", "l": "liter", "mL": "milliliter", "ml": "milliliter", "cl": "centiliter", "dl": "deciliter",
    "dL": "deciliter", "gal": "gallon", "qt": "quart", "tsp": "teaspoon", "tbsp": "tablespoon",
    "fl oz": "fluid ounce", "fl. oz": "fluid ounce",
    "s": "second", "sec": "second", "secs": "second", "ms": "millisecond", "µs": "microsecond", "ns": "nanosecond",
    "min": "minute", "mins": "minute", "h": "hour", "hr": "hour", "hrs": "hour", "wk": "week", "wks": "week",
    "mo": "month", "mos": "month", "yr": "year", "yrs": "year",
    "km/h": "kilometer| per hour", "kmh": "kilometer| per hour", "kph": "kilometer| per hour",
    "mph": "mile| per hour", "kn": "knot", "kt": "knot", "kts": "knot", "rpm": "revolution| per minute",
    "fps": "frame| per second", "bpm": "beat| per minute", "mpg": "mile| per gallon",
    "psi": "pound| per square inch", "dpi": "dot| per inch", "ppi": "pixel| per inch", "ppm": "part| per million",
    "ppb": "part| per billion",
    "kB": "kilobyte", "KB": "kilobyte", "MB": "megabyte", "GB": "gigabyte", "TB": "terabyte",
    "PB": "petabyte", "KiB": "kibibyte", "MiB": "mebibyte", "GiB": "gibibyte", "TiB": "tebibyte",
    "kbit": "kilobit", "Mbit": "megabit", "Gbit": "gigabit", "Mb": "megabit", "Gb": "gigabit",
    "bps": "bit| per second", "kbps": "kilobit| per second", "Kbps": "kilobit| per second",
    "Mbps": "megabit| per second", "Gbps": "gigabit| per second",
    "Hz": "hertz", "kHz": "kilohertz", "MHz": "megahertz", "GHz": "gigahertz", "THz": "terahertz", "dB": "decibel",
    "dBm": "decibel milliwatt", "dBA": "decibel",
    "mW": "milliwatt", "W": "watt", "kW": "kilowatt", "MW": "megawatt", "GW": "gigawatt", "TW": "terawatt",
    "kWp": "kilowatt peak", "Wh": "watt hour", "kWh": "kilowatt hour", "MWh": "megawatt hour",
    "GWh": "gigawatt hour", "TWh": "terawatt hour", "VA": "volt amp", "kVA": "kilovolt amp",
    "V": "volt", "mV": "millivolt", "kV": "kilovolt", "A": "amp", "mA": "milliamp", "µA": "microamp", "Ah": "amp hour",
    "mAh": "milliamp hour", "Ω": "ohm", "kΩ": "kilohm", "MΩ": "megohm", "µF": "microfarad",
    "nF": "nanofarad", "pF": "picofarad", "mH": "millihenry", "mS": "millisiemens",
    "µS": "microsiemens", "lx": "lux", "lm": "lumen", "cd": "candela", "K": "kelvin",
    "N": "newton", "kN": "kilonewton", "Nm": "newton meter", "J": "joule", "kJ": "kilojoule", "MJ": "megajoule",
    "eV": "electronvolt", "kcal": "kilocalorie", "cal": "calorie", "Pa": "pascal", "kPa": "kilopascal",
    "hPa": "hectopascal", "MPa": "megapascal", "mbar": "millibar", "mb": "millibar", "bar": "bar", "atm": "atmosphere",
    "inHg": "inch| of mercury", "mmHg": "millimeter| of mercury", "mmol": "millimole", "mol": "mole", "px": "pixel",
    "MP": "megapixel", "Bq": "becquerel", "mSv": "millisievert", "µSv": "microsievert",
    "°C": "degree| Celsius", "°F": "degree| Fahrenheit", "℃": "degree| Celsius", "℉": "degree| Fahrenheit",
    "ºC": "degree| Celsius", "ºF": "degree| Fahrenheit", "°": "degree", "%": "percent", "‰": "per mille", "¢": "cent",
}  # fmt: skip
"""Unit -> its name; the plural's s goes to the end or to the bar."""
SPACED = frozenset({"A", "K", "N", "t"})
"""Units that count only after a space: 5 K is a temperature, 5K a race; after a decimal number also without."""
PER = {
    "s": "second", "sec": "second", "min": "minute", "h": "hour", "hr": "hour", "day": "day", "d": "day",
    "mo": "month", "month": "month", "yr": "year", "year": "year", "week": "week", "wk": "week", "night": "night",
    "person": "person", "hour": "hour", "minute": "minute", "second": "second", "kg": "kilogram", "lb": "pound",
    "oz": "ounce", "L": "liter", "l": "liter", "mL": "milliliter", "ml": "milliliter", "dL": "deciliter",
    "gal": "gallon", "m": "meter", "cm": "centimeter", "mm": "millimeter", "km": "kilometer", "ft": "foot",
    "mi": "mile", "m²": "square meter", "m³": "cubic meter", "cm²": "square centimeter", "cm³": "cubic centimeter",
    "sq ft": "square foot", "ft²": "square foot", "s²": "second squared", "kWh": "kilowatt hour", "GB": "gigabyte",
    "gallon": "gallon", "token": "token", "user": "user", "unit": "unit", "100 km": "100 kilometers", "mol": "mole",
    "°C": "degree Celsius", "K": "kelvin", "V": "volt", "W": "watt", "piece": "piece", "share": "share",
    "barrel": "barrel", "bbl": "barrel", "ton": "ton", "t": "ton", "household": "household", "seat": "seat",
}  # fmt: skip
"""What may follow a slash after a unit or money."""
