"""Splits a text with SSML that arrives in parts into what is synthesized in one go."""

from __future__ import annotations

from dataclasses import dataclass, replace

from chatapi.text.sentence_splitter import SentenceSplitter
from chatapi.text.ssml import Pause, Rate, SsmlReader


@dataclass(frozen=True)
class SpeechPart:
    """A sentence or a part of one, or only a pause."""

    text: str
    rate: float = 1.0
    """Speaking rate, as a multiple of the one that is asked for."""
    pause: float = 0.0
    """Silence after it, in seconds."""


class SpeechSplitter:
    """Receives text as it is generated and returns it in parts that can be synthesized. One per answer."""

    def __init__(self, *, hurried: bool = False, pauses: bool = True) -> None:
        """`hurried`: the first part may be shorter. `pauses`: those of SSML have an effect."""
        self._splitter = SentenceSplitter(hurried)
        self._reader = SsmlReader()
        self._pauses = pauses
        self._rate = 1.0

    def feed(self, delta: str) -> list[SpeechPart]:
        """The parts that are certain after this delta."""
        return self._parts(self._reader.feed(delta))

    def finish(self) -> list[SpeechPart]:
        """The rest when the text has ended."""
        return [*self._parts(self._reader.finish()), *self._rest()]

    def _parts(self, items: list[str | Pause | Rate]) -> list[SpeechPart]:
        parts: list[SpeechPart] = []
        for item in items:
            if isinstance(item, str):
                parts += [SpeechPart(text, self._rate) for text in self._splitter.feed(item)]
            elif isinstance(item, Rate):
                parts += self._rest()
                self._rate = item.rate
            elif self._pauses:
                rest = self._rest() or [SpeechPart("", self._rate)]
                parts += [*rest[:-1], replace(rest[-1], pause=item.seconds)]
        return parts

    def _rest(self) -> list[SpeechPart]:
        return [SpeechPart(text, self._rate) for text in self._splitter.finish()]


def split_text(text: str) -> list[SpeechPart]:
    """The parts of a whole text."""
    splitter = SpeechSplitter()
    return [*splitter.feed(text), *splitter.finish()]
