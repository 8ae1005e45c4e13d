"""SSML in a text that arrives in parts: pauses, the rate, spelling and substitutions are supported, others are dropped.

https://www.w3.org/TR/speech-synthesis11/. Texts are no XML documents: tags may be unbalanced, unquoted or cut, `a<b` is
a comparison, and only names of SSML make a tag.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass

MOST_PAUSE, MOST_PAUSES = 10.0, 30.0
"""Longest pause, and longest pauses of a text together, in seconds."""
LEAST_RATE, MOST_RATE = 0.5, 2.0
"""Bounds of the rate, as a multiple of the usual one."""
MOST_NESTED = 32
"""Most `prosody` tags that are open at once; further ones change nothing."""
TAG_CHARS = 400
"""Longest tag, in characters."""
SPELLED_CHARS = 200
"""Longest text that is spelled out, in characters."""

NAMES = (
    "speak", "voice", "prosody", "break", "emphasis", "say-as", "phoneme", "sub", "audio", "lang", "desc", "lexicon",
    "lookup", "lexeme", "metadata", "meta", "token", "media", "par", "seq", "bookmark", "silence", "think", "thinking",
    "express-as", "google:", "amazon:", "mstts:", "?xml",
)  # fmt: skip
"""Names of tags, and beginnings of those of other vendors. `p`, `s` and `mark` are HTML's too, and dropped with it."""
STRENGTHS = {"none": 0.0, "x-weak": 0.0, "weak": 0.25, "medium": 0.5, "strong": 0.75, "x-strong": 1.0}
"""Seconds of a pause by its strength."""
RATES = {"x-slow": 0.5, "slow": 0.75, "medium": 1.0, "default": 1.0, "fast": 1.25, "x-fast": 1.5}
SPELLED = ("characters", "spell-out", "spell", "verbatim", "letters", "digits")
"""Values of `interpret-as` whose text is spelled out; the normalization of texts reads all others."""

_NAME = re.compile(r"</?(\??[A-Za-z][\w:.-]{0,30})")
_START = re.compile(r"\??[\w:.-]{0,32}")
_TAG = re.compile(rf"<(/?)(\??[A-Za-z][\w:.-]{{0,30}})((?:\s[^<>]{{0,{TAG_CHARS}}})?)\s?[/?]?>")
_ATTRIBUTE = re.compile(r"([\w:-]{1,30})\s{0,3}=\s{0,3}(?:\"([^\"]{0,300})\"|'([^']{0,300})'|([^\s\"'/>]{1,100}))")
_TIME = re.compile(r"\+?(\d{0,6}(?:\.\d{0,6})?)\s?(ms|s)", re.IGNORECASE)
_RATE = re.compile(r"([+-]?)(\d{1,4}(?:\.\d{0,4})?)(%?)")


@dataclass(frozen=True)
class Pause:
    """A pause."""

    seconds: float


@dataclass(frozen=True)
class Rate:
    """The rate of what follows, as a multiple of the usual one."""

    rate: float


