"""Clock times, dates, ordinals, Roman numerals and abbreviations in languages other than English, as far as espeak-ng
misreads them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import TypeAlias

from chatapi.text.normalization.english.numbers import Compiled, Rule, applied, compiled

Found: TypeAlias = "re.Match[str]"


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_MONTHS = {
    "de": "Januar Februar März April Mai Juni Juli August September Oktober November Dezember",
    "fr": "janvier février mars avril mai juin juillet août septembre octobre novembre décembre",
    "es": "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre",
    "it": "gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre dicembre",
    "nl": "januari februari maart april mei juni juli augustus september oktober november december",
    "pl": "stycznia lutego marca kwietnia maja czerwca lipca sierpnia września października listopada grudnia",
    "pt": "janeiro fevereiro março abril maio junho julho agosto setembro outubro novembro dezembro",
}
_GERMAN = _words(
    "erst zweit dritt viert fünft sechst siebt acht neunt zehnt elft zwölft dreizehnt vierzehnt fünfzehnt sechzehnt "
    "siebzehnt achtzehnt neunzehnt zwanzigst einundzwanzigst zweiundzwanzigst dreiundzwanzigst vierundzwanzigst "
    "fünfundzwanzigst sechsundzwanzigst siebenundzwanzigst achtundzwanzigst neunundzwanzigst dreißigst einunddreißigst"
)
"""Ordinals from 1, without their ending."""
_FRENCH = _words(
    "premier deuxième troisième quatrième cinquième sixième septième huitième neuvième dixième onzième douzième "
    "treizième quatorzième quinzième seizième dix-septième dix-huitième dix-neuvième vingtième vingt-et-unième"
)
_POLISH = _words(
    "pierwsz drug trzec czwart piąt szóst siódm ósm dziewiąt dziesiąt jedenast dwunast trzynast czternast piętnast "
    "szesnast siedemnast osiemnast dziewiętnast dwudziest"
)
_POLISH_I = ("drug", "trzec")
"""Those whose endings begin with an i."""
_SPANISH = _words("primero segundo tercero cuarto quinto sexto séptimo octavo noveno décimo")
_PORTUGUESE = _words("primeiro segundo terceiro quarto quinto sexto sétimo oitavo nono décimo")
_DUTCH = _words("eerste tweede derde vierde vijfde zesde zevende achtste negende tiende")

_ABBREVIATIONS = {
    "de": {"z. B.": "zum Beispiel", "z.B.": "zum Beispiel", "d. h.": "das heißt", "d.h.": "das heißt",
           "u. a.": "unter anderem", "u.a.": "unter anderem", "bzw.": "beziehungsweise", "ca.": "circa",
           "Dr.": "Doktor", "Prof.": "Professor", "evtl.": "eventuell", "ggf.": "gegebenenfalls",
           "inkl.": "inklusive", "usw.": "und so weiter", "Std.": "Stunden", "Min.": "Minuten", "Sek.": "Sekunden"},
    "fr": {"M.": "monsieur", "Mlle": "mademoiselle", "n°": "numéro", "N°": "numéro", "p. ex.": "par exemple",
           "c.-à-d.": "c'est-à-dire", "env.": "environ"},
    "es": {"n.º": "número", "N.º": "número", "EE. UU.": "Estados Unidos", "EE.UU.": "Estados Unidos",
           "p. ej.": "por ejemplo"},
    "nl": {"bijv.": "bijvoorbeeld", "o.a.": "onder andere", "enz.": "enzovoort", "nr.": "nummer"},
    "pl": {"o godz.": "o godzinie", "nr": "numer", "ul.": "ulica"},
}  # fmt: skip
_ENDS_SENTENCE = ("usw.", "enz.", "Std.", "Min.", "Sek.")
"""Abbreviations whose dot may also be that of the sentence."""

_ROMAN = r"(?=[IVX]{1,7}\b)X{0,3}(?:IX|IV|V?I{0,3})"
_SEVERAL = rf"(?=[IVX]{{2}}){_ROMAN}"
"""At least two letters: one alone may be an initial."""
_RULED = r"(?!X\b)(?=[IVX]{1,7}\b)X{0,3}(?:IX|IV|V?I{0,3})"
"""After a name; X alone is none, as in Rayos X."""
_NUMBERED = "Kapitel|Teil|Band|Akt|Abschnitt|Artikel|Phase|Stufe|Typ|Anhang|Deel|Hoofdstuk|Akte|Fase|Bijlage"
"""What is numbered in German and Dutch, instead of ruling."""
_GERMAN_RULERS = (
    "Albrecht|Alexander|Benedikt|Christian|Elisabeth|Ernst|Ferdinand|Franz|Friedrich|Georg|Gregor|Gustav|Heinrich|"
    "Innozenz|Ivan|Johann|Johannes|Joseph|Karl|Katharina|Konrad|Leo|Leopold|Ludwig|Maximilian|Napoleon|Nikolaus|Otto|"
    "Paul|Peter|Philipp|Pius|Richard|Rudolf|Wilhelm"
)
"""In German every noun is capitalized, and a dot may end the sentence: only these names, and no case V or X."""
_NAME = r"\b([A-ZÁÉÍÓÚ][a-záâãçéèêëíîïñóôõöúûüł]{2,15})"
_VALUES = {"I": 1, "V": 5, "X": 10}
_CLOCK = r"([01]?\d|2[0-4])"
_DATE = r"(?<![\w./-])(0?[1-9]|[12]\d|3[01])([./-])(0?[1-9]|1[0-2])\2((?:19|20)\d\d)(?![\w/-]|\.\d)"
_ENDING_N = "am|vom|zum|im|beim|dem|den|ab|seit|bis|nach|vor|und"
_NEUTER, _FEMININE = "Jahrhundert|Mal", "Klasse|Etage|Woche|Liga|Runde"
_MASCULINE = "Platz|Stock|Tag|Geburtstag|" + _MONTHS["de"].replace(" ", "|")


def phrases_written_out(text: str, language: str) -> str:
    """The text with what the voice of the language misreads in words; other languages stay unchanged."""
    return applied(_rules(language), text)


@cache
def _rules(language: str) -> Compiled:
    return compiled(_abbreviated(language), _BY_LANGUAGE.get(language, ()))


def _abbreviated(language: str) -> Sequence[Rule]:
    return [
        (rf"(?<![\w.]){re.escape(short)}(?!\w)" + ("(?= ?[A-ZÉ])" if short == "M." else ""), _expansion(short, full))
        for short, full in _ABBREVIATIONS.get(language, {}).items()
    ]


def _expansion(short: str, full: str) -> Callable[[Found], str]:
    def place(found: Found) -> str:
        return full + ("." if short in _ENDS_SENTENCE and not found.string[found.end() :].strip() else "")

    return place


def _value(numeral: str) -> int:
    values = [_VALUES[letter] for letter in numeral]
    return sum(-value if value < max(values[place:]) else value for place, value in enumerate(values))


def _named(ordinals: Sequence[str], article: str = "", feminine: bool = False) -> Callable[[Found], str]:
    """A monarch: Felipe VI, sexto; from where the ordinals end, a number: Luis XIV, 14."""

    def place(found: Found) -> str:
        number = _value(found[2])
        if number > len(ordinals):
            return f"{found[1]} {number}"
        word = ordinals[number - 1]
        woman = feminine and (found[1].endswith("a") or found[1] == "Isabel")
        return f"{found[1]} {article}{word[:-1] + 'a' if woman else word}"

    return place


def _date(language: str, between: str = " ", first: str = "1") -> Rule:
    """12/05/2026, the day first; `first`: the first day of a month."""
    months = _MONTHS[language].split()

    def place(found: Found) -> str:
        day = int(found[1])
        return f"{first if day == 1 else day}{between}{months[int(found[3]) - 1]}{between}{found[4]}"

    return _DATE, place


def _german_ordinal(found: Found) -> str:
    before, number, noun = f"{found[1]} " if found[1] else "", int(found[2]), found[3]
    if not 1 <= number <= len(_GERMAN):
        return found[0]
    word = before.strip().lower()
    ending = "en" if word in _ENDING_N.split("|") else "e" if word else _german_ending(noun)
    return f"{before}{_GERMAN[number - 1]}{ending} {noun}"


def _german_ending(noun: str) -> str:
    if re.fullmatch(_FEMININE, noun):
        return "e"
    return "es" if re.fullmatch(_NEUTER, noun) else "er"


def _german_date(found: Found) -> str:
    return f"{int(found[1])}. {_MONTHS['de'].split()[int(found[3]) - 1]} {found[4]}"


def _numbered(found: Found) -> str:
    return f"{found[1]} {_value(found[2])}"


def _german_monarch(found: Found) -> str:
    number = _value(found[2])
    article = "die" if found[1] in ("Elisabeth", "Katharina") else "der"
    ends = "." if not found.string[found.end() :].strip() else ""
    return f"{found[1]} {article} {_GERMAN[number - 1].capitalize()}e{ends}" if number <= len(_GERMAN) else found[0]


def _oclock(found: Found) -> str:
    """14:30 Uhr: 14 Uhr 30; espeak-ng says Uhr twice."""
    return f"{int(found[1])} Uhr" + (f" {int(found[2])}" if int(found[2]) else "")


def _hours(one: str, many: str, link: str = " ") -> Callable[[Found], str]:
    def place(found: Found) -> str:
        hour, minute = int(found[1]), int(found[2])
        return f"{hour} {one if hour == 1 else many}" + (f"{link}{minute}" if minute else "")

    return place


def _french_ordinal(found: Found) -> str:
    number = _value(found[1]) if found[1].isalpha() else int(found[1])
    return _FRENCH[number - 1] if 2 <= number <= len(_FRENCH) else found[0]


def _polish_ordinal(number: int, ending: str) -> str:
    """`ending` of the last word: y or ego; the tens take the same one."""
    if number > 20 and number % 10:
        return f"{_polish_ordinal(number - number % 10, ending)} {_polish_ordinal(number % 10, ending)}"
    stem = "trzydziest" if number == 30 else _POLISH[number - 1]
    if stem in _POLISH_I:
        ending = ending.replace("y", "i").replace("ego", "iego")
    return stem + ending


def _polish_day(found: Found) -> str:
    return f"{_polish_ordinal(int(found[1]), 'ego')} {found[2]}"


def _polish_date(found: Found) -> str:
    month = _MONTHS["pl"].split()[int(found[3]) - 1]
    return f"{_polish_ordinal(int(found[1]), 'ego')} {month} {found[4]}"


def _polish_century(found: Found) -> str:
    number = _value(found[1])
    ending = {"wiek": "y", "wieku": "ego"}[found[2]]
    return f"{_polish_ordinal(number, ending)} {found[2]}" if number <= 31 else found[0]


def _polish_monarch(found: Found) -> str:
    return f"{found[1]} {_polish_ordinal(_value(found[2]), 'y')}"


_POLISH_MONTHS = _MONTHS["pl"].replace(" ", "|")
_BY_LANGUAGE: dict[str, Sequence[Rule]] = {
    "de": (
        (rf"\b{_CLOCK}[:.]([0-5]\d) ?Uhr\b", _oclock),
        (r"(?<![\w.,:-])(\d{1,2}) ?[-–] ?(?=\d{1,2} Uhr)", r"\1 bis "),
        (_DATE, _german_date),
        (rf"(?<![\w.,])(?:((?i:{_ENDING_N}|der|die|das)) )?(\d{{1,2}})\. ({_MASCULINE}|{_NEUTER}|{_FEMININE})\b",
         _german_ordinal),
        (rf"\b({_GERMAN_RULERS}) ({_ROMAN})\.(?!\w)", _german_monarch),
        (rf"\b({_NUMBERED}) ({_ROMAN})\b", _numbered),
    ),
    "fr": (
        (rf"(?<![\w.,]){_CLOCK}h([0-5]\d)\b", _hours("heure", "heures")),
        _date("fr", first="1er"),
        (r"\b(?=[IVX]{1,7}e\b)(X{0,3}(?:IX|IV|V?I{0,3}))e(?= siècle)", _french_ordinal),
        (r"(?<![\w.,])(\d{1,2})(?:e|è|ème|ième)(?!\w)", _french_ordinal),
        (r"(?<![\w.,])1(?:re|ère)\b|(?<= )Ire\b", "première"),
        (rf"{_NAME} Ier\b", r"\1 premier"),
        (rf"{_NAME} ({_SEVERAL})\b(?![-.]\w)", _numbered),
    ),
    "es": (
        _date("es", " de "),
        (rf"{_NAME} ({_RULED})\b(?![-.]\w)", _named(_SPANISH, feminine=True)),
        (r"(?<![\w.,])([1-9]|10)\.º", lambda found: _SPANISH[int(found[1]) - 1]),
    ),
    "pt": (
        (rf"(?<![\w.,]){_CLOCK}h([0-5]\d)\b", _hours("hora", "horas", " e ")),
        _date("pt", " de "),
        (rf"{_NAME} ({_RULED})\b(?![-.]\w)", _named(_PORTUGUESE, feminine=True)),
    ),
    "it": (
        _date("it", first="primo"),
        (rf"(?<![\w.,])1°(?= (?:{_MONTHS['it'].replace(' ', '|')})\b)", "primo"),
    ),
    "nl": (
        _date("nl"),
        (rf"\b({_NUMBERED}) ({_ROMAN})\b", _numbered),
        (rf"{_NAME} ({_SEVERAL})\b(?![-.]\w)", _named(_DUTCH, "de ")),
    ),
    "pl": (
        (_DATE, _polish_date),
        (rf"(?<![\w.,:-])(0?[1-9]|[12]\d|3[01]) ({_POLISH_MONTHS})\b", _polish_day),
        (rf"\b({_ROMAN}) (wieku?)\b", _polish_century),
        (rf"{_NAME} ({_SEVERAL})\b(?![-.]\w)", _polish_monarch),
    ),
}  # fmt: skip
