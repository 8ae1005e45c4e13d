"""Text normalization for TTS: markup and symbols become words or are removed."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

from chatapi.text.normalization.english import written_out
from chatapi.text.normalization.languages import units_written_out
from chatapi.text.normalization.phrases import phrases_written_out
from chatapi.text.sentence_splitter import CLOSERS, OPENERS, STOPS, UNSPACED_STOPS, WRAP

# Every pattern here and in english.py is bounded ({1,300} instead of +, or a start that cannot repeat), so that the
# time stays linear in the text, whatever a model generates.

_CODE = {"en": "code", "de": "Code", "fr": "code", "es": "código", "it": "codice"}
_DOT = {"en": "dot", "de": "Punkt", "fr": "point", "es": "punto", "it": "punto"}
_AT = {"en": "at", "de": "ät", "fr": "arobase", "es": "arroba", "it": "chiocciola"}
_SLASH = {"en": "slash", "de": "Schrägstrich", "fr": "slash", "es": "barra", "it": "barra"}
"""Words for omitted and silent parts, by language."""
_PORT = {"en": "port", "de": "Port", "fr": "port", "es": "puerto", "it": "porta"}
_PATH_WORDS = {"en": ("colon", "backslash"), "de": ("Doppelpunkt", "Backslash"), "fr": ("deux-points", "antislash"),
               "es": ("dos puntos", "barra invertida"), "it": ("due punti", "barra inversa")}  # fmt: skip
"""Words for the marks of a Windows path."""

_COMMANDS = {"times": "×", "cdot": "×", "div": "÷", "pm": "±", "le": "≤", "leq": "≤", "ge": "≥", "geq": "≥", "ne": "≠",
             "neq": "≠", "approx": "≈", "to": "→", "rightarrow": "→", "infty": "∞", "circ": "°", "degree": "°",
             "sqrt": "√", "text": "", "mathrm": "", "mathbf": "", "left": "", "right": "", "quad": " "}  # fmt: skip
"""LaTeX commands; a command that is not listed is read as its name, such as \\pi."""

_INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u2060\ufeff]")
_TAG_NAMES = (
    "a|abbr|b|big|blockquote|br|center|code|dd|del|details|div|dl|dt|em|font|h[1-6]|hr|i|img|ins|kbd|li|mark|ol|p|pre|q|s"
    "|samp|small|span|strong|sub|summary|sup|table|tbody|td|th|thead|tr|u|ul|var"
)
_ATTRIBUTES = r"(?:\s[^<>=]{1,40}=[^<>]{0,300})?\s?/?"
_BLOCK_TAG = re.compile(rf"</?(?:br|p|li|tr|div|h[1-6]|hr|ul|ol|table){_ATTRIBUTES}>", re.IGNORECASE)
_TAG = re.compile(rf"</?(?:{_TAG_NAMES}){_ATTRIBUTES}>|<!--[^<>]{{0,300}}-->", re.IGNORECASE)
_XML = re.compile(
    r"</(?P<closed>[A-Za-z][\w:.-]{0,40})\s?>|<[A-Za-z][\w:.-]{0,40}(?:\s{1,3}[\w:-]{1,30}=(?:\"[^\"<>]{0,300}\"|'[^'<>]{0,300}'"
    r"|[^\s\"'<>]{1,100})){1,10}\s?/?>|<[A-Za-z][\w:.-]{0,40}\s?/>|<[?!][A-Za-z][^<>]{0,200}>"
)
"""Tags of other languages; a name alone in angle brackets is a word, such as <folder>, unless it is closed."""
_WORD_TAG = re.compile(r"<([A-Za-z][\w.-]{0,40})>")
_HEART = re.compile(
    r"(?<!\S)(?<!\bis )(?<!\bbe )(?<!\bare )(?<!\bwas )(?<!\bof )(?<!\bif )(?<!\bat )(?<!\bpH )(?<!\b\w )(?<![=:] )"
    r"</?3{1,9}(?=\s{0,9}(?:[.,!?;:)\"']|<3|[\U0001f000-\U0001faff\u2600-\u27bf]|$))"
)
_LOVE = re.compile(r"(?<=\bI )<3(?= )|(?<=\b[Ww]e )<3(?= )|(?<=\b[Yy]ou )<3(?= )")
"""The heart <3, which is no comparison."""
_ENTITY = re.compile(r"&#?\w{1,8};")
_LINK = re.compile(r"!?\[([^\[\]]{0,300})\]\([^()\s]{0,500}(?:\s\"[^\"]{0,200}\")?\)")
_LINK_END = re.compile(r"\]\([^()\s]{0,500}\)")
_FOOTNOTE = re.compile(r"\[\^\w{1,20}\]:?|\[\d{1,3}\]")
_HIGHLIGHT = re.compile(r"==(?=\S)([^=\n]{1,200})(?<=\S)==")
_SUBSCRIPT = re.compile(r"(?<=\w)~(\w{1,10})~")
_MATHS = re.compile(r"\\[()\[\]]|\$\$")
_INLINE_MATHS = re.compile(r"\$([^$\d\s][^$]{0,80})\$")
_FRACTION = re.compile(r"\\[dt]?frac\{([^{}]{1,60})\}\{([^{}]{1,60})\}")
_COMMAND = re.compile(r"\\([A-Za-z]{1,20})")
_ESCAPE = re.compile(r"\\([!-/:-@\[-`{-~])")
_PRODUCT = re.compile(r"(?<=[\w)]) \* (?=[\w(])|(?<=\d)\*(?=\d)")
_UNDERSCORES = re.compile(r"(?<![^\W_])_{1,3}|_{1,3}(?![^\W_])")
_EMAIL = re.compile(r"(?<![\w.+-])([\w.+-]{1,64})@([\w-]{1,63}(?:\.[\w-]{1,63}){1,4})")
_URL = re.compile(r"<?(?:https?://|(?<!\w)www\.)([^\s<>\"'()\[\]{}*`]{1,500})>?")
_DOMAIN = re.compile(
    r"(?<![\w.@/-])((?:[\w-]{1,63}\.){1,4}(?:com|org|net|io|dev|ai|edu|gov|de|fr|uk|eu|co|app)\b(?!\.\w)(?:/[\w./-]{0,99})?)"
)
_PATH = re.compile(r"(?<!\w)([A-Z]):\\((?:[\w.~-]{1,60}\\){0,12}[\w.~-]{0,60})")
_EMOTICON = re.compile(r"(?<!\S)[:;]-?[)(DPp](?!\S)")
_PICTURES = "\U0001f000-\U0001faff\u2600-\u27bf\u2b00-\u2bff\u231a\u231b\u23e9-\u23fa\U000e0020-\U000e007f\u20e3\ufe0f"
_EMOJI = re.compile(f"[{_PICTURES}](?:[{_PICTURES}\u200d])*")
_DROPPED = re.compile(r"[©®™\u25a0-\u25ff]")
_ARROW = re.compile(r"\s?(?:[\u2190-\u21ff⇒]|->|=>)\s?|\s[•·|]\s")

_RULE = re.compile(r"[-*_=\s]{3,}|[|:\-\s]{3,}")
_MARK = re.compile(r"(?:>\s?){0,5}(?:#{1,6}\s|(?:[-*+•‣▪–]\s(?:\[[ xX]\]\s)?)?(?:(\d{1,2})[.)]\s)?)")

_DOTS = re.compile(r"\s?(?:\.{2,}|…)[.…]*")
_PLURAL = re.compile(r"(?<=\w)\((s|es|n|en)\)")
_CALL = re.compile(r"(?<=\w)\(([^()]{0,80})\)")
_OPENED = re.compile(r"(?<=[\w%\"”’.]) \(")
_CLOSED = re.compile(r"(?<=\w)\)(?= \w)")
_DASH = re.compile(r"(?<=\S) ?(?:—|--) ?(?=\w)|(?<=\w) - (?=\w)")
_LAST_DASH = re.compile(r" ?[—–-]{1,3}$")
_SPACED = re.compile(r" (?=[,.;:!?](?!\w))")
_DOUBLED = re.compile(r"[,;:](?=\s?[,;:.!?](?!\w))|(?<=[.!?])\s?[,;](?!\w)")
_LEADING = re.compile(r"^[,;:.!?)\s]+(?!\d)")


def normalize(text: str, language: str = "en") -> str:
    """The text normalized for TTS, in one line; empty when it has no words.

    `language` is an ISO 639-1 code, with or without a region (en-GB). For English, numbers, units, money, dates and
    abbreviations are written out, numeric dates in the order of the region; for other languages units, minus signs, and
    what espeak-ng misreads: clock times, dates, ordinals, Roman numerals and abbreviations.
    """
    day_first = _day_first(language)
    language = language[:2].lower()
    text = _INVISIBLE.sub("", text.replace("\u00a0", " ").replace("\u202f", " "))
    text = _without_tags(_without_code(text, language), language)
    text = " ".join(_lines(_ENTITY.sub(_entity, text)))
    text = _without_markup(text, language)
    if language == "en":
        return _tidied(written_out(text, day_first=day_first))
    return _tidied(units_written_out(phrases_written_out(text, language), language))


def _day_first(locale: str) -> bool:
    """Whether 03/04/25 is April 3rd there: everywhere but in the United States; English alone is American."""
    region = locale[3:].upper()
    return bool(region) and region not in ("US", "PH")


def _without_tags(text: str, language: str) -> str:
    text = _TAG.sub("", _BLOCK_TAG.sub("\n", text))
    if "<" not in text:
        return text
    closed = {found["closed"] for found in _XML.finditer(text)}
    text = _WORD_TAG.sub(lambda found: "" if found[1] in closed else f" {found[1]} ", _XML.sub("", text))
    return _LOVE.sub("love" if language == "en" else "", _HEART.sub("", text))


def _entity(found: re.Match[str]) -> str:
    return html.unescape(found[0])


def _without_code(text: str, language: str) -> str:
    """Replaces fenced code by a word, unless it is only a few words in one line."""
    parts = re.split(r"`{3,}", text)
    for index in range(1, len(parts), 2):
        if "\n" in parts[index].strip():
            parts[index] = f"\n{_CODE.get(language, '')}\n"
    return " ".join(parts)


def _lines(text: str) -> Iterator[str]:
    """The text's lines without list and heading marks; an item that ends with its line gets a full stop."""
    lines = text.splitlines()
    for number, raw in enumerate(lines):
        line = raw.strip()
        if _RULE.fullmatch(line):
            continue
        mark = _MARK.match(line)
        rest = line[mark.end() :] if mark else line
        if mark and mark[1] and rest:
            rest = f"{mark[1]}: {rest}"
        row = rest.startswith("|") or " | " in rest
        if row:
            rest = ", ".join(cell for part in rest.split("|") if (cell := part.strip()))
        following = lines[number + 1].strip() if number + 1 < len(lines) else None
        whole = row or rest != line or _ends_there(line, following)
        yield _stopped(rest) if whole else rest


