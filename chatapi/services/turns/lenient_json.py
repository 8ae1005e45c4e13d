"""JSON as language models write it: with single quotes, Python's constants, trailing commas and missing brackets."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

MOST_NESTED = 64
"""Deepest nesting that is read."""

_WORDS = {"True": "true", "False": "false", "None": "null", "true": "true", "false": "false", "null": "null"}
_PART = re.compile(
    r"""\s+|//[^\n]*|"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[{}\[\]:,]|-?\d[\d.eE+-]*|[A-Za-z_]\w*""", re.DOTALL
)
_CLOSER = {"{": "}", "[": "]"}


@dataclass(frozen=True)
class LenientValue:
    """A value that was found in a text."""

    value: Any
    end: int
    """Where it ends in the text."""
    complete: bool
    """Whether all its brackets are closed; otherwise the text ended, between two parts of it."""


def read(text: str, start: int) -> LenientValue | None:
    """The object or list that begins at `start`; None where it is none, or ends within a part such as a string."""
    reader = _Reader()
    position = start
    while found := _PART.match(text, position):
        position = found.end()
        if not reader.add(_strict(found[0])):
            return None
        if not reader.open_brackets:
            return _value(reader, position)
    return _value(reader, position) if _ends_between(text, position) else None


class _Reader:
    """The parts of a value so far."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.open_brackets: list[str] = []

    def add(self, part: str) -> bool:
        """Adds a part; returns whether it can be one of a value."""
        if part in ("}", "]"):
            return self._close(part)
        if part in _CLOSER:
            self.open_brackets.append(part)
        if part:
            self.parts.append(part)
        return len(self.open_brackets) <= MOST_NESTED

    def _close(self, bracket: str) -> bool:
        if self.parts and self.parts[-1] == ",":
            self.parts.pop()
        # A bracket that closes an outer one closes the inner ones, which were forgotten.
        while self.open_brackets and _CLOSER[self.open_brackets[-1]] != bracket:
            self.parts.append(_CLOSER[self.open_brackets.pop()])
        if not self.open_brackets:
            return False
        self.open_brackets.pop()
        self.parts.append(bracket)
        return True


def _ends_between(text: str, position: int) -> bool:
    """Whether what follows cannot belong to the value: its text has ended, or a marker of the model follows."""
    return position == len(text) or text[position] in "<`"


def _strict(part: str) -> str:
    """A part as JSON has it; empty for white space and comments."""
    if part.isspace() or part.startswith("//"):
        return ""
    if part[0] == "'":
        inner = part[1:-1].replace("\\'", "'")
        return '"' + re.sub(r'(?<!\\)"', r"\"", inner) + '"'
    if part[0] == '"':
        return part
    if part[0].isalpha() or part[0] == "_":
        return _WORDS.get(part, json.dumps(part))
    return part


def _value(reader: _Reader, end: int) -> LenientValue | None:
    missing = [_CLOSER[bracket] for bracket in reversed(reader.open_brackets)]
    try:
        # Line breaks within strings are accepted.
        return LenientValue(json.loads("".join([*reader.parts, *missing]), strict=False), end, not missing)
    except (ValueError, RecursionError):
        return None
