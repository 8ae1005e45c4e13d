"""Normalization of English text: numbers, units, dates, abbreviations and symbols become words."""

from __future__ import annotations

import re

from chatapi.text.normalization.english.codes import codes_spelled, names_paired
from chatapi.text.normalization.english.dates import dates_written_out, years_written_out
from chatapi.text.normalization.english.decades import decades_written_out
from chatapi.text.normalization.english.durations import durations_written_out
from chatapi.text.normalization.english.money import money_written_out
from chatapi.text.normalization.english.quantities import quantities_written_out, without_glyphs
from chatapi.text.normalization.english.times import halves_of_day_written_out, times_written_out
from chatapi.text.normalization.english.words import halves_of_day_undotted, words_written_out

_COUNTED = re.compile(r"\d|[NSEW][NSEW][EW]?|[€£¥₹%°]|[a-z][-–][A-Z]")


def written_out(text: str, *, day_first: bool = False) -> str:
    """The normalized text; one line in, one line out. `day_first`: 03/04/25 is April 3rd. Plain cardinal numbers are
    left to the voice.
    """
    text = without_glyphs(halves_of_day_undotted(text))
    if _COUNTED.search(text):
        text = dates_written_out(codes_spelled(text), day_first)
        text = durations_written_out(halves_of_day_written_out(names_paired(text)))
        text = money_written_out(times_written_out(text))
        text = years_written_out(quantities_written_out(decades_written_out(text)))
    return words_written_out(text)