def _ends_there(line: str, following: str | None) -> bool:
    """Whether a plain line ends a sentence and is not just wrapped."""
    if following is None:
        return False
    return len(line) < WRAP or not following or not following[0].isalpha()


def _stopped(line: str) -> str:
    text = line.rstrip(CLOSERS + " ")
    return line if not text or text[-1] in STOPS + UNSPACED_STOPS + ",;:،؛，；：" else line + "."


def _without_markup(text: str, language: str) -> str:
    text = _LINK_END.sub("", _LINK.sub(r"\1", text))
    text = _EMAIL.sub(lambda found: _email(found, language), text)
    text = _URL.sub(lambda found: _address(found[1], language), text)
    text = _DOMAIN.sub(lambda found: _address(found[1], language), text)
    text = _PATH.sub(lambda found: _path(found, language), text)
    text = _SUBSCRIPT.sub(r"\1", _HIGHLIGHT.sub(r"\1", text))
    text = _INLINE_MATHS.sub(r"\1", _MATHS.sub(" ", _FOOTNOTE.sub("", text)))
    text = _FRACTION.sub(r"\1/\2", text)
    text = _COMMAND.sub(lambda found: _COMMANDS.get(found[1], found[1]), _ESCAPE.sub(r"\1", text))
    text = _PRODUCT.sub(" × ", text).replace("*", "").replace("~~", "").replace("`", "")
    text = _UNDERSCORES.sub("", text).replace("_", " ")
    # Piper takes text between [[ and ]] for phonemes, so brackets are removed.
    text = text.translate(str.maketrans(dict.fromkeys("[]{}\\")))
    text = _EMOJI.sub(" ", _EMOTICON.sub(" ", text))
    return _DROPPED.sub(" ", text)


