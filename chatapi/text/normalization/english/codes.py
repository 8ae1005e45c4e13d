"""Digits that are no quantity, in English: telephone numbers, codes, addresses, versions, rooms and flights."""

from __future__ import annotations

import re

from chatapi.text.normalization.english.numbers import Rule, applied, below_hundred, compiled, paired, spelled, year

EMERGENCY = "911|999|112|988|000|110|111|113|115|116|117|118|119|211|311|411|511|611|711|811"
"""Emergency and service numbers; others of three digits are quantities."""
_CALLED = re.compile(
    r"\b(?:call|calls|calling|called|dial|dials|dialing|dialed|emergency|hotline|text|ring|phone)\b", re.IGNORECASE
)
_OPERATED = re.compile(r"(?<![\w.,$-])911(?= (?:calls?|callers?|operators?|dispatch\w{0,6}|tapes?|recordings?)\b)")
_NO_COUNT = r"(?! (?:people|times|customers|points|miles|km|dollars|percent|degrees))"

_PRIVATE = (
    "PIN|pin|Pin|[Pp]asscode|[Pp]assword|OTP|[Zz][Ii][Pp](?: code)?|[Pp]ostcode|[Pp]ostal code|[Aa]rea code|"
    "(?<!rror )(?<!tatus )(?<!xit )[Cc]ode"
)
"""What is read digit by digit from three digits on; error codes are not."""
_REFERRED = (
    "[Oo]rder|[Aa]ccount|[Tt]racking|[Cc]onfirmation|[Rr]eference|[Cc]ase|[Tt]icket|[Ss]erial|[Mm]ember(?:ship)?|"
    "[Ii]nvoice|[Bb]ooking|[Pp]olicy|[Rr]outing|[Ff]lyer|[Ll]icense|[Pp]assport|[Cc]ustomer|[Pp]hone|[Cc]ard|[Bb]adge|"
    "[Cc]ell|[Ff]ax|[Mm]eter|[Pp]art|[Mm]odel"
)
_REFERENCE = rf"(?:{_REFERRED}) (?:number|no\.?|ID|id|code)|ID|ending in|SSN"
"""The same from four digits on."""
_SAID_TO_BE = r"(?:(?:,? (?:is|was|of|to|for [a-z]{1,20} is|number|no\.?|now)|:| =| #|#){1,3}) ?"
_LINK = rf"{_SAID_TO_BE}| "
_NO_PLURAL = r"(?! (?!is\b|was\b|has\b|does\b|expires|works|ends|opens|unlocks|ships)[a-z]{2,20}s\b)"
_PRIVATE_DIGITS = r"\d{3,10}(?:[ -]\d{2,6}){0,3}|\d\d(?:-\d\d){1,3}"
_REFERENCE_DIGITS = r"\d{4,20}(?:[ -]\d{3,6}){0,3}|\d{3}(?:-\d{3,8}){1,3}"
_NO_NUMBER_AFTER = r"(?![\w%]|[.,:/-]\d)"
_NAMED = (
    "[Ff]light|Boeing|Airbus|Porsche|[Rr]oom|[Ss]uite|[Aa]partment|Apt\\.?|[Hh]ighway|Hwy|Interstate|Route|[Bb]us|Unit|"
    "Area|Studio|[Ee]rror(?: code)?|HTTP|[Ss]tatus|[Cc]hannel|[Ll]ocker"
)
_SOFTWARE = (
    "Python|Ubuntu|iOS|iPadOS|Android|macOS|Debian|Fedora|Node(?:\\.js)?|Go|Java|PHP|Ruby|Linux|[Kk]ernel|[Vv]ersion"
)
_STREET = "Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Drive|Dr|Lane|Ln|Way|Court|Ct|Place|Pl|Square|Terrace|Highway"

