"""The size of a regular expression's grammar, computed before an engine gets the pattern."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

QUANTIFIER = re.compile(r"([*+?])|\{(\d*)(?:(,)(\d*))?\}")
GROUP = re.compile(r"\((?:\?(?::|=|!|<=|<!|P?<\w+>|[a-zA-Z-]+:))?")


@dataclass(frozen=True)
class GrammarSize:
    """Size of a part of a grammar. Every number is an upper bound."""

    elements: int
    """Characters and references, with each repetition expanded."""
    starts: int
    """Ways to start: paths to its first character."""
    states: int
    """Positions in it that the same text may reach."""
    empty: bool = False
    """Whether it may be empty."""
    firsts: tuple[str, ...] = ()
    """Of a pattern: the first characters of its ways to start; "": one of several."""
    open: int = 0
    """Of a pattern: positions where the text may continue in two ways, which are repetitions without a fixed number."""
    looped: int = 0
    """Of a pattern: the most ways to continue at a character within a repetition. An engine follows all of them at each
    character of each token of the vocabulary."""

    def then(self, other: GrammarSize) -> GrammarSize:
        """The sequence of the two."""
        starts = self.starts + (other.starts if self.empty else 0)
        states = self.states + (other.states - 1 if other.states > 1 else 0)
        return GrammarSize(
            self.elements + other.elements,
            starts,
            states,
            self.empty and other.empty,
            self.firsts + (other.firsts if self.empty else ()),
            self.open + other.open,
            max(self.looped, other.looped),
        )

    def otherwise(self, other: GrammarSize) -> GrammarSize:
        """The alternatives of the two."""
        return GrammarSize(
            self.elements + other.elements,
            self.starts + other.starts,
            self.states + other.states,
            self.empty or other.empty,
            self.firsts + other.firsts,
            self.open + other.open,
            max(self.looped, other.looped),
        )

    def times(self, least: int, most: int | None) -> GrammarSize:
        """The repetition; `most` None: unbounded."""
        often = max(1, most if most is not None else least + 1)
        # Where the number varies, or the repeated part has several lengths, each count is a position of its own.
        counted = often if most is not None and (most != least or self.states > 1) else min(often, 2)
        starts = self.starts * (often if self.empty else 1)
        ways = (UNBOUNDED if self.empty else self.open + self._alike) if often > 1 or most is None else 0
        return GrammarSize(
            self.elements * often + often,
            starts,
            self.states * counted,
            self.empty or least == 0,
            self.firsts,
            self.open + (least != most),
            max(self.looped, ways),
        )

    @property
    def _alike(self) -> int:
        """Most of its ways to start that start with the same character."""
        known = Counter(each for each in self.firsts if each)
        return self.firsts.count("") + max(known.values(), default=0)


NOTHING = GrammarSize(0, 1, 1, empty=True)
UNBOUNDED = 10**6
"""Ways to continue in a repetition of something that may be empty."""


def size(pattern: str) -> GrammarSize:
    """The size of a pattern that Python's `re` accepts. Unsupported syntax counts as one character."""
    waiting: list[tuple[GrammarSize, GrammarSize]] = []
    """For every open group: the alternatives before it, and what precedes it in its own alternative."""
    either, before, last, at = GrammarSize(0, 0, 0), NOTHING, NOTHING, 0
    while at < len(pattern):
        if (group := GROUP.match(pattern, at)) is not None:
            waiting.append((either, before.then(last)))
            either, before, last, at = GrammarSize(0, 0, 0), NOTHING, NOTHING, group.end()
        elif pattern[at] == ")" and waiting:
            inner = either.otherwise(before.then(last))
            (either, before), last, at = waiting.pop(), inner, at + 1
        elif pattern[at] == "|":
            either, before, last, at = either.otherwise(before.then(last)), NOTHING, NOTHING, at + 1
        elif (often := QUANTIFIER.match(pattern, at)) is not None and often.group() != "{}":
            last, at = last.times(*_times(often)), often.end()
        else:
            end = _atom(pattern, at)
            first = pattern[at] if end - at == 1 and pattern[at] != "." else ""
            before, last, at = before.then(last), GrammarSize(end - at, 1, 1, firsts=(first,)), end
    return either.otherwise(before.then(last))


def _atom(pattern: str, at: int) -> int:
    """Offset of the end of the character, escape or class that starts at `at`."""
    if pattern[at] == "\\":
        return at + 2
    if pattern[at] == "[" and (found := re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL).match(pattern, at)):
        return found.end()
    return at + 1


def _times(found: re.Match[str]) -> tuple[int, int | None]:
    sign, least, comma, most = found.groups()
    if sign:
        return {"*": (0, None), "+": (1, None), "?": (0, 1)}[sign]
    low = int(least or 0)
    return (low, int(most) if most else None) if comma else (low, low)