def _email(found: re.Match[str], language: str) -> str:
    dot = f" {_DOT.get(language, '.')} "
    name = re.sub(r"[_+-]", " ", found[1]).replace(".", dot)
    return f"{name} {_AT.get(language, '@')} {found[2].replace('.', dot)}"


def _path(found: re.Match[str], language: str) -> str:
    """C:\\Users, in words where the language has them here."""
    colon, backslash = _PATH_WORDS.get(language, ("", ""))
    steps = [step for step in found[2].split("\\") if step]
    return f"{found[1]} {colon} " + "".join(f"{backslash} {step.replace('_', ' ')} " for step in steps).rstrip()


def _address(address: str, language: str) -> str:
    """A host and the first steps of its path, in words; queries are omitted."""
    body = address.rstrip(".,;:!?…")
    after = address[len(body) :]
    host, *path = re.split(r"[?#]", body)[0].removeprefix("www.").split("/")
    host = re.sub(r":(?=\d{1,5}$)", f" {_PORT.get(language, ':')} ", host)
    steps = [host, *(step for step in path[:2] if step and len(step) <= 30)]
    if language not in _DOT:
        return "/".join(steps) + after
    words = (re.sub(r"[_-]", " ", step).replace(".", f" {_DOT[language]} ") for step in steps)
    return f" {_SLASH[language]} ".join(words) + after


def _tidied(text: str) -> str:
    """One line with single spaces, without marks that the voice would speak or stumble over."""
    text = " ".join(_ARROW.sub(", ", text).split())
    text = _DOTS.sub(_pause, text)
    text = _CLOSED.sub(",", _OPENED.sub(", ", _CALL.sub(r" \1", _PLURAL.sub(r"\1", text))))
    text = re.sub(r"[()|]", " ", text)
    text = _LAST_DASH.sub(",", _DASH.sub(" — ", " ".join(text.split())))
    text = _LEADING.sub("", _DOUBLED.sub("", _SPACED.sub("", text)))
    return " ".join(text.split()) if any(char.isalnum() for char in text) else ""


def _pause(found: re.Match[str]) -> str:
    """Replaces an ellipsis by a comma or a full stop: the voice would continue without a pause."""
    after = found.string[found.end() : found.end() + 2].lstrip(OPENERS + CLOSERS + " ")
    if after[:1] in tuple("?!,;:"):
        return ""
    return "," + " " * (found.string[found.end() : found.end() + 1].isalnum()) if after[:1].islower() else "."