_STATES = (
    "A[KLRZ]|C[AOT]|D[CE]|FL|GA|HI|I[ADLN]|K[SY]|LA|M[ADEINOST]|N[CDEHJMVY]|O[HKR]|PA|PR|RI|S[CD]|T[NX]|UT|V[AT]|"
    "W[AIVY]"
)
"""States of the USA as the mail abbreviates them: a ZIP code follows."""


def _phone(found: re.Match[str]) -> str:
    """Digit by digit with a pause between groups."""
    groups = re.findall(r"\d{1,20}", found[0])
    round_range = len(groups) == 2 and groups[1][0] != "0" and int(groups[1]) % 50 == 0
    if round_range or sum(map(len, groups)) < 7:
        return found[0]
    return ("plus " if found[0].startswith("+") else "") + spelled(found[0])


def _vanity(found: re.Match[str]) -> str:
    """1-800-FLOWERS; a word in capitals might be spelled."""
    return f"{spelled(found[1])}, " + " ".join(word.capitalize() for word in found[2].split("-"))


def _host(found: re.Match[str]) -> str:
    host, port, prefix = found.groups()
    after = f" port {port}" if port else f" slash {prefix}" if prefix else ""
    return host.replace(".", " dot ") + after


def _groups(found: re.Match[str]) -> str:
    """A version; one that begins with a year is read so."""
    first, *rest = found[0].split(".")
    if len(first) == 4 and first.startswith("20"):
        first = year(int(first))
    return " point ".join([first, *rest])


def _minor(found: re.Match[str]) -> str:
    """Python 3.11: three point eleven, not three point one one."""
    return f"{found[1]} {found[2]} point " + (" ".join(found[3]) if found[3][0] == "0" else found[3])


def _second_minor(found: re.Match[str]) -> str:
    """Python 3.10 to 3.14."""
    return f"{found[1]}{found[2]} point " + (" ".join(found[3]) if found[3][0] == "0" else found[3])


def _code(found: re.Match[str]) -> str:
    return found[1] + found[2] + spelled(found[3])


def _extension(found: re.Match[str]) -> str:
    return f"extension {spelled(found[2]) if len(found[2]) > 2 else found[2]}"


def _emergency(text: str) -> str:
    """Emergency numbers, where the text is about calling."""
    text = _OPERATED.sub("9 1 1", text)
    return _SERVICE.sub(lambda found: spelled(found[1]), text) if _CALLED.search(text) else text


def _paired_name(found: re.Match[str]) -> str:
    """Flight 370, A320: three seventy, three twenty."""
    return f"{found[1]} {paired(int(found[2]))}"