class SsmlReader:
    """Separates text from tags; one per text."""

    def __init__(self) -> None:
        self._held = ""
        """What may be a tag."""
        self._rates: list[float] = []
        self._pauses = 0.0
        self._spelled: str | None = None
        """Inside of `say-as`: the text so far; None elsewhere."""
        self._is_replaced = False
        """Inside of `sub`, whose alias was given out in place of its text."""

    def feed(self, delta: str) -> list[str | Pause | Rate]:
        """What is certain after this delta, in order."""
        held, at = self._held + delta, 0
        found: list[str | Pause | Rate] = []
        while at < len(held):
            start = held.find("<", at)
            if start != at:
                end = len(held) if start < 0 else start
                self._text(held[at:end], found)
            elif (size := _tag_size(held[at : at + TAG_CHARS + 40])) is None:
                break
            else:
                end = at + max(1, size)
                (self._tag if size else self._text)(held[at:end], found)
            at = end
        self._held = held[at:]
        return found

    def finish(self) -> list[str | Pause | Rate]:
        """The rest when the text has ended."""
        found: list[str | Pause | Rate] = []
        name = _NAME.match(self._held)
        # A tag that the end cut is none of the text.
        if not (name and _is_name(name[1]) and (self._held[1] == "/" or len(self._held) > len(name[0]))):
            self._text(self._held, found)
        self._held = ""
        self._end_spelling(found)
        return found

    def _text(self, text: str, found: list[str | Pause | Rate]) -> None:
        if self._is_replaced or not text:
            return
        if self._spelled is None:
            found.append(text)
            return
        self._spelled += text
        if len(self._spelled) > SPELLED_CHARS:
            self._end_spelling(found)

    def _tag(self, text: str, found: list[str | Pause | Rate]) -> None:
        tag = _TAG.match(text)
        assert tag is not None  # noqa: S101 - `_tag_size` has matched it
        closes, name, attributes = bool(tag[1]), tag[2].lower(), _attributes(tag[3])
        if name == "break" and not closes:
            self._pause(attributes, found)
        elif name == "prosody":
            self._prosody(attributes, closes, found)
        elif name == "say-as":
            self._end_spelling(found)
            if not closes and attributes.get("interpret-as", "").lower() in SPELLED:
                self._spelled = ""
        elif name == "sub":
            alias = attributes.get("alias", "")
            self._is_replaced = False
            self._text(alias, found)
            self._is_replaced = not closes and bool(alias) and not text.endswith("/>")
        elif not closes and name in ("speak", "desc"):
            self._text(" ", found)

    def _pause(self, attributes: dict[str, str], found: list[str | Pause | Rate]) -> None:
        time = _TIME.fullmatch(attributes.get("time", "").strip())
        if time and time[1].strip("."):
            seconds = float(time[1]) / (1000 if time[2].lower() == "ms" else 1)
        else:
            seconds = STRENGTHS.get(attributes.get("strength", "medium").lower(), STRENGTHS["medium"])
        seconds = min(seconds, MOST_PAUSE, MOST_PAUSES - self._pauses)
        self._pauses += seconds
        self._text(" ", found)
        if seconds > 0:
            found.append(Pause(seconds))

    def _prosody(self, attributes: dict[str, str], closes: bool, found: list[str | Pause | Rate]) -> None:
        before = self._rates[-1] if self._rates else 1.0
        if closes and self._rates:
            self._rates.pop()
        elif not closes and len(self._rates) < MOST_NESTED:
            self._rates.append(min(MOST_RATE, max(LEAST_RATE, before * _rate(attributes.get("rate", "")))))
        after = self._rates[-1] if self._rates else 1.0
        if after != before:
            found.append(Rate(after))

    def _end_spelling(self, found: list[str | Pause | Rate]) -> None:
        text, self._spelled = self._spelled, None
        if text:
            found.append(f" {' '.join(char for char in text if char.isalnum())} ")


def _tag_size(text: str) -> int | None:
    """The size of the tag at the start; 0: it is none; None: more has to come."""
    if tag := _TAG.match(text):
        return tag.end() if _is_name(tag[2]) else 0
    body = text[1:].removeprefix("/").lower()
    stated = _START.match(body)
    name = stated[0] if stated else ""
    if len(text) > TAG_CHARS or ">" in body or "<" in body:
        return 0
    if len(name) == len(body):
        return None if any(each.startswith(name) for each in NAMES) or _is_name(name) else 0
    return None if _is_name(name) and body[len(name)] in " \t\r\n/?" else 0


def _is_name(name: str) -> bool:
    name = name.lower()
    return name in NAMES or name.startswith(("google:", "amazon:", "mstts:"))


def _attributes(text: str) -> dict[str, str]:
    stated = _ATTRIBUTE.finditer(text)
    return {found[1].lower(): html.unescape(found[2] or found[3] or found[4] or "") for found in stated}


def _rate(stated: str) -> float:
    """The speaking rate relative to normal, 1.0, from a keyword, a number, a percentage or a signed percentage."""
    stated = stated.strip().lower()
    found = _RATE.fullmatch(stated)
    if found is None:
        return RATES.get(stated, 1.0)
    number = float(found[2]) / (100 if found[3] else 1)
    if found[1]:
        return max(0.0, 1 + (-number if found[1] == "-" else number))
    return number or 1.0
