"""How large the grammar of a regular expression becomes, before an engine is given it."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

QUANTIFIER = re.compile(r"([*+?])|\{(\d*)(?:(,)(\d*))?\}")
GROUP = re.compile(r"\((?:\?(?::|=|!|<=|<!|P?<\w+>|[a-zA-Z-]+:))?")


@dataclass(frozen=True)
class GrammarSize:
    """Of a part of a grammar. Every figure is an upper bound."""

    elements: int
    """Characters and references, each repetition written out."""
    starts: int
    """Ways to begin it: paths to its first character."""
    states: int
    """Places in it that may be reached by the same text."""
    empty: bool = False
    """Whether it may be nothing."""
    firsts: tuple[str, ...] = ()
    """Of a pattern, the characters that its ways to begin begin with; "": one of several."""
    open: int = 0
    """Of a pattern, places where the text may go on in two ways: repetitions of no fixed number."""
    looped: int = 0
    """Of a pattern, the most ways to go on at a character within a repetition. What a token of the vocabulary may be is
    found out by going all of them at each of its characters."""

    def then(self, other: GrammarSize) -> GrammarSize:
        """One after the other."""
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
        """One or the other."""
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
        """Repeated; `most` None: without end."""
        often = max(1, most if most is not None else least + 1)
        # Where the number is open, or what is repeated is itself of many lengths, each count is a place of its own.
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
        """Of its ways to begin, the most that the same character begins."""
        known = Counter(each for each in self.firsts if each)
        return self.firsts.count("") + max(known.values(), default=0)


NOTHING = GrammarSize(0, 1, 1, empty=True)
UNBOUNDED = 10**6
"""Ways to go on in what is repeated and may be nothing."""


def size(pattern: str) -> GrammarSize:
    """Of a pattern that Python's `re` takes. What is not understood counts as one character."""
    waiting: list[tuple[GrammarSize, GrammarSize]] = []
    """Of every group that is open: the alternatives before it, and what stands before it in its own."""
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
    """Where the character, escape or class that begins here ends."""
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