_SERVICE = re.compile(rf"(?<![\w.,$€£:/-])({EMERGENCY}|\d{{7}})(?![\w%°:/-]|[.,]\d){_NO_COUNT}")
_TELEPHONE: tuple[Rule, ...] = (
    (r"(?<![\w.+-])\+\d{1,3}(?:[ .-]?\(?\d{2,4}\)?){2,5}(?![\w-])", _phone),
    (r"(?<![\w.-])(?:1[ .-]?)?(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4}(?![\w-])", _phone),
    (r"(?<![\w.-])((?:1[-. ])?8\d\d)-([A-Z][A-Z0-9]{1,9}(?:-[A-Z0-9]{2,9}){0,2})\b", _vanity),
    (r"(?<!\w)\(0\d{1,5}\) ?\d{2,8}(?:[ -]\d{2,8}){0,3}(?![\w-])", _phone),
    (r"(?<![\w.-])(?:\d{3}-\d{4}|\d{3}-\d\d-\d{4}|0\d{2,4}(?:[ -]\d{3,8}){1,3})(?![\w-])", _phone),
    (r"(?<![\w.,-])(?:\d{4}[ -]){3}\d{4}(?![\w-])", _phone),
    (r"(?<![\w.,$€£-])(?:0\d{6,19}|\d{10,20})(?![.,]\d|\w)", _phone),
    (r"\b([Ee]xt|extn|[Ee]xtension)\.? ?(\d{1,6})(?![\w.,]\d)", _extension),
)
_CODES: tuple[Rule, ...] = (
    (
        rf"(?<=, )()({_STATES}) (\d{{5}}(?:-\d{{4}})?){_NO_NUMBER_AFTER}{_NO_COUNT}",
        lambda found: f"{found[2]} {spelled(found[3])}",
    ),
    (rf"\b({_PRIVATE})({_LINK})({_PRIVATE_DIGITS}){_NO_NUMBER_AFTER}{_NO_PLURAL}", _code),
    (rf"\b({_REFERENCE})({_LINK})({_REFERENCE_DIGITS}){_NO_NUMBER_AFTER}", _code),
    (rf"\b({_REFERRED}|[Nn]umber)({_SAID_TO_BE})({_REFERENCE_DIGITS}){_NO_NUMBER_AFTER}", _code),
    (rf"\b({_REFERRED})( )(\d{{5,20}}){_NO_NUMBER_AFTER}{_NO_PLURAL}", _code),
    (r"\b([Tt]ext|SMS)( [\"“']?[A-Za-z]{1,20}[\"”']? to )(\d{4,6})\b", _code),
    (r"\b([A-Z]{2,6})-(\d{5,12})\b", lambda found: f"{found[1]} {spelled(found[2])}"),
    # A tracking or serial number, character by character.
    (
        r"(?<![\w.-])(?=[A-Z0-9]{0,20}\d{5})(?=[A-Z0-9]{0,20}[A-Z])[A-Z0-9]{8,40}(?![\w-])",
        lambda found: " ".join(below_hundred(int(each)) if each.isdigit() else each for each in found[0]),
    ),
    (r"(?<![\w.])((?:\d{1,3}\.){3}\d{1,3})(?::(\d{1,5})|/(\d{1,2}))?(?!\.?\w)", _host),
    (r"(?<=\blocalhost):(?=\d)", " port "),
)
_NAMES: tuple[Rule, ...] = (
    (r"(?<![\w.])[vV](?=\d{1,4}\.\d)", "version "),
    (rf"\b({_SOFTWARE}) (\d{{1,4}})\.(\d\d)(?![\w.]\d|\w)", _minor),
    (r"(?<=point \d\d)( (?:to|and|or) )(\d{1,2})\.(\d\d)(?![\w.]\d|\w)", _second_minor),
    (r"(?<![\w.])\d{1,5}(?:\.\d{1,5}){2,5}(?!\.?\w)", _groups),
    (rf"\b({_NAMED}) (\d{{3,4}})(?![\w%°]|[.,:/-]\d)", _paired_name),
    (r"\b(7[0-8]7) (MAX|Max|Dreamliner)\b", lambda found: f"{paired(int(found[1]))} {found[2].capitalize()}"),
    (r"\b([Ff]light [A-Z]{2}) ?(\d{3,4})\b", _paired_name),
    (r"\bI-(\d{1,3})\b", lambda found: f"I {paired(int(found[1])) if len(found[1]) > 2 else found[1]}"),
    (r"\b(A)(3[1-9]\d)(?![\w.,]\d|\w)", _paired_name),
    (r"(?<![\w.,])(\d{3,4})([pi])(?!\w)", lambda found: f"{paired(int(found[1]))} {found[2]}"),
    (
        rf"(?<![\w.,$-])(\d{{3,4}})(?= (?:[NSEW]\.? )?(?:[A-Z][a-z]{{1,20}} ){{1,2}}(?:{_STREET})\b)",
        lambda found: paired(int(found[1])),
    ),
)
_SPELLED_RULES, _NAME_RULES = compiled(_TELEPHONE, _CODES), compiled(_NAMES)


def codes_spelled(text: str) -> str:
    """The text with telephone numbers, codes and hosts digit by digit. Before dates, which look similar."""
    return _emergency(applied(_SPELLED_RULES, text))


def names_paired(text: str) -> str:
    """The text with versions, and numbers of flights, rooms and roads in words. After dates."""
    return applied(_NAME_RULES, text)
